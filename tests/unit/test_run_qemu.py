# SPDX-License-Identifier: Apache-2.0
"""From an image to QEMU's argument list."""

from __future__ import annotations

from pathlib import Path

from ukl_build.image import App, Image, Init, Protocol
from ukl_build.run.qemu import Wiring, argv
from ukl_build.run.vm import (
    GUARD_PARAMETERS,
    REPORT_PARAMETERS,
    Accel,
    Drive,
    Folder,
    Forward,
    Network,
    Vm,
    from_image,
    guarded,
)

WIRING = Wiring.inherited((5, 6, 7), Path("/logs/console.log"))


def option(vm: Vm, name: str) -> list[str]:
    """Return all values of an option, in order."""
    words = argv(vm, WIRING)
    return [words[at + 1] for at, word in enumerate(words) if word == name]


def test_an_image_becomes_a_machine() -> None:
    image = Image(
        name="app",
        kernel="app.bzImage",
        cmdline=("console=ttyS0", "quiet"),
        memory_mib=96,
        cpus=2,
        init=Init.DIRECT,
        app=App(argv=("/UKL",)),
    )
    assert from_image(image, Path("/b/app")) == Vm(
        name="app",
        kernel=Path("/b/app/app.bzImage"),
        cmdline=("panic=-1", "no_timer_check", "console=ttyS0", "quiet"),
        memory_mib=96,
        cpus=2,
        init=Init.DIRECT,
    )


def test_what_ukl_run_relies_on_is_added_once() -> None:
    assert guarded((), GUARD_PARAMETERS | REPORT_PARAMETERS)[-1] == "print-fatal-signals=1"
    assert guarded(()) == ("console=ttyS0", "panic=-1", "no_timer_check")
    given = ("panic=5", "console=hvc0", "no_timer_check")
    assert guarded(given) == given
    # Behind -- they are words for process 1.
    assert guarded(("quiet", "--", "panic=5")) == (
        *("console=ttyS0", "panic=-1", "no_timer_check", "quiet", "--", "panic=5"),
    )


def test_the_kernels_parameters_are_one_argument() -> None:
    vm = Vm("x", kernel=Path("/k"), cmdline=("a=1", 'b="c d"', "--", "e"))
    assert option(vm, "-kernel") == ["/k"]
    assert option(vm, "-append") == ['a=1 b="c d" -- e']


def test_nothing_of_the_users_or_the_boards_defaults_gets_in() -> None:
    words = argv(Vm("x"), WIRING)
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(words)


def test_a_panic_is_reported() -> None:
    assert "pvpanic-pci" in option(Vm("x"), "-device")
    assert "panic=exit-failure" in option(Vm("x"), "-action")[0]


def test_ports_are_forwarded_on_this_machine_only() -> None:
    vm = Vm("x", forwards=(Forward(0, 5555), Forward(53, 54, Protocol.UDP)))
    assert option(vm, "-netdev") == [
        "user,id=net,hostfwd=tcp:127.0.0.1:0-:5555,hostfwd=udp:127.0.0.1:53-:54"
    ]


def test_a_watchdog_stops_the_machine_until_it_was_looked_at() -> None:
    assert "i6300esb" in option(Vm("x", watchdog=True), "-device")
    assert "i6300esb" not in option(Vm("x"), "-device")
    assert option(Vm("x"), "-action")[0].endswith(",watchdog=pause")


def test_gdb_is_waited_for_on_this_machine_only() -> None:
    assert option(Vm("x", gdb=1234), "-gdb") == ["tcp:127.0.0.1:1234"]
    assert option(Vm("x"), "-gdb") == []


def test_a_machine_can_be_without_a_network() -> None:
    words = " ".join(argv(Vm("x", network=Network.NONE), WIRING))
    assert "netdev" not in words
    assert "virtio-net" not in words


def test_drives_keep_their_order_and_their_protection() -> None:
    vm = Vm("x", drives=(Drive(Path("/a,b.img")), Drive(Path("/c.img"), read_only=True)))
    first, second = option(vm, "-drive")
    assert first.startswith("file=/a,,b.img,format=raw,if=none,id=disk0,readonly=off,")
    assert second.startswith("file=/c.img,format=raw,if=none,id=disk1,readonly=on,")


def test_what_the_guest_flushes_is_flushed() -> None:
    words = option(Vm("x", drives=(Drive(Path("/a.img")),)), "-drive")[0].split(",")
    assert {"cache.writeback=on", "cache.no-flush=off", "file.locking=on"} < set(words)


def test_folders_keep_their_order_and_their_protection() -> None:
    vm = Vm("x", folders=(Folder(Path("/a,b")), Folder(Path("/c"), read_only=True)))
    first, second = option(vm, "-fsdev")
    assert first.startswith("local,id=folder0,path=/a,,b,readonly=off,security_model=none")
    assert second.startswith("local,id=folder1,path=/c,readonly=on,")
    devices = [word for word in option(vm, "-device") if "9p" in word]
    assert [word.split(",")[1:3] for word in devices] == [
        ["fsdev=folder0", "mount_tag=share0"],
        ["fsdev=folder1", "mount_tag=share1"],
    ]


def test_the_cpu_follows_the_accelerator_unless_it_is_given() -> None:
    assert option(Vm("x", accel=Accel.TCG), "-cpu") == ["max,-erms,-fsrm"]
    assert option(Vm("x", accel=Accel.KVM), "-cpu") == ["host"]
    assert option(Vm("x", cpu="qemu64,+smep"), "-cpu") == ["qemu64,+smep"]


def test_further_arguments_come_last() -> None:
    assert argv(Vm("x", extra=("-s", "-icount", "shift=0")), WIRING)[-3:] == [
        *("-s", "-icount", "shift=0"),
    ]


def test_what_is_repeatable_has_nothing_that_the_host_serves_in_its_own_time() -> None:
    words = " ".join(argv(Vm("x", repeatable=True), WIRING))
    assert "-icount shift=0,sleep=off" in words
    assert "clock=vm" in words
    assert "virtio" not in words
    assert "-netdev" not in words
    assert "-icount" not in argv(Vm("x"), WIRING)
