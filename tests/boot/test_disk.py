# SPDX-License-Identifier: Apache-2.0
"""Disks and shared folders on the real kernel, by ordinary programs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.boot.conftest import Start, console, image_folder
from tests.boot.test_init import BOOT_S, conf, end, helper, said
from tests.boot.test_ukl_run import run
from ukl_build.image import IMAGE_FILE, Disk, Feature, Share
from ukl_build.initconf import mounts
from ukl_build.run import disk
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Drive, Folder, Vm

pytestmark = pytest.mark.boot

DATA = Disk(name="data", size_mib=64, mount="/var/lib/data")
MOUNTS = mounts((DATA,), ())
LOG = f"{DATA.mount}/log"


@pytest.fixture(scope="session")
def kernel(redis_image: Path) -> Path:
    """Return a kernel with the drivers."""
    return redis_image / "redis.bzImage"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Make a disk."""
    path = tmp_path / "data.img"
    assert disk.make(path, DATA)
    return path


@pytest.fixture
def folder(kernel: Path, tmp_path: Path) -> Path:
    """Return the folder of an image with a disk."""
    return image_folder(tmp_path, kernel, cmdline=(), disks=(DATA,), features=tuple(Feature))


def is_clean(path: Path) -> bool:
    """Tell whether a file system was unmounted, and look through all of it.

    e2fsck with -n reads over a journal that waits to be replayed, so it alone does not tell.
    """
    done = subprocess.run(["/sbin/dumpe2fs", "-h", path], check=True, capture_output=True)
    waits = b"needs_recovery" in done.stdout
    if not waits:
        subprocess.run(["/sbin/e2fsck", "-fn", path], check=True, capture_output=True)
    return not waits


def test_what_was_written_is_there_the_next_time(
    folder: Path, helper: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()

    def ukl_run(*words: str) -> None:
        given = ("--file", f"{helper}:/opt/helper", "--append", "ukl.app=/opt/helper")
        # No recipe of this kernel says what is mounted: these make ukl-run say it.
        more = ("--disk", f"{tmp_path}/more.img:{DATA.mount}/more", "-v", f"{shared}:/mnt")
        status, out, err = run(folder, *given, *more, "--", *words)
        assert status == 0, out + err

    ukl_run("append", LOG, "first")
    kept = tmp_path / "state" / "ukl-build" / "disks" / "app" / "data.img"
    assert is_clean(kept)
    assert is_clean(tmp_path / "more.img")
    ukl_run("copy", LOG, "/mnt/out")
    assert (shared / "out").read_text() == "first\n"


def test_what_was_synced_is_there_after_qemu_is_killed(start: Start, made: Path) -> None:
    vm = Vm("guest", drives=(Drive(made),))
    machine = start(vm=vm, entries=conf(argv=("h", "log", LOG), mounts=MOUNTS))
    deadline = time.monotonic() + BOOT_S
    while len(said(machine)) < 50:
        assert time.monotonic() < deadline, console(machine)
        assert machine.wait(0.01) is None
    os.kill(machine.pid, signal.SIGKILL)
    assert end(machine).kind is Kind.QEMU_FAILED
    # A line may be cut off.
    last = [int(line) for line in said(machine) if line.isdecimal()][-2]
    assert not is_clean(made)
    machine = start(vm=vm, entries=conf(argv=("h", "file", LOG), mounts=MOUNTS))
    assert end(machine) == Outcome(Kind.EXITED, 0)
    found = [line.split()[1] for line in console(machine) if line.startswith(f"{LOG}: ")]
    assert found == [str(number) for number in range(len(found))]
    assert len(found) > last
    assert is_clean(made)


def test_a_file_that_is_deleted_takes_no_room_on_the_host(start: Start, made: Path) -> None:
    vm = Vm("guest", drives=(Drive(made),))
    for words, least, most in (("fill", "24"), 24, 48), (("unlink",), 0, 8):
        job = helper(words[0], f"{DATA.mount}/big", *words[1:])
        machine = start(vm=vm, entries=conf(app="", jobs=(job,), mounts=MOUNTS))
        assert end(machine) == Outcome(Kind.EXITED, 0)
        assert least << 20 <= made.stat().st_blocks * 512 < most << 20
        assert is_clean(made)


def test_a_disk_that_cannot_be_mounted_is_told(start: Start, made: Path) -> None:
    with made.open("r+b") as file:
        # The superblock's checksum does not fit any more.
        file.seek(1024 + 0x78)
        file.write(b"other name")
    disk.check(made)
    machine = start(
        vm=Vm("guest", drives=(Drive(made),)),
        entries=conf(argv=("h", "say", "started"), mounts=MOUNTS),
    )
    outcome = end(machine)
    assert outcome.kind is Kind.NOT_STARTED
    assert f"cannot mount /dev/vda on {DATA.mount} as ext4 (errno 74)" in outcome.why
    assert said(machine) == []


def test_folders_are_shared_both_ways(start: Start, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    (there / "in").write_text("of the host\n")
    shares = (
        Share(name="here", mount="/mnt/here"),
        Share(name="there", mount="/mnt/there", read_only=True),
    )
    jobs = (
        helper("copy", "/mnt/there/in", "/mnt/here/out"),
        helper("append", "/mnt/here/out", "of the guest"),
        helper("append", "/mnt/there/in", "of the guest", any_end=True, name="refused"),
    )
    machine = start(
        vm=Vm("guest", folders=(Folder(here), Folder(there, read_only=True))),
        entries=conf(app="", jobs=jobs, mounts=mounts((), shares)),
    )
    assert end(machine) == Outcome(Kind.EXITED, 0), console(machine)
    assert (here / "out").read_text() == "of the host\nof the guest\n"
    assert (here / "out").stat().st_mode & 0o777 == 0o640
    assert (here / "out").stat().st_uid == os.geteuid()
    assert machine.wait_event(0, event="exited", job="refused", code=1) is not None
    assert "/mnt/there/in: errno 30" in console(machine)
    assert (there / "in").read_text() == "of the host\n"


def test_a_smoke_test_has_disks_of_its_own(redis_image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    for name in (IMAGE_FILE, "redis.bzImage"):
        (folder / name).symlink_to(redis_image / name)
    status, _, err = run(folder, "--smoke", "--disk", f"{tmp_path}/more.img:/more")
    assert status == 0, err
    assert re.search(r"made \S*/data\.img: 1024 MiB", err)
    assert not (tmp_path / "state" / "ukl-build" / "disks").exists()
