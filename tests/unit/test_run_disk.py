# SPDX-License-Identifier: Apache-2.0
"""Disk images: made with the real mke2fs, locked by the real QEMU."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.guests import assemble
from ukl_build import files
from ukl_build.errors import UklError
from ukl_build.image import Disk, Init
from ukl_build.run import disk
from ukl_build.run.machine import Machine
from ukl_build.run.vm import Drive, Vm

DATA = Disk(name="data", size_mib=64, mount="/data")


def dumpe2fs(path: Path) -> dict[str, str]:
    """Return what e2fsprogs reads of a superblock."""
    done = subprocess.run(
        ["/sbin/dumpe2fs", "-h", path], check=True, capture_output=True, text=True
    )
    rows = (line.partition(":") for line in done.stdout.splitlines())
    return {name: value.strip() for name, _, value in rows}


def root_folder(path: Path) -> str:
    """Return what debugfs shows of the root folder's inode."""
    done = subprocess.run(
        ["/sbin/debugfs", "-R", "stat <2>", path], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Make a disk."""
    path = tmp_path / "data.img"
    assert disk.make(path, DATA)
    return path


@pytest.mark.parametrize("size_mib", [16, 100, 2048])
def test_a_disk_that_is_made_is_whole_and_sparse(tmp_path: Path, size_mib: int) -> None:
    path = tmp_path / "data.img"
    assert disk.make(path, DATA.model_copy(update={"size_mib": size_mib}))
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600
    assert disk.check(path) == path.stat().st_size == size_mib << 20
    # The journal and the tables of inodes are not written either.
    assert path.stat().st_blocks * 512 < 2 << 20
    subprocess.run(["/sbin/e2fsck", "-fn", path], check=True, capture_output=True)
    read = dumpe2fs(path)
    assert "has_journal" in read["Filesystem features"]
    assert (read["Block size"], read["Reserved block count"]) == ("4096", "0")


def test_the_root_folder_is_whose_it_shall_be(tmp_path: Path) -> None:
    path = tmp_path / "data.img"
    disk.make(path, DATA.model_copy(update={"uid": 70000, "gid": 101, "mode": 0o1750}))
    stat = root_folder(path)
    assert re.search(r"Mode: +01750 ", stat), stat
    assert re.search(r"User: +70000 +Group: +101 ", stat), stat
    subprocess.run(["/sbin/e2fsck", "-fn", path], check=True, capture_output=True)


def test_a_file_that_is_there_is_never_replaced(made: Path) -> None:
    before = files.sha256(made)
    assert not disk.make(made, DATA)
    assert files.sha256(made) == before
    assert list(made.parent.iterdir()) == [made]


def test_a_disk_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "FORMAT", ("false",))
    with pytest.raises(UklError) as caught:
        disk.make(tmp_path / "data.img", DATA)
    assert caught.value.code == "tool-failed"
    assert list(tmp_path.iterdir()) == []


def refusal(path: Path) -> str:
    """Return why a file is no disk; it is not changed by that."""
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(UklError) as caught:
        disk.check(path)
    assert caught.value.code == "disk-invalid"
    assert (path.read_bytes() if path.is_file() else b"") == before
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"x" * 500, b"x" * 1500, bytes(1 << 20)])
def test_a_file_without_a_file_system_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert "has no ext4 file system" in refusal(tmp_path / "file")


def test_a_disk_that_was_cut_off_is_refused(made: Path) -> None:
    os.truncate(made, (64 << 20) - 4096)
    assert "has 67104768 bytes, its file system 67108864" in refusal(made)


def test_the_size_of_a_large_file_system_is_read_whole(tmp_path: Path) -> None:
    # 16 TiB and a little: the number of blocks has more than 32 bits.
    assert disk._ext4_bytes(bytes(1024)) is None
    head = bytearray(2048)
    head[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
    head[1024 + 0x18] = 2
    head[1024 + 0x4] = 5
    head[1024 + 0x150] = 1
    assert disk._ext4_bytes(bytes(head)) == 5 * 4096
    head[1024 + 0x60] = 0x80
    assert disk._ext4_bytes(bytes(head)) == (1 << 44) + 5 * 4096


def test_a_disk_of_another_format_is_told_from_a_broken_one(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"QFI\xfb\0\0\0\3".ljust(4096, b"\0"))
    assert "qemu-img convert -O raw" in refusal(tmp_path / "d")


def test_a_folder_is_told_to_be_shared(tmp_path: Path) -> None:
    assert "-v HOST:GUEST" in refusal(tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Machine]]:
    """Return a function that starts a machine with a disk."""
    kernel = assemble(tmp_path / "kernel", "spin")
    machines: list[Machine] = []

    def start_one(path: Path) -> Machine:
        vm = Vm("a", kernel=kernel, memory_mib=32, drives=(Drive(path),), init=Init.DIRECT)
        machine = Machine(vm, console=tmp_path / f"console{len(machines)}")
        machines.append(machine)
        machine.start()
        return machine

    yield start_one
    for machine in machines:
        machine.close()


def test_a_disk_in_use_is_refused_with_its_holder(
    made: Path, start: Callable[[Path], Machine]
) -> None:
    machine = start(made)
    with pytest.raises(UklError) as caught:
        disk.check(made)
    assert caught.value.code == "disk-busy"
    assert f"process {machine.pid} (qemu-system-x86)" in caught.value.message
    # By another name it is the same disk.
    os.link(made, made.with_name("other.img"))
    with pytest.raises(UklError, match=f"process {machine.pid}"):
        disk.check(made.with_name("other.img"))
    machine.close()
    disk.check(made)


def test_qemu_itself_refuses_a_disk_in_use(made: Path, start: Callable[[Path], Machine]) -> None:
    # Two runs may look at the same moment.
    start(made)
    with pytest.raises(UklError, match='Failed to get "write" lock'):
        start(made)
