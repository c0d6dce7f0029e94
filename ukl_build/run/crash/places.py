# SPDX-License-Identifier: Apache-2.0
"""What is at the addresses that a kernel printed: function, layer, line.

vmlinux has names, and lines where something was compiled with ``-g``; binutils' addr2line reads
those.  KASLR has moved the kernel by an offset that it prints in a panic alone.  Otherwise the
instructions that it prints tell: they are looked for in vmlinux.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from ukl_build import proc
from ukl_build.elf.contents import Content, contents
from ukl_build.elf.functions import Function, Functions, functions
from ukl_build.elf.names import PREFIX
from ukl_build.errors import UklError
from ukl_build.image import Image
from ukl_build.layers import APPLICATION, LIBRARY, OTHER, Names, kernel_names
from ukl_build.model import Model
from ukl_build.plan import Layout
from ukl_build.run.crash.console import Crash, Spot
from ukl_build.size import placed
from ukl_build.stages import libc

KERNEL = "kernel"
MIXED = "application or a library"
"""Layer of the application's half where nothing tells its files apart."""

KERNEL_IMAGE = 0xFFFF_FFFF_8000_0000
"""Where addresses begin that the kernel, and the application in it, can be linked at."""

USER_END = 1 << 56
"""Where user memory ends at the latest, with five levels of page tables."""

ALIGN = 0x20_0000
"""What KASLR moves the kernel by multiples of: CONFIG_PHYSICAL_ALIGN."""

AGREE = 0.5
"""Part of the printed instructions that vmlinux must have.  Not all: the kernel changes its own as
it starts, and addresses among them move.  Of other code a few per cent agree."""

_C_LIBRARY = {"libc.a", *(Path(name).name for name in libc.LIBRARIES)}
_START_FILE = re.compile(r"(?:^|/)crt[^/]*\.o$")
_OUR_CACHE = re.compile(r"^.*/trees/[0-9a-f]{64}/")
_AT = re.compile(r"^(?P<file>.+):(?P<line>\d+)(?: \(discriminator \d+\))?$")


class Place(Model):
    """A place in code, by the names that its author knows."""

    function: str = ""
    """Without our prefix; empty if there is none."""
    offset: int = 0
    """Bytes from its begin."""
    layer: str = ""
    """Such as ``application``, ``C library``, ``library libz.a``, ``kernel: VFS``; empty outside
    of all code."""
    source: str = ""
    """``file:line``, of the innermost function if some are inlined."""
    inlined: tuple[str, ...] = ()
    """Functions that were inlined here, the innermost first, each with where it is called:
    ``function, inlined into function at file:line``."""
    address: int | None = None
    """As linked, or as printed where that is not known."""
    certain: bool = True
    """False for what is on the stack, but perhaps left over."""

    @property
    def shown(self) -> str:
        """The function and how far in it, or the address."""
        if self.function:
            return f"{self.function}+{self.offset:#x}"
        return "?" if self.address is None else f"{self.address:#x}"


@dataclass(frozen=True)
class Files:
    """Where the files of an image are."""

    vmlinux: Path
    program: Path | None
    """The program of an ordinary process, with its symbols."""
    layout: Layout

    @classmethod
    def of(cls, image: Image, folder: Path) -> Files:
        """Return them, whether they are there or not.

        :param folder: where its image.json is.
        """
        folder = folder.resolve()
        layout = Layout.around(folder, image.variant)
        program = None if image.variant.ring0 else layout.ordinary
        return cls((folder / image.kernel).with_suffix(".vmlinux"), program, layout)


class Places:
    """The places of one crash."""

    def __init__(self, files: Files, crash: Crash, moved: int | None = None) -> None:
        """Read vmlinux; what cannot be read is among the :attr:`notes`.

        :param moved: KASLR's offset, where the kernel has said it.
        """
        self.files = files
        self.crash = crash
        self.notes: list[str] = []
        """What a reader should know about names and lines, one sentence each."""
        self._known = self._read(files.vmlinux)
        self._by_name: dict[str, list[Function]] = {}
        for one in self._known:
            self._by_name.setdefault(one.name.partition(" ")[0], []).append(one)
        self._kernel = Functions(self._known)
        self.moved = self._offset(moved)
        """KASLR's offset, None if nothing tells it."""
        if self._known and self._differs():
            self.notes.append(
                f"{files.vmlinux.name} is of another build than the kernel that ran: there are"
                " the names that it printed, and no lines"
            )
            self._forget()

    @property
    def usable(self) -> bool:
        """Whether vmlinux is there and is the kernel's that ran."""
        return bool(self._known)

    def _forget(self) -> None:
        self._known, self._by_name, self._kernel = [], {}, Functions([])
        self.moved = None

    def _read(self, path: Path) -> list[Function]:
        try:
            return list(functions(path))
        except OSError:
            self.notes.append(
                f"{path.name} is not there: there are the names that the kernel printed, no lines"
            )
        except UklError as error:
            self.notes.append(error.message)
        return []

    # --- Addresses ----------------------------------------------------------------------------

    @cached_property
    def _code(self) -> list[Content]:
        return [one for one in contents(self.files.vmlinux) if one.code and one.data]

    def _agreement(self, address: int) -> float:
        """Return how much of the printed instructions vmlinux has around an address."""
        code = self.crash.code
        for one in self._code:
            start = address - self.crash.at - one.address
            if 0 <= start <= len(one.data) - len(code):
                same = sum(a == b for a, b in zip(code, one.data[start:], strict=False))
                return same / len(code) if code else 0.0
        return 0.0

    def _offset(self, said: int | None) -> int | None:
        """Return by how much the kernel was moved."""
        spot, ip = self.crash.spot, self.crash.ip
        if said is not None or not self._known:
            return said
        if ip is None or ip < KERNEL_IMAGE:
            return None
        if spot is not None and spot.symbol and (named := self._named(spot)) is not None:
            # Both, the address and the name, are printed for a process.
            return ip - named.address - spot.offset
        if not self.crash.code:
            return None
        first = min(one.address for one in self._code)
        steps = (ip - first) // ALIGN
        found = max(range(steps + 1), key=lambda step: self._agreement(ip - step * ALIGN))
        return found * ALIGN if self._agreement(ip - found * ALIGN) >= AGREE else None

    def _named(self, spot: Spot) -> Function | None:
        """Return the function of a symbol; of several the one that the place fits into."""
        several = self._by_name.get(spot.symbol, [])
        fit = [one for one in several if spot.offset <= one.end - one.address <= spot.size]
        if len(fit) > 1 and spot is self.crash.spot and self.crash.code:
            return max(fit, key=lambda one: self._agreement(one.address + spot.offset))
        return next(iter([*fit, *several]), None)

    def linked(self, spot: Spot) -> int | None:
        """Return the address at which a place was linked, None if that is not known."""
        if spot.symbol:
            named = self._named(spot)
            return None if named is None else named.address + spot.offset
        if spot.address is None or spot.address < USER_END:
            return spot.address if self.files.program is not None else None
        return None if self.moved is None else spot.address - self.moved

    def _differs(self) -> bool:
        """Tell whether vmlinux is another kernel's: by instructions if there are some, or names."""
        spot = self.crash.spot
        address = None if spot is None else self.linked(spot)
        if self.crash.code and address is not None and address >= USER_END:
            return self._agreement(address) < AGREE
        named = [one for one in (spot, *self.crash.trace) if one is not None and one.symbol]
        missing = [one for one in named if one.symbol not in self._by_name]
        # A jump into data has a name that is no function's.
        return 2 * len(missing) > len(named)

    # --- Layers -------------------------------------------------------------------------------

    @cached_property
    def _owners(self) -> Mapping[str, str] | None:
        """Layers of the application's functions, None if nothing tells them."""
        layout = self.files.layout
        try:
            text = layout.link_map.read_text(encoding="utf-8", errors="replace")
            return layers(text, functions(layout.linked))
        except (OSError, UklError):
            return None

    @cached_property
    def _parts(self) -> Names:
        out = self.files.layout.linux
        known = (out / "vmlinux.a").is_file()
        try:
            return Names(kernel_names(out) if known else {}, frozenset())
        except UklError:
            return Names({}, frozenset())

    def _layer(self, name: str) -> str:
        if not name.startswith(PREFIX):
            part = self._parts.layer(name)
            return KERNEL if part == OTHER else f"{KERNEL}: {part}"
        if self._owners is None:
            return MIXED
        return self._owners.get(name.removeprefix(PREFIX), APPLICATION)

    # --- All together -------------------------------------------------------------------------

    @cached_property
    def _program(self) -> Functions:
        """Functions of the ordinary process."""
        path = self.files.program
        return Functions(
            list(functions(path, prefix=PREFIX)) if path is not None and path.is_file() else []
        )

    def look(self, spots: Sequence[Spot]) -> list[Place]:
        """Return what is at some places, of which the first is where it happened.

        Behind it come callers, whose addresses are those behind their calls.
        """
        addresses = [self.linked(spot) for spot in spots]
        asked = {
            number: address - (number > 0)
            for number, address in enumerate(addresses)
            if address is not None
        }
        lines: dict[int, list[tuple[str, str]]] = {}
        for path, low in ((self.files.vmlinux, False), (self.files.program, True)):
            some = {one for one in asked.values() if (one < USER_END) == low}
            if path is not None and path.is_file() and some and self._known:
                lines |= self._lines(path, some)
        return [
            self._place(spot, address, lines.get(asked.get(number, -1), []))
            for number, (spot, address) in enumerate(zip(spots, addresses, strict=True))
        ]

    def _lines(self, path: Path, some: Iterable[int]) -> dict[int, list[tuple[str, str]]]:
        try:
            return lines_of(path, sorted(some))
        except UklError as error:
            self.notes.append(f"there are no lines: {error.message}")
            return {}

    def _place(self, spot: Spot, address: int | None, lines: Sequence[tuple[str, str]]) -> Place:
        found = self._named(spot)
        if address is not None and not spot.symbol:
            inside = self._program if address < USER_END else self._kernel
            found = inside.around(address)
        if found is None and not spot.symbol:
            shown = spot.address if address is None else address
            return Place(address=shown, certain=spot.certain)
        name = found.name if found else spot.symbol
        known = [(function, at) for function, at in lines if at]
        return Place(
            function=name.removeprefix(PREFIX).partition(" ")[0],
            offset=spot.offset if found is None or address is None else address - found.address,
            layer=self._layer(name),
            source=known[0][1] if known else "",
            inlined=tuple(
                f"{inner}, inlined into {outer} at {at}"
                for (inner, _), (outer, at) in pairwise(known)
            ),
            address=address,
            certain=spot.certain,
        )


def layers(text: str, of: Iterable[Function]) -> dict[str, str]:
    """Return the layer of each function of a partial link.

    :param text: ld's map.
    :param of: functions of the object that was linked.
    """
    by_section: dict[str, list[Function]] = {}
    layer_of: dict[tuple[str, int], str] = {}
    for one in placed(text):
        if one.size:
            end = one.offset + one.size
            by_section.setdefault(one.section, []).append(
                Function(one.offset, end, one.file, one.section)
            )
            if one.archive:
                layer = LIBRARY if one.archive in _C_LIBRARY else f"library {one.archive}"
            else:
                layer = LIBRARY if _START_FILE.search(one.file) else APPLICATION
            layer_of[one.section, one.offset] = layer
    files = {section: Functions(found) for section, found in by_section.items()}
    found = {}
    for function in of:
        inside = files.get(function.section)
        file = inside.around(function.address) if inside else None
        if file is not None:
            found[function.name] = layer_of[function.section, file.address]
    return found


def lines_of(path: Path, addresses: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
    """Return functions and ``file:line`` of addresses, the innermost inlined function first.

    A line that is not known is empty.

    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    words: list[str | Path] = [
        "addr2line",
        "-a",
        "-f",
        "-i",
        "-e",
        path,
        *(f"{one:#x}" for one in addresses),
    ]
    found: dict[int, list[tuple[str, str]]] = {}
    into: list[tuple[str, str]] = []
    rows = iter(proc.run(words, timeout=60).stdout.splitlines())
    for row in rows:
        if row.startswith("0x"):
            into = found.setdefault(int(row, 16), [])
        else:
            into.append((row.removeprefix(PREFIX), source(next(rows, ""))))
    return found


def source(text: str) -> str:
    """Return ``file:line`` as addr2line prints it, by a path that says something to a reader."""
    at = _AT.match(text)
    if at is None or at["file"].startswith("?"):
        return ""
    path = Path(_OUR_CACHE.sub("", at["file"]))
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{at['line']}"
