# SPDX-License-Identifier: Apache-2.0
"""Record and replay: a run that is kept with all that came from outside, and done again.

QEMU writes down each event that a guest's instructions do not determine, with the number of the
instruction before it (docs/system/replay.rst of QEMU); a replay executes the same instructions, and
under gdb they can be gone back.  A recording is a folder that needs nothing beside it:

    DIR/
        recording.json  the machine, and QEMU's version
        image.json      of the image, with its kernel, vmlinux, map and initrd
        log             QEMU's events
        state.qcow2     the machine's state before its first instruction
        disk0.qcow2 ... its disks as they were; what the guest writes goes there

Disks are copies: a replay needs them as they were, and what a recorded run writes is gone with the
recording.  State and disks are qcow2, in which QEMU can keep states.

virtio-serial is left out: loading a state starts a timer of its (virtio_serial_post_load() of
QEMU), which no recording has, and the replay waits for ever.  The init reports over a second UART.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from ukl_build import proc
from ukl_build.errors import UklError
from ukl_build.image import IMAGE_FILE, Image, Init, Variant, load, store
from ukl_build.model import Model, parse_json, store_result
from ukl_build.plan import Layout
from ukl_build.run import prepare, qemu
from ukl_build.run.vm import Drive, Network, Recording, Replay, Vm

RECORDING_FILE = "recording.json"
INITRD = "initrd"

STATUS_DEVICE = "/dev/ttyS1"
"""Where the guest's init finds :data:`qemu.STATUS_UART`."""

STATE_MIB = 64
"""Size of the disk that only keeps states; they are behind its end."""

TOOL = "qemu-img"
TOOL_HINT = "install it; on Debian it is in the package qemu-utils"


class Recorded(Model):
    """The machine of a recording."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    name: str
    qemu: str
    """QEMU's version, as it says it."""
    cmdline: tuple[str, ...]
    memory_mib: int
    network: Network
    init: Init
    watchdog: bool
    disks: int
    has_initrd: bool
    made_s: float
    """Seconds since the epoch."""


def _invalid(place: Path, why: str, hint: str = "record it again: ukl-run --record") -> UklError:
    return UklError("recording-invalid", f"{place} cannot be replayed: {why}", hint=hint)


def _keep(source: Path, target: Path) -> None:
    """Keep a file that is only ever replaced as a whole."""
    try:
        os.link(source, target)
    except OSError:  # on another file system, or somebody else's
        shutil.copyfile(source, target)


def begin(vm: Vm, image: Image, place: Path, say: Callable[[str], object]) -> Vm:
    """Make the folder of a recording; return the machine that is recorded.

    :param vm: the machine as it would run.
    :param place: not there yet, or empty.
    :param say: writes a line for people.
    :raise UklError: ``run-invalid`` if the place is taken; ``tool-missing`` or ``tool-failed``.
    :raise OSError: if something cannot be written.
    """
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UklError(
            "run-invalid", f"there is something at {place} already", hint="name a new folder"
        )
    tool = proc.which(TOOL, hint=TOOL_HINT)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    assert vm.kernel is not None  # of an image
    kernel = place / Path(image.kernel).name
    _keep(vm.kernel, kernel)
    symbols = vm.kernel.with_suffix(".vmlinux")
    if symbols.is_file():
        _keep(symbols, kernel.with_suffix(".vmlinux"))
    theirs, ours = (Layout.around(one, image.variant) for one in (vm.kernel.parent, place))
    # What a crash report tells layers by; of the image itself, a variant's are not beside it.
    if theirs.linked.is_file() and image.variant is Variant.UKL:
        ours.objects.mkdir()
        _keep(theirs.linked, ours.linked)
        _keep(theirs.link_map, ours.link_map)
    if vm.initrd is not None:
        shutil.copyfile(vm.initrd, place / INITRD)
    for number, drive in enumerate(vm.drives):
        copy = place / f"disk{number}.qcow2"
        proc.run(
            [tool, "convert", "-f", "raw", "-O", "qcow2", drive.path, copy],
            hint="is another machine using the disk?",
        )
    if vm.drives:
        say("it runs on copies of its disks: what it writes is in the recording alone")
    if vm.cpus > 1:
        say(f"it has one processor in place of {vm.cpus}: a recording has no more")
    one = replace(vm, kernel=kernel, initrd=place / INITRD if vm.initrd is not None else None)
    initrd = INITRD if vm.initrd is not None else None
    store(
        image.model_copy(update={"kernel": kernel.name, "initrd": initrd, "disks": (), "cpus": 1}),
        place / IMAGE_FILE,
    )
    if vm.init is Init.RING3:
        one = prepare.with_parameters(one, f"ukl.status={STATUS_DEVICE}")
    recorded = Recorded(
        name=vm.name,
        qemu=qemu.version(),
        cmdline=one.cmdline,
        memory_mib=vm.memory_mib,
        network=vm.network,
        init=vm.init,
        watchdog=vm.watchdog,
        disks=len(vm.drives),
        has_initrd=vm.initrd is not None,
        made_s=time.time(),
    )
    proc.run([tool, "create", "-q", "-f", "qcow2", place / qemu.STATE, f"{STATE_MIB}M"])
    store_result(recorded, place / RECORDING_FILE)
    return _machine(recorded, place, Replay.RECORD, one)


def find(place: Path) -> tuple[Image, Vm]:
    """Return the image of a recording, and the machine that does it again.

    :raise UklError: ``recording-invalid``, also for one of another QEMU.
    :raise OSError: if something cannot be read.
    """
    try:
        text = (place / RECORDING_FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise _invalid(place, f"it has no {RECORDING_FILE}") from None
    recorded = parse_json(Recorded, text, where=place / RECORDING_FILE, code="recording-invalid")
    image = load(place / IMAGE_FILE)
    wanted = [image.kernel, qemu.LOG, qemu.STATE, *([INITRD] if recorded.has_initrd else [])]
    wanted += [f"disk{number}.qcow2" for number in range(recorded.disks)]
    for name in wanted:
        if not (place / name).is_file():
            raise _invalid(place, f"{name} is not there")
    now = qemu.version()
    if now != recorded.qemu:
        raise _invalid(
            place,
            f"it is of {recorded.qemu}, and this is {now}",
            "only the same QEMU does the same; install that one, or record again",
        )
    plain = Vm(
        name=recorded.name,
        kernel=place / image.kernel,
        initrd=place / INITRD if recorded.has_initrd else None,
        cmdline=recorded.cmdline,
        memory_mib=recorded.memory_mib,
        network=recorded.network,
        init=recorded.init,
        watchdog=recorded.watchdog,
    )
    return image, _machine(recorded, place, Replay.REPLAY, plain)


def _machine(recorded: Recorded, place: Path, mode: Replay, vm: Vm) -> Vm:
    drives = tuple(Drive(place / f"disk{number}.qcow2") for number in range(recorded.disks))
    return replace(vm, cpus=1, drives=drives, recording=Recording(mode, place.resolve()))
