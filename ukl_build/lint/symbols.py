# SPDX-License-Identifier: Apache-2.0
"""What of the files goes into a program, as ld decides it: by the names that are not defined yet.

Archives are one group (``--start-group``), as in the pipeline's own link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ukl_build.elf import abi
from ukl_build.elf.model import ObjectFile, Section, Symbol
from ukl_build.lint.inputs import Archive, Unit


@dataclass(eq=False)
class Loaded:
    """An object or member that was read."""

    unit: Unit
    obj: ObjectFile
    wanted: str | None = None
    """The name for which a member was taken out of its archive."""
    discarded: set[int] = field(default_factory=set)
    """``id()`` of the sections of groups that another object has already."""

    def sections(self) -> Iterator[Section]:
        """Yield the sections that go in."""
        return (one for one in self.obj.sections if id(one) not in self.discarded)


@dataclass(frozen=True)
class Definition:
    """Where a name is defined."""

    loaded: Loaded
    symbol: Symbol

    @property
    def common(self) -> bool:
        """Whether it is a common symbol, of which a program may have many."""
        return self.symbol.section is None and self.symbol.st_shndx == abi.SHN_COMMON

    @property
    def strong(self) -> bool:
        """Whether it excludes others."""
        return self.symbol.st_bind == abi.STB_GLOBAL and not self.common


@dataclass
class Names:
    """All global names of what goes in.

    ``whole`` tells whether it is one program, of which groups and definitions that are there twice
    are left out or too many.
    """

    whole: bool

    loaded: list[Loaded] = field(default_factory=list)
    defined: dict[str, Definition] = field(default_factory=dict)
    duplicates: list[tuple[Definition, Definition]] = field(default_factory=list)
    """Pairs of definitions that exclude each other, the one that came first in front."""
    open: dict[str, Loaded] = field(default_factory=dict)
    """Names that something needs and nothing defines yet, in the order they came up."""
    _groups: dict[str, Loaded] = field(default_factory=dict)

    def add(self, loaded: Loaded) -> None:
        """Add an object."""
        self.loaded.append(loaded)
        for section in loaded.obj.sections:
            if (
                self.whole
                and section.comdat
                and self._groups.setdefault(section.comdat, loaded) is not loaded
            ):
                loaded.discarded.add(id(section))
        for symbol in loaded.obj.symbols:
            if symbol.st_bind == abi.STB_LOCAL:
                continue
            if symbol.undefined or id(symbol.section) in loaded.discarded:
                if symbol.st_bind != abi.STB_WEAK and symbol.name not in self.defined:
                    self.open.setdefault(symbol.name, loaded)
            else:
                self._define(Definition(loaded, symbol))
                self.open.pop(symbol.name, None)

    def _define(self, new: Definition) -> None:
        name = new.symbol.name
        old = self.defined.get(name)
        if old is None:
            self.defined[name] = new
        elif old.strong and new.strong:
            if not _same_number(old.symbol, new.symbol):
                self.duplicates.append((old, new))
        elif new.strong or (new.common and not old.strong and not old.common):
            self.defined[name] = new


def _same_number(one: Symbol, other: Symbol) -> bool:
    return one.absolute and other.absolute and one.st_value == other.st_value


def resolve(
    names: Names, archives: Sequence[Archive], load: Callable[[Unit], ObjectFile | None]
) -> None:
    """Add the members of archives that are needed, until nothing new is.

    :param load: reads a member; None if it cannot be read: then it does not go in.
    """
    taken: set[Unit] = set()
    again = True
    while again:
        again = False
        for archive in archives:
            while _take_from(archive, names, taken, load):
                again = True


def _take_from(
    archive: Archive,
    names: Names,
    taken: set[Unit],
    load: Callable[[Unit], ObjectFile | None],
) -> bool:
    """Go through an archive's index once; return whether something was taken."""
    found = False
    for name, number in archive.index or ():
        unit = archive.units[number]
        if name not in names.open or unit in taken:
            continue
        taken.add(unit)
        obj = load(unit)
        if obj is not None:
            names.add(Loaded(unit, obj, wanted=name))
            found = True
    return found
