# SPDX-License-Identifier: Apache-2.0
"""Where the functions of a linked kernel or program are."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ukl_build.elf import abi
from ukl_build.errors import UklError


@dataclass(frozen=True)
class Function:
    """A symbol with code behind it."""

    address: int
    end: int
    """Behind its last byte."""
    name: str
    section: str = field(default="", compare=False)
    """Where it is; in an object that is to be linked, addresses count from its begin."""


class Functions:
    """Which function is at an address."""

    def __init__(self, found: Sequence[Function]) -> None:
        """Take them in any order; of several at one address the first is meant."""
        first = {one.address: one for one in reversed(found)}
        self._starts = sorted(first)
        self._found = [first[address] for address in self._starts]

    def around(self, address: int) -> Function | None:
        """Return the function around an address."""
        number = bisect_right(self._starts, address) - 1
        if number >= 0 and address < self._found[number].end:
            return self._found[number]
        return None

    def at(self, address: int) -> str:
        """Return the name of the function around an address, or else the page it is in."""
        found = self.around(address)
        return found.name if found else f"{address & ~0xFFF:#x}"


def functions(path: Path, *, prefix: str = "") -> Iterator[Function]:
    """Yield the functions of a kernel or of a static program.

    A name that several files have for themselves gets its file behind it.  One without a size, as
    of assembly, ends where the next begins.

    :param prefix: put before each name.
    :raise UklError: ``elf-format`` if it cannot be read, or has no symbols.
    :raise OSError: if it is not there.
    """
    try:
        with path.open("rb") as file:
            rows = _rows(ELFFile(file))
    except (ELFError, struct.error, LookupError, ValueError, AttributeError) as error:
        raise UklError(
            "elf-format",
            f"{path} cannot be read: {error}",
            hint="remove it and build again: it may be cut short",
        ) from error
    seen: dict[str, set[str]] = {}
    for _, _, name, own, _ in rows:
        if own:
            seen.setdefault(name, set()).add(own)
    starts = sorted({row[0] for row in rows})
    following = dict(zip(starts, [*starts[1:], starts[-1] + 1 if starts else 0], strict=True))
    for address, size, name, own, section in rows:
        several = own and len(seen[name]) > 1
        shown = f"{prefix}{name} ({own})" if several else f"{prefix}{name}"
        yield Function(address, address + size if size else following[address], shown, section)


def _rows(elf: ELFFile) -> list[tuple[int, int, str, str, str]]:
    """Return address, size, name of each function, the file of a local one, and the section.

    They come by address.
    """
    table = elf.get_section_by_name(".symtab")
    if table is None:
        raise ValueError("it has no symbol table")
    code = {
        number: one.name
        for number, one in enumerate(elf.iter_sections())
        if one["sh_flags"] & abi.SHF.SHF_EXECINSTR
    }
    strings = elf.get_section(table["sh_link"]).data()
    found, file = [], ""
    for st_name, st_info, _, st_shndx, st_value, st_size in abi.ELF64_SYM.iter_unpack(table.data()):
        name = strings[st_name : strings.index(b"\0", st_name)].decode("utf-8", "surrogateescape")
        bind, kind = st_info >> 4, st_info & 0xF
        if kind == abi.STT_FILE:
            file = name
        elif (
            st_shndx in code and kind in (abi.STT_FUNC, abi.STT_NOTYPE, abi.STT_GNU_IFUNC) and name
        ):
            own = file if bind == abi.STB_LOCAL else ""
            found.append((st_value, st_size, name, own, code[st_shndx]))
    # A function before a label, a name that others see before one of its own file.
    found.sort(key=lambda row: (row[0], -row[1], bool(row[3])))
    return found
