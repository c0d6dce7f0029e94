# SPDX-License-Identifier: Apache-2.0
"""Snapshots: of which machine they are, and what can have none."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.place import Place
from ukl_build.image import Init, Port, Share, Smoke
from ukl_build.model import store_result
from ukl_build.run import qemu, warm
from ukl_build.run.vm import Accel, Drive, Folder, Forward, Network, Vm

SMOKE = Smoke(port=5555, send="a", expect="a")


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    """Return a machine."""
    (tmp_path / "kernel").write_bytes(b"kernel")
    (tmp_path / "initrd").write_bytes(b"initrd")
    return Vm(
        "app",
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        cmdline=("a", "b"),
        drives=(Drive(tmp_path / "disk"),),
    )


def test_what_the_guest_cannot_see_makes_no_other_machine(vm: Vm, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(b"kernel")
    same = replace(
        *(vm,),
        name="app-2",
        kernel=copy,
        drives=(Drive(tmp_path / "another"),),
        forwards=(Forward(0, 5555),),
    )
    assert warm._digest_of(same) == warm._digest_of(vm)


@pytest.mark.parametrize(
    "change",
    [
        {"memory_mib": 300},
        {"cpus": 2},
        {"cmdline": ("a b",)},
        {"accel": Accel.KVM},
        {"network": Network.PASST},
        {"watchdog": True},
        {"drives": ()},
        {"folders": (Folder(Path("x")),)},
        {"initrd": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_it_sees_does(vm: Vm, change: dict[str, Any]) -> None:
    assert warm._digest_of(replace(vm, **change)) != warm._digest_of(vm)


@pytest.mark.parametrize("what", ["kernel", "initrd"])
def test_another_content_is_another_machine(vm: Vm, what: str) -> None:
    before = warm._digest_of(vm)
    getattr(vm, what).write_bytes(b"changed")
    assert warm._digest_of(vm) != before


def test_kvm_shows_the_processor_of_the_host() -> None:
    one = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: x\ncpu MHz\t\t: 1\nflags\t\t: fpu vme\n"
    assert warm._model(one) == warm._model(one.replace("MHz\t\t: 1", "MHz\t\t: 2"))
    assert warm._model(one) != warm._model(one.replace("vme", "de"))


def test_a_new_one_replaces_what_cannot_be_gone_on_from(tmp_path: Path) -> None:
    """Those of the image before its last build, and itself."""
    (tmp_path / "app").mkdir()
    built = tmp_path / "app" / "image.json"
    built.touch()
    os.utime(built, (1000, 1000))

    def place(name: str, made_s: float, image: str = "app") -> Path:
        folder = tmp_path / "snapshots" / name
        folder.mkdir(parents=True)
        made = warm.Snapshot(
            label="app",
            image=str(tmp_path / image),
            made_s=made_s,
            answer_s=1,
            bytes=1,
            connections=0,
            events=(),
        )
        store_result(made, folder / warm.SNAPSHOT_FILE)
        return folder

    old, _, _, same = (
        place("old", 999),
        place("other-options", 1001),
        place("other-image", 999, "b"),
        place("same", 1001),
    )
    damaged = tmp_path / "snapshots" / "damaged"
    damaged.mkdir()
    (damaged / warm.SNAPSHOT_FILE).write_text("{")
    new = warm.Snapshot.model_validate_json((same / warm.SNAPSHOT_FILE).read_text())
    assert set(warm._outdated(tmp_path / "snapshots", new, same)) == {old, same}


def test_what_the_guest_writes_stays_in_the_machine(vm: Vm) -> None:
    volatile = replace(vm, drives=(replace(vm.drives[0], volatile=True),), incoming=True)
    words = qemu.argv(volatile, qemu.Wiring("qmp", "status", "exec", "console"))
    assert ",snapshot=on," in words[words.index("-drive") + 1]
    assert words[words.index("-incoming") + 1] == "defer"


@pytest.mark.parametrize(
    ("option", "words", "image", "why"),
    [
        ("--snapshot", ("--restore",), {}, "goes on from"),
        ("--restore", ("--gdb",), {}, "--gdb waits before"),
        ("--restore", ("--dry-run",), {}, "--dry-run has no machine"),
        ("--snapshot", ("--smoke",), {}, "--smoke stops"),
        ("--snapshot", ("-d",), {}, "--detach does not wait"),
        ("--restore", ("--disk", "x:/x"), {}, "what is on this machine's disks"),
        ("--snapshot", ("-v", ".:/x"), {}, "what is on this machine's disks"),
        ("--snapshot", (), {"shares": (Share(name="a", mount="/a"),)}, "on this machine's disks"),
        ("--restore", ("--network", "none"), {}, "--network none does not fit"),
        ("--snapshot", ("--network", "tap:x"), {}, "--network tap:x does not fit"),
        ("--snapshot", (), {"smoke": None}, "no question that is answered"),
        ("--snapshot", (), {"init": Init.DIRECT}, "nobody sets the clock"),
    ],
)
def test_what_cannot_be_saved_is_refused(
    place: Place, option: str, words: tuple[str, ...], image: dict[str, Any], why: str
) -> None:
    what: dict[str, Any] = {
        "init": Init.RING3,
        "smoke": SMOKE,
        "ports": (Port(guest=5555),),
    } | image
    place.image("power_off", **what)
    code, _, err = place.run("--qemu", "app", option, *words)
    assert (code, "error[run-invalid]" in err) == (2, True), err
    assert why in err
    assert not place.machines.exists()


def test_where_nothing_was_saved_nothing_is_started(place: Place) -> None:
    place.image("power_off", init=Init.RING3, smoke=SMOKE, ports=(Port(guest=5555),))
    code, _, err = place.run("--qemu", "app", "--restore")
    assert (code, "error[snapshot-missing]: there is no snapshot of app" in err) == (2, True), err
