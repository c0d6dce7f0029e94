# SPDX-License-Identifier: Apache-2.0
"""What ukl-run does while a machine runs: pass on what it says, ask it, stop it, say how it ended.

What the guest says goes to standard output, what ukl-run says to standard error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ukl_build import files
from ukl_build.elf.names import ENTRY, PREFIX
from ukl_build.errors import UklError
from ukl_build.image import Image, Init, Protocol, Smoke, SmokeRun
from ukl_build.run.control import Server
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind, Outcome, said
from ukl_build.run.records import Forwarded
from ukl_build.run.vm import LOCALHOST, Forward, Replay

talk = logging.getLogger("ukl-run")
"""What ukl-run says to people: information with -q not, what is found out for --verbose only."""


def registers_path(console: Path) -> Path:
    """Return where the registers of a guest that hung go."""
    return console.with_suffix(".registers.txt")


class Asked(Exception):  # noqa: N818 - a request, no error
    """Somebody asked us to stop, by a signal."""


@contextlib.contextmanager
def stop_requests() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into :class:`Asked`."""

    def raise_asked(number: int, _: FrameType | None) -> None:
        raise Asked(signal.Signals(number).name)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, raise_asked) for number in wanted]
    try:
        yield
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)


@dataclass(frozen=True)
class Run:
    """A machine that runs, and what is to be known of it."""

    machine: Machine
    image: Image
    timeout: float | None
    """Seconds until it counts as hung; None is for ever."""
    server: Server
    """Where others can ask something of it."""
    output: Output
    """Takes the guest's console, if it is shown."""


class Output:
    """Standard output for the guest's console, whose lines end like those of a terminal."""

    def __init__(self) -> None:
        self._held = b""
        self.is_open = True
        """Whether somebody still reads."""
        self._in_line = False

    def write(self, data: bytes) -> None:
        """Pass on what the console had."""
        data = self._held + data
        # A line's end may be cut in two.
        self._held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(self._held)].replace(b"\r\n", b"\n")
        if data:
            self._in_line = not data.endswith(b"\n")
        while data and self.is_open:
            try:
                # Not sys.stdout: what it holds back is an error at exit if the reader has gone.
                data = data[os.write(1, data) :]
            except OSError:  # it has (| head); the guest goes on
                self.is_open = False

    def end_line(self) -> None:
        """Begin a line for what ukl-run says, if both go to one place and the guest is in one."""
        if self._in_line and self.is_open and _is_one_place(1, 2):
            self._in_line = False
            with contextlib.suppress(OSError):
                os.write(2, b"\n")


def _is_one_place(*descriptors: int) -> bool:
    """Return whether descriptors lead to the same file, pipe or terminal."""
    try:
        return len({(it.st_dev, it.st_ino) for it in map(os.fstat, descriptors)}) == 1
    except OSError:  # somebody has closed one
        return False


def _hear_out(run: Run) -> None:
    """Let the guest's last words be said first, and begin a line."""
    run.machine.shown()
    run.output.end_line()


def ended(run: Run, wait_s: float | None) -> Outcome:
    """Wait for the end of a machine, end one whose time is over, and keep registers of a hang."""
    outcome = run.machine.wait(wait_s) or run.machine.give_up()
    _hear_out(run)
    if outcome.kind is Kind.HANG and run.machine.registers:
        where = registers_path(run.machine.console)
        files.write(where, run.machine.registers)
        talk.info(f"the processors' registers are in {where}")
    return outcome


def first_answer(
    machine: Machine, asked: Smoke, timeout_s: float | None = None
) -> tuple[bytes, float]:
    """Ask until it answers as is expected.

    :param timeout_s: seconds that it has in place of the recipe's.
    :return: the answer, and the seconds that it took.
    :raise UklError: as :meth:`Machine.ask`.
    """
    start = time.monotonic()
    sent, expected = asked.send.encode(), asked.expect.encode()
    deadline = timeout_s or float(asked.deadline_s)
    answer = machine.ask(asked.port, sent, expected, deadline_s=deadline)
    return answer, time.monotonic() - start


def smoke(run: Run, asked: Smoke) -> int:
    """Ask, compare, stop, and look at how it ended.

    :raise UklError: for each way in which it is not well.
    """
    answer, took = first_answer(run.machine, asked, run.timeout)
    print(f"sent:     {asked.send!r}")
    print(f"received: {answer.decode('utf-8', 'backslashreplace')!r}", flush=True)
    talk.info(f"{run.image.label} answered after {took:.1f} s; stopping it")
    outcome = run.machine.stop()
    talk.info(str(outcome))
    # An application with no handler for it dies of the SIGTERM that the power button becomes.  One
    # without our init cannot be asked, nor can one that is recorded, and is ended from outside.
    from_outside = run.image.init is Init.DIRECT or run.machine.vm.recording is not None
    stopped = outcome.kind is Kind.STOPPED and from_outside
    well = outcome == Outcome(Kind.EXITED, 0) or outcome == Outcome(Kind.SIGNALED, signal.SIGTERM)
    if stopped or well:
        return 0
    if outcome.by_itself:
        return outcome.exit_status
    raise run.machine.error(outcome)


def smoke_run(run: Run, expected: SmokeRun) -> None:
    """Run to the application's end, and compare.

    :raise UklError: for each way in which it is not well.
    """
    outcome = ended(run, run.timeout or float(expected.deadline_s))
    if not outcome.by_itself:
        raise run.machine.error(outcome)
    console = run.machine.console.read_text(encoding="utf-8", errors="backslashreplace")
    found = said(console, expected.expect)
    for line in found:
        print(f"received: {line!r}", flush=True)
    wrong = ""
    if len(found) < len(expected.expect):
        wrong = f"the console lacks {expected.expect[len(found)]!r}, or has it too early"
    elif outcome.exit_status != expected.status:
        wrong = f"{outcome}, where {expected.status} was expected"
    if wrong:
        raise UklError(
            "guest-wrong-answer",
            wrong,
            hint=f"compare {run.machine.console} with smoke_runs of the recipe",
            detail=run.machine.console_end(),
        )
    talk.info(str(outcome))


def is_forwarded(forwards: Sequence[Forward], asked: Smoke) -> bool:
    """Return whether a port leads to the one that is asked."""
    return any((it.guest, it.proto) == (asked.port, Protocol.TCP) for it in forwards)


def forwarded(machine: Machine) -> tuple[Forwarded, ...]:
    """Return which ports of the host lead to which of the guest."""
    return tuple(
        Forwarded(
            address=port.address,
            host=machine.host_port(port.guest, port.proto),
            guest=port.guest,
            proto=port.proto,
        )
        for port in machine.vm.forwards
    )


def announce(ports: Sequence[Forwarded]) -> None:
    """Say where the guest can be reached."""
    for port in ports:
        talk.info(f"{port.address}:{port.host} leads to the guest's {port.proto} port {port.guest}")


def substituted(sources: Mapping[str, Path]) -> list[str]:
    """Return what tells gdb where sources are.

    :param sources: see :func:`ukl_build.run.prepare.sources`.
    """
    return [f"set substitute-path {name} {path.absolute()}" for name, path in sources.items()]


def explain_gdb(run: Run, vmlinux: Path, sources: Mapping[str, Path]) -> None:
    """Say how to start gdb.  Until the kernel is unpacked, only a hardware breakpoint stays.

    :param sources: see :func:`ukl_build.run.prepare.sources`.
    """
    # An ordinary process has no name in the kernel.
    place = f"{PREFIX}{ENTRY}" if run.image.variant.ring0 else "start_kernel"
    where = f"target remote {LOCALHOST}:{run.machine.gdb_port()}"
    talk.info("waiting for gdb, without KASLR; in another terminal:")
    words = ["gdb", str(vmlinux)]
    for command in (*substituted(sources), where, f"hbreak {place}", "continue"):
        words += ["-ex", command]
    talk.info(f"  {shlex.join(words)}")
    if run.machine.vm.recording is not None:
        talk.info("  reverse-stepi and reverse-continue go back there")


def attend(run: Run) -> int:
    """Run until the application ends, the time is over, or somebody stops us."""
    end = time.monotonic() + run.timeout if run.timeout else None
    asked = run.image.smoke
    # Under a debugger it answers whenever that lets it.
    if asked and run.machine.vm.gdb is None and is_forwarded(run.machine.vm.forwards, asked):
        deadline = min(run.timeout or asked.deadline_s, asked.deadline_s)
        try:
            first_answer(run.machine, asked, deadline)
            talk.info(f"{run.image.label} answers on port {run.machine.host_port(asked.port)}")
        except UklError as error:
            # Other arguments may have given it another port or another answer; the run goes on.
            if run.machine.outcome is None:
                talk.warning("warning: %s", error.message)
    left = None if end is None else max(0.0, end - time.monotonic())
    outcome = ended(run, left)
    recording = run.machine.vm.recording
    if recording is not None and recording.mode is Replay.REPLAY and outcome.kind is Kind.STOPPED:
        talk.info("the recording ends here: it was stopped then")
        return 0
    if run.server.stopped_by:
        talk.info(f"{run.server.stopped_by}: {outcome}")
        return outcome.exit_status
    if outcome.by_itself:
        if outcome != Outcome(Kind.EXITED, 0):
            talk.info(str(outcome))
        return outcome.exit_status
    raise run.machine.error(outcome)


def stop(run: Run, why: str) -> int:
    """End it because of a signal; a second one does not wait any longer.

    :return: the exit status.
    """
    talk.info(f"{why}: stopping {run.image.label}; once more ends it at once")
    try:
        outcome = run.machine.stop()
    except Asked:
        outcome = run.machine.stop(polite_s=0)
    _hear_out(run)
    talk.info(str(outcome))
    return outcome.exit_status
