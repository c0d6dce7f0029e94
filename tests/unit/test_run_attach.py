# SPDX-License-Identifier: Apache-2.0
"""What a run adds to its image: which disk, folder and file it is, and what is refused."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_run_userspace import unpack
from ukl_build.errors import UklError
from ukl_build.image import App, Disk, Feature, Image, Init, Share
from ukl_build.initconf import RUN_CONF
from ukl_build.run import attach, prepare
from ukl_build.run.attach import Attached, DiskOption, FileOption, ShareOption
from ukl_build.run.vm import Drive, Folder, Vm

STATE = Path("/state/app")
PLAIN = Image(
    name="app",
    kernel="k",
    cmdline=(),
    memory_mib=64,
    cpus=1,
    app=App(argv=("/UKL", "old")),
    features=tuple(Feature),
)
DATA = Disk(name="data", size_mib=64, mount="/data", uid=7)
LOGS = Disk(name="logs", size_mib=32, mount="/logs")
WWW = Share(name="www", mount="/www", read_only=True)
ONE = PLAIN.model_copy(update={"disks": (DATA,), "shares": (WWW,)})
TWO = PLAIN.model_copy(update={"disks": (DATA, LOGS)})


def attached(
    image: Image,
    *,
    disks: Sequence[str] = (),
    shares: Sequence[str] = (),
    files: Sequence[str] = (),
    state: Path = STATE,
) -> Attached:
    """Return what options as they are typed make of an image."""
    return attach.attached(
        image,
        [attach.disk_option(text) for text in disks],
        [attach.share_option(text) for text in shares],
        [attach.file_option(text) for text in files],
        state=state,
    )


def test_options_are_read_in_all_their_forms() -> None:
    assert attach.disk_option("a.img") == DiskOption(Path("a.img"), None)
    assert attach.disk_option("a:b.img:/data") == DiskOption(Path("a:b.img"), "/data")
    assert attach.share_option(".:/mnt") == ShareOption(Path(), "/mnt", read_only=False)
    assert attach.share_option("a:b:/c:ro") == ShareOption(Path("a:b"), "/c", read_only=True)
    assert attach.file_option("a b:/etc/c d") == FileOption(Path("a b"), "/etc/c d")


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (attach.disk_option, ""),
        (attach.disk_option, ":/data"),
        (attach.disk_option, "a.img:data"),
        (attach.disk_option, "a.img:/"),
        (attach.disk_option, "a.img:/data/"),
        (attach.disk_option, "a.img:/my data"),
        (attach.share_option, "."),
        (attach.share_option, ".:mnt"),
        (attach.share_option, ".:/mnt:rw"),
        (attach.share_option, ".:ro"),
        (attach.file_option, "a.conf"),
        (attach.file_option, "a.conf:/etc/"),
        (attach.file_option, "a.conf:/etc/../b"),
    ],
)
def test_an_option_that_is_not_understood_shows_its_form(parse: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not (FILE|HOST).*such as "):
        parse(text)


def test_the_recipes_disks_and_folders_are_in_the_state_folder() -> None:
    vm = attached(ONE).to(Vm("app"))
    assert vm.drives == (Drive(STATE / "data.img"),)
    assert vm.folders == (Folder(STATE / "www", read_only=True),)


def test_the_command_line_replaces_what_the_recipe_has() -> None:
    found = attached(ONE, disks=["/my.img"], shares=["/pages:/www"])
    # As the recipe wants it: its owner, read-only.
    assert [(one.path, one.disk, one.own) for one in found.disks] == [
        (Path("/my.img"), DATA, False)
    ]
    assert found.to(Vm("app")).folders == (Folder(Path("/pages"), read_only=True),)
    assert found.mounts() == attached(ONE).mounts()
    found = attached(TWO, disks=["/my.img:/logs"])
    assert [one.path for one in found.disks] == [STATE / "data.img", Path("/my.img")]


def test_the_command_line_adds_disks_and_folders() -> None:
    found = attached(ONE, disks=["/my.img:/more"], shares=["/home:/data/home:ro", "/tmp:/scratch"])
    assert [(one.source, one.target) for one in found.mounts()] == [
        ("/dev/vda", "/data"),
        ("/dev/vdb", "/more"),
        ("share0", "/www"),
        ("share2", "/scratch"),
        ("share1", "/data/home"),
    ]
    vm = found.to(Vm("app"))
    assert [drive.path for drive in vm.drives] == [STATE / "data.img", Path("/my.img")]
    assert [folder.path for folder in vm.folders] == [STATE / "www", Path("/home"), Path("/tmp")]


def test_paths_do_not_depend_on_qemus_reading_of_them() -> None:
    # nbd:... would be a server.
    vm = attached(PLAIN, disks=["nbd:x:/a"], shares=["x:/b"]).to(Vm("app"))
    assert (vm.drives[0].path, vm.folders[0].path) == (Path.cwd() / "nbd:x", Path.cwd() / "x")


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (PLAIN, {"disks": ["a.img"]}, "none of its own\nhint: say where.*--disk a.img:/data"),
        (TWO, {"disks": ["a.img"]}, "those of /data, /logs\nhint: say where"),
        (ONE, {"disks": ["a.img", "b.img:/data"]}, "two things are at /data"),
        (ONE, {"disks": ["a.img:/www"]}, "two things are at /www"),
        (ONE, {"shares": ["a:/data"]}, "two things are at /data"),
        (ONE, {"shares": ["a:/www", "b:/www"]}, "two things are at /www"),
        (PLAIN, {"disks": ["a.img:/a", "./a.img:/b"]}, "a.img is named for two disks"),
        (PLAIN, {"files": ["a:/a", "b:/a"]}, "two things are at /a"),
        (ONE, {"files": ["a:/data/a"]}, "something is mounted on /data"),
        (PLAIN, {"files": ["a:/tmp/a"]}, "something is mounted on /tmp"),
        (PLAIN, {"shares": ["a:/proc"]}, "/proc is the kernel's own"),
        (PLAIN, {"shares": [f"a:/a{n}" for n in range(17)]}, "more than 16 disks"),
    ],
)
def test_what_does_not_fit_is_refused(
    image: Image, options: dict[str, list[str]], expected: str
) -> None:
    with pytest.raises(UklError) as caught:
        attached(image, **options)  # type: ignore[arg-type]
    assert caught.value.code == "run-invalid"
    first, _, hint = expected.partition("\n")
    assert first in caught.value.message
    assert not hint or f"hint: {caught.value.hint}".startswith(hint.partition(".*")[0])


@pytest.mark.parametrize(
    ("options", "has", "fragments"),
    [
        ({"disks": ["a:/a"]}, (), "ext4,virtio-blk"),
        ({"disks": ["a:/a"]}, (Feature.VIRTIO_BLK,), "ext4"),
        ({"shares": ["a:/a"]}, (Feature.EXT4, Feature.VIRTIO_BLK), "9p"),
        ({"shares": ["a:/a"], "disks": ["a:/b"]}, (), "ext4,virtio-blk,9p"),
    ],
)
def test_what_the_kernel_lacks_is_named(
    options: dict[str, list[str]], has: tuple[Feature, ...], fragments: str
) -> None:
    image = PLAIN.model_copy(update={"features": has})
    with pytest.raises(UklError) as caught:
        attached(image, **options)  # type: ignore[arg-type]
    assert caught.value.hint == f"build it with: scons app=app fragments={fragments}"


def test_without_our_init_a_disk_is_attached_and_nothing_mounted() -> None:
    direct = PLAIN.model_copy(update={"init": Init.DIRECT})
    found = attached(direct, disks=["/root.img"])
    assert found.to(Vm("app")).drives == (Drive(Path("/root.img")),)
    for options in ({"disks": ["a:/a"]}, {"shares": ["a:/a"]}):
        with pytest.raises(UklError, match="nobody would mount /a"):
            attached(direct, **options)  # type: ignore[arg-type]
    with pytest.raises(UklError, match=r"/no/such is not there"):
        attach.prepare(attached(direct, disks=["/no/such"]), print)


def test_what_is_missing_is_made_once(tmp_path: Path) -> None:
    said: list[str] = []
    found = attached(ONE, state=tmp_path / "state" / "app", disks=[f"{tmp_path}/a:/a"])
    attach.prepare(found, said.append)
    assert len(said) == 2
    own, added = (one.path.stat() for one in found.disks)
    assert (own.st_size, added.st_size) == (64 << 20, attach.ADDED_MIB << 20)
    assert (tmp_path / "state" / "app" / "www").is_dir()
    assert (tmp_path / "state" / "app").stat().st_mode & 0o777 == 0o700
    attach.prepare(found, said.append)
    assert len(said) == 2
    assert [one.path.stat().st_mtime_ns for one in found.disks] == [
        *(own.st_mtime_ns, added.st_mtime_ns),
    ]


def test_a_disk_that_the_recipe_has_outgrown_is_left_alone(tmp_path: Path) -> None:
    said: list[str] = []
    attach.prepare(attached(TWO, state=tmp_path), said.append)
    grown = TWO.model_copy(update={"disks": (DATA.model_copy(update={"size_mib": 128}), LOGS)})
    said.clear()
    attach.prepare(attached(grown, state=tmp_path), said.append)
    assert len(said) == 1
    assert f"truncate -s 128M {tmp_path}/data.img && resize2fs" in said[0]
    assert (tmp_path / "data.img").stat().st_size == 64 << 20


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"disks": ["{}/no/a.img:/a"]}, "there is no folder {}/no to make it in"),
        ({"shares": ["{}/no:/a"]}, "{}/no is not there"),
        ({"shares": ["{}/file:/a"]}, "{}/file is no folder"),
        ({"files": ["{}/no:/a"]}, "{}/no is not there"),
        ({"files": ["{}:/a"]}, "{} is no file"),
    ],
)
def test_a_path_that_is_wrong_is_named(
    tmp_path: Path, options: dict[str, list[str]], expected: str
) -> None:
    (tmp_path / "file").touch()
    given = {key: [text.format(tmp_path) for text in texts] for key, texts in options.items()}
    with pytest.raises(UklError) as caught:
        attach.prepare(attached(PLAIN, **given), print)  # type: ignore[arg-type]
    assert caught.value.code == "run-invalid"
    assert expected.format(tmp_path) in caught.value.message


def test_a_file_that_is_no_disk_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UklError) as caught:
        attach.prepare(attached(PLAIN, disks=[f"{tmp_path}/notes.txt:/a"]), print)
    assert caught.value.code == "disk-invalid"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def over(image: Image, found: Attached, scratch: Path, *args: str) -> dict[str, Any]:
    """Return what is laid over an image, by path."""

    def place(data: bytes) -> Path:
        (scratch / "over.cpio").write_bytes(data)
        return scratch / "over.cpio"

    vm = prepare.with_overlay(Vm("app", memory_mib=64), image, args, {}, found, place=place)
    return {} if vm.initrd is None else dict(unpack(vm.initrd.read_bytes()))


def test_a_run_that_changes_nothing_lays_nothing_over_its_image(tmp_path: Path) -> None:
    assert over(ONE, attached(ONE, disks=["/my.img"]), tmp_path) == {}


def test_the_init_is_told_of_all_mounts_when_there_are_more(tmp_path: Path) -> None:
    found = over(ONE, attached(ONE, shares=["/a:/data/a"]), tmp_path)
    lines = found[RUN_CONF[1:]].content.decode().splitlines()
    assert [line.split()[1] for line in lines if line.startswith("mount=")] == [
        *("/data", "/www", "/data/a"),
    ]
    assert "clear=mount" in lines
    assert "clear=arg" not in lines


def test_files_keep_their_permissions_and_change_no_folders(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    (tmp_path / "a").chmod(0o4750)
    given = [f"{tmp_path}/a:/root/a", f"{tmp_path}/a:/opt/a"]
    found = over(PLAIN, attached(PLAIN, files=given), tmp_path)
    assert found["root/a"].content == b"content"
    assert found["opt/a"].mode & 0o7777 == 0o750
    assert (found["root"].mode & 0o7777, found["opt"].mode & 0o7777) == (0o700, 0o755)
    assert RUN_CONF[1:] not in found


def test_files_reach_an_image_without_our_init_too(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    direct = PLAIN.model_copy(update={"init": Init.DIRECT})
    assert set(over(direct, attached(direct, files=[f"{tmp_path}/a:/a"]), tmp_path)) == {"a"}


def test_more_than_the_memory_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    os.truncate(tmp_path / "a", 17 << 20)
    with pytest.raises(UklError, match=r"17 MiB, more than a quarter .* \(64 MiB\)"):
        over(PLAIN, attached(PLAIN, files=[f"{tmp_path}/a:/a"]), tmp_path)
