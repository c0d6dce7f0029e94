# SPDX-License-Identifier: Apache-2.0
"""The files that a link is given: objects, archives, and what is neither."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ukl_build.elf.reader import Kind, describe, parse_object
from ukl_build.errors import UklError
from ukl_build.lint.findings import Finding, finding

_ARCHIVE, _THIN = b"!<arch>\n", b"!<thin>\n"
_HEADER = 60
_BITCODE = (b"BC\xc0\xde", b"\xde\xc0\x17\x0b")
"""LLVM's bitcode, bare and wrapped."""
_SCRIPT = re.compile(rb"\b(GROUP|INPUT|OUTPUT_FORMAT|SECTIONS|VERSION)\b|GNU ld script")
_NAMED = re.compile(r"\b(?:GROUP|INPUT)\s*\(([^()]*)\)")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Unit:
    """An object file, or a member of an archive."""

    file: str
    """As it was given."""
    member: str | None
    data: bytes | memoryview

    @property
    def name(self) -> str:
        """Name for messages, as ld writes it."""
        return self.file if self.member is None else f"{self.file}({self.member})"


@dataclass(frozen=True, eq=False)
class Archive:
    """A static library."""

    file: str
    """As it was given."""
    units: list[Unit]
    index: list[tuple[str, int]] | None
    """Names that the symbol index has, in its order, each with the number of the unit."""


@dataclass
class Inputs:
    """All that was given."""

    objects: list[Unit] = field(default_factory=list)
    archives: list[Archive] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    """What is wrong with files that are neither."""

    def units(self) -> Iterator[Unit]:
        """Yield every object and every member."""
        yield from self.objects
        for archive in self.archives:
            yield from archive.units


def read(paths: list[str]) -> Inputs:
    """Read files.

    Linker scripts that only name archives, such as Debian's libm.a, stand for these.

    :raise OSError: if one cannot be read.
    """
    found = Inputs()
    for path in paths:
        _read(path, Path(path), found)
    return found


def _read(shown: str, path: Path, found: Inputs) -> None:
    data = path.read_bytes()
    if data.startswith((_ARCHIVE, _THIN)):
        try:
            archive = parse_archive(shown, path, data)
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            found.findings.append(finding("format", shown, f"is a damaged archive: {error}"))
            return
        if archive.index is None and any(map(_is_object, archive.units)):
            found.findings.append(finding("index", shown, "is an archive without a symbol index"))
        found.archives.append(archive)
    elif not data.startswith(b"\x7fELF") and _SCRIPT.search(data[:4096]) and b"\0" not in data:
        named = _named(data.decode("utf-8", "replace"), path.parent)
        if named is None:
            what = "is a linker script that says more than which archives to take"
            found.findings.append(finding("linker-script", shown, what))
        for one in named or ():
            _read(str(one), one, found)
    else:
        found.objects.append(Unit(shown, None, data))


def _named(script: str, folder: Path) -> list[Path] | None:
    """Return the files that a linker script names, if it does nothing else."""
    script = _COMMENT.sub("", script)
    names = " ".join(_NAMED.findall(script)).replace(",", " ").split()
    files = [folder / name for name in names]
    rest = re.sub(r"OUTPUT_FORMAT\s*\([^)]*\)", "", _NAMED.sub("", script))
    if not files or rest.strip(" \n\t;") or not all(file.is_file() for file in files):
        return None
    return files


def named_by(path: Path) -> list[Path]:
    """Return the archives that a linker script names, resolved; none if it is no linker script."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return []
    if head.startswith((_ARCHIVE, _THIN)) or not _SCRIPT.search(head):
        return []
    return [one.resolve() for one in _named(head.decode("utf-8", "replace"), path.parent) or ()]


def _is_object(unit: Unit) -> bool:
    """Tell whether ar would have put the names of a member into an index: it reads it, too."""
    try:
        parse_object(unit.data, unit.file)
    except UklError:
        return False
    return True


def problem(unit: Unit, damage: str) -> Finding:
    """Return why something that cannot be read is no object that can be linked.

    :param damage: what to say of one that begins like an object.
    """

    def refuse(code: str, what: str) -> Finding:
        return finding(code, unit.file, what, member=unit.member)

    head = bytes(unit.data[:8])
    if head.startswith(_BITCODE):
        return refuse("lto", "is LLVM bitcode")
    if not head:
        return refuse("format", "is empty")
    match describe(unit.data):
        case Kind.OBJECT:
            return refuse("format", damage)
        case Kind.SHARED:
            return refuse("linked", "is a shared object or a position-independent program")
        case Kind.EXECUTABLE:
            return refuse("linked", "is an executable")
        case Kind.NO_ELF:
            return refuse("format", "is no ELF file and no archive")
        case str() as machine:
            return refuse("machine", f"is for {machine}")


# --- Archives: ar(5), as GNU ar writes them


def read_index(path: Path) -> list[str]:
    """Return the names in the symbol index of an archive; none if it is not one or has none.

    Reads no more than the index.

    :raise OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(_ARCHIVE)) not in (_ARCHIVE, _THIN):
            return []
        header = file.read(_HEADER)
        if header[:16].rstrip() not in (b"/", b"/SYM64/"):
            return []
        try:
            return [name for name, _ in _index(header, file.read(int(header[48:58])))]
        except (ValueError, IndexError, UnicodeDecodeError):
            return []


def _index(header: bytes, data: bytes) -> list[tuple[str, int]]:
    """Return names and the places of their members' headers, in the order of the file."""
    width = 8 if header.startswith(b"/SYM64/") else 4
    count = int.from_bytes(data[:width], "big")
    names = data[width * (count + 1) :].split(b"\0")
    return [
        (
            names[number].decode("utf-8", "surrogateescape"),
            int.from_bytes(data[width * (number + 1) : width * (number + 2)], "big"),
        )
        for number in range(count)
    ]


def parse_archive(shown: str, path: Path, data: bytes) -> Archive:
    """Read an archive.

    :raise ValueError: if it is damaged.
    """
    thin = data.startswith(_THIN)
    view = memoryview(data)
    units: list[Unit] = []
    number_at: dict[int, int] = {}
    index: list[tuple[str, int]] | None = None
    names = b""
    at = len(_ARCHIVE)
    while at < len(data):
        header = data[at : at + _HEADER]
        if len(header) < _HEADER or header[58:] != b"`\n":
            raise ValueError(f"no member begins at {at:#x}")
        name, size = header[:16].rstrip(), int(header[48:58])
        start = at + _HEADER
        inside = not thin or name in (b"/", b"/SYM64/", b"//")
        if inside and start + size > len(data):
            raise ValueError(f"the member at {at:#x} ends behind the end of the file")
        content = view[start : start + size] if inside else view[:0]
        if name in (b"/", b"/SYM64/"):
            index = _index(header, bytes(content))
        elif name == b"//":
            names = bytes(content)
        else:
            if name.startswith(b"/"):
                offset = int(name[1:])
                name = names[offset : names.index(b"\n", offset)]
            text = name.removesuffix(b"/").decode("utf-8", "surrogateescape")
            if thin:
                content = memoryview((path.parent / text).read_bytes())
            number_at[at] = len(units)
            units.append(Unit(shown, text, content))
        at = start + (size if inside else 0)
        at += at % 2
    if index is not None:
        # What names something else than a member is of no use to ld either.
        index = [(name, number_at[at]) for name, at in index if at in number_at]
    return Archive(shown, units, index)
