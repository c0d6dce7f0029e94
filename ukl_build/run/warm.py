# SPDX-License-Identifier: Apache-2.0
"""Warm starts: a machine goes on from the state in which its application first answered.

A snapshot is a folder of the cache, named by the digest of all that makes a machine what it is: the
kernel, what is laid over its root, the command line, the devices, QEMU's version.  What has changed
is another machine, whose snapshot is not there.

    $XDG_CACHE_HOME/ukl-build/snapshots/DIGEST/
        state           QEMU's migration stream: memory and devices
        console.log     what the guest had said
        disks/          the recipe's disks, as they were
        snapshot.json   what the guest's init had reported, and the rest

A state that was saved is gone on from many times: nothing that a guest writes is kept, and nobody's
disk is part of it.  It has the guest's whole memory, so it is its owner's alone.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ukl_build import files, proc
from ukl_build.cache import Cache
from ukl_build.errors import UklError
from ukl_build.image import Image
from ukl_build.model import Model, parse_json, store_result
from ukl_build.run import qemu
from ukl_build.run.attend import first_answer, talk
from ukl_build.run.machine import Event, Machine, Saved
from ukl_build.run.vm import Accel, Drive, Vm

SNAPSHOT_FILE = "snapshot.json"
STATE_FILE = "state"
CONSOLE_FILE = "console.log"
DISKS = "disks"


class Snapshot(Model):
    """What a snapshot is, beside the state."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    label: str
    """Of the image."""
    image: str
    """Folder of its image.json."""
    made_s: float
    """Seconds since the epoch."""
    answer_s: float
    """Seconds from the machine's start to its first answer."""
    bytes: int
    """Of the state."""
    connections: int
    """To other machines, open when it was saved; nobody is at their other end any more."""
    events: tuple[dict[str, Any], ...]
    """What the guest's init had reported."""


def _digest_of(vm: Vm) -> str:
    """Return the digest of all that makes a machine what it is.

    :raise OSError: if a file of it cannot be read.
    :raise UklError: ``tool-missing`` without QEMU.
    """
    plain = replace(
        *(vm,),
        name="",
        kernel=None,
        initrd=None,
        forwards=(),
        drives=tuple(Drive(Path(str(n)), one.read_only) for n, one in enumerate(vm.drives)),
    )
    # No processor is said by -cpu host.
    processor = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    parts = [
        *qemu.argv(plain, qemu.Wiring("qmp", "status", "exec", "console")),
        *vm.cmdline,
        qemu.version(),
        *(files.sha256(path) if path else "" for path in (vm.kernel, vm.initrd)),
        *([_model(processor)] if vm.accel is Accel.KVM else []),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _model(cpuinfo: str) -> str:
    """Return what says which processor it is, of an entry of /proc/cpuinfo."""
    wanted = ("vendor_id", "cpu family", "model", "stepping", "microcode", "flags")
    return "\n".join(line for line in cpuinfo.splitlines() if line.startswith(wanted))


def place_of(vm: Vm) -> Path:
    """Return the folder that a machine's snapshot has, or would have.

    :param vm: the machine as it boots.
    :raise OSError: if a file of it cannot be read.
    :raise UklError: ``tool-missing`` without QEMU.
    """
    return Cache.default().snapshots / _digest_of(vm)


def is_there(place: Path) -> bool:
    """Return whether a folder has a snapshot."""
    return (place / SNAPSHOT_FILE).is_file()


def find(vm: Vm, place: Path, label: str) -> tuple[Vm, Saved]:
    """Return the machine that goes on from its snapshot, and the snapshot.

    :param vm: the machine as it would boot.
    :param place: of its snapshot, see :func:`place_of`.
    :param label: of its image.
    :raise UklError: ``snapshot-missing``.
    """
    try:
        text = (place / SNAPSHOT_FILE).read_bytes()
    except FileNotFoundError:
        raise UklError(
            "snapshot-missing",
            f"there is no snapshot of {label} as it would start with these options",
            hint="make one, with the same options: ukl snapshot",
        ) from None
    found = parse_json(Snapshot, text, where=place / SNAPSHOT_FILE, code="snapshot-failed")
    drives = tuple(
        replace(one, path=place / DISKS / str(number), volatile=True)
        for number, one in enumerate(vm.drives)
    )
    talk.debug("going on from %s, of %s", place, time.ctime(found.made_s))
    console = (place / CONSOLE_FILE).read_bytes()
    events: tuple[Event, ...] = tuple(dict(one) for one in found.events)
    return replace(vm, drives=drives), Saved(place / STATE_FILE, events, console)


def make(
    machine: Machine, image: Image, folder: Path, place: Path, timeout_s: float | None = None
) -> None:
    """Save the state of a machine when it has answered; it stands still then.

    :param image: with a question to ask.
    :param folder: of its image.
    :param place: of its snapshot.
    :param timeout_s: seconds that it has for the answer in place of the recipe's.
    :raise UklError: if it does not answer, or ``snapshot-failed``.
    """
    assert image.smoke is not None
    _, answer_s = first_answer(machine, image.smoke, timeout_s)
    cache = Cache.default()
    with cache.locked(talk.info), cache.scratch() as scratch:
        made = scratch / place.name
        made.mkdir(mode=0o700)
        connections = machine.save(made / STATE_FILE)
        shutil.copyfile(machine.console, made / CONSOLE_FILE)
        (made / DISKS).mkdir()
        for number, drive in enumerate(machine.vm.drives):
            proc.run(["cp", "--sparse=always", drive.path, made / DISKS / str(number)])
        size = (made / STATE_FILE).stat().st_size
        found = Snapshot(
            label=image.label,
            image=str(folder.resolve()),
            made_s=time.time(),
            answer_s=answer_s,
            bytes=size,
            connections=connections,
            events=machine.events,
        )
        store_result(found, made / SNAPSHOT_FILE)
        for old in _outdated(cache.snapshots, found, place):
            old.rename(scratch / f"{old.name}.old")
        cache.publish({made: place})
    talk.info(f"{image.label} answered after {answer_s:.1f} s; saved {size >> 20} MiB: {place}")
    if connections:
        talk.warning(
            "warning: %d connections to other machines are part of it, and lead nowhere when it"
            " goes on",
            connections,
        )


def _outdated(snapshots: Path, new: Snapshot, place: Path) -> list[Path]:
    """Return the snapshots that a new one replaces: itself, and those of its image before a build.

    What was saved of the image as it is, with other options, stays.
    """
    found = [place] if place.is_dir() else []
    kernel = (Path(new.image) / "image.json").stat().st_mtime
    for other in snapshots.glob(f"*/{SNAPSHOT_FILE}"):
        with suppress(UklError):
            read = parse_json(Snapshot, other.read_bytes(), where=other, code="snapshot-failed")
            if other.parent != place and read.image == new.image and read.made_s < kernel:
                found.append(other.parent)
    return found
