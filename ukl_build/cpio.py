# SPDX-License-Identifier: Apache-2.0
"""Archives in the "new ASCII" cpio format, which is what the kernel unpacks as its first root.

Ours rather than ``cpio(1)``: owners and device nodes are only written down, so no root is needed,
and the same entries give the same bytes on every machine (no inode numbers, no times of the
host).  The format is that of the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

MAGIC = "070701"
TRAILER = "TRAILER!!!"
ALIGN = 4
HEADER = 110
"""Bytes before a name: the magic and 13 numbers of eight hexadecimal digits."""
MAX_NAME = 4095
"""PATH_MAX of the kernel without the final NUL; longer names are skipped silently there."""


def clean(path: str) -> str:
    """Return a path in the guest if it is one.

    :raise ValueError: unless it is absolute, below the root, in its shortest form and encodable.
    """
    parts = PurePosixPath(path).parts
    shortest = "/" + "/".join(parts[1:])
    if path != shortest or not parts[1:] or ".." in parts or "\0" in path:
        raise ValueError(f"not an absolute path in its shortest form: {path!r}")
    if len(path.encode()) > MAX_NAME:
        raise ValueError(f"path is too long for the kernel: {path[:40]!r}…")
    return path


@dataclass(frozen=True)
class Entry:
    """One file of an archive."""

    path: str
    """Absolute path in the guest."""
    mode: int
    """Type and permissions, as ``st_mode``."""
    content: bytes = b""
    """Bytes of a regular file, target of a symbolic link."""
    uid: int = 0
    gid: int = 0
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""

    def __post_init__(self) -> None:
        """Refuse what the kernel would unpack to something else.

        :raise ValueError: as :func:`clean`.
        """
        clean(self.path)


def file(
    path: str, content: bytes | str, *, mode: int = 0o644, uid: int = 0, gid: int = 0
) -> Entry:
    """Return a regular file."""
    data = content.encode() if isinstance(content, str) else content
    return Entry(path, stat.S_IFREG | mode, data, uid, gid)


def folder(path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    """Return a folder."""
    return Entry(path, stat.S_IFDIR | mode, uid=uid, gid=gid)


def symlink(path: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def char_device(path: str, major: int, minor: int, *, mode: int = 0o600) -> Entry:
    """Return a character device node."""
    return Entry(path, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive of some entries.

    Folders that are missing above an entry are added with mode 0755 (the kernel makes none).
    Entries are sorted by path, so that a folder precedes what is in it and the order in which they
    were collected does not matter.

    :raise ValueError: if two entries have one path, a file is where a folder must be, or a file is
        larger than the format can say (4 GiB).
    """
    by_path: dict[str, Entry] = {}
    for entry in entries:
        if entry.path in by_path:
            raise ValueError(f"two entries for {entry.path}")
        by_path[entry.path] = entry
    for path in list(by_path):
        for parent in list(PurePosixPath(path).parents)[:-1]:
            above = by_path.setdefault(str(parent), folder(str(parent)))
            if not stat.S_ISDIR(above.mode):
                raise ValueError(f"{path} is inside {parent}, which is no folder")
    out = bytearray()
    for number, path in enumerate(sorted(by_path, key=lambda path: path.split("/")), start=1):
        entry = by_path[path]
        # Without the leading slash: the kernel unpacks relative to the root it makes.
        _append(out, entry, path.removeprefix("/"), number)
    _append(out, Entry("/-", 0), TRAILER, 0)
    return bytes(out)


def _append(out: bytearray, entry: Entry, name: str, number: int) -> None:
    if len(entry.content) > 0xFFFFFFFF:
        raise ValueError(f"{entry.path} is larger than a cpio archive can hold")
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        *(number, entry.mode, entry.uid, entry.gid, links, 0, len(entry.content), 0, 0),
        *(*entry.device, len(encoded), 0),
    )
    out += MAGIC.encode() + b"".join(b"%08X" % field for field in fields)
    for part in (encoded, entry.content):
        out += part
        out += bytes(-len(out) % ALIGN)


class Listed(NamedTuple):
    """What an archive has of a file."""

    path: str
    """As it is there, without the leading slash."""
    whole: bytes
    """With its header."""
    content: bytes


def listed(data: bytes) -> list[Listed]:
    """Return what is in an archive.

    :raise ValueError: if it is none.
    """
    found: list[Listed] = []
    at = 0
    while data[at : at + len(MAGIC)] == MAGIC.encode():
        fields = data[at + len(MAGIC) : at + HEADER]
        size, length = (int(fields[8 * number : 8 * number + 8], 16) for number in (6, 11))
        name = data[at + HEADER : at + HEADER + length - 1].decode("utf-8", "surrogateescape")
        content = at + HEADER + length
        content += -content % ALIGN
        end = content + size
        end += -end % ALIGN
        found.append(Listed(name, data[at:end], data[content : content + size]))
        if name == TRAILER:
            return found
        at = end
    raise ValueError("the archive has no end")
