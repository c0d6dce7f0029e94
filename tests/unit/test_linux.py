# SPDX-License-Identifier: Apache-2.0
"""What a killed make leaves in the kernel's output folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.project import FAKE_LINUX
from ukl_build import proc, toolchain
from ukl_build.errors import UklError
from ukl_build.stages import linux


def accept(vmlinux: Path) -> None:
    """Find nothing wrong."""


def build(
    folder: Path,
    said: list[str],
    check: Callable[[Path], None] = accept,
    config_text: str = "CONFIG_A=y\n",
) -> None:
    """Build the fake kernel."""
    config = folder / "config"
    config.write_text(config_text)
    linux.build(
        FAKE_LINUX,
        config,
        folder / "out",
        bzimage=folder / "bzImage",
        vmlinux=folder / "vmlinux",
        jobs=1,
        compiler=toolchain.Compiler((), proc.BASE_ENV),
        logs=folder / "logs",
        say=said.append,
        check=check,
    )


class Killed(BaseException):
    """Stands for what ends a process without make's knowing."""


def test_torn_files_are_forgotten_but_not_the_lock_and_the_markers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    markers = out / "include" / "config"
    markers.mkdir(parents=True)
    running = out / linux.RUNNING
    running.touch()
    before = running.stat().st_mtime_ns - 10**9
    for path, text in ((out / "old.o", "x"), (out / "torn.o", "x"), (markers / "auto.conf", "x")):
        path.write_text(text)
    os.utime(out / "old.o", ns=(before, before))
    (markers / "SMP").touch()

    def kill(*_: object, **__: object) -> None:
        raise Killed

    lock = out / linux.LOCK
    lock.touch()
    held = lock.stat().st_ino
    monkeypatch.setattr(proc, "run", kill)
    said: list[str] = []
    with pytest.raises(Killed):
        build(tmp_path, said)
    assert said == ["out: the last build was killed; 2 files of it are made again"]
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert left >= {"old.o", "include/config/SMP", linux.RUNNING}
    assert not left & {"torn.o", "include/config/auto.conf"}
    # A lock whose file is gone keeps nobody waiting.
    assert lock.stat().st_ino == held


def test_a_kernel_that_is_found_wrong_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "out" / "arch" / "x86" / "boot" / "bzImage"
    made.parent.mkdir(parents=True)
    made.write_text("new")
    (tmp_path / "out" / "vmlinux").write_text("new")
    (tmp_path / "bzImage").write_text("old")
    monkeypatch.setattr(proc, "run", lambda *_, **__: None)

    def refuse(vmlinux: Path) -> None:
        assert vmlinux.read_text() == "new"
        raise UklError("elf-linked", "it is wrong", hint="none")

    with pytest.raises(UklError):
        build(tmp_path, [], refuse)
    assert (tmp_path / "bzImage").read_text() == "old"
    build(tmp_path, [])
    assert (tmp_path / "bzImage").read_text() == "new"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return an output folder of make's, of some tree."""
    out = tmp_path / "old" / "linux"
    (out / "tools" / "objtool").mkdir(parents=True)
    (tmp_path / "tree").mkdir()
    (out / "source").symlink_to(tmp_path / "tree")
    (out / "a.o").write_text("object")
    (out / "tools" / "objtool" / ".x.o.cmd").write_text(f"cc -o {out}/tools/objtool/x.o")
    return out


def test_a_kernel_begins_as_another_one(output: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "linux"
    new.parent.mkdir()
    linux.begin_as(output, new)
    assert (new / "a.o").stat().st_mtime_ns == (output / "a.o").stat().st_mtime_ns
    # Of objtool's makefiles, which alone have the folder in them.
    moved = new / "tools" / "objtool" / ".x.o.cmd"
    assert moved.read_text() == f"cc -o {new}/tools/objtool/x.o"
    assert moved.stat().st_mtime_ns == (output / "tools/objtool/.x.o.cmd").stat().st_mtime_ns
    assert [path.name for path in new.parent.iterdir()] == ["linux"]


@pytest.mark.parametrize("same", [True, False])
def test_what_was_built_stays_unless_it_is_of_another_tree(
    output: Path, tmp_path: Path, same: bool
) -> None:
    new = tmp_path / "new" / "linux"
    new.parent.mkdir()
    linux.begin_as(output, new)
    (new / "a.o").write_text("its own")
    if not same:
        (new / "source").unlink()
        (new / "source").symlink_to(tmp_path / "gone")
    linux.begin_as(output, new)
    assert (new / "a.o").read_text() == ("its own" if same else "object")
    assert (new / "source").resolve() == (tmp_path / "tree").resolve()


def test_what_is_linked_is_known_by_its_content(tmp_path: Path) -> None:
    """Not by its time: it is older than what the copy has linked."""

    def made(folder: Path) -> bytes:
        build(folder, [], config_text='CONFIG_INITRAMFS_SOURCE="../initramfs.cpio"\n')
        return (folder / "bzImage").read_bytes()

    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "initramfs.cpio").write_text(f"what {folder.name} has")
    os.utime(other / "initramfs.cpio", (0, 0))
    assert b"what one has" in made(one)
    linux.begin_as(one / "out", other / "out")
    assert b"what other has" in made(other)
    assert (other / "out" / "calls").read_text().count("CC") == 2  # of the first
    # As SCons' cache brings it back.
    (other / "initramfs.cpio").write_text("yet another")
    os.utime(other / "initramfs.cpio", (0, 0))
    assert b"yet another" in made(other)
    calls = (other / "out" / "calls").read_text()
    made(other)
    assert (other / "out" / "calls").read_text() == calls
