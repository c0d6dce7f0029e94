# SPDX-License-Identifier: Apache-2.0
"""The table by which exceptions find their way: .eh_frame and its header.

ld makes ``.eh_frame_hdr`` of sections called ``.eh_frame``, and the kernel's linker script throws
those away.  So the header is made here, from the relocations of the application's own table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ukl_build.elf import abi
from ukl_build.elf.abi import SHF, RelocType
from ukl_build.elf.model import ObjectFile, Relocation, Section, Symbol
from ukl_build.elf.rules import RuleError

EH_FRAME = ".ukl.eh_frame"
EH_FRAME_HDR = ".ukl.rodata.eh_frame_hdr"
"""The header; where PT_GNU_EH_FRAME points."""
START, END = "__GNU_EH_FRAME_HDR", "__GNU_EH_FRAME_HDR_end"
"""Symbols around it, for the program header table that the kernel gives the application."""
GATE, GATE_FDE = "ukl_syscall", "ukl_syscall_fde"
"""The kernel's entry, and where the kernel describes how to unwind from there."""

# LSB core, "DWARF Exception Header Encoding"
_PCREL_SDATA4, _UDATA4, _DATAREL_SDATA4 = 0x1B, 0x03, 0x3B


@dataclass(frozen=True)
class Entry:
    """One entry of the table."""

    offset: int
    is_fde: bool


def _refuse(section: Section, offset: int) -> RuleError:
    what = f"section {section.name} ends at {offset:#x} of {section.sh_size:#x}"
    return RuleError("unwind-table", what, section=section)


def entries(section: Section) -> Iterator[Entry]:
    """Walk the table (LSB core, "Exception Frames") from end to end.

    A zero length ends the table: one in the middle, where two tables were joined wrongly, would
    hide every function behind it from the unwinder, and the first exception thrown through one
    would end the program.

    :raise UklError: ``elf-section``.
    """
    data, size = section.data, section.sh_size
    offset = 0
    while offset + 4 <= size:
        length = int.from_bytes(data[offset : offset + 4], "little")
        if length == 0:
            break
        if length < 4 or length == 0xFFFFFFFF or offset + 4 + length > size:
            # The 64-bit format is for tables beyond 4 GiB; no compiler writes it.
            raise _refuse(section, offset)
        yield Entry(offset, any(data[offset + 4 : offset + 8]))
        offset += 4 + length
    if any(data[offset:]):
        raise _refuse(section, offset)


def make_eh_frame_hdr(obj: ObjectFile) -> int:
    """Add the header of the unwind table, with its table for binary search.

    The kernel's entry comes first, which is application text as well and where a signal can come:
    the description of the application's own, weak one is of other code.  Sections of code come in
    the order in which this object has them, ``.ukl.text`` first.  The linker script must keep all
    that, and :func:`ukl_build.elf.linked.check_linked` looks.

    :return: number of the application's functions in it.
    :raise UklError: ``elf-section`` for a damaged table.
    """
    section = next((one for one in obj.sections if one.name == EH_FRAME), None)
    if section is None:
        return 0
    rank = {id(one): number for number, one in enumerate(obj.sections)}
    by_offset = {one.r_offset: one for one in section.relocations}
    found: list[tuple[int, int, int, Relocation]] = []
    for entry in entries(section):
        location = by_offset.get(entry.offset + 8)
        # Without a relocation it describes a function that the partial link has left out.
        if entry.is_fde and location is not None and location.symbol.section is not None:
            target = location.symbol
            assert target.section is not None
            if not target.section.sh_flags & SHF.SHF_EXECINSTR:
                continue
            if location.r_type not in (
                RelocType.R_X86_64_PC32, RelocType.R_X86_64_PC64, RelocType.R_X86_64_64
            ):  # fmt: skip
                raise _refuse(section, entry.offset)
            place = target.st_value + location.r_addend
            found.append((rank[id(target.section)], place, entry.offset, location))
    found.sort(key=lambda one: one[:3])

    header = Section(EH_FRAME_HDR, abi.SHT_PROGBITS, SHF.SHF_ALLOC, sh_addralign=4)
    header.data += bytes((1, _PCREL_SDATA4, _UDATA4, _DATAREL_SDATA4)) + bytes(4)
    rows = [((one.symbol, one.r_addend), (section.symbol, fde)) for _, _, fde, one in found]
    gate = [one for one in obj.symbols if one.name == GATE and one.st_bind != abi.STB_LOCAL]
    if gate:
        description = Symbol(GATE_FDE, abi.STB_GLOBAL, abi.STT_NOTYPE)
        obj.symbols.append(description)
        rows.insert(0, ((gate[0], 0), (description, 0)))
    header.data += len(rows).to_bytes(4, "little")
    header.relocations.append(Relocation(4, RelocType.R_X86_64_PC32, section.symbol, 0))
    for row in rows:
        for symbol, addend in row:
            # Fields count from the start of the header, relocations from the field.
            at = len(header.data)
            header.relocations.append(Relocation(at, RelocType.R_X86_64_PC32, symbol, addend + at))
            header.data += bytes(4)
    obj.sections.insert(obj.sections.index(section), header)
    for name, value in ((START, 0), (END, len(header.data))):
        obj.symbols.append(Symbol(name, abi.STB_GLOBAL, abi.STT_NOTYPE, header, st_value=value))
    return len(found)
