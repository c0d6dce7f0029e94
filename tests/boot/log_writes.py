# SPDX-License-Identifier: Apache-2.0
"""Reads what QEMU's blklogwrites noted of a disk, and replays it.

The format is that of the kernel's dm-log-writes (Documentation/admin-guide/device-mapper/
log-writes.rst, drivers/md/dm-log-writes.c): a sector with a header; then for each request a sector
that describes it, and its data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = 0x6A736677736872
HEADER = struct.Struct("<QQQI")
"""magic, version, entries, bytes of a sector."""
ENTRY = struct.Struct("<QQQQ")
"""First sector, sectors, flags, bytes of a mark's text (QEMU makes none)."""
FLUSH, DISCARD = 1, 4


@dataclass(frozen=True)
class Request:
    """A request to a disk; places are in bytes."""

    where: int
    size: int
    flags: int
    data: int
    """Where in the log its data are."""
    end: int
    """Where in the log it ends."""


def read(log: Path) -> Iterator[Request]:
    """Yield the requests that are in a log whole; the last may not be."""
    with log.open("rb") as file:
        magic, version, _, sector = HEADER.unpack(file.read(HEADER.size))
        assert (magic, version) == (MAGIC, 1)
        size = log.stat().st_size
        at = sector
        while at + sector <= size:
            file.seek(at)
            first, count, flags, _ = ENTRY.unpack(file.read(ENTRY.size))
            data = at + sector
            at = data if flags & DISCARD else data + count * sector
            if at > size:
                return
            yield Request(first * sector, count * sector, flags, data, at)


def apply(log: BinaryIO, request: Request, disk: BinaryIO) -> None:
    """Do to a disk what was asked for."""
    disk.seek(request.where)
    if request.flags & DISCARD:
        # What is read afterwards is open; the worst that is usual is nothing.
        disk.write(bytes(request.size))
    elif request.size:
        log.seek(request.data)
        data = log.read(request.size)
        assert len(data) == request.size
        disk.write(data)
