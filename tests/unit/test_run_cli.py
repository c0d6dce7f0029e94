# SPDX-License-Identifier: Apache-2.0
"""ukl-run as a person uses it: real processes, real QEMU, guests of a few bytes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.guests import assemble
from ukl_build import cpio, image, scons_tool
from ukl_build.errors import UklError
from ukl_build.image import App, Disk, Feature, Image, Init, Port, Share, Smoke, SmokeRun, Variant
from ukl_build.run import cli
from ukl_build.run.attach import Attached
from ukl_build.run.vm import Forward, Vm, from_image

PROJECT = Path(__file__).resolve().parents[2]
ENOUGH_S = 60.0


@dataclass(frozen=True)
class Place:
    """A folder with a build/ in it, and a home of its own."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        """All of the environment that ukl-run sees."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "XDG_STATE_HOME": str(self.root / "state"),
            "TMPDIR": str(self.root / "tmp"),
        }

    def image(self, end: str, text: str = "", *, name: str = "app", **changes: Any) -> Path:
        """Make an image of a guest that ends in the given way."""
        folder = self.root / "build" / name
        folder.mkdir(parents=True)
        assemble(folder / "app.bzImage", end, text)
        given: dict[str, Any] = {
            **{"name": name, "kernel": "app.bzImage", "cmdline": ("console=ttyS0",)},
            **{"memory_mib": 32, "cpus": 1, "init": Init.DIRECT, "app": App(argv=("/UKL",))},
        }
        image.store(Image(**(given | changes)), folder / "image.json")
        return folder

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start ukl-run."""
        return subprocess.Popen(
            [sys.executable, "-m", "ukl_build.run.cli", *words],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run ukl-run to its end; return exit status, standard output and standard error."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=ENOUGH_S)
        assert list((self.root / "tmp").iterdir()) == [], "it left something behind"
        return process.returncode, out, err


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an empty project."""
    (tmp_path / "tmp").mkdir()
    return Place(tmp_path)


def exited(status: int) -> str:
    """Return what the kernel says when an application that is process 1 ends."""
    return f"hello\nukl: application exited with status {status}\n"


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


def test_a_folder_and_a_file_name_an_image_too(place: Place) -> None:
    folder = place.image("power_off", exited(3))
    for name in ("app", "build/app", str(folder), str(folder / "image.json")):
        assert place.run("--qemu", name)[0] == 3


def test_an_unknown_image_is_named_with_its_nearest(place: Place) -> None:
    place.image("power_off", name="tcp_server")
    code, _, err = place.run("--qemu", "tcp_serve")
    assert code == 2
    assert "error[image-missing]" in err
    assert "did you mean 'tcp_server'?" in err
    assert "hint: build it: scons app=tcp_serve" in err


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


def running(process: subprocess.Popen[str]) -> int:
    """Wait until the guest runs; return QEMU's process id."""
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            name, _, rest = (folder / "stat").read_text().rpartition(")")
            if int(rest.split()[1]) == process.pid and "qemu" in name:
                pids.append(int(folder.name))
    assert len(pids) == 1
    return pids[0]


def gone(pid: int) -> bool:
    """Wait until a process is gone."""
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


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
    output = cli._Output()
    text = b"a\r\nb\rc\n"
    output.write(text[:cut])
    output.write(text[cut:])
    assert capfd.readouterr().out == "a\nb\rc\n"


def test_console_logs_are_kept_but_not_for_ever(place: Place) -> None:
    place.image("power_off", exited(0))
    folder = place.root / "state" / "ukl-build" / "console"
    folder.mkdir(parents=True)
    for number in range(30):
        (folder / f"app-20200101-0000{number:02}-1.log").touch()
    (folder / "app-20200101-000000-1.registers.txt").touch()
    for number in range(30):
        (folder / f"app-two-20200101-0000{number:02}-1.log").touch()
    (folder / "other-20200101-000000-1.log").touch()
    _, _, err = place.run("--qemu", "app")
    log = re.search(r"console log: (\S+)", err)
    assert log is not None
    assert Path(log.group(1)).read_text() == exited(0)
    assert len(list(folder.glob("app-2*"))) == cli.KEPT_LOGS + 1
    assert len(list(folder.glob("app-two-*"))) == 30
    assert len(list(folder.glob("other-*"))) == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "the following arguments are required: --qemu"),
        (("-p", "80"), "'80' is not HOST:GUEST"),
        (("-p", "80:0"), "'80:0' is not HOST:GUEST"),
        (("-p", "1:65536"), "'1:65536' is not HOST:GUEST"),
        (("-p", "1:2/sctp"), "'1:2/sctp' is not HOST:GUEST"),
        (("-m", "0"), "'0' is not MiB between 1"),
        (("--cpus", "0"), "'0' is not processors between 1"),
        (("--timeout", "-1"), "'-1' is not a number of seconds"),
        (("--timeout", "nan"), "'nan' is not a number of seconds"),
        (("--accel", "xen"), "invalid choice: 'xen'"),
        (("--smok",), "unrecognized arguments: --smok"),
    ],
)
def test_a_wrong_option_is_explained(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--qemu", "x", *words] if words else [])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_help_fits_a_screen_and_lists_every_exit_status() -> None:
    text = cli.parser().format_help()
    for status in (2, 3, 4, 70, 126, 127, 240, 241, 242, 243, 244, 245):
        assert re.search(rf"^ +{status}  ", text, re.MULTILINE), status
    assert text.count("\n") <= 50


RING3 = Image(
    name="app",
    kernel="k",
    cmdline=("quiet",),
    memory_mib=32,
    cpus=1,
    app=App(argv=("/UKL", "old")),
)
VM = Vm("app", kernel=Path("k"), cmdline=("quiet", "--", "old"))


def test_arguments_reach_our_init_in_a_file(tmp_path: Path) -> None:
    vm = cli.with_overlay(VM, RING3, ("a b", "", '"\n'), Attached(), tmp_path)
    assert vm.cmdline == VM.cmdline
    assert vm.initrd is not None
    expected = 'clear=arg\narg=/UKL\narg=a b\narg=\narg="\\n\n'
    assert expected.encode() in vm.initrd.read_bytes()
    assert vm.initrd.read_bytes()[:6] == cpio.MAGIC.encode()


def test_what_is_laid_over_an_initramfs_comes_behind_it(tmp_path: Path) -> None:
    base = cpio.archive([cpio.file("/etc/ukl/init.conf", "")])
    (tmp_path / "initramfs.cpio").write_bytes(base)
    found = RING3.model_copy(update={"initrd": "initramfs.cpio"})
    vm = from_image(found, tmp_path)
    assert vm.initrd == tmp_path / "initramfs.cpio"
    alone = cli.with_overlay(VM, RING3, ("new",), Attached(), tmp_path)
    assert alone.initrd is not None
    over = alone.initrd.read_bytes()
    both = cli.with_overlay(vm, found, ("new",), Attached(), tmp_path)
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
    (console,) = (place.root / "state" / "ukl-build" / "console").glob("*.log")
    assert re.fullmatch(rf"{re.escape(label)}-\d{{8}}-\d{{6}}-\d+\.log", console.name)


def test_arguments_reach_process_1_on_the_command_line() -> None:
    vm = cli.with_args(VM, ("a b", "-c", "x=y"))
    assert vm.cmdline == ("quiet", "--", '"a b"', "-c", "x=y")
    assert vm.initrd is None


@pytest.mark.parametrize("args", [('say "x"',), ("",), ("a\nb",), ("é",), ("--",), ("x",) * 32])
def test_what_the_kernel_cannot_pass_on_is_refused(args: tuple[str, ...]) -> None:
    with pytest.raises(UklError) as caught:
        cli.with_args(VM, args)
    assert caught.value.code == "run-invalid"


def test_further_parameters_go_to_the_kernel_not_to_process_1() -> None:
    vm = cli.with_parameters(VM, "ukl.ip=none debug")
    assert " ".join(vm.cmdline) == "quiet ukl.ip=none debug -- old"
    assert cli.with_parameters(VM, "") == VM
    with pytest.raises(UklError, match="longer than 2047"):
        cli.with_parameters(VM, "x" * 2048)


def test_a_forward_is_read_in_all_its_forms() -> None:
    assert cli.forward("0:5555") == Forward(0, 5555)
    assert cli.forward("53:54/udp") == Forward(53, 54, image.Protocol.UDP)
    assert cli.forward("8080:80/tcp") == Forward(8080, 80)


def test_scons_run_keeps_its_logs_where_ukl_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert scons_tool._user_env({})["XDG_STATE_HOME"] == "/elsewhere"
