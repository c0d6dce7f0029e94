# SPDX-License-Identifier: Apache-2.0
"""What a crash probably comes from, and what to do: a table; pure.

A rule says no more than what was printed supports.  The first that fits is the one that is told, so
special ones stand before general ones; none is an answer as well.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from ukl_build.run.crash.console import Crash, Kind, Seen
from ukl_build.run.crash.places import KERNEL_IMAGE

FIRST_PAGES = 0x1_0000
"""Bytes from 0 on where nothing can be mapped (vm.mmap_min_addr): members of a NULL structure."""

KERNEL_HALF = 0xFF00_0000_0000_0000
"""Where the kernel's half begins at the earliest, with five levels of page tables."""

USER_HALF_4 = 1 << 47
"""Where user memory ends with four levels."""

STACK_NEAR = 0x1_0000
"""Bytes from the stack pointer within which an access is one to the stack."""

PRESENT, WRITE, FETCH = 1 << 0, 1 << 1, 1 << 4
"""Bits of a page fault's error code (Intel SDM, volume 3, "Page-Fault Exceptions")."""

_PRIVILEGED = (
    *(b"\xf4", b"\xfa", b"\xfb", b"\x0f\x30", b"\x0f\x32", b"\x0f\x22", b"\x0f\x20"),
    *(b"\x0f\x06", b"\x0f\x08", b"\x0f\x09", b"\x0f\x01", b"\x0f\x00"),
    *(b"\xe4", b"\xe5", b"\xe6", b"\xe7", b"\xec", b"\xed", b"\xee", b"\xef"),
)
"""hlt, cli, sti, wrmsr, rdmsr, mov of CR, clts, invd, wbinvd, the system tables, in, out."""

_UD2 = b"\x0f\x0b"
_VECTOR = (b"\xc4", b"\xc5", b"\x62")
"""How instructions of AVX and AVX-512 begin."""

_NOP5 = b"\x0f\x1f\x44\x00\x00"


@dataclass(frozen=True)
class Evidence:
    """What a rule looks at."""

    seen: Seen
    crash: Crash
    ring0: bool = True
    """Whether the application is linked into the kernel."""
    own: bool = True
    """Whether the application's own code was running, and not the kernel's."""

    @property
    def address(self) -> int | None:
        """What was accessed."""
        return self.crash.address

    def fault(self, bits: int) -> bool:
        """Tell whether a page fault's error code has some bits."""
        return self.crash.trap == "page fault" and ((self.crash.error or 0) & bits) == bits

    def said(self, pattern: str) -> bool:
        """Tell whether the kernel gave a reason."""
        text = (self.crash.title, *self.crash.lines, self.seen.panic, *self.seen.lines)
        return any(re.search(pattern, line) for line in text)

    def wrote(self, pattern: str) -> bool:
        """Tell whether the application, or another program, wrote something shortly before."""
        return any(re.search(pattern, line) for line in self.crash.words)

    def killed_by(self, *numbers: signal.Signals) -> bool:
        """Tell whether a process is killed by one of some signals."""
        return self.crash.signal in numbers


@dataclass(frozen=True)
class Rule:
    """One cause."""

    name: str
    fits: Callable[[Evidence], bool] = field(repr=False)
    cause: str
    """A sentence; ``{address}`` is what was accessed."""
    advice: str
    """A sentence: what to do."""


def _of_process(seen: Evidence) -> bool:
    return seen.crash.kind is Kind.SIGNAL


def _of_kernel(seen: Evidence) -> bool:
    return seen.crash.kind in (Kind.OOPS, Kind.PANIC)


def _emulator(seen: Evidence) -> bool:
    crash = seen.crash
    around = crash.code[max(0, crash.at - 1) :]
    return crash.trap == "int3" and crash.at > 0 and around.startswith(_NOP5)


def _stack(seen: Evidence) -> bool:
    """Tell an access beside the stack pointer.  What is mapped of a stack grows by itself."""
    address, stack = seen.address, seen.crash.stack
    return (
        _of_process(seen)
        and seen.crash.trap == "page fault"
        and not seen.fault(PRESENT)
        and not seen.fault(FETCH)
        and address is not None
        and stack is not None
        and -STACK_NEAR <= address - stack < 0x1000
        and address >= FIRST_PAGES
    )


def _null(seen: Evidence) -> bool:
    return (
        seen.crash.trap == "page fault" and seen.address is not None and seen.address < FIRST_PAGES
    )


def _user_address(seen: Evidence) -> bool:
    return seen.address is not None and FIRST_PAGES <= seen.address < USER_HALF_4


def _noncanonical(seen: Evidence) -> bool:
    if seen.crash.trap != "general protection fault":
        return False
    if seen.crash.address is not None:
        return True
    general = ("RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP")
    numbers = [seen.crash.registers.get(f"R{number:02}", 0) for number in range(8, 16)]
    numbers += [seen.crash.registers.get(name, 0) for name in general]
    return any(USER_HALF_4 <= one < 0xFFFF_8000_0000_0000 for one in numbers)


def _sent(seen: Evidence) -> bool:
    """Tell a signal that a system call has sent from one that is for a fault."""
    return _of_process(seen) and not seen.crash.trap and "ORIG_RAX" in seen.crash.registers


RULES: tuple[Rule, ...] = (
    # --- The machine and the kernel as a whole
    Rule(
        "emulator",
        _emulator,
        "The emulator ran an instruction that the kernel was just changing; this is QEMU's defect.",
        "Start it again; if it comes often, use one processor (--cpus 1) or KVM.",
    ),
    Rule(
        "no-memory",
        lambda it: it.crash.kind is Kind.MEMORY or it.said(r"System is deadlocked on memory"),
        "The guest's memory is used up.",
        "Give it more with -m, or look which process grows in the kernel's list on the console.",
    ),
    Rule(
        "image-too-big",
        lambda it: it.said(r"Initramfs unpacking failed: write error"),
        "The guest's files do not fit into its memory.",
        "Give it more memory with -m, or fewer files.",
    ),
    Rule(
        "no-root",
        lambda it: it.said(r"VFS: (?:Cannot open root device|Unable to mount root fs)"),
        "The kernel found neither its initramfs nor a root disk that it can read.",
        "Check root= and the disk; its kernel needs fragments=ext4,virtio-blk to use one.",
    ),
    Rule(
        "no-init",
        lambda it: it.said(r"No working init found|Requested init \S+ failed"),
        "The program that the kernel shall start first is not in the guest, or cannot be executed.",
        "Check rdinit= and init= among the kernel's parameters, and that file's permissions.",
    ),
    Rule(
        "file-system-missing",
        lambda it: it.said(r"unknown filesystem type") or it.wrote(r"unknown filesystem type"),
        "The kernel lacks a file system that shall be mounted.",
        "Build it in with a fragment of kconfig/, such as fragments=ext4 or fragments=9p.",
    ),
    Rule(
        "init-ended",
        lambda it: it.said(r"Attempted to kill init!") and it.crash.kind is Kind.PANIC,
        "Process 1 has ended, which the kernel does not survive.",
        "Look on the console for what it said last.",
    ),
    Rule(
        "lockup",
        lambda it: it.crash.kind is Kind.LOCKUP and not it.said(r"blocked for more than"),
        "A processor has not come out of one place: an endless loop or a lock that nobody frees.",
        "Start at the innermost function of the trace; under emulation rule out a busy host first.",
    ),
    Rule(
        "hung-task",
        lambda it: it.crash.kind is Kind.LOCKUP,
        "A process waits for something that does not come: a disk, a share, or a lock.",
        "The innermost functions of the trace say what it waits for.",
    ),
    Rule(
        "kernel-stack",
        lambda it: _of_kernel(it) and it.said(r"[Ss]tack guard page|[Kk]ernel stack overflow"),
        "The kernel's stack is used up: a recursion, or large variables.",
        "Look for what repeats in the trace.",
    ),
    Rule(
        "double-fault",
        lambda it: _of_kernel(it) and it.crash.trap == "double fault",
        "The kernel could not handle a fault, mostly because its stack pointer was wrong.",
        "Look at RSP: a stack used up is just below its end, anything else has been overwritten.",
    ),
    Rule(
        "kernel-stack-overwritten",
        lambda it: it.said(r"stack-protector: Kernel stack is corrupted"),
        "A function of the kernel wrote behind an array on its stack.",
        "The panic names the function; without one of your own there, suspect a wild pointer of"
        " the application.",
    ),
    Rule(
        "kernel-bug",
        lambda it: _of_kernel(it) and it.said(r"kernel BUG at|detected buffer overflow|usercopy:"),
        "The kernel found a state that its code holds to be impossible.",
        "Read the condition at that line; a wild store of the application can have caused it.",
    ),
    Rule(
        "kernel-warning",
        lambda it: it.crash.kind is Kind.WARNING,
        "The kernel found something to be wrong and went on.",
        "Read the condition at that line.",
    ),
    Rule(
        "smep",
        lambda it: _of_kernel(it) and it.said(r"SMEP"),
        "The kernel was about to execute user memory, which SMEP forbids.",
        "A function pointer of the kernel is wrong: look at the caller.",
    ),
    Rule(
        "smap",
        lambda it: (
            _of_kernel(it) and it.fault(PRESENT) and not it.fault(FETCH) and _user_address(it)
        ),
        "The kernel accessed user memory at {address} directly, which SMAP forbids.",
        "Use copy_from_user() and copy_to_user(), or find where the pointer comes from.",
    ),
    Rule(
        "kernel-data-executed",
        lambda it: _of_kernel(it) and (it.said(r"NX-protected page") or it.fault(FETCH | PRESENT)),
        "The kernel jumped into data, at {address}.",
        "A function pointer or a return address is wrong: look at the caller.",
    ),
    Rule(
        "kernel-null",
        lambda it: _of_kernel(it) and _null(it),
        "The kernel used a NULL pointer ({address}).",
        "Look at the function and its caller for what can be NULL.",
    ),
    Rule(
        "kernel-read-only",
        lambda it: _of_kernel(it) and it.fault(PRESENT | WRITE),
        "The kernel wrote to memory that is read-only, at {address}.",
        "It is text or a constant: find who has a pointer to it that is not const.",
    ),
    # --- A process: what it has said itself
    Rule(
        "stack-smashed",
        lambda it: it.killed_by(signal.SIGABRT) and it.wrote(r"stack smashing detected"),
        "A function of the application wrote behind an array on its stack.",
        "Compile it with -fsanitize=address as an ordinary program, and run that.",
    ),
    Rule(
        "heap-damaged",
        lambda it: (
            it.killed_by(signal.SIGABRT)
            and it.wrote(
                r"double free|free\(\): invalid|malloc\(\): |corrupted (?:size|double-linked)|"
                r"realloc\(\): |munmap_chunk\(\)|malloc_consolidate\(\)"
            )
        ),
        "The heap is damaged: something was freed twice, or written behind its end.",
        "Compile it with -fsanitize=address as an ordinary program, and run that.",
    ),
    Rule(
        "assertion",
        lambda it: it.killed_by(signal.SIGABRT) and it.wrote(r"Assertion `.*' failed"),
        "An assertion of the application does not hold; it is on the console.",
        "Look at that line of the source.",
    ),
    Rule(
        "exception",
        lambda it: it.killed_by(signal.SIGABRT) and it.wrote(r"terminate called"),
        "A C++ exception was thrown that nobody catches.",
        "The console has its type; catch it, or remove the reason.",
    ),
    Rule(
        "kernel-option",
        lambda it: (
            _of_process(it)
            and not it.crash.trap
            and it.wrote(r"Function not implemented|\bENOSYS\b|Address family not supported")
        ),
        "The application was told by the kernel that it lacks a system call, and gave up.",
        "Build the kernel with the option it belongs to: scons app=NAME menuconfig shows them.",
    ),
    Rule(
        "dlopen",
        lambda it: (
            _of_process(it)
            and not it.crash.trap
            and it.wrote(r"dlopen|cannot (?:open|load|dynamically load) .*(?:shared object|\.so\b)")
        ),
        "The application wanted to load a library at run time, which cannot work in ring 0.",
        "Link what it needs statically; see What cannot work in the README.",
    ),
    Rule(
        "executable-memory",
        lambda it: (
            it.ring0
            and _of_process(it)
            and not it.crash.trap
            and it.wrote(
                r"(?i)(?:mmap|mprotect|jit|exec).*(?:permission denied|\bEACCES\b|errno 13)"
            )
        ),
        "The application wanted memory that it can execute, which ring 0 does not allow.",
        "Turn its compiler at run time (JIT) off; see What cannot work in the README.",
    ),
    Rule(
        "abort",
        lambda it: it.killed_by(signal.SIGABRT),
        "The application gave up by itself: it called abort().",
        "It mostly says why before, on the console; gdb (--gdb, hbreak abort) shows the caller.",
    ),
    Rule(
        "seccomp",
        lambda it: it.killed_by(signal.SIGSYS),
        "A system call is forbidden by a filter that the process has set up for itself (seccomp).",
        "Allow it in that filter, or switch the filter off.",
    ),
    Rule(
        "sent",
        _sent,
        "No fault: a process has sent that signal, perhaps a handler that has reported the fault.",
        "Read what the application wrote before.",
    ),
    # --- A process: what the processor says
    Rule(
        "stack-overflow",
        _stack,
        "The stack is used up: {address} is beside the stack pointer, where nothing is mapped.",
        "Look for an endless recursion or large variables, or raise the limit stack of"
        " guest.limits in the recipe (of threads: pthread_attr_setstacksize).",
    ),
    Rule(
        "null-call",
        lambda it: _of_process(it) and _null(it) and it.fault(FETCH),
        "A function pointer that was called is NULL ({address}).",
        "Look who sets it; a weak function that nobody defines is NULL as well.",
    ),
    Rule(
        "null",
        lambda it: _of_process(it) and _null(it),
        "A pointer is NULL: {address} is 0 or the offset of a member.",
        "Look at that line for what can be NULL, such as a result that was not checked.",
    ),
    Rule(
        "data-executed",
        lambda it: _of_process(it) and it.fault(FETCH | PRESENT),
        "The application jumped into data, at {address}, which is not executable.",
        "A function pointer or a return address is overwritten, or it makes code at run time,"
        " which cannot work in ring 0.",
    ),
    Rule(
        "wild-jump",
        lambda it: _of_process(it) and it.fault(FETCH),
        "The application jumped to {address}, where there is no code.",
        "A function pointer or a return address is overwritten; gdb shows the stack (--gdb).",
    ),
    Rule(
        "read-only",
        lambda it: (
            _of_process(it)
            and it.fault(PRESENT | WRITE)
            and (not it.ring0 or (it.address or 0) >= KERNEL_IMAGE or _user_address(it))
        ),
        "The application wrote to memory that is read-only, at {address}: a constant or code.",
        "Find who casts const away; string literals are constants.",
    ),
    Rule(
        "kernel-memory",
        lambda it: (
            _of_process(it) and it.crash.trap == "page fault" and (it.address or 0) >= KERNEL_HALF
        ),
        "A wild pointer: {address} is in the kernel's half, where nothing of the application is.",
        "Look where it comes from; mind that in ring 0 a store that hits the kernel's own memory"
        " is not noticed.",
    ),
    Rule(
        "wild-pointer",
        lambda it: _of_process(it) and it.crash.trap == "page fault",
        "A wild pointer: nothing that it may access is mapped at {address}.",
        "Look where it comes from: used after free or munmap, or never set.",
    ),
    Rule(
        "privileged",
        lambda it: (
            _of_process(it)
            and it.crash.trap == "general protection fault"
            and it.crash.here.startswith(_PRIVILEGED)
        ),
        "An instruction that only ring 0 may execute, or whose operand the processor refuses.",
        "An ordinary process may not use it at all; in ring 0 check the operand.",
    ),
    Rule(
        "noncanonical",
        _noncanonical,
        "A wild pointer that is no address at all: its upper bits are neither all 0 nor all 1.",
        "Look in the registers for which; text or a pattern such as 6b6b6b6b says what overwrote"
        " it.",
    ),
    Rule(
        "divide",
        lambda it: it.crash.trap == "divide error" or it.killed_by(signal.SIGFPE),
        "An integer was divided by 0, or the quotient is too large.",
        "Check the divisor at that line.",
    ),
    Rule(
        "trap",
        lambda it: (
            _of_process(it) and it.crash.trap == "invalid opcode" and it.crash.here.startswith(_UD2)
        ),
        "The compiler put a trap there: __builtin_trap(), or code that cannot be reached.",
        "Look at that line for undefined behaviour, such as a function without a return.",
    ),
    Rule(
        "instruction-missing",
        lambda it: (
            _of_process(it)
            and it.crash.trap == "invalid opcode"
            and it.crash.here.startswith(_VECTOR)
        ),
        "The processor of the guest lacks an instruction of AVX or AVX-512.",
        "Compile for a plainer processor (-march=x86-64), or run with --accel kvm where the host"
        " has it.",
    ),
    Rule(
        "bus",
        lambda it: it.killed_by(signal.SIGBUS),
        "Memory of a file was accessed behind the file's end, or its disk could not be read.",
        "Check whether the file was made shorter while it was mapped.",
    ),
)


def cause(evidence: Evidence) -> Rule | None:
    """Return the rule that fits, None if there is none."""
    return next((rule for rule in RULES if rule.fits(evidence)), None)


def told(text: str, evidence: Evidence) -> str:
    """Return a rule's sentence with what was seen in it."""
    shown = "unknown" if evidence.address is None else f"{evidence.address:#x}"
    return text.replace("{address}", shown)
