# SPDX-License-Identifier: Apache-2.0
"""What the application in ring 0 must get, an ordinary process in the same guest being the oracle.

Lines of the guest's programs: ``ok NAME``, ``not ok NAME: why``, ``# same NAME VALUES`` where only
both rings together tell what is right, and ``# begin PROGRAM RING ADDRESS`` and ``# end PROGRAM``
around them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.boot.conftest import Start
from tests.boot.ring0 import ORDINARY, RING0, Ring0
from ukl_build.initconf import Job
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Vm

pytestmark = pytest.mark.boot

GUEST_S = 240.0
"""Many times what the slowest guest takes; one that needs it has hung."""

QUIET = "loglevel=5"
"""Warnings and worse; a line for each crash would come between the programs' own."""

COMPLAINTS = re.compile(
    r"WARNING:|BUG:|Oops|double fault|general protection|PANIC|stack guard|rcu: INFO|"
    r"unchecked MSR|Bad page|soft lockup|Call Trace"
)
"""What a kernel says when something is wrong with it."""

VARIANTS = {
    "1cpu-nopti-4level": Vm("guest", cpus=1, cmdline=("pti=off", "no5lvl")),
    "2cpu-pti-4level": Vm("guest", cpus=2, cmdline=("pti=on", "no5lvl")),
    "1cpu-pti-5level": Vm("guest", cpus=1, cmdline=("pti=on",)),
    "2cpu-nopti-5level": Vm("guest", cpus=2, cmdline=("pti=off",)),
}
"""Each pair of settings once."""


@dataclass
class Part:
    """What one program said."""

    program: str
    ring: int
    address: int
    """Where its static data were."""
    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)
    ended: bool = False


def parts(lines: list[str]) -> list[Part]:
    """Read what the programs of a guest said."""
    found: list[Part] = []
    for line in lines:
        match line.split(maxsplit=2):
            case ["#", "begin", rest]:
                program, ring, address = rest.split()
                found.append(Part(program, int(ring), int(address, 16)))
            case ["#", "end", _]:
                found[-1].ended = True
            case ["#", "same", rest]:
                name, _, values = rest.partition(" ")
                found[-1].same[name] = values
            case ["ok", name]:
                found[-1].good.append(name)
            case ["not", "ok", rest]:
                found[-1].bad.append(rest)
    return found


def names(part: Part) -> list[str]:
    """Return the names of all checks that a program made."""
    return sorted(part.good + [line.partition(":")[0] for line in part.bad])


def console(machine: Machine) -> list[str]:
    """Return the lines of the console."""
    return machine.console.read_text(errors="backslashreplace").splitlines()


def run(
    start: Start, image: Ring0, programs: dict[str, Path], vm: Vm, *jobs: Job
) -> tuple[list[Part], Machine]:
    """Run jobs in a guest to their end, without a complaint from its kernel."""
    vm = Vm(vm.name, cpus=vm.cpus, memory_mib=vm.memory_mib, cmdline=(*vm.cmdline, QUIET))
    machine = start(kernel=image.kernel, programs=programs, vm=vm, app="", jobs=jobs)
    outcome = machine.wait(GUEST_S)
    lines = console(machine)
    assert [line for line in lines if COMPLAINTS.search(line)] == []
    assert outcome is not None, f"it hangs: {machine.give_up()[1]}\n" + "\n".join(lines[-20:])
    assert outcome == Outcome(Kind.EXITED, 0), "\n".join(lines[-20:])
    return parts(lines), machine


def both(*words: str, timeout_s: int = 200) -> tuple[Job, Job]:
    """Return jobs that run a program of the suite in ring 3 and in ring 0."""
    return (
        Job((ORDINARY, *words), any_end=True, timeout_s=timeout_s),
        Job((RING0, *words), any_end=True, timeout_s=timeout_s),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_faults_and_interruptions_are_those_of_an_ordinary_process(
    start: Start, ring0_image: Ring0, ordinary: dict[str, Path], variant: str
) -> None:
    jobs = (*both("faults"), *both("context"))
    found, _ = run(start, ring0_image, ordinary, VARIANTS[variant], *jobs)
    assert [(part.program, part.ring, part.ended) for part in found] == [
        *(("faults", 3, True), ("faults", 0, True), ("context", 3, True), ("context", 0, True)),
    ]
    bad = [f"ring {part.ring}: {line}" for part in found for line in part.bad]
    assert bad == []
    for three, zero in zip(found[::2], found[1::2], strict=True):
        assert len(three.good) > 20
        # These are about what only an application in ring 0 can be tried with.
        own = {"context.sigreturn", "faults.mmap_exec_eacces", "faults.mprotect_exec_eacces"}
        assert names(three) == [name for name in names(zero) if name not in own]
        assert zero.same == three.same
