# SPDX-License-Identifier: Apache-2.0
"""What a kernel says on its console when something goes wrong; pure.

A guest is not trusted, and what it prints is cut, mixed and unfinished: nothing here raises, every
line and every list has a bound, and what does not look like the kernel's is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

MAX_LINE = 1000
"""Characters of a line that are looked at."""

MAX_TRACE = 64
"""Lines of a call trace that are kept."""

MAX_REPORT = 400
"""Lines behind its first one that a crash can be told in."""

MAX_CRASHES = 256

WORDS = 20
"""Lines of others before a crash that are kept: the application's last words."""


class Kind(StrEnum):
    """What the kernel reports."""

    SIGNAL = "signal"
    """A process is killed by a signal that stands for a fault: its own or somebody's ``kill``."""
    OOPS = "oops"
    """The kernel faulted: a page fault, a BUG, a double fault and so on."""
    WARNING = "warning"
    """The kernel found something to be wrong, and goes on."""
    LOCKUP = "lockup"
    """A processor or a task makes no progress."""
    MEMORY = "memory"
    """A process is killed for its memory."""
    PANIC = "panic"
    """The kernel gives up, without an oops before."""


@dataclass(frozen=True)
class Spot:
    """A place in code as it is printed: by its name, or as a bare number."""

    symbol: str = ""
    offset: int = 0
    size: int = 0
    """Bytes up to the next symbol that the kernel knows; 0 with an address."""
    address: int | None = None
    """Where it ran, moved by KASLR; None if there is a symbol."""
    certain: bool = True
    """False for what is marked by ``?``: on the stack, but perhaps left over."""


@dataclass
class Crash:
    """One report of the kernel; fields are as it printed them, or empty."""

    kind: Kind
    title: str
    """The line that begins it, without time."""
    lines: list[str] = field(default_factory=list)
    """All of the kernel's lines that say why, such as ``#PF: ...``."""
    process: str = ""
    pid: int | None = None
    trap: str = ""
    """What the processor raised, in the kernel's words."""
    signal: int | None = None
    address: int | None = None
    """What was accessed, of a page fault."""
    error: int | None = None
    """The page fault's error code."""
    spot: Spot | None = None
    """Where it was."""
    ip: int | None = None
    """The same as a number, where it is printed."""
    code: bytes = b""
    """The instructions around it."""
    at: int = 0
    """Index in :attr:`code` of the byte at :attr:`ip`."""
    registers: dict[str, int] = field(default_factory=dict)
    trace: list[Spot] = field(default_factory=list)
    """Callers, the innermost first."""
    words: tuple[str, ...] = ()
    """What others wrote shortly before, the application above all."""

    @property
    def here(self) -> bytes:
        """The instructions from where it was on."""
        return self.code[self.at :]

    @property
    def stack(self) -> int | None:
        """The stack pointer."""
        return self.registers.get("RSP")


@dataclass(frozen=True)
class Seen:
    """What a console says of a run."""

    crashes: tuple[Crash, ...] = ()
    panic: str = ""
    """The reason of a panic."""
    moved: int | None = None
    """KASLR's offset, where the kernel prints it: in a panic alone."""
    lines: tuple[str, ...] = ()
    """What the kernel said beside that is known to be of interest, see :data:`_REMARK`."""
    words: tuple[str, ...] = ()
    """The last lines that are not the kernel's."""


_TIME = re.compile(r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? ?")
_UNPRINTABLE = re.compile(r"[^ -~]")

_SPOT = r"(?P<symbol>[A-Za-z_.$][\w.$]*)\+0x(?P<offset>[0-9a-f]{1,8})/0x(?P<size>[0-9a-f]{1,8})"
_PLACE = rf"(?:{_SPOT}|0x(?P<address>[0-9a-f]{{1,16}}))"
_RIP = re.compile(rf"RIP: [0-9a-f]{{4}}:{_PLACE}")
_FRAME = re.compile(rf" (?P<doubt>\? )?{_PLACE}(?: \[\w+\])?\s*$")
_REGISTER = re.compile(
    r"\b(R[A-D]X|R[SD]I|R[BS]P|R\d\d|ORIG_RAX|EFLAGS|FS|GS|CR\d|RSP): *(?:[0-9a-f]{4}:)?"
    r"([0-9a-f]{8,16})\b"
)
_CODE = re.compile(r"Code: ([0-9a-f<> ]{8,250})")
_WHO = re.compile(r"CPU: \d+ PID: (?P<pid>\d{1,7}) Comm: (?P<process>.{1,16}?) (?:Not t|T)ainted")

_SEGFAULT = re.compile(
    r"(?P<process>.{1,16})\[(?P<pid>\d{1,7})\]: segfault at (?P<address>[0-9a-f]{1,16}) "
    r"ip (?P<ip>[0-9a-f]{1,16}) sp (?P<sp>[0-9a-f]{1,16}) error (?P<error>[0-9a-f]{1,8})"
)
_TRAP = re.compile(
    r"traps: (?P<process>.{1,16})\[(?P<pid>\d{1,7})\] (?:trap )?(?P<trap>[a-z][\w -]{2,40}?) "
    r"ip:(?P<ip>[0-9a-f]{1,16}) sp:(?P<sp>[0-9a-f]{1,16}) error:(?P<error>[0-9a-f]{1,8})"
)
_SIGNAL = re.compile(r"potentially unexpected fatal signal (?P<signal>\d{1,2})\.")
_DIRECT = re.compile(r"ukl: application killed by signal (?P<signal>\d{1,2})\b")

_DIE = re.compile(
    r"(?P<trap>Oops|general protection fault|divide error|invalid opcode|int3|stack segment|"
    r"stack guard page|double fault|alignment check|bounds|overflow|coprocessor segment overrun|"
    r"[Kk]ernel stack overflow)\b.{0,100}?: (?P<error>[0-9a-f]{4}) \[#\d+\]"
)
_PF = re.compile(
    r"BUG: (?:kernel NULL pointer dereference, address|unable to handle page fault for address|"
    r"unable to handle kernel \w[\w ]{0,40} (?:request )?at): (?P<address>[0-9a-f]{1,16})"
)
_PF_CODE = re.compile(r"#PF: error_code\(0x(?P<error>[0-9a-f]{1,8})\)")
_NONCANONICAL = re.compile(r"non-canonical address 0x(?P<address>[0-9a-f]{1,16})")
_LOCKUP = re.compile(
    r"(?:watchdog: )?BUG: soft lockup - CPU#\d+ stuck|NMI watchdog: .*hard LOCKUP|"
    r"INFO: task .{1,30} blocked for more than \d+ seconds|rcu: INFO: rcu_\w+ .*stall"
)
_LOCKED = re.compile(r"\[(?P<process>[^\[\]]{1,16}):(?P<pid>\d{1,7})\]$")
_BLOCKED = re.compile(r"INFO: task (?P<process>.{1,16}):(?P<pid>\d{1,7}) blocked")
_KILLED = re.compile(
    r"Out of memory: Killed process (?P<pid>\d{1,7}) \((?P<process>[^()]{1,16})\)|"
    r"Memory cgroup out of memory: Killed process (?P<pid2>\d{1,7})"
)
_BUG = re.compile(r"kernel BUG at .{1,200}!|BUG: .{1,30}stack guard page was hit at")
_WARNING = re.compile(r"WARNING: CPU: \d+ PID: \d{1,7} at ")
_PANIC = re.compile(r"Kernel panic - not syncing: ?(?P<panic>.*)")
_MOVED = re.compile(r"Kernel Offset: (?:0x(?P<moved>[0-9a-f]{1,16}) from|disabled)")
_REASON = re.compile(
    r"#PF: |kernel tried to execute NX|unable to execute userspace code|exploit attempt|"
    r"BUG: |stack is |usercopy: |detected buffer overflow|refcount_t: "
)
_REMARK = re.compile(
    r"VFS: Cannot open root device|VFS: Unable to mount root fs|unknown filesystem type|"
    r"No filesystem could mount root|Please append a correct \"root=\"|Run \S+ as init process|"
    r"Initramfs unpacking failed|Out of memory|invoked oom-killer|System is deadlocked on memory|"
    r"Failed to execute|Requested init \S+ failed|page allocation failure|Memory: \d+K/\d+K"
)
_END = re.compile(r"---\[ end |</TASK>")


def read(text: str | bytes) -> Seen:
    """Say what a console tells; never raises.

    :param text: of any content.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    reader = _Reader(timed=_TIME.search(text) is not None)
    # Not splitlines(), which takes a guest's control characters for ends of lines.
    for line in text.split("\n"):
        reader.take(line[:MAX_LINE].rstrip("\r"))
    return reader.seen()


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits, 16)


class _Reader:
    def __init__(self, *, timed: bool) -> None:
        self.timed = timed
        """Whether the kernel's lines have a time, by which they are told from others."""
        self.crashes: list[Crash] = []
        self.panic = ""
        self.moved: int | None = None
        self.lines: list[str] = []
        self.words: list[str] = []
        self.open: Crash | None = None
        """What further lines belong to."""
        self.left = 0
        """How many of them there can be."""
        self.tracing = False

    def take(self, raw: str) -> None:
        found = _TIME.search(raw)
        # A process may have been in the middle of a line.
        said = raw[: found.start()] if found else raw
        if said.strip():
            self.words = [*self.words, _UNPRINTABLE.sub("?", said)][-WORDS:]
        if found is None and self.timed:
            return
        line = _UNPRINTABLE.sub("?", raw[found.end() if found else 0 :])
        if _REMARK.search(line):
            self.lines = [*self.lines, line][-WORDS:]
        if not self._begins(line):
            self._goes_on(line)

    def _begin(self, kind: Kind, line: str) -> Crash:
        crash = Crash(kind, line, words=tuple(self.words))
        if len(self.crashes) < MAX_CRASHES:
            self.crashes.append(crash)
        self.open, self.left, self.tracing = crash, MAX_REPORT, False
        return crash

    def _within(self, kind: Kind, line: str) -> Crash:
        """Return the crash that is being told, if it is of a kind and not told yet."""
        crash = self.open
        return crash if crash and crash.kind is kind and not crash.spot else self._begin(kind, line)

    def _begins(self, line: str) -> bool:
        """Take a line that begins a crash, or says what kind of one it is."""
        if (found := _SEGFAULT.search(line)) or (found := _TRAP.search(line)):
            crash = self._begin(Kind.SIGNAL, line)
            crash.process, crash.pid = found["process"].strip(), int(found["pid"])
            crash.ip, crash.error = int(found["ip"], 16), int(found["error"], 16)
            crash.registers["RSP"] = int(found["sp"], 16)
            groups = found.groupdict()
            crash.trap = groups.get("trap") or "page fault"
            crash.address = _number(groups.get("address"))
        elif found := (_SIGNAL.search(line) or _DIRECT.search(line)):
            crash = self._of_signal(line, int(found["signal"]))
            crash.signal = int(found["signal"])
        elif _WARNING.search(line):
            self._begin(Kind.WARNING, line)
        elif _LOCKUP.search(line):
            crash = self._begin(Kind.LOCKUP, line)
            if found := (_LOCKED.search(line) or _BLOCKED.search(line)):
                crash.process, crash.pid = found["process"], int(found["pid"])
        elif found := _KILLED.search(line):
            crash = self._begin(Kind.MEMORY, line)
            crash.pid, crash.process = int(found["pid"] or found["pid2"]), found["process"] or ""
            crash.signal = 9
        elif found := _PF.search(line):
            crash = self._within(Kind.OOPS, line)
            crash.lines.append(line)
            crash.title = line
            crash.trap, crash.address = "page fault", int(found["address"], 16)
        elif _BUG.search(line):
            self._within(Kind.OOPS, line).lines.append(line)
        elif found := _DIE.search(line):
            crash = self._within(Kind.OOPS, line)
            crash.lines.append(line)
            crash.trap = crash.trap or found["trap"]
            crash.error = int(found["error"], 16) if crash.error is None else crash.error
            if where := _NONCANONICAL.search(line):
                crash.address = int(where["address"], 16)
        elif found := _PANIC.search(line):
            self._panics(line, found["panic"].strip())
        else:
            return False
        return True

    def _of_signal(self, line: str, number: int) -> Crash:
        """Return what a signal was for: the fault just before it, if there was one."""
        crash = self.open
        if crash is None or crash.kind is not Kind.SIGNAL or crash.signal not in (None, number):
            return self._begin(Kind.SIGNAL, line)
        # Our own line, of process 1, comes behind the registers.
        told = crash.spot is not None and not _DIRECT.search(line)
        return self._begin(Kind.SIGNAL, line) if told else crash

    def _panics(self, line: str, reason: str) -> None:
        if self.panic:
            return
        self.panic = reason
        # An oops before has said more; what it left open is not the panic's.
        told = any(one.kind is Kind.OOPS for one in self.crashes)
        if not told:
            self._begin(Kind.PANIC, line)

    def _goes_on(self, line: str) -> None:
        """Take a line that says more of a crash."""
        if found := _MOVED.search(line):
            self.moved = _number(found["moved"]) or 0
        crash = self.open
        if crash is None:
            if _REASON.search(line):
                # Some reasons come before the line that says what happened.
                self._begin(Kind.OOPS, line).lines.append(line)
            return
        self.left -= 1
        if self.left < 0 or "---[ end " in line:
            self.open = None
            return
        if _REASON.search(line):
            crash.lines.append(line)
        if found := _PF_CODE.search(line):
            crash.error = int(found["error"], 16)
        if found := _WHO.search(line):
            crash.pid, crash.process = int(found["pid"]), found["process"]
        if "Call Trace:" in line:
            self.tracing = not crash.trace
        elif found := _RIP.search(line):
            spot = _spot(found)
            if self.tracing:
                # Where the kernel was entered; registers from here on are that place's.
                crash.trace.append(spot)
                self.open = None
            elif crash.spot is None:
                crash.spot = spot
                crash.ip = spot.address if crash.ip is None else crash.ip
        elif _END.search(line):
            self.tracing = self.tracing and "</TASK>" not in line
        elif self.tracing and (found := _FRAME.search(line)):
            if len(crash.trace) < MAX_TRACE:
                crash.trace.append(_spot(found))
        elif found := _CODE.search(line):
            if not crash.code:
                crash.code, crash.at = _code(found[1])
        else:
            for name, digits in _REGISTER.findall(line):
                crash.registers.setdefault(name, int(digits, 16))

    def seen(self) -> Seen:
        return Seen(
            tuple(one for one in self.crashes if _says_something(one)),
            self.panic,
            self.moved,
            tuple(self.lines),
            tuple(self.words),
        )


def _says_something(crash: Crash) -> bool:
    """Tell a crash from a line that only looked like the first of one."""
    return crash.kind is not Kind.OOPS or bool(crash.trap or crash.spot)


def _spot(found: re.Match[str]) -> Spot:
    groups = found.groupdict()
    certain = not groups.get("doubt")
    if groups["address"] is not None:
        return Spot(address=int(groups["address"], 16), certain=certain)
    return Spot(
        groups["symbol"], int(groups["offset"], 16), int(groups["size"], 16), certain=certain
    )


def _code(text: str) -> tuple[bytes, int]:
    """Return the bytes of a Code: line, and the number of the one in angle brackets."""
    found: list[int] = []
    at = 0
    for word in text.split():
        digits = word.strip("<>")
        if len(digits) != 2:
            break  # cut, or something else behind it
        if word.startswith("<"):
            at = len(found)
        found.append(int(digits, 16))
    return bytes(found), at


def kernels(crashes: Iterable[Crash]) -> list[Crash]:
    """Return those crashes that are the kernel's own, and not a process's."""
    return [one for one in crashes if one.kind in (Kind.OOPS, Kind.WARNING, Kind.LOCKUP)]
