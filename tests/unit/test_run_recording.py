# SPDX-License-Identifier: Apache-2.0
"""Runs that are recorded and done again: with guests of a few bytes, and what is refused."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.unit.place import Place, exited
from ukl_build.image import Disk, Feature, Init, Share, SmokeRun
from ukl_build.run import qemu
from ukl_build.run.vm import Drive, Network, Recording, Replay, Vm


def test_a_recording_is_the_run_again_wherever_it_is(place: Place) -> None:
    folder = place.image("power_off", exited(3))
    code, out, err = place.run("--qemu", "app", "--record", "kept/first", "--network", "none")
    assert (code, out) == (3, exited(3)), err
    kept = place.root / "kept" / "first"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    # The image is built anew, and another one.
    (folder / "app.bzImage").unlink()
    (folder / "app.bzImage").write_bytes(b"another kernel")
    moved = kept.rename(place.root / "moved")
    for words in ((), ("--json",), ("--detach", "--name", "again")):
        code, out, err = place.run("--replay", str(moved), *words)
        assert code == (0 if "--detach" in words else 3), err
    assert place.ukl("wait", "again")[0] == 3
    assert place.ukl("logs", "again")[1] == exited(3)


def test_a_panic_is_a_panic_again(place: Place) -> None:
    place.image("panic", "what it said\n")
    for words in (("--qemu", "app", "--record", "it", "--network", "none"), ("--replay", "it")):
        code, out, err = place.run(*words)
        assert (code, out) == (240, "what it said\n"), err
        assert "error[guest-panic]" in err


def test_what_is_in_the_way_is_left_alone(place: Place) -> None:
    place.image("power_off", exited(0))
    (place.root / "full").mkdir()
    (place.root / "full" / "x").write_text("mine")
    (place.root / "file").write_text("mine")
    for name in ("full", "file"):
        code, _, err = place.run("--qemu", "app", "--record", name)
        assert (code, "there is something at" in err) == (2, True), err
    assert (place.root / "full" / "x").read_text() == "mine"
    (place.root / "empty").mkdir()
    assert place.run("--qemu", "app", "--record", "empty", "--network", "none")[0] == 0


@pytest.mark.parametrize(
    ("words", "image", "why"),
    [
        (("--restore",), {}, "a saved state is not part of --record"),
        (("--gdb",), {}, "--gdb is for the replay"),
        (("--dry-run",), {}, "--dry-run makes none"),
        (("--accel", "kvm"), {}, "QEMU writes down what TCG does"),
        (("--smoke",), {"smoke_runs": (SmokeRun(),) * 2}, "a smoke test of several runs"),
        (("-v", ".:/x"), {"init": Init.RING3}, "what is in a shared folder"),
        ((), {"shares": (Share(name="a", mount="/a"),)}, "what is in a shared folder"),
        (("--network", "passt"), {}, "--network passt does not fit"),
        (("--network", "tap:x"), {}, "--network tap:x does not fit"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    place: Place, words: tuple[str, ...], image: dict[str, Any], why: str
) -> None:
    place.image("power_off", **image)
    code, _, err = place.run("--qemu", "app", "--record", "it", *words)
    assert (code, "error[run-invalid]" in err) == (2, True), err
    assert why in err
    assert not (place.root / "it").exists() and not place.machines.exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--qemu", "app"), "qemu"),
        (("-m", "64"), "memory"),
        (("-p", "0:80", "-e", "A=b"), "env and forwards"),
        (("--record", "other"), "record"),
        (("--smoke",), "smoke"),
        (("--", "x"), "args"),
    ],
)
def test_what_would_make_it_another_machine_is_refused(
    place: Place, words: tuple[str, ...], named: str
) -> None:
    code, _, err = place.run("--replay", "it", *words)
    assert (code, "error[run-invalid]" in err) == (2, True), err
    assert f"whatever {named} would say" in err


@pytest.fixture
def recorded(place: Place) -> Path:
    """Return the folder of a recording."""
    place.image("power_off", exited(0))
    assert place.run("--qemu", "app", "--record", "it", "--network", "none")[0] == 0
    return place.root / "it"


@pytest.mark.parametrize("name", ["recording.json", "log", "state.qcow2", "app.bzImage"])
def test_a_recording_that_lacks_something_says_what(
    place: Place, recorded: Path, name: str
) -> None:
    (recorded / name).unlink()
    code, _, err = place.run("--replay", "it")
    assert (code, "error[recording-invalid]" in err) == (2, True), err
    assert name in err


def test_a_recording_of_another_qemu_is_refused(place: Place, recorded: Path) -> None:
    path = recorded / "recording.json"
    text = json.loads(path.read_text())
    path.write_text(json.dumps(text | {"qemu": "QEMU emulator version 9.9"}))
    code, _, err = place.run("--replay", "it")
    assert (code, "it is of QEMU emulator version 9.9, and this is QEMU" in err) == (2, True), err
    path.write_text("{")
    assert "error[recording-invalid]" in place.run("--replay", "it")[2]


def test_a_recorded_machine_has_what_can_be_written_down() -> None:
    vm = Vm(
        name="app",
        kernel=Path("/k"),
        network=Network.USER,
        drives=(Drive(Path("/r/disk0.qcow2")),),
        recording=Recording(Replay.RECORD, Path("/r,r")),
    )
    words = qemu.argv(vm, qemu.Wiring("qmp", "status", "exec", "console"))
    text = " ".join(words)
    assert "shift=3,rr=record,rrfile=/r,,r/log,rrsnapshot=first" in words
    assert "filter-replay,id=replay,netdev=net" in words
    assert "driver=blkreplay,if=none,image=disk0,id=disk0-replay" in words
    assert "virtio-blk-pci,drive=disk0-replay," in text and "format=qcow2" in text
    assert "isa-serial,chardev=status,index=1" in words and "virtio-serial" not in text


def test_disks_of_a_recording_are_copies(place: Place) -> None:
    """The guest here does not look at it; what is kept is what was on it."""
    disk = Disk(name="data", size_mib=16, mount="/data")
    place.image(
        "power_off",
        exited(0),
        disks=(disk,),
        init=Init.RING3,
        features=(Feature.EXT4, Feature.VIRTIO_BLK),
    )
    own = place.root / "own.img"
    code, _, err = place.run(
        *("--qemu", "app", "--record", "it", "--network", "none", "--disk", f"{own}")
    )
    assert "it runs on copies of its disks" in err and code in (0, 243), err
    assert (place.root / "it" / "disk0.qcow2").read_bytes()[:4] == b"QFI\xfb"
    assert own.stat().st_size == 16 << 20
