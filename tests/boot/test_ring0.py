# SPDX-License-Identifier: Apache-2.0
"""What the application in ring 0 must get, an ordinary process in the same guest being the oracle.

Lines of the guest's programs: ``ok NAME``, ``not ok NAME: why``, ``# same NAME VALUES`` where only
both rings together tell what is right, and ``# begin PROGRAM RING ADDRESS`` and ``# end PROGRAM``
around them.  A program may say where each check is: ``ok NAME FILE:LINE``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.boot.conftest import Start, console, ended
from tests.boot.ring0 import ORDINARY, RING0, SUITE, Ring0, relink
from ukl_build.initconf import Job, Mode
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

KERNELS = re.compile(r"\[ *\d+\.\d{6}\] .*")
"""What the kernel itself says on a console that an application writes to as well."""

CHECKS = {"faults": 45, "context": 46, "observed": 27, "storm": 4, "descriptors": 180}
"""How many checks a program makes in ring 3: one that is left out is left out in both rings."""

VARIANTS = {
    f"{cpus}cpu-{pti}-{paging}": Vm(
        "guest", cpus=cpus, cmdline=(pti, *(["no5lvl"] if paging == "4level" else []))
    )
    for cpus in (1, 2)
    for pti in ("pti=off", "pti=on")
    for paging in ("4level", "5level")
}


def complaints(lines: Sequence[str]) -> list[str]:
    """Return what a kernel says that is wrong with it, of all that is on a console."""
    said = (found[0] for found in map(KERNELS.search, lines) if found)
    return [line for line in said if COMPLAINTS.search(line)]


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
    places: dict[str, str] = field(default_factory=dict)
    """Where checks are, for those that say so."""
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
            case ["ok", name, *place]:
                found[-1].good.append(name)
                found[-1].places.update((name, where) for where in place)
            case ["not", "ok", rest]:
                found[-1].bad.append(rest)
    return found


def names(part: Part) -> list[str]:
    """Return the names of all checks that a program made."""
    return sorted(part.good + [line.partition(":")[0] for line in part.bad])


def run(
    start: Start,
    image: Ring0,
    programs: dict[str, Path],
    vm: Vm,
    *jobs: Job,
    wait_s: float = GUEST_S,
) -> tuple[list[Part], Machine]:
    """Run jobs in a guest to their end, without a complaint from its kernel."""
    vm = Vm(vm.name, cpus=vm.cpus, memory_mib=vm.memory_mib, cmdline=(*vm.cmdline, QUIET))
    machine = start(kernel=image.kernel, programs=programs, vm=vm, app="", jobs=jobs)
    outcome, lines = ended(machine, wait_s)
    assert [line for line in lines if COMPLAINTS.search(line)] == []
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
    vm = VARIANTS[variant]
    pti = "pti" if "pti=on" in vm.cmdline else "nopti"
    protect = Job((RING0, "protect", pti), any_end=True)
    jobs = (protect, *both("faults"), *both("context"), *both("observed"))
    found, machine = run(start, ring0_image, ordinary, vm, *jobs)
    assert [(part.program, part.ring, part.ended) for part in found] == [
        ("protect", 0, True),
        *((name, ring, True) for name in ("faults", "context", "observed") for ring in (3, 0)),
    ]
    bad = [f"ring {part.ring}: {line}" for part in found for line in part.bad]
    assert bad == []
    assert f"# la57 {int('no5lvl' not in vm.cmdline)}" in console(machine)
    assert names(found.pop(0)) == [
        f"protect.{what}" for what in ("nx", "pti", "smap", "smep", "umip", "wp")
    ]
    # These are about what only an application in ring 0 can be tried with.
    own = [
        *("context.sigreturn", "context.strays.counted", "context.strays.secret"),
        *("faults.mmap_exec_eacces", "faults.mprotect_exec_eacces"),
    ]
    seen: list[str] = []
    for three, zero in zip(found[::2], found[1::2], strict=True):
        assert len(names(three)) == CHECKS[three.program]
        assert names(three) == [name for name in names(zero) if name not in own]
        assert zero.same == three.same
        seen += [name for name in names(zero) if name in own]
    assert sorted(seen) == own
    assert len(found[0].same) == 4


def descriptors_alike(three: Part, zero: Part) -> None:
    """Read and write, send and receive, and epoll, of files of all kinds: as in ring 3."""
    assert [(part.program, part.ring, part.bad, part.ended) for part in (three, zero)] == [
        ("descriptors", 3, [], True),
        ("descriptors", 0, [], True),
    ]
    assert len(names(three)) == CHECKS["descriptors"]
    assert names(zero) == names(three)
    assert zero.same == three.same
    assert 2 * len(three.same) == len(names(three))


@pytest.mark.parametrize("cpus", [1, 2])
def test_descriptors_of_all_kinds_answer_as_an_ordinary_process_s(
    start: Start, ring0_image: Ring0, ordinary: dict[str, Path], cpus: int
) -> None:
    """Whatever the kernel goes past for a socket, a pipe or an eventfd, nobody can tell."""
    vm = Vm("guest", cpus=cpus)
    found, _ = run(start, ring0_image, ordinary, vm, *both("descriptors"))
    descriptors_alike(*found)


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize(
    "seconds", [5, pytest.param(180, marks=pytest.mark.long)], ids=lambda it: f"{it}s"
)
def test_system_calls_in_all_ways_stand_a_storm(
    start: Start, ring0_image: Ring0, ordinary: dict[str, Path], cpus: int, seconds: int
) -> None:
    """Signals, timers, switches, full vector registers."""
    vm = Vm("guest", cpus=cpus)
    found, _ = run(
        start, ring0_image, ordinary, vm, *both("storm", str(seconds), timeout_s=seconds + 60),
        wait_s=GUEST_S + 2 * seconds,
    )  # fmt: skip
    assert [(part.program, part.ring, part.bad) for part in found] == [
        ("storm", 3, []),
        ("storm", 0, []),
    ]
    assert {len(names(part)) for part in found} == {CHECKS["storm"]}


@pytest.fixture(scope="session")
def test_kernel(built_for_tests: Path, tmp_path_factory: pytest.TempPathFactory) -> Ring0:
    """Link the suite into a copy of the kernel that checks its own entry, and has audit."""
    return relink(built_for_tests, tmp_path_factory.mktemp("test-kernel"), SUITE)


@pytest.mark.parametrize("path", [RING0, ORDINARY])
def test_audit_sees_system_calls_in_all_ways(
    start: Start, test_kernel: Ring0, ordinary: dict[str, Path], path: str
) -> None:
    job = Job(("/tests/audited", path), any_end=True, timeout_s=100)
    found, _ = run(start, test_kernel, ordinary, Vm("guest"), job)
    assert names(one(found)) == ["audited.calls", "audited.ends"]


@pytest.mark.parametrize("cpus", [1, 2])
def test_the_kernel_finds_nothing_wrong_with_its_entry(
    start: Start, test_kernel: Ring0, ordinary: dict[str, Path], cpus: int
) -> None:
    """DEBUG_ENTRY looks at flags and stacks at each entry."""
    jobs = [job for name in ("faults", "context", "observed") for job in both(name)]
    vm = Vm("guest", cpus=cpus)
    found, _ = run(
        start, test_kernel, ordinary, vm, *jobs, *both("storm", "5"), *both("descriptors")
    )  # fmt: skip
    three, zero = found[-2:]
    descriptors_alike(three, zero)
    assert three.same["descriptors.accounted.tcp"] == "8 2 2"
    assert [(part.program, part.bad, part.ended) for part in found[:-2]] == [
        (name, [], True) for name in ("faults", "context", "observed", "storm") for _ in (3, 0)
    ]


@dataclass(frozen=True)
class Page:
    """A line of QEMU's ``info tlb``."""

    address: int
    flags: str

    def holds(self, address: int) -> bool:
        """Whether an address is in it; 1 GiB, as only the direct map has, counts as 2 MiB."""
        size = 1 << 21 if self.flags[2] == "P" else 1 << 12
        return self.address <= address < self.address + size

    @property
    def executable(self) -> bool:
        """Whether code runs there: the monitor prints X for the no-execute bit."""
        return self.flags[0] == "-"

    @property
    def is_global(self) -> bool:
        """Whether the processor keeps it from one address space to the next."""
        return self.flags[1] == "G"

    @property
    def writable(self) -> bool:
        """Whether it may be written."""
        return self.flags[8] == "W"


def pages_while(machine: Machine, wanted: Callable[[int, int], bool]) -> list[Page]:
    """Stop the only processor where it is wanted, and return what is mapped there.

    :param wanted: takes the privilege level and the instruction pointer.
    """
    for _ in range(500):
        machine.qmp("stop")
        registers = machine.monitor("info registers")
        level, pointer = re.search(r"CPL=(\d)", registers), re.search(r"RIP=(\w+)", registers)
        assert level is not None, registers
        assert pointer is not None, registers
        if wanted(int(level[1]), int(pointer[1], 16)):
            text = machine.monitor("info tlb")
            machine.qmp("cont")
            found = re.findall(r"^([0-9a-f]{16}): [0-9a-f]{16} (\S{9})\s*$", text, re.MULTILINE)
            assert len(found) == len(text.splitlines()), text[:500]
            return [Page(int(address, 16), flags) for address, flags in found]
        machine.qmp("cont")
        time.sleep(0.01)
    pytest.fail("the processor is never where it is wanted")


@pytest.mark.parametrize("paging", ["no5lvl", "la57"])
@pytest.mark.parametrize("pti", ["pti=on", "pti=off"])
def test_nothing_is_writable_and_executable_and_data_are_private(
    start: Start, ring0_image: Ring0, ordinary: dict[str, Path], pti: str, paging: str
) -> None:
    vm = Vm("guest", cmdline=(pti, QUIET, *(["no5lvl"] if paging == "no5lvl" else [])))
    beside = Job((ORDINARY, "protect", "spin"), Mode.BESIDE, any_end=True)
    machine = start(
        kernel=ring0_image.kernel,
        programs=ordinary,
        vm=vm,
        app=RING0,
        argv=(RING0, "protect", "spin"),
        jobs=(beside,),
    )
    deadline = time.monotonic() + GUEST_S
    while len(begun := parts(console(machine))) < 2:
        assert time.monotonic() < deadline, console(machine)[-20:]
        assert machine.wait(0.1) is None, console(machine)[-20:]
    symbols = ring0_image.symbols()
    (address,) = (part.address for part in begun if part.ring == 0)
    slide = address - symbols["ukl.suite_data"]

    def between(first: str, last: str) -> range:
        return range(symbols[first] + slide, symbols[last] + slide)

    text = between("__ukl_text_start", "__ukl_text_end")
    data = between("__ukl_data_start", "__ukl_data_end")
    zero = pages_while(machine, lambda level, at: level == 0 and at in text)
    three = pages_while(machine, lambda level, _: level == 3)
    for pages in (zero, three):
        both_ways = [page for page in pages if page.writable and page.executable]
        assert both_ways == []
        assert any(page.writable for page in pages)
        assert any(page.executable for page in pages)
    mine = [page for page in zero if page.address in data]
    assert address & -4096 in [page.address for page in mine]
    assert [page for page in mine if page.is_global] == []
    assert [page for page in mine if page.executable] == []
    assert [page for page in three if page.address in data] == []
    kernel_data = symbols["init_task"] + slide
    assert any(page.holds(kernel_data) for page in zero)
    assert any(page.holds(kernel_data) for page in three) == (pti == "pti=off")
    assert console(machine) == [line for line in console(machine) if not COMPLAINTS.search(line)]


def test_the_kernel_and_the_application_in_it_move(start: Start, ring0_image: Ring0) -> None:
    # Three of 500 places: that they are all the same by chance happens once in 250,000 runs.
    seen = set()
    for _ in range(3):
        found, _ = run(start, ring0_image, {}, Vm("guest"), Job((RING0, "none"), any_end=True))
        seen.add(found[0].address - ring0_image.symbols()["ukl.suite_data"])
    assert len(seen) > 1
    assert all(slide % 0x200000 == 0 for slide in seen)


def one(part: list[Part]) -> Part:
    """Return the only program's words: it has ended, and nothing was wrong."""
    (found,) = part
    assert found.bad == []
    assert found.ended
    return found


@pytest.mark.parametrize("path", [RING0, ORDINARY])
def test_a_thousand_starts_cost_no_memory(
    start: Start, ring0_image: Ring0, ordinary: dict[str, Path], path: str
) -> None:
    job = Job(("/tests/stress", "leak", path, "1000", "0"), any_end=True, timeout_s=200)
    found, _ = run(start, ring0_image, ordinary, Vm("guest"), job)
    assert names(one(found)) == ["stress.cycles", "stress.leak"]


def test_the_look_at_memory_finds_a_page_lost_every_fourth_time(
    start: Start, ring0_image: Ring0, ordinary: dict[str, Path]
) -> None:
    job = Job(("/tests/stress", "leak", RING0, "1000", "1"), any_end=True, timeout_s=200)
    found, _ = run(start, ring0_image, ordinary, Vm("guest"), job)
    assert [line.partition(":")[0] for line in found[0].bad] == ["stress.leak"]


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("path", [RING0, ORDINARY])
def test_instances_have_their_own_data_and_die_alone(
    start: Start, ring0_image: Ring0, ordinary: dict[str, Path], cpus: int, path: str
) -> None:
    two = Job(("/tests/stress", "two", path), any_end=True, timeout_s=100)
    crash = Job(("/tests/stress", "crash", path, "100"), any_end=True, timeout_s=200)
    vm = Vm("guest", cpus=cpus, cmdline=("pti=on",) if cpus == 2 else ())
    found, _ = run(start, ring0_image, ordinary, vm, two, crash)
    assert names(one(found[:1])) == ["stress.two"]
    assert len(names(one(found[1:]))) == 16


def test_nobody_fakes_the_application_or_traces_it(
    start: Start, ring0_image: Ring0, ordinary: dict[str, Path]
) -> None:
    job = Job(("/tests/security",), any_end=True, timeout_s=100)
    found, _ = run(start, ring0_image, ordinary, Vm("guest"), job)
    assert len(names(one(found))) == 18 + 3 * 14


@pytest.mark.long
def test_nobody_fakes_the_application_in_a_user_namespace(
    start: Start, test_kernel: Ring0, ordinary: dict[str, Path]
) -> None:
    """Nor anything else that the other kernel has no namespaces for."""
    job = Job(("/tests/security",), any_end=True, timeout_s=100)
    found, _ = run(start, test_kernel, ordinary, Vm("guest"), job)
    assert "security.user_namespace" in names(one(found))
    assert len(names(one(found))) == 19 + 3 * 14


def test_ten_thousand_messages_of_two_hundred_clients_are_answered(
    start: Start, kernel: Path, ordinary: dict[str, Path]
) -> None:
    client = Job(("/tests/client", "200", "50"), Mode.BESIDE, any_end=True, name="client")
    programs = {"/tests/client": ordinary["/tests/client"]}
    vm = Vm("guest", cpus=2, cmdline=(QUIET,))
    # The image as it is: its own init and configuration, and the server in ring 0.
    machine = start(base=None, programs=programs, vm=vm, jobs=(client,))
    ended = machine.wait_event(GUEST_S, event="exited", job="client")
    lines = console(machine)
    assert ended is not None, lines[-20:]
    assert [line for line in lines if line.startswith("not ok")] == []
    assert ended.get("code") == 0, lines[-20:]
    assert "# answered 10000" in lines
    assert machine.stop() == Outcome(Kind.EXITED, 0)
    assert [line for line in console(machine) if COMPLAINTS.search(line)] == []
