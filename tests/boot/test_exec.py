# SPDX-License-Identifier: Apache-2.0
"""Programs that are started in a guest from outside, and signals to its application."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot.conftest import image_folder
from tests.project import ROOT
from ukl_build.initconf import InitConf
from ukl_build.run.execute import SESSIONS
from ukl_build.stages.userspace import Userspace, build_initramfs

pytestmark = pytest.mark.boot

ENOUGH_S = 120.0
TOOL = "/tool"


@dataclass(frozen=True)
class Guest:
    """A machine that runs, and the environment in which it is known."""

    name: str
    env: dict[str, str]

    def start(self, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Start ``ukl``."""
        return subprocess.Popen(
            [sys.executable, "-m", "ukl_build.ukl", *words],
            env=self.env,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str, send: bytes | None = None) -> tuple[int, bytes, bytes]:
        """Run ``ukl`` to its end; return exit status, standard output and standard error."""
        stdin = subprocess.DEVNULL if send is None else subprocess.PIPE
        with self.start(*words, stdin=stdin) as process:
            out, err = process.communicate(send, timeout=ENOUGH_S)
        return process.returncode, out, err

    def tool(self, *words: str, send: bytes | None = None) -> tuple[int, bytes, bytes]:
        """Run the tests' program in the guest."""
        options = ["-i"] if send is not None else []
        return self.run("exec", *options, self.name, TOOL, *words, send=send)


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the program of these tests."""
    out = tmp_path_factory.mktemp("tool") / "tool"
    source = Path(__file__).parent / "tool.c"
    subprocess.run(["gcc", "-static", "-O", "-Wall", "-Werror", "-o", out, source], check=True)
    return out


@pytest.fixture(scope="module")
def guest(built: Path, tool: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """Return a machine with the program in it; its application waits for signals."""
    place = tmp_path_factory.mktemp("exec")
    folder = image_folder(place, built / "tcp_server.bzImage", initrd="initramfs.cpio", cmdline=())
    conf = InitConf(app=TOOL, argv=(TOOL, "wait"), env={"A": "b c"}, stop_wait_s=2)
    build_initramfs(Userspace(conf), folder / "initramfs.cpio")
    runtime = place / "runtime"
    runtime.mkdir(mode=0o700)
    env = {
        **{"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        **{"XDG_STATE_HOME": str(place / "state"), "XDG_RUNTIME_DIR": str(runtime)},
    }
    argv = [sys.executable, "-m", "ukl_build.run.cli", "--qemu", str(folder), "--detach"]
    argv += ["--file", f"{tool}:{TOOL}"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = Guest(done.stdout.strip(), env)
    until(made, "waiting as")
    yield made
    made.run("kill", made.name)


def until(guest: Guest, text: str) -> None:
    """Wait until the console has something."""
    with guest.start("logs", "-f", guest.name) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if text.encode() in line:
                process.terminate()
                return
    pytest.fail(f"no {text!r}")


def test_a_program_has_arguments_output_and_a_status(guest: Guest) -> None:
    code, out, err = guest.tool("echo", "a b", "", "'\"")
    assert (code, out, err) == (5, b"[a b][]['\"]\n", b"to standard error\n")


def test_it_has_the_applications_environment_and_no_terminal(guest: Guest) -> None:
    out = guest.tool("state")[1]
    assert out == b"terminal 0, 0 lines, 0 columns, uid 0, cwd /, A=b c\n"


def test_what_goes_through_comes_back(guest: Guest) -> None:
    data = os.urandom(1_000_000)
    code, out, err = guest.tool("cat", send=data)
    assert (code, hashlib.sha256(out).digest()) == (0, hashlib.sha256(data).digest()), err


def test_without_input_there_is_none(guest: Guest) -> None:
    assert guest.tool("cat")[:2] == (0, b"")


def test_a_program_that_does_not_read_ends_all_the_same(guest: Guest) -> None:
    assert guest.tool("close", send=b"x" * 500_000)[0] == 5


@pytest.mark.parametrize(("words", "status"), [(("abort",), 134), (("nonsense",), 99)])
def test_its_end_is_that_of_the_command(guest: Guest, words: tuple[str, ...], status: int) -> None:
    assert guest.tool(*words)[0] == status


def test_what_it_leaves_behind_is_not_waited_for(guest: Guest) -> None:
    assert guest.tool("left")[:2] == (0, b"left\n")


@pytest.mark.parametrize(
    ("program", "status", "reason"),
    [
        ("/nowhere", 127, "No such file"),
        ("/tmp", 126, "Permission denied"),
        ("tool", 127, "No such"),
    ],
)
def test_what_cannot_be_started_is_said(
    guest: Guest, program: str, status: int, reason: str
) -> None:
    code, out, err = guest.run("exec", guest.name, program)
    assert (code, out) == (status, b"")
    assert f"error[exec-failed]: {program}: exec failed in the guest: {reason}" in err.decode()


def test_a_program_is_found_in_the_usual_folders(guest: Guest, tool: Path) -> None:
    assert guest.run("exec", "--put", f"{tool}:/bin/tool", guest.name, "tool", "echo")[0] == 2


def test_a_file_is_written_with_its_permissions(guest: Guest, tmp_path: Path) -> None:
    source = tmp_path / "data"
    source.write_bytes(os.urandom(300_001))
    source.chmod(0o640)
    assert guest.run("exec", "--put", f"{source}:/tmp/data", guest.name)[:2] == (0, b"")
    assert guest.tool("stat", "/tmp/data")[1] == b"640 300001\n"
    assert guest.run("exec", "--put", f"{source}:/new/folder/data", guest.name)[0] == 0
    assert guest.tool("stat", "/new/folder/data")[1] == b"640 300001\n"
    code, _, err = guest.run("exec", "--put", f"{source}:/proc/data", guest.name)
    assert (code, b"/proc/data: open failed" in err) == (127, True)
    code, _, err = guest.run("exec", "--put", f"{tmp_path}/none:/tmp/data", guest.name)
    assert (code, b"No such file" in err) == (3, True)


def reader(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Read until something was said."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"no {text!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_program(guest: Guest, number: signal.Signals) -> None:
    with guest.start("exec", guest.name, TOOL, "wait") as process:
        reader(process, b"waiting")
        process.send_signal(number)
        assert process.wait(ENOUGH_S) == 40 + number


def test_one_whose_caller_is_gone_is_hung_up(guest: Guest) -> None:
    with guest.start("exec", guest.name, TOOL, "wait") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[-1])
        assert guest.tool("stat", f"/proc/{pid}/stat")[0] == 0
        process.kill()
    end = time.monotonic() + 30
    while guest.tool("stat", f"/proc/{pid}/stat")[0] == 0:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_one_that_is_not_read_holds_up_nobody(guest: Guest) -> None:
    with guest.start("exec", guest.name, TOOL, "much", "100") as process:
        # More than all pipes on the way hold.
        assert guest.tool("echo")[0] == 2
        out, _ = process.communicate(timeout=ENOUGH_S)
    assert (process.returncode, out) == (0, b"x" * 6_553_600)


def test_there_is_a_limit_of_programs(guest: Guest) -> None:
    running = [guest.start("exec", guest.name, TOOL, "wait") for _ in range(SESSIONS)]
    for process in running:
        reader(process, b"waiting")
    code, _, err = guest.tool("echo")
    assert (code, b"error[exec-busy]" in err) == (2, True)
    for process in running:
        process.terminate()
        assert process.wait(ENOUGH_S) == 40 + signal.SIGTERM
        process.communicate()
    assert guest.tool("echo")[0] == 2


def test_a_terminal_is_one(guest: Guest) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        argv = ["-m", "ukl_build.ukl", "exec", "-it", guest.name, TOOL]
        os.execve(sys.executable, [sys.executable, *argv, "cat"], guest.env)
    seen = b""

    def until_seen(text: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + ENOUGH_S
        while text not in seen:
            assert select.select([terminal], [], [], end - time.monotonic())[0], seen
            seen += os.read(terminal, 4096)

    # Its terminal echoes, ours does not any more; a line is a line at its end.
    until_seen(b"ready\r\n")
    os.write(terminal, b"abc\r")
    until_seen(b"abc\r\nabc\r\n")
    os.write(terminal, b"\x04")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_terminal_has_the_size_of_ours(guest: Guest) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        words = f"stty rows 33 cols 77; exec {sys.executable} -m ukl_build.ukl exec -it"
        os.execve("/bin/sh", ["sh", "-c", f"{words} {guest.name} {TOOL} state"], guest.env)
    seen = b""
    try:
        while data := os.read(terminal, 4096):
            seen += data
    except OSError:  # its end
        pass
    os.waitpid(pid, 0)
    assert b"terminal 1, 33 lines, 77 columns" in seen


def test_a_terminal_needs_one(guest: Guest) -> None:
    code, _, err = guest.run("exec", "-t", guest.name, TOOL)
    assert (code, b"standard input is no terminal" in err) == (2, True)


def test_too_long_arguments_are_refused(guest: Guest) -> None:
    code, _, err = guest.tool("echo", "x" * 5000)
    assert (code, b"error[run-invalid]: the arguments have" in err) == (2, True)


def test_the_application_gets_a_signal_and_ends_by_it(guest: Guest) -> None:
    # The last one: nothing runs any more afterwards.
    with guest.start("exec", guest.name, TOOL, "wait") as process:
        reader(process, b"waiting")
        assert guest.run("kill", "-s", "USR1", guest.name)[0] == 0
        code, out, _ = guest.run("wait", guest.name)
        assert (code, out) == (50, b"50\n")
        assert process.wait(ENOUGH_S) in (4, 40 + signal.SIGTERM)
    found = json.loads(guest.run("inspect", guest.name)[1])
    assert re.fullmatch("the application exited with status 50", found["ended"]["text"])
