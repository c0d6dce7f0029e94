# SPDX-License-Identifier: Apache-2.0
"""How a machine ended: what was observed, and what that means; pure.

QEMU exits 0 after a panic, after the death of process 1, after a triple fault and after an orderly
power-off alike, so its exit status says nearly nothing.  What counts is, in this order: what the
guest's init reported, QMP's events, the console.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from ukl_build.errors import UklError
from ukl_build.image import Init


class Kind(StrEnum):
    """How a machine ended."""

    EXITED = "exited"
    """The application ended by itself, with an exit code."""
    SIGNALED = "signaled"
    """The application was killed by a signal."""
    NOT_STARTED = "not-started"
    """The init could not get as far as a running application."""
    PANIC = "panic"
    """The kernel gave up."""
    HANG = "hang"
    """The time it was given was over and the guest was still running, or its watchdog was not fed
    any more."""
    RESET = "reset"
    """The guest reset the machine: a reboot or a triple fault."""
    NO_STATUS = "no-status"
    """The guest turned the power off and nobody said how the application ended."""
    STOPPED = "stopped"
    """We ended it, and it did not say how the application ended."""
    QEMU_FAILED = "qemu-failed"
    """QEMU could not start the guest, or ended by itself."""


EXIT_STATUS = {
    Kind.PANIC: 240,
    Kind.HANG: 241,
    Kind.RESET: 242,
    Kind.NO_STATUS: 243,
    Kind.QEMU_FAILED: 244,
    Kind.STOPPED: 245,
}
"""Exit statuses of ukl-run beside the application's own.  High numbers below 255, which few
programs use; 126 and 127 (cannot be started, not found) and 128 + N (killed by signal N) are the
shell's."""

_ENOENT = 2

_CODES = {
    Kind.NOT_STARTED: "guest-not-started",
    Kind.PANIC: "guest-panic",
    Kind.HANG: "guest-hang",
    Kind.RESET: "guest-reset",
    Kind.NO_STATUS: "guest-no-status",
    Kind.STOPPED: "guest-stopped",
    Kind.QEMU_FAILED: "qemu-failed",
}

_HINTS = {
    Kind.NOT_STARTED: "read on the console what the guest's init could not do",
    Kind.PANIC: "read the reason and the call trace on the console",
    Kind.HANG: "give it more time with --timeout, or look at the console for what it waits for",
    Kind.RESET: "read the console's last lines, from shortly before; a triple fault leaves none",
    Kind.NO_STATUS: "use our init (init=ring3), which reports how the application ended",
    Kind.STOPPED: "read on the console what it waited for",
    Kind.QEMU_FAILED: "read QEMU's own words above; `ukl doctor` tries what it can",
}


@dataclass(frozen=True)
class Record:
    """What was observed of a machine until its QEMU had ended."""

    init: Init
    qemu_status: int
    """QEMU's exit status; the negated signal if one killed it."""
    qemu_words: str = ""
    """What QEMU wrote to its standard error."""
    connected: bool = True
    """QMP was up, so QEMU had accepted its arguments."""
    events: tuple[dict[str, object], ...] = ()
    """What the guest's init reported, in order."""
    shutdown_reason: str | None = None
    """Of QMP's SHUTDOWN event, for example ``guest-shutdown``."""
    panicked: bool = False
    """QMP's GUEST_PANICKED event came."""
    gave_up: bool = False
    """A deadline was over while the guest was still running."""
    starved: bool = False
    """QMP's WATCHDOG event came."""
    console: str = ""
    """The end of the console log."""


@dataclass(frozen=True)
class Outcome:
    """How a machine ended."""

    kind: Kind
    code: int = 0
    """Exit code of EXITED, number of the signal of SIGNALED, errno (or 0) of NOT_STARTED."""
    why: str = ""
    """One clause of evidence."""

    @property
    def exit_status(self) -> int:
        """Exit status for ukl-run, see :data:`EXIT_STATUS`."""
        match self.kind:
            case Kind.EXITED:
                return self.code
            case Kind.SIGNALED:
                return 128 + self.code
            case Kind.NOT_STARTED:
                return 127 if self.code == _ENOENT else 126
            case kind:
                return EXIT_STATUS[kind]

    @property
    def by_itself(self) -> bool:
        """Whether the application ran and ended, well or not; everything else is a failure."""
        return self.kind in (Kind.EXITED, Kind.SIGNALED)

    def __str__(self) -> str:
        match self.kind:
            case Kind.EXITED:
                text = f"the application exited with status {self.code}"
            case Kind.SIGNALED:
                text = f"the application was killed by {signal_name(self.code)}"
            case Kind.NOT_STARTED:
                text = "the application was not started"
            case Kind.PANIC:
                text = "the guest's kernel panicked"
            case Kind.HANG:
                still = "was still running when its time was over"
                text = f"the guest {'hangs' if self.why else still}"
            case Kind.RESET:
                text = "the guest reset the machine"
            case Kind.NO_STATUS:
                text = "the guest turned the power off without an exit status"
            case Kind.STOPPED:
                text = "the guest was stopped"
            case Kind.QEMU_FAILED:
                text = "QEMU failed"
        return f"{text}: {self.why}" if self.why else text


class GuestError(UklError):
    """A machine that ended in another way than by its application's end."""

    def __init__(self, outcome: Outcome, *, detail: str = "") -> None:
        """Make the error of an outcome.

        :raise KeyError: if the outcome is none of a failure.
        """
        super().__init__(
            _CODES[outcome.kind], str(outcome), hint=_HINTS[outcome.kind], detail=detail
        )
        self.outcome = outcome

    @property
    def exit_status(self) -> int:
        """Distinct for each kind, unlike that of other errors."""
        return self.outcome.exit_status


def signal_name(number: int) -> str:
    """Return ``SIGTERM`` and the like; real-time signals have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def said(console: str, expected: Sequence[str]) -> list[str]:
    """Return the lines of a console that are the expected ones: fewer if one is not there.

    :param expected: patterns of whole lines (fnmatch), each for a line behind the one before it.
    """
    lines = iter(console.splitlines())
    found = []
    for pattern in expected:
        line = next((line for line in lines if fnmatchcase(line, pattern)), None)
        if line is None:
            break
        found.append(line)
    return found


_PANIC = re.compile(r"Kernel panic - not syncing: ?(.*)")
_DIRECT_EXIT = re.compile(r"ukl: application (?:exited with status|killed by signal) (\d+)")


def _number(event: dict[str, object], key: str) -> int | None:
    value = event.get(key)
    return value if type(value) is int and 0 <= value < 256 else None


def _from_init(events: tuple[dict[str, object], ...]) -> Outcome | None:
    """Return what the init's reports say, None if they leave it open."""
    started = False
    failed: Outcome | None = None
    for event in events:
        if event.get("event") == "failed":
            what = event.get("what") or event.get("path") or ""
            failed = Outcome(
                Kind.NOT_STARTED,
                _number(event, "errno") or 0,
                f"{event.get('job')}: {event.get('step')} {what} (errno {event.get('errno')})",
            )
        if event.get("job") == "app":
            started |= event.get("event") == "started"
            if event.get("event") == "exited":
                if (code := _number(event, "code")) is not None:
                    return Outcome(Kind.EXITED, code)
                if (number := _number(event, "signal")) is not None:
                    return Outcome(Kind.SIGNALED, number)
        if event.get("event") == "stopping" and not started:
            # Jobs alone, without an application, or something kept it from being started; a job
            # that failed and was allowed to is no reason.
            if event.get("ok") is True:
                return Outcome(Kind.EXITED, 0)
            return failed or Outcome(Kind.NOT_STARTED, 0, str(event.get("why")))
    # An init that cannot even read its configuration turns the power off without "stopping".
    return None if started else failed


def _from_console(console: str) -> Outcome | None:
    """Return what a kernel without an init of ours said of the end of its process 1."""
    found = list(_DIRECT_EXIT.finditer(console))
    if not found:
        return None
    kind = Kind.SIGNALED if "killed" in found[-1].group() else Kind.EXITED
    number = int(found[-1].group(1))
    return Outcome(kind, number) if number < 256 else None


def classify(record: Record) -> Outcome:
    """Say how a machine ended.

    A panic, a hang and a reset count even if the application had reported its end before: the
    guest's way down is part of the run.
    """
    panic = _PANIC.search(record.console)
    said = record.qemu_words.strip().splitlines()
    if not record.connected:
        last = said[-1] if said else f"it ended with status {record.qemu_status} and no word"
        return Outcome(Kind.QEMU_FAILED, why=last)
    reset = record.shutdown_reason == "guest-reset"
    if record.panicked or record.shutdown_reason == "guest-panic" or (reset and panic):
        return Outcome(Kind.PANIC, why=panic.group(1).strip() if panic else "")
    if record.starved:
        return Outcome(Kind.HANG, why="its watchdog is not fed any more")
    if record.gave_up:
        return Outcome(Kind.HANG)
    if reset:
        return Outcome(Kind.RESET)
    if record.qemu_status < 0:
        return Outcome(Kind.QEMU_FAILED, why=f"{signal_name(-record.qemu_status)} killed it")
    if record.qemu_status > 0:
        last = said[-1] if said else f"it ended with status {record.qemu_status} and no word"
        return Outcome(Kind.QEMU_FAILED, why=last)
    if record.init is Init.RING3:
        ended = _from_init(record.events)
    else:
        ended = _from_console(record.console)
    if ended is not None:
        return ended
    if record.shutdown_reason == "guest-shutdown":
        return Outcome(Kind.NO_STATUS)
    if record.shutdown_reason in ("host-qmp-quit", "host-signal", "host-ui"):
        return Outcome(Kind.STOPPED)
    return Outcome(Kind.QEMU_FAILED, why=f"it ended without a reason ({record.shutdown_reason})")
