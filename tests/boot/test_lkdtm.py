# SPDX-License-Identifier: Apache-2.0
"""LKDTM: a kernel catches its own mistakes in the same way with an application in ring 0.

Two kernels with kconfig/test.config, that of tcp_server and that of its twin, crash in every way
that Linux's own test module knows.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.boot.conftest import Start
from tests.boot.ring0 import ordinary
from ukl_build.initconf import Job
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Outcome
from ukl_build.run.vm import Network, Vm

pytestmark = [pytest.mark.boot, pytest.mark.long]

BOOT_S = 400.0
PROVOKE = "/provoke"

ALONE = {
    "PANIC": "Kernel panic",
    "EXCEPTION": "NULL pointer dereference",
    "EXHAUST_STACK": "stack guard page was hit",
    "CORRUPT_STACK": "stack-protector: Kernel stack is corrupted",
    "CORRUPT_STACK_STRONG": "stack-protector: Kernel stack is corrupted",
    "REPORT_STACK_CANARY": "",
    "SOFTLOCKUP": "soft lockup",
    "SPINLOCKUP": "",
    "HUNG_TASK": "",
}
"""What ends a machine or a processor: in one of its own, and what its console must say.

SOFTLOCKUP, SPINLOCKUP and HUNG_TASK hang for ever; the machine is ended after a while.
"""

LEFT_OUT = {
    "LOOP": "SOFTLOCKUP with another name: an endless loop",
    "HARDLOCKUP": "needs a counter that raises NMIs, which QEMU does not emulate",
    "ATOMIC_TIMING": "takes minutes under TCG and only measures",
    "REFCOUNT_TIMING": "as ATOMIC_TIMING",
    "WRITE_AFTER_FREE": "corrupts the allocator: what follows depends on where",
    "WRITE_BUDDY_AFTER_FREE": "as WRITE_AFTER_FREE",
}

VERDICT = re.compile(
    r"lkdtm:|BUG|WARNING:|Oops|RIP: 0010|#PF:|#GP|general protection|invalid opcode|usercopy:"
    r"|refcount_t:|Kernel panic|corruption|detected buffer overflow|stack guard page|double fault"
    r"|Kernel stack is corrupted|exec-protected|supervisor|Fixing recursive|executing a page"
    r"|provoke: end"
)


WATCHED = (
    *("loglevel=7", "softlockup_panic=1"),
    # RCU finds a processor that hangs after 21 s, the other watchdog after 20 or a little more.
    "rcupdate.rcu_cpu_stall_suppress=1",
    # CFI_BACKWARD finds its return address or not by where KASLR has put memory.
    "nokaslr",
)


def verdicts(text: str) -> dict[str, list[str]]:
    """Return what a console says of each type, without what differs from boot to boot."""
    found: dict[str, list[str]] = {}
    name = ""
    for raw in text.splitlines():
        line = re.sub(r"^\[ *[0-9.]+\] ", "", raw.strip())
        begin = re.fullmatch(r"provoke: begin (\S+)", line)
        if begin is not None:
            name = begin[1]
            found[name] = []
        elif name and VERDICT.search(line):
            line = re.sub(r"\+0x[0-9a-f]+/0x[0-9a-f]+", "", line)
            line = re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{8,16}\b", "X", line)
            line = re.sub(r"\b(CPU|PID|CPU#|offset|pid|jiffies)(:? ?)#?\d+", r"\1\2N", line)
            line = re.sub(r"\[#\d+\]|\bprovoke[:/]\d+|\d+s!|bad \d+ byte", "N", line)
            found[name].append(line)
    return found


def provoked(start: Start, kernel: Path, program: Path, *types: str, wait_s: float) -> Machine:
    """Run types of crashes in a machine; return it when it has ended or its time is over."""
    machine = start(
        kernel=kernel,
        vm=Vm("guest", network=Network.NONE, cmdline=WATCHED),
        programs={PROVOKE: program},
        app="",
        jobs=(Job((PROVOKE, *types)),),
    )
    machine.wait(wait_s)
    return machine


@pytest.fixture(scope="session")
def provoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile provoke.c."""
    return ordinary(tmp_path_factory.mktemp("provoke"), "provoke")


@pytest.fixture
def types(start: Start, built_for_tests: Path, provoke: Path) -> list[str]:
    """Return the types that the kernel knows."""
    machine = provoked(start, built_for_tests / "tcp_server.bzImage", provoke, wait_s=BOOT_S)
    text = machine.console.read_text()
    return [line for line in text.splitlines() if re.fullmatch(r"[A-Z][A-Z_]{3,}", line)]


def test_crashes_get_the_same_verdict_without_an_application(
    start: Start, built_for_tests: Path, twin_for_tests: Path, provoke: Path, types: list[str]
) -> None:
    together = [name for name in types if name not in ALONE and name not in LEFT_OUT]
    assert len(together) > 60
    found = []
    for folder in (built_for_tests, twin_for_tests):
        machine = provoked(start, folder / "tcp_server.bzImage", provoke, *together, wait_s=BOOT_S)
        text = machine.console.read_text(errors="backslashreplace")
        assert machine.outcome is not None and machine.outcome.by_itself, text[-2000:]
        found.append(verdicts(text))
    assert list(found[0]) == together
    different = {name: (found[0][name], found[1].get(name)) for name in together}
    assert {name: two for name, two in different.items() if two[0] != two[1]} == {}


@pytest.mark.parametrize("name", ALONE)
def test_a_crash_of_the_machine_gets_the_same_verdict(
    start: Start, built_for_tests: Path, twin_for_tests: Path, provoke: Path, name: str
) -> None:
    found: list[tuple[Outcome | None, list[str]]] = []
    for folder in (built_for_tests, twin_for_tests):
        machine = provoked(start, folder / "tcp_server.bzImage", provoke, name, wait_s=60)
        text = machine.console.read_text(errors="backslashreplace")
        assert ALONE[name] in text.partition("provoke: begin")[2], text[-3000:]
        found.append((machine.outcome, verdicts(text)[name]))
    assert found[0] == found[1]
