# SPDX-License-Identifier: Apache-2.0
"""Both ways of starting the application: by execve(), and as process 1 by the kernel itself.

``guest/start.c`` tells all that it was given.  An ordinary program of the same source, started the
same way in the same guest, is the oracle.
"""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.boot import ring0
from tests.boot.conftest import Start, console, ended_well
from ukl_build import cpio
from ukl_build.cmdline import quote, quote_args
from ukl_build.image import Init
from ukl_build.initconf import Job
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Drive, Network, Vm
from ukl_build.stages import libc, userspace

pytestmark = pytest.mark.boot

GUEST_S = 120.0
"""When a guest has hung; many times what it takes."""

WAYS = (
    *("plainly", "another-user", "effective-user", "limits", "descriptors", "signals", "group"),
    *("scheduling", "timers", "flags", "memory", "place", "arguments", "no-arguments"),
    *("environment", "no-environment", "too-much", "thread", "vfork", "spawn", "descriptor"),
)
"""What a program is before it executes the next one; see start.c."""
ORDINARY = "/tests/UKL"
"""The ordinary program: a name of its own would be seen in /proc/self/comm."""
PROGRAMS = (ORDINARY, ring0.RING0)
LEAST = 80
"""Lines that a program has to say of itself in each case; else something was not asked."""


@dataclass(frozen=True)
class Programs:
    """A kernel with the program in it, and the same as an ordinary one."""

    kernel: Path
    ordinary: Path


@pytest.fixture(scope="module")
def programs(
    built: Path, library: libc.Parts, tmp_path_factory: pytest.TempPathFactory
) -> Programs:
    """Build the program for both rings."""
    folder = tmp_path_factory.mktemp("start")
    image = ring0.relink(built, folder, ("start",), library)
    return Programs(image.kernel, ring0.ordinary(folder, "start"))


def reports(lines: list[str]) -> list[dict[str, str]]:
    """Return what the programs said of themselves, one after the other, by key."""
    found: list[dict[str, str]] = [{}]
    for line in lines:
        if line == "start end":
            found.append({})
        elif line.startswith("start "):
            key, colon, value = line.removeprefix("start ").partition(": ")
            assert colon, line
            assert key not in found[-1] or key == "itimer", line
            found[-1][key] = found[-1].get(key, "") + value
    assert found.pop() == {}, "a report has no end"
    return found


def test_each_way_of_exec_gives_the_same_in_both_rings(start: Start, programs: Programs) -> None:
    cases = [(way, first, then) for way in WAYS for first in PROGRAMS for then in PROGRAMS]
    jobs = tuple(
        Job((first, "from", way, then), name=f"{way}.{first}.{then}", any_end=True)
        for way, first, then in cases
    )
    vm = Vm("guest", cpus=2)
    machine = start(
        kernel=programs.kernel,
        vm=vm,
        app="",
        jobs=jobs,
        programs={ORDINARY: programs.ordinary},
        entries=(cpio.file(ring0.RING0, userspace.MAGIC, mode=0o755),),  # for the other users
        env={"HOME": "/", "A": "1 2"},
    )
    lines = ended_well(machine, GUEST_S)
    failed = [e for e in machine.events if e["event"] == "exited" and e.get("code") != 0]
    assert not failed
    said = dict(zip(cases, reports(lines), strict=True))
    differences = []
    for (way, first, then), report in said.items():
        assert len(report) >= LEAST, (way, first, then, report)
        assert report["path exe"] == then
        assert report["path AT_EXECFN"] in (then, "/dev/fd/3")
        oracle = said[(way, ORDINARY, ORDINARY)]
        differences += [
            f"{way}, {first} to {then}: {key}: {report.get(key)}, should be {oracle.get(key)}"
            for key in sorted(report.keys() | oracle.keys())
            if not key.startswith("path ") and report.get(key) != oracle.get(key)
        ]
    assert not differences, "\n".join(differences)
    # Each way changed something that the report shows; or the comparison would prove nothing.
    plain = said[("plainly", ORDINARY, ORDINARY)]
    same = [way for way in WAYS if said[(way, ORDINARY, ORDINARY)] == plain]
    assert same == ["plainly", "memory", "thread"]


def direct(*args: str, path: str = ring0.RING0, before: tuple[str, ...] = (), **what: Any) -> Vm:
    """Return a machine whose process 1 is a program, with arguments."""
    words = (*(quote(word) for word in before), f"rdinit={path}", "--", *quote_args(args))
    return Vm("guest", init=Init.DIRECT, network=Network.NONE, cmdline=words, **what)


@pytest.mark.parametrize("cpus", [1, 2])
def test_process_1_is_given_the_same_in_both_rings(
    start: Start, programs: Programs, cpus: int
) -> None:
    args = ("state", "a b", "--c=d", "init=/no/such", "last")
    said = {}
    for path in PROGRAMS:
        vm = direct(*args, path=path, before=("A=1 2", "B=", "quiet"), cpus=cpus)
        machine = start(kernel=programs.kernel, vm=vm, programs={ORDINARY: programs.ordinary})
        outcome = machine.wait(GUEST_S)
        # Who exits as an ordinary process 1 makes the kernel panic.
        expected = Outcome(Kind.EXITED, 0) if path == ring0.RING0 else Kind.PANIC
        assert outcome is not None
        assert expected in (outcome, outcome.kind), machine.console.read_text()
        (said[path],) = reports(console(machine))
    report, oracle = said[ring0.RING0], said[ORDINARY]
    assert len(report) >= LEAST
    assert [report[f"arg {number}"] for number in range(1, 6)] == list(args)
    env = {report[f"env {number}"] for number in range(int(report["env"]))}
    assert env >= {"HOME=/", "TERM=linux", "A=1 2", "B="}
    assert all("/dev/console" in report[f"fd {number}"] for number in range(3))
    # The path is the first argument here.
    for one in said.values():
        for key in ("arg 0", "progname", "cmdline"):
            del one[key]
    differences = {
        key: (report.get(key), oracle.get(key))
        for key in report.keys() | oracle.keys()
        if not key.startswith("path ") and report.get(key) != oracle.get(key)
    }
    assert not differences


@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        *((("exit", str(code)), Outcome(Kind.EXITED, code)) for code in (0, 1, 42, 255)),
        (("load",), Outcome(Kind.SIGNALED, signal.SIGSEGV)),
        (("ud2",), Outcome(Kind.SIGNALED, signal.SIGILL)),
    ],
)
def test_the_end_of_process_1_reaches_the_host(
    start: Start, programs: Programs, how: tuple[str, ...], outcome: Outcome
) -> None:
    machine = start(kernel=programs.kernel, vm=direct(*how))
    assert machine.wait(GUEST_S) == outcome
    assert machine.qemu_status == 0
    assert "reboot: Power down" in machine.console.read_text()


@pytest.mark.long
def test_the_root_can_be_on_a_disk(start: Start, built_for_tests: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    (root / "UKL").write_bytes(userspace.MAGIC)
    (root / "UKL").chmod(0o700)
    disk = tmp_path / "disk"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disk, "8M"], check=True)
    # Whoever runs this, it is root's in the guest.
    own = ["debugfs", "-w", "-R", "set_inode_field UKL uid 0", str(disk)]
    subprocess.run(own, check=True, capture_output=True)
    words = ("root=/dev/vda", "rootfstype=ext4", "rdinit=/none", "init=/UKL", "--", "no-port")
    vm = Vm("guest", init=Init.DIRECT, network=Network.NONE, cmdline=words, drives=(Drive(disk),))
    machine = start(kernel=built_for_tests / "tcp_server.bzImage", vm=vm)
    # tcp_server takes a port, and refuses what is none.
    assert machine.wait(GUEST_S) == Outcome(Kind.EXITED, 2), machine.console.read_text()
    assert "usage: tcp_server [PORT" in machine.console.read_text()
