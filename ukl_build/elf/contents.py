# SPDX-License-Identifier: Apache-2.0
"""What of an object or a program is in memory when it runs."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Symbol, SymbolTableSection

from ukl_build.elf.abi import SHF
from ukl_build.errors import UklError

_NOBITS = "SHT_NOBITS"


@dataclass(frozen=True)
class Content:
    """A section that is in memory (SHF_ALLOC)."""

    name: str
    address: int
    """0 in an object that is to be linked."""
    code: bool
    """SHF_EXECINSTR."""
    size: int
    """Bytes in memory."""
    data: bytes
    """What of it is in the file; empty for SHT_NOBITS."""


def contents(path: Path) -> list[Content]:
    """Return the sections of an ELF file that are in memory, in the file's order.

    :raise UklError: ``elf-format`` if it cannot be read.
    :raise OSError: if it is not there.
    """
    with path.open("rb") as file:
        try:
            return [
                Content(
                    section.name,
                    section["sh_addr"],
                    bool(section["sh_flags"] & SHF.SHF_EXECINSTR),
                    section["sh_size"],
                    b"" if section["sh_type"] == _NOBITS else section.data(),
                )
                for section in ELFFile(file).iter_sections()
                if section["sh_flags"] & SHF.SHF_ALLOC
            ]
        except (ELFError, struct.error, LookupError, ValueError) as error:
            raise _unreadable(path, error) from error


def addresses(path: Path, names: frozenset[str]) -> Mapping[str, int]:
    """Return the addresses of an ELF file's symbols with some names; of those that are there.

    :raise UklError: ``elf-format`` if it cannot be read, or has no symbols.
    :raise OSError: if it is not there.
    """
    with path.open("rb") as file:
        try:
            return {
                symbol.name: symbol["st_value"]
                for symbol in _symbols(ELFFile(file))
                if symbol.name in names
            }
        except (ELFError, struct.error, LookupError, ValueError) as error:
            raise _unreadable(path, error) from error


def entry(data: bytes) -> int | None:
    """Return where a program of fixed addresses begins; None for any other file."""
    try:
        head = ELFFile(io.BytesIO(data)).header
    except (ELFError, struct.error, LookupError, ValueError):
        return None
    return int(head["e_entry"]) if head["e_type"] == "ET_EXEC" else None


@dataclass(frozen=True)
class Initcall:
    """A function that the kernel calls while it starts (include/linux/init.h)."""

    name: str
    level: str
    """``early``, ``0`` to ``7``, with ``s`` for what comes after the others of it, ``rootfs`` or
    ``con``."""
    address: int


_INITCALL = re.compile(
    r"__initcall__.+?__\d+_\d+_(?P<name>\w+?)(?P<level>early|rootfs|con|[0-7]s?)"
)
"""___initcall_name() and ____define_initcall() of include/linux/init.h."""


def initcalls(vmlinux: Path) -> list[Initcall]:
    """Return a kernel's initcalls, in the order of their addresses.

    :raise UklError: ``elf-format`` if it cannot be read, or has no symbols.
    :raise OSError: if it is not there.
    """
    found = []
    with vmlinux.open("rb") as file:
        try:
            elf = ELFFile(file)
            for symbol in _symbols(elf):
                match = _INITCALL.fullmatch(symbol.name)
                if match is None:
                    continue
                section = elf.get_section(symbol["st_shndx"])
                at = symbol["st_value"]
                # With CONFIG_HAVE_ARCH_PREL32_RELOCATIONS how far the function is from here.
                (distance,) = struct.unpack_from("<i", section.data(), at - section["sh_addr"])
                found.append(Initcall(match["name"], match["level"], at + distance))
        except (ELFError, struct.error, LookupError, ValueError) as error:
            raise _unreadable(vmlinux, error) from error
    return sorted(found, key=lambda one: one.address)


def _symbols(elf: ELFFile) -> Iterator[Symbol]:
    """Return all symbols.

    :raise ELFError: if there is no symbol table.
    """
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        raise ELFError("there is no symbol table")
    return iter(table.iter_symbols())


def _unreadable(path: Path, error: Exception) -> UklError:
    return UklError(
        "elf-format",
        f"{path} cannot be read: {error}",
        hint="remove it and build again: it may be cut short",
    )
