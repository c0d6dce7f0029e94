# SPDX-License-Identifier: Apache-2.0
"""Debuggers, tracers and profilers with the application in ring 0, as docs/debugging.md has them.

``guest/subject.c`` is looked at in ring 0 and in ring 3, by Debian's own gdb, gdbserver and strace,
and by ``guest/inspect.c`` for all that these do not ask of a kernel.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot.conftest import Start, console, ended_well
from tests.boot.ring0 import ORDINARY, RING0, SUITE, Ring0, relink
from tests.boot.test_ring0 import COMPLAINTS, QUIET, Part, names, one, parts
from tests.project import ROOT
from ukl_build import image
from ukl_build.image import App, Image
from ukl_build.initconf import Job
from ukl_build.run.guest import start_guest
from ukl_build.run.vm import Forward, Vm

pytestmark = pytest.mark.boot

GUEST_S = 600.0
GDB_S = 120.0
INSPECT = "/tests/inspect"
STRACE = "/usr/bin/strace"
GDBSERVER = "/usr/bin/gdbserver"
SERVER_PORT = 9000
CAP_SYS_RAWIO = 17
GDB_UKL = ROOT / "tools" / "gdb-ukl.py"

BOTH = {"attach": 28, "profile": 12}
"""What is done to a program in either ring, and how many checks that makes in ring 3."""
OWN = {
    # Ring 3 may write its own text, and its functions are not in /proc/kallsyms.
    "attach": 2 * ["attach.mem_shared", "attach.writev_shared"],
    "profile": ["profile.kallsyms"],
}
"""Checks of ring 0 alone."""

FRAMES = ("crash_inner", "crash_outer", "crash_outer", "crash_outer", "crash_outer", "crash")
"""What a stack of ``subject crash`` begins with; then come subject_main() and the C library."""


class Receiver(threading.Thread):
    """Takes what a guest sends to a port of this machine, until it closes the connection."""

    def __init__(self) -> None:
        """Listen already; nothing is taken before the start."""
        super().__init__(daemon=True)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(GUEST_S)
        self.port: int = self._server.getsockname()[1]
        self.data = b""

    def run(self) -> None:
        """Take one connection."""
        with self._server, self._server.accept()[0] as connection:
            while data := connection.recv(1 << 16):
                self.data += data


def with_libraries(program: str) -> dict[str, Path]:
    """Return a program of this machine and its shared libraries, by their paths."""
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    paths = (program, *re.findall(r"(/\S+) \(", listed))
    return {path: Path(path).resolve(strict=True) for path in paths}


@dataclass(frozen=True)
class Said:
    """What a guest said until its end."""

    parts: list[Part]
    lines: list[str]
    core: Path


@pytest.fixture(scope="module")
def said(
    ring0_image: Ring0,
    ordinary: dict[str, Path],
    base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Said:
    """Run all of inspect.c that needs nothing but the kernel that everybody has."""
    folder = tmp_path_factory.mktemp("tools")
    core = Receiver()
    core.start()
    jobs = [
        Job((INSPECT, what, path), any_end=True, timeout_s=200)
        for what in (*BOTH, "stacks")
        for path in (ORDINARY, RING0)
    ]
    jobs += [
        Job((STRACE, path, "subject", "calls"), any_end=True, timeout_s=200)
        for path in (ORDINARY, RING0)
    ]
    without = (INSPECT, "server", str(SERVER_PORT), str(CAP_SYS_RAWIO))
    jobs.append(Job(without, any_end=True, timeout_s=200))
    jobs.append(Job((INSPECT, "core", RING0, str(core.port)), any_end=True, timeout_s=200))
    machine = start_guest(
        ring0_image.kernel,
        folder,
        base=base,
        vm=Vm("tools", cmdline=(QUIET,)),
        programs={**ordinary, **with_libraries(STRACE), **with_libraries(GDBSERVER)},
        app="",
        jobs=jobs,
    )
    with machine:
        lines = ended_well(machine, GUEST_S)
    core.join(GUEST_S)
    (folder / "core").write_bytes(core.data)
    return Said(parts(lines), lines, folder / "core")


def test_the_kernel_has_nothing_to_complain_about(said: Said) -> None:
    assert [line for line in said.lines if COMPLAINTS.search(line)] == []


@pytest.mark.parametrize("what", BOTH)
def test_both_rings_pass_the_same_checks(said: Said, what: str) -> None:
    three, zero = (part for part in said.parts if part.program == what)
    assert (three.ring, three.bad, three.ended) == (3, [], True)
    assert (zero.ring, zero.bad, zero.ended) == (0, [], True)
    assert len(names(three)) == BOTH[what]
    assert names(zero) == sorted(names(three) + OWN.get(what, []))


def notes(said: Said, program: str, ring: int, word: str) -> list[str]:
    """Return what a program said in lines that begin with ``# WORD``."""
    begin = next(
        number
        for number, line in enumerate(said.lines)
        if line.startswith(f"# begin {program} {ring} ")
    )
    end = said.lines.index(f"# end {program}", begin)
    start = f"# {word} "
    return [line.removeprefix(start) for line in said.lines[begin:end] if line.startswith(start)]


def traced(said: Said, path: str) -> list[str]:
    """Return strace's lines of a program, without what differs from one process to the next."""
    begin = said.lines.index(
        next(line for line in said.lines if line.startswith(f'execve("{path}"'))
    )
    end = next(n for n, line in enumerate(said.lines) if n > begin and line.startswith("+++"))
    lines = said.lines[begin + 1 : end + 1]
    changes: dict[str, str | Callable[[re.Match[str]], str]] = {
        r"\b0x[0-9a-f]{5,}\b": "ADDRESS",
        # What getrandom() returned.
        r"(\\x[0-9a-f]{2}){8}": "RANDOM",
        r"^((?:\w+id|clone3?|wait4|set_tid_address)\(.*\) += )\d+$": r"\1PROCESS",
        r"^(tgkill|wait4)\(\d+(, \d+)?": lambda m: (
            f"{m[1]}(PROCESS" + (", PROCESS" if m[2] else "")
        ),
        r"(si_pid=|tid=\[)\d+": r"\1PROCESS",
        r"si_([us]time)=\d+": r"si_\1",
        # The name of its own file, and the length of that.
        r"^(readlink\(.*?, ).*": r"\1",
        # Arguments that nobody gave: whatever the registers had.
        r"(syscall_0x1388\(0x1, 0x2, 0x3), .*?\)": r"\1)",
        r"  +": " ",
    }
    for pattern, new in changes.items():
        lines = [re.sub(pattern, new, line) for line in lines]
    # Whether one waits for a thread depends on how quick that was.
    return [line for line in lines if not line.startswith("futex")]


STRACED = (
    r'openat(AT_FDCWD, "/no/such\tfile", O_RDONLY) = -1 ENOENT (No such file or directory)',
    # Globals of the application.
    r'writev(4, [{iov_base="some ", iov_len=5}, {iov_base="text\n", iov_len=5}], 2) = 10',
    "getppid() = PROCESS",
    "syscall_0x1388(0x1, 0x2, 0x3) = -1 ENOSYS (Function not implemented)",
    "rt_sigreturn({mask=[]}) = 0",
    "wait4(PROCESS, [{WIFEXITED(s) && WEXITSTATUS(s) == 5}], 0, NULL) = PROCESS",
    "--- SIGUSR1 {si_signo=SIGUSR1, si_code=SI_TKILL, si_pid=PROCESS, si_uid=0} ---",
    # As the ordinary program that it became.
    "+++ exited with 3 +++",
)


def test_strace_shows_the_system_calls_of_an_ordinary_process(said: Said) -> None:
    three, zero = traced(said, ORDINARY), traced(said, RING0)
    # PT_GNU_RELRO, which the application does not have.
    three.remove(
        next(line for line in three if re.match(r"mprotect\(ADDRESS, \d+, PROT_READ\) = 0", line))
    )
    # A signal comes when it comes, between two calls.
    assert [line for line in zero if line[0] != "-"] == [line for line in three if line[0] != "-"]
    assert sorted(zero) == sorted(three)
    assert [line for line in STRACED if line not in zero] == []
    # By the instruction, by a call, and by that of a gate.
    assert zero.count(STRACED[3]) == 3


def stack(said: Said, ring: int, what: str) -> list[str]:
    """Return the functions on a stack of the kernel, the innermost first."""
    (text,) = (line for line in notes(said, "stacks", ring, what) if line.startswith("stack:"))
    return re.findall(r"\[<0>\] ([\w.]+)\+0x", text)


def test_stacks_of_the_kernel_end_in_the_application(said: Said) -> None:
    entries = {
        *("entry_SYSCALL_64_after_hwframe", "ukl_entry_safe_stack", "ukl_entry_unsafe_stack"),
        "ukl_call_done",
    }
    for what, last in (("waits", "ukl.__libc_read"), ("spins", "ukl.subject_inner")):
        three, (*zero, name) = (stack(said, ring, what) for ring in (3, 0))
        assert name == last
        assert [at for at in zero if at not in entries] == [at for at in three if at not in entries]
    assert "vfs_read" in stack(said, 0, "waits")
    assert "wchan: pipe_read" in notes(said, "stacks", 0, "waits")


def gdb(*commands: str, program: Sequence[str | Path], cwd: Path | None = None) -> str:
    """Run gdb without the user's own settings, and return what it says."""
    every = ("set width 0", "set backtrace past-main", *commands)
    words = [word for command in every for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-batch", "-nx", *program, *words],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=GDB_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def frames(said: str) -> list[tuple[str, str]]:
    """Return the function of each line of a backtrace, and the file if gdb knows the line."""
    pattern = r"^#\d+ +(?:0x[0-9a-f]+ in )?([\w.]+) \(.*?\)(?: at \S*?([\w.]+):\d+)?$"
    return re.findall(pattern, said, re.MULTILINE)


def whole(found: list[tuple[str, str]]) -> bool:
    """Whether a backtrace of ``subject crash`` goes from the crash to the program's start."""
    return (
        found[: len(FRAMES)] == [(name, "subject.c") for name in FRAMES]
        and found[len(FRAMES)] == ("subject_main", "subject.c")
        # gdb takes the two underscores for Ada.
        and ["libc_start" in name for name, _ in found[-3:]] == [True, True, False]
        and found[-1][0] == "ukl._start"
    )


def test_gdb_reads_a_core(said: Said, ring0_image: Ring0) -> None:
    text = gdb(
        "info threads",
        "bt",
        *("print crash_in_data", "print crash_in_bss", "print crash_text"),
        "print $_siginfo._sifields._sigfault.si_addr",
        "print/x $r15",
        "x/i $pc",
        *("thread 2", "bt"),
        program=[ring0_image.vmlinux, said.core, "-x", GDB_UKL],
    )
    first, second = text.split("[Switching to thread 2")
    assert whole(frames(first)), first
    values = re.findall(r"^\$\d+ = (.*)", first, re.MULTILINE)
    assert [value.split()[-1] for value in values] == ["22", "33", 'now"', "0x10", "0x1234567"]
    assert re.search(r"^=> 0x[0-9a-f]+ <crash_inner\+\d+>:\tmovq", first, re.MULTILINE)
    assert ("crash_beside", "subject.c") in frames(second)
    assert frames(second)[-1][0].endswith("clone3")


def test_gdb_attaches_to_the_process(
    start: Start, ring0_image: Ring0, ordinary: dict[str, Path]
) -> None:
    machine = start(
        kernel=ring0_image.kernel,
        programs={**ordinary, **with_libraries(GDBSERVER)},
        vm=Vm("tools", cmdline=(QUIET,), forwards=(Forward(0, SERVER_PORT),)),
        app="",
        jobs=(Job((INSPECT, "server", str(SERVER_PORT)), any_end=True, timeout_s=200),),
    )
    deadline = time.monotonic() + GUEST_S
    while not any("Listening" in line for line in console(machine)):
        assert time.monotonic() < deadline, console(machine)[-20:]
        assert machine.wait(0.1) is None, console(machine)[-20:]
    # The script comes when there is a process: KASLR is on.
    text = gdb(
        f"target remote 127.0.0.1:{machine.host_port(SERVER_PORT)}",
        f"source {GDB_UKL}",
        *("break subject_hit", "continue", "bt", "print subject_global", "finish"),
        # Not detached: it is gdbserver's child, which that would wait for.
        *("delete", "watch subject_global", "continue", "print subject_constant", "kill"),
        program=[ring0_image.vmlinux],
    )
    assert [line for line in ended_well(machine, GUEST_S) if COMPLAINTS.search(line)] == []
    assert re.search(r"^the kernel has moved by 0x[1-9a-f]", text, re.MULTILINE), text
    stopped = text.partition("Breakpoint 1, ")[2]
    stopped, _, watched = stopped.partition("\nHardware watchpoint 2: subject_global\n")
    trace, _, finished = stopped.partition("\n$1 = ")
    found = frames(trace)[:3]
    assert [name for name, _ in found] == ["subject_hit", "wait_for_bytes", "subject_main"], text
    assert {file for _, file in found} == {"subject.c"}, text
    assert "wait_for_bytes () at " in finished, text
    old, new = (int(re.search(rf"{what} value = (\d+)", watched)[1]) for what in ("Old", "New"))  # type: ignore[index]
    assert new == old + 1
    assert f"= {0x7265616420304E4C}\n" in watched


def test_gdb_attaches_to_nothing_without_the_capability(said: Said) -> None:
    assert any(
        "Cannot attach to process" in line and "Operation not permitted" in line
        for line in said.lines
    )


@pytest.fixture
def folder(ring0_image: Ring0, tmp_path: Path) -> Path:
    """Return an image's folder as the build leaves it."""
    out = tmp_path / "app"
    out.mkdir()
    (out / "app.bzImage").symlink_to(ring0_image.kernel)
    (out / "app.vmlinux").symlink_to(ring0_image.vmlinux)
    app = App(argv=(RING0, "subject", "crash"))
    described = Image(
        name="app", kernel="app.bzImage", cmdline=(QUIET,), memory_mib=256, cpus=1, app=app
    )
    image.store(described, out / "image.json")
    return out


def test_gdb_stops_in_the_application_as_ukl_run_says(folder: Path) -> None:
    words = ("--qemu", str(folder), "--gdb", "0", "--log-file", str(folder / "log"))
    with subprocess.Popen(
        [sys.executable, ROOT / "tools" / "ukl-run", *words, "--", "subject", "crash"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "target remote" not in (line := process.stderr.readline()):
            assert line
        # As it stands there, with more commands behind.
        name, *command = shlex.split(line.removeprefix("ukl-run: "))
        assert name == "gdb"
        text = gdb(
            *("break main", "continue", "bt"),
            *("break crash_inner", "continue", "bt", "print crash_in_data", "list crash_inner"),
            "detach",
            program=command,
        )
        assert process.wait(GUEST_S) == 128 + 11, process.stderr.read()
    start, main, crash = re.split(r"^Breakpoint \d+, ", text, flags=re.MULTILINE)[-3:]
    assert re.search(r"^0x[0-9a-f]+ in ukl._start", start), text
    assert frames(main)[0] == ("main", "suite.c"), text
    assert frames(main)[-1][0] == "ukl._start", text
    assert whole(frames(crash)), text
    assert "$1 = 22\n" in crash
    # The line itself.
    assert "movq $1, (%0)" in crash
    assert [
        line for line in (folder / "log").read_text().splitlines() if COMPLAINTS.search(line)
    ] == []


@pytest.fixture(scope="module")
def traced_kernel(
    built_for_tests: Path,
    ordinary: dict[str, Path],
    base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[str]:
    """Return what a guest with kconfig/test.config says: kprobes, ftrace, LKDTM and SysRq."""
    folder = tmp_path_factory.mktemp("traced")
    kernel = relink(built_for_tests, tmp_path_factory.mktemp("traced_kernel"), SUITE).kernel
    jobs = [
        Job((INSPECT, "probes", "ukl.subject_hit"), any_end=True, timeout_s=200),
        Job((INSPECT, "sysrq", RING0), any_end=True, timeout_s=200),
        Job((RING0, "subject", "trigger", "WARNING"), any_end=True, timeout_s=200),
    ]
    machine = start_guest(
        kernel,
        folder,
        base=base,
        # Two, for SysRq-L is silent about the processor that it was asked on.
        vm=Vm("tools", cpus=2, memory_mib=512, cmdline=("loglevel=7",)),
        programs=ordinary,
        app="",
        jobs=jobs,
    )
    with machine:
        lines = ended_well(machine, GUEST_S)
    return lines


@pytest.mark.long
def test_probes_of_the_application_are_refused(traced_kernel: list[str]) -> None:
    (probes,) = (part for part in parts(traced_kernel) if part.program == "probes")
    assert names(one([probes])) == sorted(
        [
            *("probes.kprobe_kernel", "probes.ftrace_kernel", "probes.kretprobe", "probes.ftrace"),
            *3 * ["probes.kprobe"],
        ]
    )


@pytest.mark.long
def test_traces_of_the_kernel_name_the_application(traced_kernel: list[str]) -> None:
    text = "\n".join(traced_kernel)
    sysrq, warning = text.split("WARNING: CPU", 1)
    # SysRq-T of the one that waits, SysRq-L of the one that computes.
    assert "ukl.__libc_read+0x" in sysrq
    assert "RIP: 0010:ukl.subject_inner+0x" in sysrq
    where, trace = warning.split("</TASK>", 1)[0].split("Call Trace:", 1)
    assert "RIP: 0010:lkdtm_WARNING+0x" in where
    assert "vfs_write+0x" in trace
    assert "RIP: 0010:ukl.__libc_write+0x" in trace
    assert [line for line in traced_kernel if re.search("BUG:|Oops|PANIC", line)] == []
