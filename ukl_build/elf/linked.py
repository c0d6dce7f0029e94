# SPDX-License-Identifier: Apache-2.0
"""What must be true of vmlinux after the archive is linked into it.

The linker script is the kernel's; a line of it in the wrong place gives an image that boots and
fails later: in the first exception, in the first string function, in the first thread.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from ukl_build.elf import abi
from ukl_build.elf.names import ENTRY, PREFIX
from ukl_build.elf.unwind import END, GATE, START
from ukl_build.errors import UklError


def check_linked(vmlinux: Path) -> None:
    """Check the application's part of a linked kernel.

    * The entry point is there and no symbol of the application is undefined.
    * The unwind header's table is sorted: the linker script kept the order of the code sections.
      Its entries are where the header has them: ld edits an output section called .eh_frame, unless
      --traditional-format keeps it from that.
    * Every IRELATIVE entry is one, and its slot is writable while its resolver is code.

    :raise UklError: ``elf-linked`` with every way in which it is broken; ``elf-format`` if the
        file cannot be read.
    """
    with _readable(vmlinux), vmlinux.open("rb") as file:
        problems = _Linked(ELFFile(file)).problems()
    if problems:
        raise UklError(
            "elf-linked",
            f"{vmlinux.name} does not hold the application as it must",
            hint="compare arch/x86/kernel/vmlinux.lds.S with docs/design.md, "
            "'The contract between the archive and the kernel'",
            detail="\n".join(problems[:25]),
        )


TEXT = (b"__ukl_text_start", b"__ukl_text_end")
"""Names of the kernel's linker script for where the application's code is."""


def application_text(vmlinux: Path) -> tuple[int, int] | None:
    """Return where a kernel was linked to have the application's code.

    :return: first address and end; None if it has no application.
    :raise UklError: ``elf-format`` if the file cannot be read.
    """
    found = {}
    with _readable(vmlinux), vmlinux.open("rb") as file:
        elf = ELFFile(file)
        table = elf.get_section_by_name(".symtab")
        if table is None:
            raise ValueError("it has no symbol table")
        strings = elf.get_section(table["sh_link"]).data()
        # Not by pyelftools' symbols: there are 60,000, and each would be an object.
        for st_name, _, _, _, st_value, _ in abi.ELF64_SYM.iter_unpack(table.data()):
            for name in TEXT:
                if strings.startswith(name + b"\0", st_name):
                    found[name] = st_value
    return (found[TEXT[0]], found[TEXT[1]]) if len(found) == len(TEXT) else None


@contextlib.contextmanager
def _readable(vmlinux: Path) -> Iterator[None]:
    """Turn what pyelftools and we stumble over into an error that names the file."""
    try:
        yield
    except (
        *(ELFError, struct.error, LookupError, ValueError),
        *(OSError, OverflowError, MemoryError),  # of sizes that no file has
    ) as error:
        raise UklError(
            "elf-format",
            f"{vmlinux} cannot be read: {error or type(error).__name__}",
            hint="link the kernel again",
        ) from error


class _Linked:
    """One linked kernel."""

    def __init__(self, elf: Any) -> None:
        self.stream = elf.stream
        self.sections = [one.header for one in elf.iter_sections()]
        table = elf.get_section_by_name(".symtab")
        if table is None:
            raise ValueError("it has no symbol table")
        strings = elf.get_section(table["sh_link"]).data()
        self.symbols: dict[str, int] = {}
        self.undefined: list[str] = []
        self.gate: int | None = None
        prefix, gate = PREFIX.encode(), GATE.encode() + b"\0"
        for st_name, _, _, st_shndx, st_value, _ in abi.ELF64_SYM.iter_unpack(table.data()):
            if strings.startswith(prefix, st_name):
                name = strings[st_name : strings.index(b"\0", st_name)].decode()
                self.symbols[name.removeprefix(PREFIX)] = st_value
                if st_shndx == abi.SHN_UNDEF:
                    self.undefined.append(name)
            elif strings.startswith(gate, st_name):
                self.gate = st_value

    def section(self, address: int) -> Any:
        """Return the header of the allocated section an address is in."""
        for header in self.sections:
            if header["sh_flags"] & abi.SHF.SHF_ALLOC and not header["sh_flags"] & abi.SHF.SHF_TLS:
                start = header["sh_addr"]
                if start <= address < start + max(header["sh_size"], 1):
                    return header
        return None

    def read(self, address: int, size: int) -> bytes:
        """Return contents."""
        header = self.section(address)
        if header is None or header["sh_type"] != "SHT_PROGBITS":
            raise ValueError(f"{address:#x} is in no section with contents")
        self.stream.seek(header["sh_offset"] + address - header["sh_addr"])
        data: bytes = self.stream.read(size)
        if len(data) != size:
            raise ValueError("it is truncated")
        return data

    def problems(self) -> list[str]:
        """Return what is wrong."""
        found = [f"{name} is undefined" for name in self.undefined]
        if ENTRY not in self.symbols:
            return [*found, f"{PREFIX}{ENTRY} is not there: was the archive linked?"]
        if START in self.symbols:
            found += self._unwind()
        if {"__rela_iplt_start", "__rela_iplt_end"} <= self.symbols.keys():
            found += self._irelative()
        return found

    def _unwind(self) -> list[str]:
        start, end = self.symbols[START], self.symbols[END]
        (count,) = struct.unpack("<I", self.read(start + 8, 4))
        if end - start != 12 + 8 * count:
            return [f"the unwind header has {end - start} bytes for {count} functions"]
        words = struct.unpack(f"<{2 * count}i", self.read(start + 12, 8 * count))
        locations = words[::2]
        for one, next_ in pairwise(locations):
            if one > next_:
                return [
                    f"the unwind header is not sorted at {start + one:#x}: .ukl.text comes first,"
                    " the other .ukl.text.* in the order of the archive"
                ]
        for location, fde in zip(locations, words[1::2], strict=True):
            # The entry's own is the kernel's, and not in the application's table.
            if start + location != self.gate and not self._describes(start + fde, start + location):
                return [
                    f"the unwind header has a description of {start + location:#x} at"
                    f" {start + fde:#x}, where none is: ld must leave .ukl.eh_frame as it is"
                ]
        return []

    def _describes(self, fde: int, location: int) -> bool:
        """Tell whether there is an FDE of a function (LSB core, "Frame Description Entry")."""
        length, cie, near = struct.unpack("<IIi", self.read(fde, 12))
        if not cie or length < 8:
            return False
        (far,) = struct.unpack("<q", self.read(fde + 8, 8))
        place = fde + 8
        return location in (place + near, place + far, far % (1 << 64))

    def _irelative(self) -> list[str]:
        found = []
        start, end = self.symbols["__rela_iplt_start"], self.symbols["__rela_iplt_end"]
        for r_offset, r_info, r_addend in abi.ELF64_RELA.iter_unpack(
            self.read(start, end - start) if end > start else b""
        ):
            slot, resolver = self.section(r_offset), self.section(r_addend % (1 << 64))
            if (
                r_info != abi.RelocType.R_X86_64_IRELATIVE
                or slot is None
                or not slot["sh_flags"] & abi.SHF.SHF_WRITE
                or resolver is None
                or not resolver["sh_flags"] & abi.SHF.SHF_EXECINSTR
            ):
                found.append(f"IRELATIVE entry {r_offset:#x} {r_info:#x} {r_addend:#x}")
        return found
