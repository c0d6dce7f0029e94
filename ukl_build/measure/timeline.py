# SPDX-License-Identifier: Apache-2.0
"""From power-on to the first answer: when an image comes to the places that matter.

Two runs: one with ``-icount``, for instructions, which are the same each time as far as no disk of
the host's is waited for, and one without, for seconds.  In both ``measure/points.c`` notes when the
guest comes to addresses that are known from the bzImage's header (the kernel's
Documentation/x86/boot.rst), vmlinux's symbols, and the programs of the guest.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ukl_build import cpio, files
from ukl_build.elf import contents
from ukl_build.elf.names import ENTRY, PREFIX
from ukl_build.errors import UklError
from ukl_build.image import IMAGE_FILE, Image, Init
from ukl_build.initconf import Job, Mode
from ukl_build.measure.counts import ready_at
from ukl_build.measure.guest import (
    LOAD,
    Programs,
    first_answer_argv,
    loading,
    machine,
    to_its_end,
)
from ukl_build.model import Model
from ukl_build.plan import Layout
from ukl_build.run import attach, prepare, qemu
from ukl_build.run.vm import Vm

POINTS = "points.c"
"""The plugin that notes when."""

_HEAD = struct.Struct("<6IQ")
_NOTE = struct.Struct("<3Q")
_MAGIC = 0x504C4B55
_FORMAT = 1
_CAPACITY = 16384

_HEADER = 0x202, b"HdrS"
_CODE32_START = struct.Struct("<I"), 0x214
_PREF_ADDRESS = struct.Struct("<Q"), 0x258
"""Fields of a bzImage's header: Documentation/x86/boot.rst."""

KERNEL = "start_kernel", "kernel_init"
"""init/main.c."""

NUMBERED = "01234567"
"""First letters of the levels of initcalls that do_initcalls() calls, the one after the other."""

EXEC = "begin_new_exec"
"""Where execve() leaves the old program (fs/exec.c)."""

LISTEN = "__sys_listen", "__x64_sys_listen"
"""What may be called for listen(): the one from the table, or by a call past that."""


_PROTECTION = re.compile(
    r"\[ *\d+\.\d+\] (?P<words>NX .*|Write protecting .*|Kernel/User page tables isolation.*|"
    r"Spectre .*|.*: Mitigation: .*|.*: Vulnerable.*)"
)
"""Words of arch/x86/mm and arch/x86/kernel/cpu/bugs.c."""


class Milestone(Model):
    """A place that each start comes to."""

    name: str
    what: str
    """What begins there."""
    instructions: int
    """Since power-on."""
    seconds: float
    """The same in the host's time, in emulation, with the plugin."""


class Initcall(Model):
    """A function that sets a part of the kernel up (include/linux/init.h)."""

    name: str
    level: str
    """See :class:`ukl_build.elf.contents.Initcall`."""
    instructions: int
    """Until the next one begins."""
    seconds: float


class Timeline(Model):
    """What the file of an image's start holds."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    identity: str
    """Of the image that was started, see :func:`identity`."""
    qemu: str
    """QEMU's version, as it says it."""
    milestones: tuple[Milestone, ...]
    """In their order."""
    initcalls: tuple[Initcall, ...]
    """In their order."""
    said: tuple[str, ...] = ()
    """What the kernel wrote of protections and of what it does against faults of processors."""
    ready_ns: int | None = None
    """The guest's clock at the first answer, in the run that counts: a nanosecond an instruction,
    and the time that it idled."""


# --- Places -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """An address that the guest comes to."""

    name: str
    what: str
    addresses: tuple[int, ...]
    """Whichever comes first."""
    last_before: str = ""
    """Name of the place before which it is the last time that counts; else it is the first one."""


def boot_places(kernel: Path) -> list[Place]:
    """Return those of a bzImage before its kernel has page tables.

    :raise UklError: ``measure-failed`` if it is none.
    :raise OSError: if it cannot be read.
    """
    with kernel.open("rb") as file:
        head = file.read(0x1000)
    at, magic = _HEADER
    if head[at : at + len(magic)] != magic:
        raise UklError(
            "measure-failed", f"{kernel} is no bzImage", hint="build it again: it may be cut short"
        )
    (code32,), (preferred,) = (
        form.unpack_from(head, at) for form, at in (_CODE32_START, _PREF_ADDRESS)
    )
    return [
        Place("decompressor", "the kernel unpacks itself", (code32,)),
        Place("kernel", "its first instruction, without page tables of its own", (preferred,)),
    ]


def places(image: Image, folder: Path) -> tuple[list[Place], list[contents.Initcall]]:
    """Return all places of an image, in the order in which they are come to.

    :param folder: where its image.json is.
    :return: and the kernel's initcalls.
    :raise UklError: ``measure-failed``, ``image-missing`` or ``elf-format``.
    :raise OSError: if a file cannot be read.
    """
    kernel = folder / image.kernel
    layout = Layout.around(folder, image.variant)
    vmlinux = prepare.vmlinux(image, folder)
    if not vmlinux.is_file():
        raise UklError(
            "image-missing",
            f"{vmlinux} is not there, whose symbols say where the guest is",
            hint=f"build it: {image.command}",
        )
    own = f"{PREFIX}{ENTRY}", f"{PREFIX}main"
    found = dict(contents.addresses(vmlinux, frozenset({*KERNEL, EXEC, *LISTEN, *own})))
    calls = contents.initcalls(vmlinux)
    archive = folder / image.initrd if image.initrd else layout.initramfs
    programs = _programs(archive)
    if not image.variant.ring0:
        program = programs.get(image.app.path.removeprefix("/"))
        start = contents.entry(program) if program is not None else None
        found.update({own[0]: start} if start is not None else {})
        if layout.ordinary.is_file():
            main = contents.addresses(layout.ordinary, frozenset({"main"})).get("main")
            found.update({own[1]: main} if main is not None else {})
    init = programs.get("init") if image.init is Init.RING3 else None
    made = boot_places(kernel)

    def add(name: str, what: str, *where: int | None, last_before: str = "") -> None:
        known = tuple(one for one in where if one is not None)
        if known:
            made.append(Place(name, what, known, last_before))

    add("start_kernel", "C code of the kernel: memory, clocks, console", found.get("start_kernel"))
    add("kernel_init", "its first process, and further processors", found.get("kernel_init"))
    first = [one.address for one in calls if one.level[0] in NUMBERED]
    add("initcalls", "drivers, file systems, network", *first)
    add("init", "the guest's first program, in ring 3", contents.entry(init) if init else None)
    add("exec", "the application takes its process", found.get(EXEC), last_before="entry")
    add("entry", "the application's first instruction: its C library", found.get(own[0]))
    add("main", "the application's main()", found.get(own[1]))
    add("listen", "it listens on its port", *(found.get(one) for one in LISTEN))
    return made, calls


# --- What the plugin notes ----------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """That the guest came to a place."""

    address: int | None
    """None of a mark."""
    instructions: int
    seconds: float


def asked(wanted: Sequence[int]) -> bytes:
    """Return the file that tells the plugin the addresses to look at."""
    places = sorted(set(wanted))
    head = _HEAD.pack(_MAGIC, _FORMAT, len(places), 0, _CAPACITY, 0, 0)
    return head + struct.pack(f"<{len(places)}Q", *places) + bytes(_CAPACITY * _NOTE.size)


def noted(data: bytes) -> list[Note]:
    """Return what the plugin found, in its order.

    :raise UklError: ``measure-failed`` if the file is damaged, or had no room for all.
    """
    try:
        _, _, n_places, n_notes, capacity, _, _ = _HEAD.unpack_from(data)
        if n_notes > capacity:
            raise ValueError(f"the guest came to places {n_notes} times, {capacity} have room")
        known = struct.unpack_from(f"<{n_places}Q", data, _HEAD.size)
        begin = _HEAD.size + 8 * n_places
        rows = [_NOTE.unpack_from(data, begin + number * _NOTE.size) for number in range(n_notes)]
        return [
            Note(known[place] if place < n_places else None, instructions, ns / 1e9)
            for place, instructions, ns in rows
        ]
    except (struct.error, ValueError) as error:
        raise UklError(
            "measure-failed",
            f"what the plugin has noted cannot be read: {error}",
            hint="run it again; was QEMU ended by somebody?",
        ) from error


@dataclass(frozen=True)
class Observed:
    """One run."""

    notes: Sequence[Note]
    lines: Sequence[str]
    """Of the console."""
    ready_ns: int | None


def milestones(order: Sequence[Place], notes: Sequence[Note]) -> dict[str, Note]:
    """Return the note of each place that was come to, from the end back.

    A place is looked for behind those before it: low addresses are a program's later.
    """
    found: dict[str, Note] = {}
    after = 0
    limits = {
        name: next((note.instructions for note in notes if note.address in places), None)
        for name, places in ((one.name, one.addresses) for one in order)
    }
    for one in order:
        hits = [
            note for note in notes if note.address in one.addresses and note.instructions >= after
        ]
        limit = limits.get(one.last_before)
        if limit is not None:
            hits = [note for note in hits if note.instructions <= limit][-1:]
        if hits:
            found[one.name] = hits[0]
            after = hits[0].instructions
    return found


# --- The runs -----------------------------------------------------------------------------------


def said(lines: Sequence[str]) -> Iterator[str]:
    """Yield what a kernel wrote of protections, without its times."""
    for line in lines:
        match = _PROTECTION.fullmatch(line)
        if match is not None:
            yield match["words"]


def _programs(archive: Path) -> dict[str, bytes]:
    """Return what a guest's userspace holds, by its path without the leading slash."""
    if not archive.is_file():
        return {}
    return {one.path: one.content for one in cpio.listed(archive.read_bytes())}


def _observe(image: Image, vm: Vm, programs: Programs, folder: Path, wanted: bytes) -> Observed:
    """Run an image to its first answer, or to its end if it is asked nothing.

    :param folder: empty, for the run's files.
    :param wanted: see :func:`asked`.
    """
    found = attach.attached(image, (), (), (), state=folder / "disks")
    attach.prepare(found, lambda _: None)
    points = folder / "points"
    points.write_bytes(wanted)
    vm = found.to(
        replace(vm, extra=(*vm.extra, *loading(programs.plugin, f"out={qemu.escape(points)}")))
    )
    over: dict[str, Any] = {"done": ""}
    if image.smoke is not None:
        load_job = Job(first_answer_argv(image.smoke), mode=Mode.BESIDE, name="load")
        over = {"jobs": (load_job,), "programs": {LOAD: programs.load}}
    elif image.smoke_runs and image.smoke_runs[0].args:
        over["argv"] = (image.app.argv[0], *image.smoke_runs[0].args)
    lines = to_its_end(vm, folder, **over)
    return Observed(noted(points.read_bytes()), lines, ready_at(lines))


def identity(image: Image, folder: Path) -> str:
    """Return the digest of all that decides on how an image starts.

    :param folder: where its image.json is.
    :raise OSError: if a file of it cannot be read.
    """
    names = [IMAGE_FILE, image.kernel, *([image.initrd] if image.initrd else [])]
    digests = [files.sha256(folder / name) for name in names]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def measure(image: Image, folder: Path, say: Callable[[str], object]) -> Timeline:
    """Start an image twice, and return when it came where.

    :param folder: where its image.json is.
    :param say: writes a line for people.
    :raise UklError: ``image-missing``, ``measure-failed``, ``run-invalid`` for an image without our
        init, or of the machine that could not start.
    :raise OSError: if a file cannot be read or written.
    """
    order, calls = places(image, folder)
    wanted = [address for one in order for address in one.addresses]
    wanted += [one.address for one in calls]
    runs: list[Observed] = []
    with tempfile.TemporaryDirectory(prefix="ukl-timeline-") as scratch:
        programs = Programs.build(Path(scratch), POINTS)
        for name, repeatable in (("instructions", True), ("seconds", False)):
            say(f"starting {image.label} in emulation, for its {name}")
            own = Path(scratch) / name
            own.mkdir()
            vm = replace(machine(image, folder, pti=None), repeatable=repeatable)
            runs.append(_observe(image, vm, programs, own, asked(wanted)))
    counted, timed = (milestones(order, run.notes) for run in runs)
    found = [Milestone(name="firmware", what="power-on: SeaBIOS", instructions=0, seconds=0.0)]
    found += [
        Milestone(
            name=one.name,
            what=one.what,
            instructions=counted[one.name].instructions,
            seconds=timed[one.name].seconds,
        )
        for one in order
        if one.name in counted and one.name in timed
    ]
    ends = [next((note for note in run.notes if note.address is None), None) for run in runs]
    if ends[0] is not None and ends[1] is not None:
        answer = "its first answer, over the loopback"
        found.append(
            Milestone(
                name="answer",
                what=answer,
                instructions=ends[0].instructions,
                seconds=ends[1].seconds,
            )
        )
    return Timeline(
        identity=identity(image, folder),
        qemu=qemu.version(),
        milestones=tuple(found),
        initcalls=_initcalls(calls, runs),
        said=tuple(said(runs[0].lines)),
        ready_ns=runs[0].ready_ns,
    )


def _follows(level: str, next_level: str) -> bool:
    """Tell whether nothing but initcalls is between two that come after each other."""
    numbered = (*NUMBERED, "r")  # "rootfs" is between 5 and 6
    return level == next_level or (level[0] in numbered and next_level[0] in numbered)


def _initcalls(
    calls: Sequence[contents.Initcall], runs: Sequence[Observed]
) -> tuple[Initcall, ...]:
    """Return what each initcall took, but for those whose end nothing tells: the last of all, and
    what comes before the numbered ones.
    """
    named = {one.address: one for one in calls}
    first: list[dict[int, Note]] = []
    for run in runs:
        by_address: dict[int, Note] = {}
        for note in run.notes:
            if note.address in named:
                by_address.setdefault(note.address, note)
        first.append(by_address)
    both = sorted(first[0].keys() & first[1].keys(), key=lambda one: first[0][one].instructions)
    made = []
    for address, following in itertools.pairwise(both):
        if not _follows(named[address].level, named[following].level):
            continue
        a, b = ([one[where] for one in first] for where in (address, following))
        made.append(
            Initcall(
                name=named[address].name,
                level=named[address].level,
                instructions=b[0].instructions - a[0].instructions,
                seconds=max(0.0, b[1].seconds - a[1].seconds),
            )
        )
    return tuple(made)
