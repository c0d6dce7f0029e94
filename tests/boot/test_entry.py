# SPDX-License-Identifier: Apache-2.0
"""The first instructions of the kernel, when something else happens just there.

A debugger on the whole machine (QEMU's stub) stops it at an instruction and makes happen
what a processor does once in a thousand years: an NMI whose handler faults, a #DB that MOV SS held
back.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.boot.conftest import HELPER, Start
from tests.boot.gdbstub import Gdb, Registers, disassemble, size_of
from tests.boot.ring0 import RING0, Ring0, ordinary, relink
from tests.waiting import wait_for
from ukl_build.image import Protocol
from ukl_build.initconf import Job, Mode
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import LOCALHOST, Forward, Vm

pytestmark = pytest.mark.boot

BOOT_S = 60.0
STEP_S = 20.0
"""Far more than any single thing here takes; then the guest hangs."""

GATES = (
    *("asm_exc_page_fault", "asm_exc_debug"),
    *("asm_sysvec_apic_timer_interrupt", "asm_common_interrupt"),
)
WHOLE = ("ukl_entry_unsafe_stack", "ukl_syscall", "ukl_syscall_return", "ukl_bypass_return")
GATE = "ukl_sys_39"
"""What entries.c calls for getpid()."""
DISCARD = 9
EFAULT = -14 & (1 << 64) - 1
UNMAPPED = 0xFFFF_FF00_0000_0000
"""No mapping of a kernel is there, with 4 and with 5 levels of page tables."""

CPU_ENTRY_AREA = 0xFFFF_FE00_0000_0000

COMPLAINT = re.compile(
    r"WARNING:|BUG:|Oops|Kernel panic|general protection|segfault|Call Trace|double fault"
    r"|Uhhuh|Dazed|corrupt|rcu:.*stall|lockup"
)


def complaints(machine: Machine) -> list[str]:
    """Return lines of the console in which the kernel complains."""
    lines = machine.console.read_text(errors="backslashreplace").splitlines()
    return [line for line in lines if COMPLAINT.search(line)]


def beats(machine: Machine) -> list[tuple[int, int]]:
    """Return rounds of the program, and how much was wrong in them."""
    text = machine.console.read_text(errors="backslashreplace")
    return [(int(one), int(two)) for one, two in re.findall(r"^beat (\d+) (\d+)\r?$", text, re.M)]


@pytest.fixture(scope="session")
def movss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile movss.c."""
    return ordinary(tmp_path_factory.mktemp("movss"), "movss")


@pytest.fixture(scope="session")
def entries(built: Path, kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> Ring0:
    """Link entries.c into a copy of the kernel: it is /UKL there."""
    return relink(built, tmp_path_factory.mktemp("entries"), ("entries",))


@contextmanager
def debugged(
    start: Start, cmdline: tuple[str, ...] = ("pti=off",), **what: Any
) -> Iterator[tuple[Machine, Path]]:
    """Start a machine that a debugger can connect to, without KASLR.

    It has one processor: QEMU injects an NMI into all.
    """
    # Not below the test's own folder: the name of a socket is short.
    with tempfile.TemporaryDirectory(prefix="ukl-gdb-") as folder:
        path = Path(folder) / "gdb"
        vm = Vm(
            "guest",
            cmdline=("nokaslr", *cmdline),
            forwards=(Forward(0, DISCARD, Protocol.UDP),),
            extra=("-gdb", f"unix:{path},server=on,wait=off"),
        )
        yield start(vm=vm, **what), path


def call(gdb: Gdb, now: Registers, function: int, *arguments: int) -> Registers:
    """Call a function of the kernel from where the machine stands, and go back there.

    :return: the registers after the call.
    """
    here = now["rip"]
    stack = ((now["rsp"] - 512) & ~0xF) - 8
    gdb.write(stack, struct.pack("<Q", here))
    names = ("rdi", "rsi", "rdx")
    gdb.write_registers(
        {"rip": function, "rsp": stack, **dict(zip(names, arguments, strict=False))}
    )
    after = gdb.go(STEP_S, here)
    while after is not None and after["rsp"] != stack + 8:
        after = gdb.go(STEP_S, here)
    assert after is not None, "a call from the debugger does not return"
    names_kept = (*(f"r{n}" for n in range(8, 16)), "rax", "rbx", "rcx", "rdx", "rsi", "rdi")
    gdb.write_registers({name: now[name] for name in (*names_kept, "rbp", "rsp", "rip", "eflags")})
    return after


@contextmanager
def datagrams(machine: Machine) -> Iterator[None]:
    """Send the guest datagrams, so that a device interrupts whatever runs there."""
    port = machine.host_port(DISCARD, Protocol.UDP)
    over = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not over.wait(0.002):
                sender.sendto(b"x", (LOCALHOST, port))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Nmi:
    """Injects NMIs, and plays a handler of them that takes a page fault."""

    def __init__(self, gdb: Gdb, machine: Machine, names: Mapping[str, int]) -> None:
        self.gdb = gdb
        self.machine = machine
        self.entry = names["asm_exc_nmi"]
        self.handler = names["default_do_nmi"]
        self.nofault = names["copy_from_kernel_nofault"]
        self.count = 0

    def at(self, now: Registers) -> None:
        """Have one at the instruction where the machine stands, and see that nothing changed."""
        gdb = self.gdb
        # The program's own stack may not be there.
        kernel = now["rsp"] >= CPU_ENTRY_AREA
        frame = gdb.read(now["rsp"], size := min(64, -now["rsp"] & 0xFFF)) if kernel else b""
        self.machine.qmp("inject-nmi")
        entered = gdb.go(STEP_S, self.entry)
        assert entered is not None, f"no NMI at {now['rip']:#x}"
        assert gdb.read_word(entered["rsp"]) == now["rip"], "the NMI came elsewhere"
        inside = gdb.go(STEP_S, self.handler)
        assert inside is not None, f"the NMI at {now['rip']:#x} has no handler"
        after = call(gdb, inside, self.nofault, inside["rsp"] - 64, UNMAPPED, 8)
        assert after["rax"] == EFAULT, f"{after['rax']:#x} from the access in the handler"
        # It was ours: the handlers of the kernel would call it unknown.
        gdb.write_registers({"rip": gdb.read_word(inside["rsp"]), "rsp": inside["rsp"] + 8})
        back = gdb.go(STEP_S, now["rip"])
        while back is not None and back["rsp"] != now["rsp"]:
            back = gdb.go(STEP_S, now["rip"])
        assert back is not None, f"no return from the NMI at {now['rip']:#x}"
        changed = {name: (now[name], back[name]) for name in now if now[name] != back[name]}
        assert not changed, f"the NMI at {now['rip']:#x} changed {changed}"
        if frame:
            assert gdb.read(now["rsp"], size) == frame, f"another frame at {now['rip']:#x}"
        self.count += 1


def instructions(gdb: Gdb, begin: int, size: int, scratch: Path) -> dict[int, str]:
    """Return the instructions as they are in memory, alternatives applied."""
    return disassemble(gdb.read(begin, size), begin, scratch)


def until(mnemonic: str, code: dict[int, str]) -> dict[int, str]:
    """Return what comes up to the first such instruction, that included."""
    found = {}
    for address, text in code.items():
        found[address] = text
        if text.startswith(mnemonic):
            return found
    raise AssertionError(f"there is no {mnemonic}")


def target(branch: str) -> int:
    """Return where a direct jump leads."""
    return int(branch.split()[1], 16)


def never_run(code: dict[int, str], entry_end: int, data_end: int) -> set[int]:
    """Return what only an overflow of a kernel stack, a wild jump, or nobody, runs.

    :param entry_end: a comparison with this is only reached by a fault in the entry's text.
    :param data_end: one with this, and the three instructions behind it, only by an application
        with a stack of its own that runs somebody else's text.
    """
    found: set[int] = set()
    rows = list(code)
    for number, address in enumerate(rows):
        if code[address] == f"cmp $0x{data_end:x},%rax":
            found.update(rows[number : number + 4])
    block: list[int] = []
    for address, text in code.items():
        if re.match(r"(data16 |cs )*(nopw|nopl|xchg %ax,%ax|nop$|int3$)", text):
            found.add(address)
            continue
        block.append(address)
        if len(block) > 1 and code[block[-2]] == f"cmp $0x{entry_end:x},%rax":
            found.update(block[-2:])
        if text.startswith("jmp"):
            if len(block) > 8 and "xchg %rax,%rsp" in [code[one] for one in block]:
                found.update(block)
            block = []
    return found


def prologues(
    gdb: Gdb, image: Ring0, names: Mapping[str, int], scratch: Path
) -> dict[str, dict[int, str]]:
    """Return the instructions of each way into the kernel."""
    found = {name: until("call", instructions(gdb, names[name], 0x100, scratch)) for name in GATES}
    for name in WHOLE:
        size = size_of(image.vmlinux, name)
        found[name] = instructions(gdb, names[name], size, scratch)
    # A gate of a system call, and behind its jump the part of it that is kernel text, with the way
    # out where there is something to do.
    found[GATE] = until("jmp", instructions(gdb, names[GATE], 0x40, scratch))
    within = target(list(found[GATE].values())[-1])
    found["bypass"] = until("jmp", instructions(gdb, within, 0x80, scratch))
    (work,) = [target(text) for text in found["bypass"].values() if text.startswith("jne")]
    found["bypass_work"] = until("jmp", instructions(gdb, work, 0x80, scratch))
    return found


def sweep(
    gdb: Gdb, machine: Machine, image: Ring0, folder: Path, time_s: float
) -> tuple[int, list[str]]:
    """Have an NMI at every instruction of the prologues.

    :return: how many there were, and the instructions never reached.
    """
    names = image.symbols()
    # Page tables of CPL 3 need not have the application's text.
    assert gdb.go(STEP_S, names["do_ukl_call"]) is not None, "no system call"
    ways = prologues(gdb, image, names, folder / "code")
    nmi = Nmi(gdb, machine, names)
    left = {address: name for name, code in ways.items() for address in code}
    for name, code in ways.items():
        end_of_entry = names["__entry_text_end"] if name == "asm_exc_page_fault" else 0
        for address in never_run(code, end_of_entry, names["__ukl_data_end"]):
            left.pop(address, None)
    end = time.monotonic() + time_s
    while left and time.monotonic() < end:
        now = gdb.go(5.0, *left)
        if now is None:
            break
        nmi.at(now)
        del left[now["rip"]]
    texts = {address: text for code in ways.values() for address, text in code.items()}
    return nmi.count, [f"{left[one]} {one:x}: {texts[one]}" for one in sorted(left)]


def goes_on(machine: Machine) -> None:
    """Check that the program goes on, and had nothing wrong."""
    before = len(beats(machine))
    wait_for(lambda: len(beats(machine)) >= before + 5, "five more rounds", STEP_S)
    assert [row for row in beats(machine) if row[1]] == []
    assert complaints(machine) == []


def start_beating(
    start: Start, image: Ring0, movss: Path, cmdline: tuple[str, ...] = ("pti=off",)
) -> contextlib.AbstractContextManager[tuple[Machine, Path]]:
    """Start a machine in which the program runs for ever."""
    jobs = (
        Job((RING0, "beat"), Mode.BESIDE, any_end=True),
        Job(("/movss", "1000000000"), Mode.BESIDE, any_end=True),
        Job((HELPER, "sleep", "10000")),
    )
    programs = {"/movss": movss}
    return debugged(start, cmdline, kernel=image.kernel, app="", jobs=jobs, programs=programs)


@pytest.mark.parametrize(
    "cmdline",
    [("pti=off",), pytest.param(("pti=on", "no5lvl"), marks=pytest.mark.long)],
    ids=" ".join,
)
def test_an_nmi_may_come_at_every_instruction_of_the_entry(
    start: Start, entries: Ring0, movss: Path, tmp_path: Path, cmdline: tuple[str, ...]
) -> None:
    with start_beating(start, entries, movss, cmdline) as (machine, path):
        wait_for(lambda: beats(machine), "the first round", BOOT_S)
        with Gdb(path) as gdb, datagrams(machine):
            count, never = sweep(gdb, machine, entries, tmp_path, 300)
        print(f"{count} NMIs")
        assert never == [], "\n".join(never)
        assert count > 200
        goes_on(machine)


def test_a_fault_in_an_nmi_needs_room_on_the_ist_stack(
    start: Start, entries: Ring0, movss: Path, tmp_path: Path
) -> None:
    """The test above sees what it is for: without the room, a frame is overwritten."""
    with start_beating(start, entries, movss) as (machine, path):
        wait_for(lambda: beats(machine), "the first round", BOOT_S)
        names = entries.symbols()
        with Gdb(path) as gdb:
            code = instructions(gdb, names["exc_nmi"], 0x140, tmp_path / "code")
            moves = [a for a, text in code.items() if re.match(r"addq \$0x(f+00|100),%gs:", text)]
            assert len(moves) == 2
            for address in moves:
                # 65 48 81 05 disp32 imm32
                gdb.write(address + 8, bytes(4))
            with pytest.raises(AssertionError, match="another frame"):
                sweep(gdb, machine, entries, tmp_path, 100)


def test_interrupts_come_on_a_stack_that_is_not_there(start: Start, entries: Ring0) -> None:
    machine = start(kernel=entries.kernel, app="", jobs=(Job((RING0, "stack", "3000")),))
    outcome = machine.wait(BOOT_S)
    assert outcome == Outcome(Kind.EXITED, 0), machine.console.read_text()
    assert complaints(machine) == []


def test_without_ist_an_interrupt_on_a_stack_that_is_not_there_is_lost(
    start: Start, entries: Ring0
) -> None:
    """The test above sees what it is for."""
    jobs = (Job((HELPER, "sleep", "1")), Job((RING0, "stack", "3000"), timeout_s=5, any_end=True))
    with debugged(start, kernel=entries.kernel, app="", jobs=jobs) as (machine, path):
        assert machine.wait_event(BOOT_S, event="started", job="job0") is not None
        with Gdb(path) as gdb:
            idt = int(re.search(r"IDT=\s+([0-9a-f]+)", machine.monitor("info registers"))[1], 16)  # type: ignore[index]
            for vector in range(32, 256):
                gdb.write(idt + vector * 16 + 4, b"\0")
        # The timer never ticks again, not even to kill the job; or #DF meets what it cannot handle.
        outcome = machine.wait(25)
        assert outcome is None or outcome.kind is Kind.PANIC
        assert "ok stack." not in machine.console.read_text()


def test_mov_ss_before_a_system_call_does_no_harm(
    start: Start, entries: Ring0, movss: Path
) -> None:
    jobs = (
        Job((RING0, "beat"), Mode.BESIDE, any_end=True),
        Job(("/movss", "2000")),
    )
    machine = start(
        kernel=entries.kernel, app="", jobs=jobs, programs={"/movss": movss}, vm=Vm("guest", cpus=2)
    )
    ended = machine.wait_event(BOOT_S, event="exited", job="job1")
    assert ended is not None, machine.console.read_text()
    assert ended.get("code") == 0, machine.console.read_text()
    # The console is slower than the port that says how a job ended.
    wait_for(lambda: "movss.reports" in machine.console.read_text(), "the last check", STEP_S)
    text = machine.console.read_text()
    assert "ok movss.survives" in text
    assert "ok movss.reports" in text
    goes_on(machine)


MARK = 0x6D6F_7673_73
"""In RBX while movss.c does what matters."""


class HeldBack:
    """Plays a #DB that MOV SS held back: what a processor does and QEMU does not.

    QEMU reports the watchpoint before the next instruction, at CPL 3.  A processor does at the
    first instruction of the kernel, at CPL 0.
    """

    def __init__(self, gdb: Gdb, machine: Machine, names: Mapping[str, int], folder: Path) -> None:
        self.gdb = gdb
        self.machine = machine
        self.entry = names["asm_exc_debug"]
        code = instructions(gdb, names["exc_debug"], 0x400, folder / "code")
        self.set_dr6 = next(a for a, text in code.items() if re.fullmatch(r"mov %r\w+,%db6", text))
        self.source = re.fullmatch(r"mov %(r\w+),%db6", code[self.set_dr6])[1]  # type: ignore[index]
        self.stack = self._ist(machine)

    def _ist(self, machine: Machine) -> int:
        """Return the top of the stack that #DB has."""
        shown = machine.monitor("info registers")
        tables = {
            name: int(base, 16)
            for name, base in re.findall(r"(TR|IDT) ?=\s*(?:[0-9a-f]{4} )?([0-9a-f]{16})", shown)
        }
        number = self.gdb.read(tables["IDT"] + 16 + 4, 1)[0] & 7
        assert number, "#DB has no IST stack"
        return self.gdb.read_word(tables["TR"] + 36 + (number - 1) * 8)

    def at(self, now: Registers) -> None:
        """Have it at the instruction where the machine stands."""
        gdb = self.gdb
        gdb.write_registers({"rip": self.set_dr6, self.source: 0xFFFF0FF1})
        gdb.step()
        rsp = (self.stack & ~0xF) - 40
        frame = (now["rip"], now["cs"], now["eflags"], now["rsp"], now["ss"])
        gdb.write(rsp, struct.pack("<5Q", *frame))
        gdb.write_registers(
            {
                self.source: now[self.source],
                "rip": self.entry,
                "rsp": rsp,
                # Not IF, TF, NT, RF.
                "eflags": now["eflags"] & ~0x1_4300,
            }
        )
        back = gdb.go(STEP_S, now["rip"])
        assert back is not None, "no return from #DB"
        changed = {name: (now[name], back[name]) for name in now if now[name] != back[name]}
        # The kernel has read the reason, or it would still be there.
        assert re.search(r"DR6=0*ffff0ff0\b", self.machine.monitor("info registers"))
        # RF is set on the way back.
        changed.pop("eflags", None)
        assert not changed, f"#DB changed {changed}"


def start_movss(
    start: Start, image: Ring0, movss: Path
) -> contextlib.AbstractContextManager[tuple[Machine, Path]]:
    """Start a machine in which movss.c runs as job2, beside the program in ring 0."""
    jobs = (
        Job((RING0, "beat"), Mode.BESIDE, any_end=True),
        Job((HELPER, "sleep", "1")),
        Job(("/movss", "500", "played")),
    )
    programs = {"/movss": movss}
    return debugged(start, kernel=image.kernel, app="", jobs=jobs, programs=programs)


def play(gdb: Gdb, held: HeldBack, address: int, times: int) -> None:
    """Have a #DB held back to an instruction of the kernel whenever movss.c comes there."""
    while times:
        now = gdb.go(STEP_S, address)
        assert now is not None, "movss.c stands still"
        if now["rbx"] == MARK:
            held.at(now)
            times -= 1


@pytest.mark.parametrize("where", ["entry_SYSCALL_64", "asm_exc_int3", "asm_exc_overflow"])
def test_a_debug_exception_may_be_held_back_to_the_first_instruction_of_the_kernel(
    start: Start, entries: Ring0, movss: Path, tmp_path: Path, where: str
) -> None:
    names = entries.symbols()
    with start_movss(start, entries, movss) as (machine, path):
        assert machine.wait_event(BOOT_S, event="started", job="job2") is not None
        with Gdb(path) as gdb:
            play(gdb, HeldBack(gdb, machine, names, tmp_path), names[where], 60)
        ended = machine.wait_event(BOOT_S, event="exited", job="job2")
        assert ended is not None, machine.console.read_text()
        assert ended.get("code") == 0, machine.console.read_text()
        goes_on(machine)


def test_a_debug_exception_in_entry_text_is_not_the_applications(
    start: Start, entries: Ring0, movss: Path, tmp_path: Path
) -> None:
    """The test above sees what it is for: a user's stack there does not make it CPL 0's."""
    names = entries.symbols()
    with start_movss(start, entries, movss) as (machine, path):
        assert machine.wait_event(BOOT_S, event="started", job="job2") is not None
        with Gdb(path) as gdb:
            code = instructions(gdb, names["asm_exc_debug"], 0x80, tmp_path / "code")
            rows = list(code.items())
            compare = next(
                number
                for number, (_, text) in enumerate(rows)
                if text == f"cmp $0x{names['__entry_text_end']:x},%rax"
            )
            jump, after = rows[compare + 1][0], rows[compare + 2][0]
            gdb.write(jump, b"\x90" * (after - jump))
            with pytest.raises(AssertionError, match="no return from #DB"):
                play(gdb, HeldBack(gdb, machine, names, tmp_path), names["entry_SYSCALL_64"], 3)


def test_the_kernel_is_compiled_without_a_warning(built: Path) -> None:
    """Seen where all of it is compiled, as in a fresh clone; its own build would go on."""
    log = (built.parent / "logs" / built.name / "make.log").read_text()
    assert [line for line in log.splitlines() if "warning: " in line] == []
