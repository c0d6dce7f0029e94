# SPDX-License-Identifier: Apache-2.0
"""The guest's first root: the archive, and what is in it."""

from __future__ import annotations

import io
import re
import stat
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.project import ROOT
from ukl_build import cpio
from ukl_build.errors import UklError
from ukl_build.initconf import INIT_CONF, InitConf, Mount
from ukl_build.stages.userspace import (
    APP_FILE,
    ExtraFile,
    Userspace,
    build_init,
    build_initramfs,
    entries,
)

LINUX_UKL_H = ROOT / "recipes" / "linux" / "files" / "include" / "linux" / "ukl.h"


@dataclass(frozen=True)
class Unpacked:
    """An entry as it is read back from the bytes."""

    mode: int
    uid: int
    gid: int
    links: int
    mtime: int
    device: tuple[int, int]
    content: bytes


def unpack(data: bytes) -> dict[str, Unpacked]:
    """Read an archive as the kernel's documentation describes it; order is kept."""
    found: dict[str, Unpacked] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        _, mode, uid, gid, links, mtime, size, _, _, major, minor, name_size, check = fields
        assert check == 0
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = (at + 110 + name_size + 3) & ~3
        at = (start + size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert at == len(data)
            return found
        path = name[:-1].decode()
        assert path not in found
        content = data[start : start + size]
        found[path] = Unpacked(mode, uid, gid, links, mtime, (major, minor), content)


def test_every_kind_of_entry_can_be_read_back() -> None:
    got = unpack(
        cpio.archive(
            [
                cpio.file("/a/b/c", b"12345", mode=0o4755, uid=1, gid=0xFFFFFFFE),
                cpio.symlink("/a/link", "../target"),
                cpio.char_device("/dev/console", 5, 1),
                cpio.folder("/tmp", mode=0o1777),
                cpio.file("/empty", ""),
                cpio.file("/ümlaut", "ö"),
            ]
        )
    )
    assert got["a/b/c"] == Unpacked(stat.S_IFREG | 0o4755, 1, 0xFFFFFFFE, 1, 0, (0, 0), b"12345")
    assert got["a/link"].content == b"../target"
    assert stat.S_ISLNK(got["a/link"].mode)
    assert got["dev/console"].mode == stat.S_IFCHR | 0o600
    assert got["dev/console"].device == (5, 1)
    assert got["tmp"] == Unpacked(stat.S_IFDIR | 0o1777, 0, 0, 2, 0, (0, 0), b"")
    assert got["ümlaut"].content == "ö".encode()
    assert {"a", "a/b", "dev"} <= set(got)


def test_a_folder_comes_before_what_is_in_it() -> None:
    names = list(unpack(cpio.archive([cpio.file(path, "") for path in ("/a.b", "/a/b", "/a-b")])))
    assert names.index("a") < names.index("a/b")


def test_the_order_of_entries_does_not_matter() -> None:
    made = [cpio.file(f"/{name}/{name}", name) for name in "qwertz"]
    assert cpio.archive(made) == cpio.archive(reversed(made))


@pytest.mark.parametrize(
    "path", ["a", "", "/", "/a/", "//a", "/a//b", "/./a", "/a/../b", "/a\0b", "/" + "x" * 4095]
)
def test_a_path_that_would_become_another_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        cpio.file(path, "")


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="two entries for /a"):
        cpio.archive([cpio.file("/a", ""), cpio.folder("/a")])
    with pytest.raises(ValueError, match="inside /a, which is no folder"):
        cpio.archive([cpio.file("/a", ""), cpio.file("/a/b/c", "")])


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the init."""
    out = tmp_path_factory.mktemp("init") / "init"
    build_init(out)
    return out


def test_the_init_needs_nothing_and_is_small(init: Path) -> None:
    headers = subprocess.run(
        ["readelf", "-lW", init], capture_output=True, text=True, check=True
    ).stdout
    assert "INTERP" not in headers
    assert "DYNAMIC" not in headers
    assert " RWE " not in headers
    assert init.stat().st_size < 32 * 1024
    assert init.stat().st_mode & 0o777 == 0o755


def test_the_init_refuses_to_be_an_ordinary_program(init: Path) -> None:
    done = subprocess.run([init], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr == b"init: this is a guest's PID 1, not an ordinary program\n"


def test_the_init_is_the_same_wherever_it_is_built(init: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "init"
    build_init(other)
    assert other.read_bytes() == init.read_bytes()


def test_the_archive_is_the_same_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_initramfs(Userspace(), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_root_has_what_boots_and_starts_the_application(tmp_path: Path) -> None:
    build_initramfs(Userspace(), tmp_path / "out")
    got = unpack((tmp_path / "out").read_bytes())
    assert got["init"].mode == stat.S_IFREG | 0o755
    assert (got["UKL"].mode, got["UKL"].uid, got["UKL"].content) == (
        *(stat.S_IFREG | 0o700, 0, APP_FILE),
    )
    with io.BytesIO(APP_FILE) as file:
        header = ELFFile(file).header
    assert (header.e_type, header.e_machine, header.e_ehsize) == ("ET_NONE", "EM_X86_64", 64)
    # What the kernel looks for: C's octal escapes mean in Python what they mean in C.
    magic = re.search(r'^#define UKL_MAGIC\s+"([^"]*)"$', LINUX_UKL_H.read_text(), re.MULTILINE)
    assert magic
    assert APP_FILE.startswith(magic[1].encode().decode("unicode_escape").encode("latin-1"))
    assert b"app=/UKL\n" in got[INIT_CONF[1:]].content
    assert {"dev/console", "proc", "sys", "etc/passwd", "etc/hosts", "etc/resolv.conf"} <= set(got)
    assert {entry.mtime for entry in got.values()} == {0}


def test_files_of_the_recipe_are_added_and_replace_ours(tmp_path: Path) -> None:
    source = tmp_path / "hosts"
    source.write_text("1.2.3.4 x\n")
    files = (
        ExtraFile(source, "/etc/hosts"),
        ExtraFile(source, "/srv/data", mode=0o640, uid=7, gid=8),
    )
    got = unpack(cpio.archive(entries(Userspace(files=files), b"")))
    assert got["etc/hosts"].content == b"1.2.3.4 x\n"
    assert (got["srv/data"].mode & 0o7777, got["srv/data"].uid, got["srv/data"].gid) == (
        0o640,
        7,
        8,
    )


def test_an_ordinary_program_can_stand_for_the_application(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"ELF")
    spec = Userspace(InitConf(app="/bin/app"), app_mode=0o755, app_file=program)
    assert unpack(cpio.archive(entries(spec, b"")))["bin/app"].content == b"ELF"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"conf": InitConf(uid=1000)}, "user 1000 may not execute /UKL, whose mode is 0700"),
        ({"conf": InitConf(uid=1, gid=0), "app_mode": 0o701}, "user 1 may not execute"),
        ({"app_mode": 0o644}, "user 0 may not execute"),
        ({"app_mode": 0o722}, "writable by others than root"),
        ({"conf": InitConf(app="UKL")}, "not an absolute path"),
        ({"conf": InitConf(limits={"x": (1, 1)})}, "no resource limit is called 'x'"),
        ({"conf": InitConf(mounts=(Mount("", "/x", "y"),))}, "a mount needs"),
        ({"files": (ExtraFile(Path(__file__), "/init"),)}, "two entries for /init"),
        ({"files": (ExtraFile(Path(__file__), "/UKL/x"),)}, "inside /UKL, which is no folder"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    spec = replace(Userspace(), **changes)  # type: ignore[arg-type]
    with pytest.raises(UklError, match=complaint) as caught:
        build_initramfs(spec, tmp_path / "out")
    assert caught.value.code == "userspace-invalid"
    assert not any(tmp_path.iterdir())


def test_a_user_who_may_execute_the_application_is_accepted() -> None:
    for uid, gid, mode in ((1000, 1000, 0o701), (1000, 0, 0o710), (0, 0, 0o100)):
        entries(Userspace(InitConf(uid=uid, gid=gid), app_mode=mode), b"")
