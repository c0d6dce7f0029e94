# SPDX-License-Identifier: Apache-2.0
"""Redis, its twin and Debian's own: the same answers, one from ring 0, the others from ring 3."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.boot.conftest import HELPER, Start, console
from tests.conftest import scons
from ukl_build import dotconfig, image
from ukl_build.initconf import Job, Mode
from ukl_build.run import disk
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Drive, Forward, from_image

pytestmark = [pytest.mark.boot, pytest.mark.long]

STRAY = "/proc/ukl_syscalls"
"""A file of a kernel that has an application in it."""

CODE_SEGMENTS = {0: 0x10, 3: 0x33}
"""__KERNEL_CS and __USER_CS of Linux, arch/x86/include/asm/segment.h, by ring."""


@pytest.fixture(scope="module")
def twin(redis_image: Path) -> Path:
    """Return the outputs of redis' twin."""
    scons("app=redis", "build=build/test", "fragments=9p", "twin")
    return redis_image / "twin"


def options(folder: Path) -> dict[str, str]:
    """Return the options of a kernel."""
    return dotconfig.read_settings((folder / "kconfig" / "config").read_text())


def look_inside(folder: Path, start: Start, place: Path) -> tuple[int, bool]:
    """Ask an image what its recipe asks, with disks of its own.

    :return: the code segment of its process, and whether its kernel has an application.
    """
    found = image.load(folder / "image.json")
    drives = [Drive(place / f"{found.label}.{one.name}.img") for one in found.disks]
    for drive, wanted in zip(drives, found.disks, strict=True):
        disk.make(drive.path, wanted)
    smoke = found.smoke
    assert smoke is not None
    vm = from_image(found, folder)
    vm = replace(vm, drives=tuple(drives), forwards=(Forward(0, smoke.port),))
    jobs = (
        Job((HELPER, "file", STRAY)),
        Job((HELPER, "segment", found.app.path), Mode.BESIDE),
    )
    # Over no other root than its own: what runs is what was built.
    machine = start(kernel=vm.kernel, base=vm.initrd, vm=vm, jobs=jobs)
    answer, send = smoke.expect.encode(), smoke.send.encode()
    assert machine.ask(smoke.port, send, answer, deadline_s=120).startswith(answer)
    assert machine.wait_event(60, event="exited", job="job1", code=0) is not None
    assert machine.stop() == Outcome(Kind.EXITED, 0)
    text = "\n".join(console(machine))
    said = re.search(rf"^{found.app.path}: cs (\w+)$", text, re.M)
    assert said is not None, text
    return int(said[1], 16), f"{STRAY}: errno 2" not in text


def test_redis_is_in_ring_0_and_its_twin_is_not(
    start: Start, redis_image: Path, twin: Path, tmp_path: Path
) -> None:
    assert look_inside(redis_image, start, tmp_path) == (CODE_SEGMENTS[0], True)
    assert look_inside(twin, start, tmp_path) == (CODE_SEGMENTS[3], False)


def test_their_kernels_differ_in_nothing_else(redis_image: Path, twin: Path) -> None:
    different = set(options(redis_image).items() ^ options(twin).items())
    names = {name for name, _ in different}
    levels = {"UKL_RET", "UKL_BYPASS", "UKL_SHORTCUT"}
    assert names == {"UNIKERNEL_LINUX", "UKL_TLS", "UKL_NAME", "UKL_ARCHIVE_PATH", *levels}


def test_debians_own_is_debians(start: Start, redis_stock: Path, tmp_path: Path) -> None:
    assert look_inside(redis_stock, start, tmp_path) == (CODE_SEGMENTS[3], False)
    (kernel,) = (redis_stock / "packages").glob("linux-image-*")
    release = kernel.name.removeprefix("linux-image-")
    console = next(tmp_path.glob("guest*/console.log")).read_text()
    assert f"Linux version {release} (debian-kernel@lists.debian.org)" in console
