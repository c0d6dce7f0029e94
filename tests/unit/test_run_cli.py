# SPDX-License-Identifier: Apache-2.0
"""ukl-run as a person uses it: real processes, real QEMU, guests of a few bytes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.place import ENOUGH_S, Place, exited, gone, running
from ukl_build import cpio, image, scons_tool
from ukl_build.errors import UklError
from ukl_build.image import App, Disk, Feature, Image, Init, Port, Share, Smoke, SmokeRun, Variant
from ukl_build.run import attend, cli, prepare
from ukl_build.run.attach import Attached
from ukl_build.run.vm import Forward, Vm, from_image


@pytest.mark.parametrize(
    ("end", "text", "status"),
    [
        ("power_off", exited(0), 0),
        ("power_off", exited(9), 9),
        ("power_off", "ukl: application killed by signal 11\n", 139),
        ("panic", "", 240),
        ("triple_fault", "", 242),
        ("power_off", "", 243),
    ],
)
def test_the_exit_status_tells_how_it_ended(place: Place, end: str, text: str, status: int) -> None:
    place.image(end, text)
    code, out, err = place.run("--qemu", "app")
    assert (code, out) == (status, text), err
    assert "TCG" in err or "KVM" in err
    assert ("error[guest-" in err) == (status >= 240)


def test_a_hang_ends_at_its_time_with_the_registers_kept(place: Place) -> None:
    place.image("spin", "I hang now\n")
    code, out, err = place.run("--qemu", "app", "--timeout", "2", "--log-file", "my.log")
    assert code == 241
    assert out == (place.root / "my.log").read_text() == "I hang now\n"
    assert "error[guest-hang]" in err
    assert "| I hang now" in err
    assert "EIP=" in (place.root / "my.registers.txt").read_text()


def test_what_is_said_begins_a_line_of_its_own(place: Place) -> None:
    """The guest's last word need not end one; where nobody sees both, it is left as it is."""
    place.image("power_off", "a prompt> ")
    argv = [sys.executable, "-m", "ukl_build.run.cli", "--qemu", "app"]
    done = subprocess.run(
        argv,
        cwd=place.root,
        env=place.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ENOUGH_S,
        check=False,
    )
    assert "\na prompt> \nerror[guest-no-status]" in done.stdout
    assert place.run("--qemu", "app")[1] == "a prompt> "


def test_a_folder_and_a_file_name_an_image_too(place: Place) -> None:
    folder = place.image("power_off", exited(3))
    files = (str(folder / "image.json"), "build/app/app.bzImage")
    for name in ("app", "build/app", str(folder), *files):
        assert place.run("--qemu", name)[0] == 3


def test_a_kernel_without_a_description_is_refused(place: Place) -> None:
    folder = place.image("power_off")
    (folder / "other.bzImage").touch()
    code, _, err = place.run("--qemu", "build/app/other.bzImage")
    assert (code, "no image.json beside build/app/other.bzImage" in err) == (2, True)


def test_what_can_be_run_is_listed(place: Place) -> None:
    code, out, _ = place.run()
    assert (code, "No image is built" in out) == (0, True)
    place.image("power_off", ports=(Port(guest=5555),))
    code, out, _ = place.run()
    assert code == 0
    assert re.search(r"^app +ukl-run --qemu app +5555/tcp +32 MiB", out, re.MULTILINE)
    code, out, _ = place.run("--json")
    assert [one["name"] for one in json.loads(out)["images"]] == ["app"]


def test_a_dry_run_prints_what_can_be_pasted(place: Place) -> None:
    place.image("power_off", exited(3))
    code, out, err = place.run("--qemu", "app", "--dry-run", "-e", "A=b c", "--", "x")
    assert (code, err) == (0, "")
    assert not place.machines.exists()
    done = subprocess.run(
        ["sh", "-c", out], capture_output=True, stdin=subprocess.DEVNULL, text=True, check=False
    )
    assert done.stdout.replace("\r", "") == exited(3)
    # Of what is laid over the image there is a file, which is the same each time.
    place.image("power_off", name="ring3", init=Init.RING3)
    lines = {place.run("--qemu", "ring3", "--dry-run", "-e", "A=b")[1] for _ in range(2)}
    (line,) = lines
    words = shlex.split(line)
    initrd = words[words.index("-initrd") + 1]
    assert b"env=A=b\n" in Path(initrd).read_bytes()


def test_a_watchdog_needs_an_init_and_a_driver(place: Place) -> None:
    place.image("power_off")
    code, _, err = place.run("--qemu", "app", "--watchdog")
    assert (code, "nobody would feed the watchdog" in err) == (2, True)
    place.image("power_off", name="without", init=Init.RING3)
    code, _, err = place.run("--qemu", "without", "--watchdog")
    assert (code, "fragments=watchdog" in err) == (2, True)
    place.image("power_off", name="with", init=Init.RING3, features=(Feature.WATCHDOG,))
    line = place.run("--qemu", "with", "--watchdog", "--dry-run")[1]
    assert {"i6300esb", "ukl.watchdog=30"} <= set(line.replace("'", "").split())
    assert place.run("--qemu", "with", "--watchdog", "5")[0] == 2


def test_a_dry_run_makes_no_disk(place: Place) -> None:
    place.image("power_off", **ATTACHED)
    code, _, err = place.run("--qemu", "app", "--dry-run")
    assert (code, "data.img is not there; a run makes it" in err) == (0, True)
    assert not (place.root / "state").exists()


def test_what_ran_is_told_as_json(place: Place) -> None:
    place.image("power_off", exited(3))
    code, out, err = place.run("--qemu", "app", "--json", "-q", "-p", "0:80")
    assert (code, err) == (3, "")
    told = json.loads(out)
    assert (told["name"], told["label"], told["ended"]["status"]) == ("app-1", "app", 3)
    assert told["ports"][0]["guest"] == 80
    assert Path(told["console"]).read_text() == exited(3)


def test_an_error_is_told_as_json(place: Place) -> None:
    code, out, err = place.run("--qemu", "app", "--json")
    assert code == 2
    assert json.loads(out)["ended"]["error"] == "image-missing"
    assert "error[image-missing]" in err
    place.image("panic", name="bad")
    code, out, _ = place.run("--qemu", "bad", "--json")
    assert json.loads(out)["ended"] | {"ended_s": 0, "crash": {}} == {
        **{
            "schema": 1,
            "crash": {},
            "status": 240,
            "text": "the guest's kernel panicked",
            "kind": "panic",
        },
        **{"error": "guest-panic", "ended_s": 0},
    }


def test_quiet_says_nothing_and_verbose_says_more(place: Place) -> None:
    place.image("power_off", exited(3))
    assert place.run("--qemu", "app", "-q") == (3, exited(3), "")
    said = place.run("--qemu", "app", "--verbose")[2]
    assert "command line: " in said
    assert "qemu-system-x86_64 -nodefaults" in said


def test_an_unknown_image_is_named_with_its_nearest(place: Place) -> None:
    place.image("power_off", name="tcp_server")
    code, _, err = place.run("--qemu", "tcp_serve")
    assert code == 2
    assert "error[image-missing]" in err
    assert "did you mean 'tcp_server'?" in err
    assert "hint: `ukl-run` alone lists what is built; one that is not: scons app=tcp_serve" in err


def test_a_kernel_that_is_gone_is_named(place: Place) -> None:
    (place.image("power_off") / "app.bzImage").unlink()
    code, _, err = place.run("--qemu", "app")
    assert (code, "names the kernel app.bzImage" in err) == (2, True)


def test_qemus_own_words_are_shown(place: Place) -> None:
    (place.image("power_off") / "app.bzImage").write_bytes(b"x" * 5000)
    code, _, err = place.run("--qemu", "app")
    assert code == 244
    assert "error[qemu-failed]" in err
    assert "invalid kernel header" in err


def test_a_taken_port_is_an_error(place: Place) -> None:
    place.image("power_off")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = place.run("--qemu", "app", "-p", f"{port}:80")
    assert code == 3
    assert f"error[port-taken]: the host's port 127.0.0.1:{port}/tcp" in err
    assert f"process {os.getpid()} (" in err


def test_a_taken_port_for_gdb_is_an_error(place: Place) -> None:
    (place.image("power_off") / "app.vmlinux").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = place.run("--qemu", "app", "--gdb", str(port))
    assert code == 3
    assert f"error[port-taken]: the host's port 127.0.0.1:{port}/tcp" in err


def test_gdb_without_symbols_is_an_error(place: Place) -> None:
    place.image("power_off")
    code, _, err = place.run("--qemu", "app", "--gdb")
    assert (code, "build/app/app.vmlinux is not there" in err) == (2, True)


def test_gdb_and_a_smoke_test_are_two_things(place: Place) -> None:
    place.image("power_off")
    code, _, err = place.run("--qemu", "app", "--gdb", "--smoke")
    assert (code, "a smoke test does not wait for gdb" in err) == (2, True)


def test_it_waits_for_gdb_before_anything_runs(place: Place) -> None:
    (place.image("power_off", exited(3)) / "app.vmlinux").touch()
    with place.start("--qemu", "app", "--gdb", "0") as process:
        assert process.stderr is not None
        while "target remote" not in (line := process.stderr.readline()):
            assert line
        port = int(re.search(r"127\.0\.0\.1:(\d+)", line)[1])  # type: ignore[index]
        # Many times what the guest takes to its end.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
        with socket.create_connection(("127.0.0.1", port)) as debugger:
            # `continue` of gdb's remote protocol.
            debugger.sendall(b"$c#63")
            assert process.wait(ENOUGH_S) == 3


def test_a_smoke_test_that_nobody_answers_fails(place: Place) -> None:
    smoke = Smoke(port=5555, send="hi\n", expect="hi\n", deadline_s=2)
    place.image("spin", ports=(Port(guest=5555),), smoke=smoke)
    code, out, err = place.run("--qemu", "app", "--smoke")
    assert (code, out) == (4, "")
    assert "error[guest-no-answer]: the guest did not answer within 2 s" in err


def test_a_smoke_test_of_a_guest_that_dies_fails_as_it_died(place: Place) -> None:
    smoke = Smoke(port=5555, send="hi\n", expect="hi\n", deadline_s=30)
    place.image("panic", ports=(Port(guest=5555),), smoke=smoke)
    assert place.run("--qemu", "app", "--smoke")[0] == 240


def test_a_smoke_test_beside_a_udp_port_of_the_same_number_is_asked(place: Place) -> None:
    smoke = Smoke(port=5555, send="hi\n", expect="hi\n", deadline_s=2)
    place.image("spin", ports=(Port(guest=5555),), smoke=smoke)
    code, _, err = place.run("--qemu", "app", "--smoke", "-p", "0:5555/udp")
    assert (code, "error[guest-no-answer]" in err) == (4, True)


def test_a_log_that_cannot_be_written_is_an_error_with_a_hint(place: Place) -> None:
    place.image("power_off")
    log = place.root / "nowhere" / "log"
    code, _, err = place.run("--qemu", "app", "--log-file", str(log))
    assert code == 3
    assert f"error[system]: {log}: No such file or directory\nhint: " in err


def test_an_image_without_a_smoke_test_says_so(place: Place) -> None:
    place.image("power_off")
    code, _, err = place.run("--qemu", "app", "--smoke")
    assert (code, "error[run-invalid]: app has no smoke test" in err) == (2, True)


def test_a_smoke_test_runs_what_ends_by_itself(place: Place) -> None:
    smoke = SmokeRun(expect=("h?llo", "ukl: *status 3"), status=3)
    place.image("power_off", exited(3), smoke_runs=(smoke, smoke))
    code, out, err = place.run("--qemu", "app", "--smoke", "--log-file", "my.log")
    assert code == 0, err
    once = "received: 'hello'\nreceived: 'ukl: application exited with status 3'\n"
    assert out == once * 2
    # The log of the first is not that of the second.
    for name in ("my.log", "my-2.log"):
        assert (place.root / name).read_text() == exited(3)


@pytest.mark.parametrize(
    ("text", "smoke", "complaint"),
    [
        (exited(0), SmokeRun(expect=("hell",)), "lacks 'hell'"),
        (exited(0), SmokeRun(expect=("ukl:*", "hello")), "lacks 'hello', or has it too early"),
        (exited(0), SmokeRun(expect=("hello", "hello")), "lacks 'hello'"),
        (exited(3), SmokeRun(expect=("hello",)), "exited with status 3, where 0 was expected"),
        (exited(0), SmokeRun(status=3), "exited with status 0, where 3 was expected"),
        (
            "ukl: application killed by signal 6\n",
            SmokeRun(),
            "the application was killed by SIGABRT, where 0 was expected",
        ),
    ],
)
def test_a_smoke_test_that_ends_in_another_way_fails(
    place: Place, text: str, smoke: SmokeRun, complaint: str
) -> None:
    place.image("power_off", text, smoke_runs=(smoke,))
    code, _, err = place.run("--qemu", "app", "--smoke")
    assert code == 4, err
    assert "error[guest-wrong-answer]" in err
    assert complaint in err
    assert f"| {text.splitlines()[-1]}" in err


def test_a_signal_may_be_what_a_smoke_test_expects(place: Place) -> None:
    smoke = SmokeRun(status=128 + signal.SIGABRT)
    place.image("power_off", "ukl: application killed by signal 6\n", smoke_runs=(smoke,))
    assert place.run("--qemu", "app", "--smoke")[0] == 0


@pytest.mark.parametrize(("end", "status"), [("panic", 240), ("spin", 241)])
def test_a_smoke_test_without_an_end_fails(place: Place, end: str, status: int) -> None:
    smoke = SmokeRun(expect=("hello",), deadline_s=2)
    place.image(end, "hello\n", smoke_runs=(smoke,))
    code, out, _ = place.run("--qemu", "app", "--smoke")
    assert (code, out) == (status, "")


def test_a_smoke_test_has_arguments_of_its_own(place: Place) -> None:
    place.image("power_off", exited(0), smoke_runs=(SmokeRun(args=("x" * 3000,)),))
    code, _, err = place.run("--qemu", "app", "--smoke")
    assert (code, "longer than 2047" in err) == (2, True), err
    code, _, err = place.run("--qemu", "app", "--smoke", "--", "-v")
    assert (code, "has arguments of its own" in err) == (2, True), err


DATA = Disk(name="data", size_mib=16, mount="/data")
WWW = Share(name="www", mount="/www")
ATTACHED: dict[str, Any] = {
    "disks": (DATA,),
    "shares": (WWW,),
    "features": tuple(Feature),
    "init": Init.RING3,
}


def test_what_is_kept_is_in_the_state_folder(place: Place) -> None:
    place.image("power_off", **ATTACHED)
    state = place.root / "state" / "ukl-build" / "disks" / "app"
    code, _, err = place.run("--qemu", "app")
    # The guest has no init that would say how it went.
    assert code == 243, err
    assert f"made {state}/data.img: 16 MiB, sparse, ext4, for /data" in err
    assert {path.name for path in state.iterdir()} == {"data.img", "www"}
    before = (state / "data.img").stat().st_mtime_ns
    assert "made" not in place.run("--qemu", "app")[2]
    assert (state / "data.img").stat().st_mtime_ns == before


def test_a_smoke_test_leaves_what_is_kept_alone(place: Place) -> None:
    smoke = Smoke(port=5555, send="hi\n", expect="hi\n", deadline_s=2)
    place.image("power_off", ports=(Port(guest=5555),), smoke=smoke, **ATTACHED)
    code, _, err = place.run("--qemu", "app", "--smoke")
    assert code == 243, err
    assert "data.img" in err
    assert not (place.root / "state" / "ukl-build" / "disks").exists()


def test_two_runs_do_not_share_a_disk(place: Place) -> None:
    place.image("spin", "up\n", **ATTACHED)
    with place.start("--qemu", "app", "--disk", "b.img") as process:
        pid = running(process)
        with place.start("--qemu", "app", "--disk", "b.img") as second:
            _, err = second.communicate(timeout=ENOUGH_S)
        process.kill()
    assert second.returncode == 3
    assert f"error[disk-busy]: b.img is the disk of another running machine: process {pid}" in err
    assert gone(pid)


def test_a_mistake_elsewhere_makes_no_disk(place: Place) -> None:
    place.image("power_off", **ATTACHED)
    code, _, err = place.run("--qemu", "app", "--append", "x" * 3000)
    assert (code, "longer than 2047" in err) == (2, True)
    assert not (place.root / "state" / "ukl-build" / "disks").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_guest(place: Place, number: signal.Signals) -> None:
    place.image("spin", "up\n")
    with place.start("--qemu", "app") as process:
        pid = running(process)
        process.send_signal(number)
        _, err = process.communicate(timeout=ENOUGH_S)
    assert process.returncode == 245
    assert f"{number.name}: stopping app" in err
    assert gone(pid)


def test_a_killed_ukl_run_leaves_no_qemu(place: Place) -> None:
    place.image("spin", "up\n")
    with place.start("--qemu", "app") as process:
        pid = running(process)
        process.kill()
        process.wait()
        assert gone(pid)


def test_output_that_nobody_reads_does_not_matter(place: Place) -> None:
    place.image("power_off", exited(5))
    with place.start("--qemu", "app") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(ENOUGH_S) == 5


def test_a_reader_that_waits_does_not_keep_the_time_from_running(place: Place) -> None:
    # More than a pipe holds: ukl-run cannot write all of it, and still ends QEMU in time.
    place.image("spin", "up\n" + "x" * 120_000)
    with place.start("--qemu", "app", "--timeout", "3") as process:
        assert gone(running(process))
        assert process.stdout is not None
        assert process.stderr is not None
        # Not communicate(): what readline() has read ahead would be lost.
        out, err = process.stdout.read(), process.stderr.read()
    assert out == "x" * 120_000
    assert "error[guest-hang]" in err
    assert process.returncode == 241


@pytest.mark.parametrize("cut", range(8))
def test_line_ends_of_a_terminal_become_plain_ones(
    capfd: pytest.CaptureFixture[str], cut: int
) -> None:
    output = attend.Output()
    text = b"a\r\nb\rc\n"
    output.write(text[:cut])
    output.write(text[cut:])
    assert capfd.readouterr().out == "a\nb\rc\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--rm",), "the following arguments are required: --qemu"),
        (("-p", "80"), "'80' is not HOST:GUEST"),
        (("-p", "80:0"), "'80:0' is not HOST:GUEST"),
        (("-p", "1:65536"), "'1:65536' is not HOST:GUEST"),
        (("-p", "1:2/sctp"), "'1:2/sctp' is not HOST:GUEST"),
        (("-m", "0"), "'0' is not MiB between 1"),
        (("--cpus", "0"), "'0' is not processors between 1"),
        (("--timeout", "-1"), "'-1' is not a number of seconds"),
        (("--timeout", "nan"), "'nan' is not a number of seconds"),
        (("-m", "2000G"), "'2000G' is not MiB between 1"),
        (("-e", "A"), "'A' is not NAME=VALUE"),
        (("-e", "a-b=c"), "'a-b=c' is not NAME=VALUE"),
        (("--name", "x/y"), "'x/y' is not a name"),
        (("--name", "x" * 61), "is not a name of at most 60"),
        (("--accel", "xen"), "invalid choice: 'xen'"),
        (("--smok",), "unrecognized arguments: --smok"),
    ],
)
def test_a_wrong_option_is_explained(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*words] if words == ("--rm",) else ["--qemu", "x", *words])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_help_lists_every_exit_status() -> None:
    text = cli.parser().format_help()
    for status in (2, 3, 4, 70, 126, 127, 240, 241, 242, 243, 244, 245):
        assert re.search(rf" {status}  ", text), status


RING3 = Image(
    name="app",
    kernel="k",
    cmdline=("quiet",),
    memory_mib=32,
    cpus=1,
    app=App(argv=("/UKL", "old")),
)
VM = Vm("app", kernel=Path("k"), cmdline=("quiet", "--", "old"))


def laid_over(vm: Vm, image: Image, args: tuple[str, ...], folder: Path) -> Vm:
    """Return the machine with arguments and a variable, its archive in a folder."""

    def place(data: bytes) -> Path:
        (folder / "over.cpio").write_bytes(data)
        return folder / "over.cpio"

    return prepare.with_overlay(vm, image, args, {"A": "b c"}, Attached(), place=place)


def test_arguments_reach_our_init_in_a_file(tmp_path: Path) -> None:
    vm = laid_over(VM, RING3, ("a b", "", '"\n'), tmp_path)
    assert vm.cmdline == VM.cmdline
    assert vm.initrd is not None
    expected = 'clear=arg\narg=/UKL\narg=a b\narg=\narg="\\n\nenv=A=b c\n'
    assert expected.encode() in vm.initrd.read_bytes()
    assert vm.initrd.read_bytes()[:6] == cpio.MAGIC.encode()


def test_what_is_laid_over_an_initramfs_comes_behind_it(tmp_path: Path) -> None:
    base = cpio.archive([cpio.file("/etc/ukl/init.conf", "")])
    (tmp_path / "initramfs.cpio").write_bytes(base)
    found = RING3.model_copy(update={"initrd": "initramfs.cpio"})
    vm = from_image(found, tmp_path)
    assert vm.initrd == tmp_path / "initramfs.cpio"
    alone = laid_over(VM, RING3, ("new",), tmp_path)
    assert alone.initrd is not None
    over = alone.initrd.read_bytes()
    both = laid_over(vm, found, ("new",), tmp_path)
    assert both.initrd is not None
    assert both.initrd.read_bytes() == base + over


def test_an_initramfs_that_is_missing_is_said(place: Place) -> None:
    place.image("power_off", initrd="initramfs.cpio", variant=Variant.STOCK)
    code, _, err = place.run("--qemu", "app")
    assert code == 2
    assert "names the initramfs initramfs.cpio, which is not there" in err
    assert "hint: build it: scons app=app stock" in err


@pytest.mark.parametrize("variant", Variant)
def test_what_is_compared_keeps_its_things_apart(place: Place, variant: Variant) -> None:
    place.image("power_off", exited(0), variant=variant)
    assert place.run("--qemu", "app")[0] == 0
    label = "app" if variant is Variant.UKL else f"app.{variant}"
    assert (place.machines / f"{label}-1" / "console.log").read_text() == exited(0)


def test_arguments_reach_process_1_on_the_command_line() -> None:
    vm = prepare.with_args(VM, ("a b", "-c", "x=y"))
    assert vm.cmdline == ("quiet", "--", '"a b"', "-c", "x=y")
    assert vm.initrd is None


def test_variables_reach_process_1_on_the_command_line() -> None:
    vm = prepare.with_env(VM, {"A": "b c", "D": ""})
    assert vm.cmdline == ("quiet", '"A=b c" D=', "--", "old")
    with pytest.raises(UklError) as caught:
        prepare.with_env(VM, {"A": 'say "x"'})
    assert caught.value.code == "run-invalid"


@pytest.mark.parametrize(
    ("text", "mib"), [("512", 512), ("512M", 512), ("2g", 2048), ("1GiB", 1024), ("64mb", 64)]
)
def test_memory_is_said_in_all_usual_ways(text: str, mib: int) -> None:
    assert cli.memory(text) == mib


@pytest.mark.parametrize("args", [('say "x"',), ("",), ("a\nb",), ("é",), ("--",), ("x",) * 32])
def test_what_the_kernel_cannot_pass_on_is_refused(args: tuple[str, ...]) -> None:
    with pytest.raises(UklError) as caught:
        prepare.with_args(VM, args)
    assert caught.value.code == "run-invalid"


def test_further_parameters_go_to_the_kernel_not_to_process_1() -> None:
    vm = prepare.with_parameters(VM, "ukl.ip=none debug")
    assert " ".join(vm.cmdline) == "quiet ukl.ip=none debug -- old"
    assert prepare.with_parameters(VM, "") == VM
    with pytest.raises(UklError, match="longer than 2047"):
        prepare.with_parameters(VM, "x" * 2048)


def test_a_forward_is_read_in_all_its_forms() -> None:
    assert cli.forward("0:5555") == Forward(0, 5555)
    assert cli.forward("53:54/udp") == Forward(53, 54, image.Protocol.UDP)
    assert cli.forward("8080:80/tcp") == Forward(8080, 80)


def test_scons_run_keeps_its_logs_where_ukl_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert scons_tool._user_env({})["XDG_STATE_HOME"] == "/elsewhere"
