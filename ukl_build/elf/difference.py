# SPDX-License-Identifier: Apache-2.0
"""Where two files first differ: of ELF files by section and symbol (ELF gABI, chapter 4)."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

ELF = b"\x7fELF"

NOTES = (".note.gnu.build-id", ".notes")
"""Sections with a digest of the others; the second is the kernel's."""

HEADERS = ("sh_type", "sh_flags", "sh_addr", "sh_size", "sh_addralign", "sh_entsize")

SHOWN_BYTES = 16
"""Of what differs."""


def in_bytes(a: bytes, b: bytes, offset: int) -> Iterator[str]:
    """Yield the first bytes that differ.

    :param offset: of both in their file.
    """
    at = first_difference(a, b)
    if at < min(len(a), len(b)):
        shown = (one[at : at + SHOWN_BYTES].hex(" ") for one in (a, b))
        yield f"byte {offset + at:#x}: {' against '.join(shown)}"
    if len(a) != len(b):
        yield f"{len(a)} against {len(b)} bytes"


def first_difference(a: bytes, b: bytes) -> int:
    """Return the first place at which two sequences of bytes differ, or the shorter's end."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def in_elf(a: bytes, b: bytes) -> Iterator[str]:
    """Yield in which section and symbol two ELF files first differ, and the bytes there.

    :raise ValueError: if one cannot be read.
    """
    try:
        yield from _in_elf(a, b)
    except (ELFError, struct.error, LookupError) as error:
        raise ValueError(str(error)) from error


def _in_elf(a: bytes, b: bytes) -> Iterator[str]:
    one, other = (ELFFile(io.BytesIO(data)) for data in (a, b))
    pairs = list(itertools.zip_longest(one.iter_sections(), other.iter_sections()))
    # What differs because others do comes last.
    numbered = list(enumerate(pairs))
    numbered.sort(key=lambda pair: pair[1][0] is not None and pair[1][0].name in NOTES)
    for number, (left, right) in numbered:
        if left is None or right is None or left.name != right.name:
            names = (part.name if part is not None else "nothing" for part in (left, right))
            yield f"section {number}: {' against '.join(names)}"
            return
        ours, theirs = (
            b"" if part["sh_type"] == "SHT_NOBITS" else part.data() for part in (left, right)
        )
        headers = [
            f"{name} {left[name]} against {right[name]}"
            for name in HEADERS
            if left[name] != right[name]
        ]
        if ours == theirs and not headers:
            continue
        yield f"section {left.name}"
        yield from headers
        if ours != theirs:
            at = first_difference(ours, theirs)
            name = _symbol(one, number, at) or _symbol(other, number, at)
            if name:
                yield f"symbol {name}"
            yield from in_bytes(ours, theirs, 0)
        return
    # Neither in a section: the ELF header, the program headers, or what is between.
    yield from in_bytes(a, b, 0)


def _symbol(elf: ELFFile, section: int, offset: int) -> str:
    """Return the symbol in which something is, with its distance; empty if there is none."""
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        return ""
    start = elf.get_section(section)["sh_addr"] if elf["e_type"] != "ET_REL" else 0
    found = [
        (symbol["st_value"] - start, symbol["st_size"], symbol.name)
        for symbol in table.iter_symbols()
        if symbol["st_shndx"] == section and symbol.name
    ]
    # The innermost around it; one without a size goes on to the next.
    before = [one for one in found if one[0] <= offset and (not one[1] or offset < one[0] + one[1])]
    if not before:
        return ""
    at, _, name = max(before, key=lambda one: (one[0], -one[1]))
    return f"{name}+{offset - at:#x}"
