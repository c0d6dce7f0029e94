# SPDX-License-Identifier: Apache-2.0
"""A relocatable object in memory.

Sections, symbols and relocations point at each other instead of counting: indices, string tables,
the order of the symbol table and the relocation sections exist only in the file.  The classes are
mutable on purpose, they are the material the passes of this package work on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ukl_build.elf import abi
from ukl_build.elf.abi import SHF


@dataclass(eq=False, slots=True)
class Section:
    """A section that holds something of the program (gABI, "Sections")."""

    name: str
    sh_type: int
    sh_flags: int
    sh_addralign: int = 1
    sh_entsize: int = 0
    data: bytearray = field(default_factory=bytearray)
    """Contents; empty for SHT_NOBITS."""
    nobits_size: int = 0
    """Size if SHT_NOBITS."""
    comdat: str = ""
    """Signature of its group (gABI, GRP_COMDAT): a link keeps the first group of each."""
    relocations: list[Relocation] = field(default_factory=list)
    symbol: Symbol = field(init=False)
    """The section's own symbol (STT_SECTION)."""

    def __post_init__(self) -> None:
        """Give the section its symbol."""
        self.symbol = Symbol("", abi.STB_LOCAL, abi.STT_SECTION, section=self)

    @property
    def sh_size(self) -> int:
        """Size in memory."""
        return self.nobits_size if self.sh_type == abi.SHT_NOBITS else len(self.data)

    @property
    def allocated(self) -> bool:
        """Whether it occupies memory while the program runs (SHF_ALLOC)."""
        return bool(self.sh_flags & SHF.SHF_ALLOC)

    def __repr__(self) -> str:
        return f"<section {self.name} {self.sh_size:#x}>"


@dataclass(eq=False, slots=True)
class Symbol:
    """A symbol (gABI, "Symbol Table").  Undefined, absolute and common ones have no section."""

    name: str
    st_bind: int
    st_type: int
    section: Section | None = None
    st_shndx: int = abi.SHN_UNDEF
    """SHN_UNDEF, SHN_ABS or SHN_COMMON; without meaning if there is a section."""
    st_value: int = 0
    st_size: int = 0
    st_other: int = abi.STV_DEFAULT

    @property
    def undefined(self) -> bool:
        """Whether the object does not define it."""
        return self.section is None and self.st_shndx == abi.SHN_UNDEF

    @property
    def absolute(self) -> bool:
        """Whether its value is a number that no linking changes."""
        return self.section is None and self.st_shndx == abi.SHN_ABS

    @property
    def shown(self) -> str:
        """Name for messages."""
        if self.st_type == abi.STT_SECTION and self.section is not None:
            return f"section {self.section.name}"
        return self.name

    def __repr__(self) -> str:
        return f"<symbol {self.shown}>"


@dataclass(eq=False, slots=True)
class Relocation:
    """A relocation with an addend (gABI, "Relocation")."""

    r_offset: int
    r_type: int
    symbol: Symbol
    r_addend: int


@dataclass(eq=False, slots=True)
class ObjectFile:
    """A relocatable object (ET_REL, EM_X86_64)."""

    sections: list[Section] = field(default_factory=list)
    symbols: list[Symbol] = field(default_factory=list)
    """All but the sections' own."""

    def all_relocations(self) -> Iterator[tuple[Section, Relocation]]:
        """Yield every relocation with the section it changes."""
        for section in self.sections:
            for relocation in section.relocations:
                yield section, relocation

    def referenced(self) -> set[int]:
        """Return the ``id()`` of every symbol that a relocation names."""
        return {id(relocation.symbol) for _, relocation in self.all_relocations()}


def where(section: Section, offset: int, symbols: list[Symbol]) -> str:
    """Say where in the program an offset is: section, offset, and the function around it."""
    before = [
        symbol
        for symbol in symbols
        if symbol.section is section
        and symbol.st_type in (abi.STT_FUNC, abi.STT_OBJECT, abi.STT_GNU_IFUNC)
        and symbol.st_value <= offset
    ]
    around = max(before, key=lambda one: one.st_value, default=None)
    place = f"{section.name}+{offset:#x}"
    # Hand-written assembler often gives no size.
    if around is None or 0 < around.st_size <= offset - around.st_value:
        return place
    return f"{place} (in {around.name})"
