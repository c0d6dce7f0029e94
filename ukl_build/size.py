# SPDX-License-Identifier: Apache-2.0
"""What takes the bytes of an image: ``scons app=NAME size``.

The maps of two partial links tell, the application's and the kernel's, and vmlinux for what the
last link adds.  What is left is room for alignment.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table

from ukl_build import files, proc
from ukl_build.elf.contents import Content, addresses, contents
from ukl_build.errors import UklError, reported
from ukl_build.model import Model, store_result
from ukl_build.plan import Layout

WHOLE = ("_text", "_end")
"""The kernel's linker script: where the image begins and ends in memory."""

NAMES = ("kallsyms_offsets", "kallsyms_token_index")
"""First and last of the tables that scripts/kallsyms writes, one behind the other in .rodata."""

NAMES_LAST = 512
"""Bytes of the last one: the places of 256 tokens, 2 bytes each."""

BOOT = Path("arch/x86/boot/compressed")
"""Where make's output folder has what is compressed, and the result."""

KERNEL = "Linux: "
"""What owners begin with that are parts of the kernel."""

RELOCATIONS = f"{KERNEL}relocations"
"""Where addresses are, for KASLR: in the file, and gone before the kernel runs."""

SYMBOLS = f"{KERNEL}names of symbols"

UNWINDING = ".orc_"
"""What the names of the kernel's sections begin with that tell how to unwind its stack."""

SHOWN = 0.01
"""Part of the image's memory or of its file from which on a part of the kernel has its own line."""

WIDTH = 100
"""Columns of a table that goes into a file."""


class Part(Model):
    """What one owner has of an image; bytes."""

    owner: str
    file: str
    """Object, or archive and member."""
    code: int
    data: int
    zero: int
    """Memory that begins as zeros, and is in no file."""
    compressed: int
    """Its part of the compressed image: what it takes when it is compressed alone, scaled so that
    all parts make up the file."""

    @property
    def memory(self) -> int:
        """Bytes in memory before anything of the kernel's start is freed."""
        return self.code + self.data + self.zero


class Sizes(Model):
    """What the result file holds; bytes."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    app: str
    kernel: str = ""
    """SHA-256 of the bootable file."""
    file: int
    """The bootable file."""
    memory: int
    """From the first to the last byte of the kernel in memory."""
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Piece:
    """Contents of an owner, not measured yet."""

    owner: str
    file: str
    content: Content


# --- The application ----------------------------------------------------------------------------

_PLACE = re.compile(
    r"^ (?P<section>\S+)\s+0x(?P<offset>[0-9a-f]+)\s+0x(?P<size>[0-9a-f]+) (?P<file>\S.*)$",
    re.MULTILINE,
)
"""An input section in ld's map of a partial link.  A long name has a line of its own before."""

_MEMBER = re.compile(r"^(?P<archive>.*)\((?P<member>[^()]+)\)$")


def owner_of(file: str, home: Path) -> str:
    """Return whose a file of the application's link is.

    :param file: as ld's map has it: an object, or an archive and in parentheses its member.
    :param home: folder of the application's own outputs.
    """
    member = _MEMBER.match(file)
    if member is not None:
        return f"application: {Path(member['archive']).name}"
    own = Path(file).is_relative_to(home)
    return "application" if own else "application: start files"


@dataclass(frozen=True)
class Place:
    """What a file has of a section of a partial link."""

    section: str
    offset: int
    size: int
    """Bytes, as is the offset."""
    file: str
    """An object, or an archive and in parentheses its member."""

    @property
    def archive(self) -> str:
        """Name of the archive's file; empty for an object of its own."""
        member = _MEMBER.match(self.file)
        return "" if member is None else Path(member["archive"]).name


def placed(text: str) -> Iterator[Place]:
    """Return what ld's map of a partial link tells, in its order."""
    for found in _PLACE.finditer(text):
        offset, size = int(found["offset"], 16), int(found["size"], 16)
        yield Place(found["section"], offset, size, found["file"])


def linked(
    text: str, sections: Iterable[Content], owner: Callable[[Content, str], str]
) -> Iterator[Piece]:
    """Return what each file has of a partial link.

    :param text: ld's map.
    :param sections: those of the object that was linked.
    :param owner: tells whose a section of a file is.
    """
    by_name = {one.name: one for one in sections}
    for one in placed(text):
        whole = by_name.get(one.section)
        end = one.offset + one.size
        if whole is None or not one.size or end > whole.size:
            continue
        content = replace(whole, size=one.size, data=whole.data[one.offset : end])
        yield Piece(owner(whole, one.file), one.file, content)


# --- The kernel ---------------------------------------------------------------------------------


def subsystem(section: Content, path: str) -> str:
    """Return what part of the kernel a section of an object is: two folders of its path at most."""
    if section.name.startswith(UNWINDING):
        return f"{KERNEL}unwind tables"
    folders = path.split("/")[:-1]
    return f"{KERNEL}{'/'.join(folders[:2])}"


def kernel(out: Path) -> Iterator[Piece]:
    """Return what each of the kernel's objects has.

    They are linked as make has linked them (scripts/Makefile.vmlinux_o), for the map.

    :param out: make's output folder.
    :raise UklError: ``elf-format``, ``tool-missing`` or ``tool-failed``.
    """
    with tempfile.TemporaryDirectory(prefix="ukl-size-") as folder:
        made, mapped = Path(folder) / "vmlinux.o", Path(folder) / "map"
        proc.run(
            [
                *("ld", "-r", "-m", "elf_x86_64", f"-Map={mapped}", "-o", made),
                *("--whole-archive", "vmlinux.a", "--no-whole-archive"),
                *("--start-group", "lib/lib.a", "arch/x86/lib/lib.a", "--end-group"),
            ],
            cwd=out,
            hint="build the image again: something has removed files of make's",
        )
        yield from linked(mapped.read_text(encoding="utf-8"), contents(made), subsystem)


def tables(vmlinux: Path, out: Path) -> Iterator[Piece]:
    """Return what the kernel's last link adds: names of symbols, and where addresses are.

    :param out: make's output folder.
    :raise UklError: ``elf-format``.
    """
    places = addresses(vmlinux, frozenset(NAMES))
    if places:
        start, end = places[NAMES[0]], places[NAMES[1]] + NAMES_LAST
        for one in contents(vmlinux):
            if one.address <= start < one.address + len(one.data):
                data = one.data[start - one.address : end - one.address]
                yield Piece(SYMBOLS, "", replace(one, size=len(data), data=data))
    moved = out / BOOT / "vmlinux.relocs"
    if moved.is_file():
        yield Piece(RELOCATIONS, "", Content("", 0, code=False, size=0, data=moved.read_bytes()))


# --- All together -------------------------------------------------------------------------------


def packed(data: bytes) -> int:
    """Return how many bytes are left of some when they are compressed alone."""
    return len(zlib.compress(data, 6)) if data else 0


def measured(pieces: Iterable[Piece]) -> list[Part]:
    """Return one part for each file of each owner; ``compressed`` is not scaled."""
    found: dict[tuple[str, str], list[Content]] = {}
    for piece in pieces:
        found.setdefault((piece.owner, piece.file), []).append(piece.content)
    return [
        Part(
            owner=owner,
            file=file,
            code=sum(one.size for one in of if one.data and one.code),
            data=sum(one.size for one in of if one.data and not one.code),
            zero=sum(one.size for one in of if not one.data),
            compressed=packed(b"".join(one.data for one in of)),
        )
        for (owner, file), of in found.items()
    ]


def scaled(parts: Sequence[Part], file: int) -> tuple[Part, ...]:
    """Return the parts with what they take of a file of that many bytes."""
    total = sum(part.compressed for part in parts)
    return tuple(
        part.model_copy(update={"compressed": round(part.compressed * file / total)})
        for part in parts
    )


def payload(out: Path) -> int:
    """Return the size of the compressed part of the bootable file.

    :raise UklError: ``image-missing``.
    """
    found = [path for path in (out / BOOT).glob("vmlinux.bin.*") if path.is_file()]
    if not found:
        raise UklError(
            "image-missing",
            f"{out / BOOT} has no compressed kernel",
            hint="build the image again: something has removed files of make's",
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns).stat().st_size


def sizes(layout: Layout) -> Sizes:
    """Measure an image that was built.

    :raise UklError: ``image-missing``, ``elf-format``, ``tool-missing`` or ``tool-failed``.
    :raise OSError: if a file cannot be read.
    """
    own: Iterable[Piece] = ()
    if layout.variant.ring0:  # a twin's is a file of the guest's
        text = layout.link_map.read_text(encoding="utf-8")
        own = linked(text, contents(layout.linked), lambda _, file: owner_of(file, layout.home))
    pieces = [
        *own,
        *kernel(layout.linux),
        *tables(layout.vmlinux, layout.linux),
    ]
    parts = list(scaled(measured(pieces), payload(layout.linux)))
    places = addresses(layout.vmlinux, frozenset(WHOLE))
    memory = places[WHOLE[1]] - places[WHOLE[0]]
    file = layout.kernel.stat().st_size
    parts += [
        _rest(f"{KERNEL}unpacking itself", compressed=file - payload(layout.linux)),
        _rest("alignment", zero=memory - sum(part.memory for part in parts)),
    ]
    return Sizes(
        app=layout.app,
        kernel=files.sha256(layout.kernel),
        file=file,
        memory=memory,
        parts=tuple(parts),
    )


def _rest(owner: str, *, zero: int = 0, compressed: int = 0) -> Part:
    return Part(owner=owner, file="", code=0, data=0, zero=zero, compressed=compressed)


# --- What is shown ------------------------------------------------------------------------------


def owners(found: Sizes) -> list[Part]:
    """Return one part for each owner, the largest in the file first; small ones are one."""
    sums: dict[str, list[Part]] = {}
    for part in found.parts:
        sums.setdefault(part.owner, []).append(part)
    whole = [_sum(owner, of) for owner, of in sums.items()]
    small = [
        part
        for part in whole
        if part.memory < SHOWN * found.memory and part.compressed < SHOWN * found.file
    ]
    shown = sorted(
        (part for part in whole if part not in small),
        key=lambda part: (-part.compressed, -part.memory),
    )
    return [*shown, *([_sum(f"{len(small)} smaller ones", small)] if small else [])]


def _sum(owner: str, parts: Sequence[Part]) -> Part:
    return Part(
        owner=owner,
        file="",
        code=sum(part.code for part in parts),
        data=sum(part.data for part in parts),
        zero=sum(part.zero for part in parts),
        compressed=sum(part.compressed for part in parts),
    )


def table(found: Sizes) -> Table:
    """Return the table of an image's owners."""
    made = Table(title=f"{found.app}: bytes by owner")
    made.add_column("owner")
    for name in ("code", "data", "zeros", "in memory", "in the file"):
        made.add_column(name, justify="right")
    rows = owners(found)
    for part in rows:
        made.add_row(part.owner, *_numbers(part))
    made.add_section()
    made.add_row("all", *_numbers(_sum("all", rows)))
    return made


def _numbers(part: Part) -> list[str]:
    numbers = (part.code, part.data, part.zero, part.memory, part.compressed)
    return [f"{number:,}" if number else "" for number in numbers]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m ukl_build.size",
        description="Tell what takes the bytes of an image.",
        allow_abbrev=False,
    )
    parser.add_argument("--build", type=Path, required=True, help="folder of all outputs")
    parser.add_argument("app", help="application that was built")
    options = parser.parse_args(argv)

    def show() -> int:
        layout = Layout(options.build, options.app)
        found = sizes(layout)
        store_result(found, layout.size)
        console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
        console.print(table(found))
        return 0

    return reported(show)


if __name__ == "__main__":
    sys.exit(main())
