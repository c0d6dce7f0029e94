# SPDX-License-Identifier: Apache-2.0
"""The report of a run that went wrong: put together from the console, and shown."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import dropwhile
from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ukl_build.errors import UklError
from ukl_build.image import Image
from ukl_build.layers import APPLICATION, LIBRARY
from ukl_build.model import Model
from ukl_build.run import outcome as outcomes
from ukl_build.run.crash import rules
from ukl_build.run.crash.console import Crash, Kind, Seen, Spot, kernels, read
from ukl_build.run.crash.places import KERNEL, MIXED, Files, Place, Places
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Outcome

CONSOLE_END = 1 << 20
"""Bytes of the console's end that are looked at."""

SHOWN_TRACE = 6
"""Callers that are shown; the model has all that the kernel printed."""

COLUMNS = 4
"""Registers side by side."""

WIDTH = 100
"""Columns where standard error is no terminal."""

REGISTERS = (
    *("RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RBP", "RSP", "R08", "R09", "R10", "R11"),
    *("R12", "R13", "R14", "R15", "EFLAGS", "CR2"),
)

_ON_THE_WAY = (
    *("__schedule", "schedule", "schedule_timeout", "io_schedule"),
    *("dump_stack_lvl", "dump_stack", "panic", "__stack_chk_fail"),
)
"""Functions in which every task is that waits, or panics."""

_FAULTS = frozenset(
    {
        *(signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE),
        *(signal.SIGSEGV, signal.SIGSYS),
    }
)
"""Signals that stand for a fault of who gets them."""


class Report(Model):
    """What is known of a crash."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    kind: Kind
    headline: str
    """What happened and where."""
    access: str
    """What the fault was about; empty if it was no access to memory."""
    process: str
    """Who was running, ``NAME[PID]``; empty if the kernel does not say."""
    place: Place | None
    """Where it was."""
    rule: str
    """Name of the rule that fits; empty if none does."""
    cause: str
    advice: str
    registers: dict[str, str]
    """In hexadecimal, as they were at that place."""
    code: str
    """The instructions around it in hexadecimal, ``|`` before the one that was executed."""
    trace: tuple[Place, ...]
    """Callers, the innermost first."""
    notes: tuple[str, ...]
    """What is missing, and how to get it."""
    console: str
    """File with all that the guest said."""


def chosen(seen: Seen, outcome: Outcome) -> Crash | None:
    """Return the crash that a run's end is about, None if there was none."""
    oopses = [one for one in seen.crashes if one.kind is Kind.OOPS]
    signals = [one for one in seen.crashes if one.kind is Kind.SIGNAL]
    match outcome.kind:
        case outcomes.Kind.PANIC:
            if "Attempted to kill init!" in seen.panic and not oopses and signals:
                return signals[-1]
            told = [*oopses, *(one for one in seen.crashes if one.kind is Kind.PANIC)]
            return told[0] if told else Crash(Kind.PANIC, outcome.why)
        case outcomes.Kind.SIGNALED:
            fitting = [one for one in signals if one.signal in (outcome.code, None)]
            memory = [one for one in seen.crashes if one.kind is Kind.MEMORY]
            if outcome.code != signal.SIGKILL and fitting:
                return fitting[-1]
            if outcome.code == signal.SIGKILL and memory and not oopses:
                return memory[-1]
            if not oopses and outcome.code in _FAULTS:
                return Crash(Kind.SIGNAL, str(outcome), signal=outcome.code)
    # An application can end well beside a kernel that does not.
    order = (Kind.OOPS, Kind.LOCKUP, Kind.WARNING)
    return min(kernels(seen.crashes), key=lambda one: order.index(one.kind), default=None)


def examined(image: Image, folder: Path, console: Path, outcome: Outcome) -> Report | None:
    """Return the report of a run, None if nothing has crashed.

    :param folder: where its image.json is.
    :param console: the console log.
    :raise OSError: if the console log cannot be read.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    with console.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - CONSOLE_END))
        seen = read(file.read())
    crash = chosen(seen, outcome)
    if crash is None:
        return None
    if crash.kind is Kind.SIGNAL and crash.signal is None:
        crash.signal = outcome.code or None
    return explain(seen, crash, Files.of(image, folder), console, ring0=image.variant.ring0)


def explain(seen: Seen, crash: Crash, files: Files, console: Path, *, ring0: bool) -> Report:
    """Return the report of a crash.

    :param ring0: whether the application is linked into the kernel.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    spot = crash.spot or (Spot(address=crash.ip) if crash.ip is not None else None)
    crash.spot = spot
    known = Places(files, crash, seen.moved)
    callers = [one for one in crash.trace if one.certain] or crash.trace
    found = known.look([spot or Spot(), *callers])
    place = found[0] if spot else None
    trace = found[1:]
    if place is None:
        # A task that waits, and a panic, have no other place.
        trace = list(dropwhile(lambda one: one.function in _ON_THE_WAY, trace))
        place = trace.pop(0) if trace else None
    evidence = rules.Evidence(seen, crash, ring0=ring0)
    rule = rules.cause(evidence)
    code = crash.code.hex(" ")
    return Report(
        kind=crash.kind,
        headline=headline(crash, seen, place),
        access=access(evidence),
        process=f"{crash.process}[{crash.pid}]" if crash.process else "",
        place=place,
        rule=rule.name if rule else "",
        cause=rules.told(rule.cause, evidence) if rule else "",
        advice=rules.told(rule.advice, evidence) if rule else "",
        registers={
            name: f"{crash.registers[name]:016x}" for name in REGISTERS if name in crash.registers
        },
        code=f"{code[: 3 * crash.at]}|{code[3 * crash.at :]}" if code else "",
        trace=tuple(trace),
        notes=(*known.notes, *_lacking(crash, place, found, known)),
        console=str(console),
    )


def headline(crash: Crash, seen: Seen, place: Place | None) -> str:
    """Say in one line what happened, and where."""
    match crash.kind:
        case Kind.SIGNAL:
            what = outcomes.signal_name(crash.signal) if crash.signal else "a fatal signal"
        case Kind.OOPS:
            trap = "" if crash.trap in ("", "Oops") else f": {crash.trap}"
            what = f"kernel oops{trap}"
        case Kind.WARNING:
            what = "kernel warning"
        case Kind.LOCKUP:
            what = crash.title.removeprefix("watchdog: BUG: ").removeprefix("INFO: ").rstrip(".")
        case Kind.MEMORY:
            what = "out of memory"
        case Kind.PANIC:
            what = f"kernel panic: {seen.panic or crash.title}"
    if place is None:
        return what
    if not place.function:
        return f"{what} at {place.shown}, which is in no function that is known"
    source = f" at {place.source}" if place.source else ""
    return f"{what} in the {place.layer}: {place.shown}{source}"


def access(evidence: rules.Evidence) -> str:
    """Say what a page fault was about."""
    address = evidence.address
    if evidence.crash.trap != "page fault" or address is None:
        # Of an oops it is in the headline.
        return evidence.crash.trap if evidence.crash.kind is Kind.SIGNAL else ""
    way = "write to"
    if evidence.fault(rules.FETCH):
        way = "jump to"
    elif not evidence.fault(rules.WRITE):
        way = "read of"
    why = "which its page forbids" if evidence.fault(rules.PRESENT) else "where nothing is mapped"
    return f"{way} {address:#x}, {why}"


def _lacking(crash: Crash, place: Place | None, found: list[Place], known: Places) -> Iterator[str]:
    """Yield what is not in a report, and how to get it."""
    if known.usable:
        bare = {one.layer for one in found if one.function and not one.source}
        if bare & {APPLICATION, MIXED}:
            yield "Lines of the application need -g, which is the default."
        if any(layer.startswith(KERNEL) for layer in bare):
            yield "Lines of the kernel need fragments=debug-info."
    if crash.kind is not Kind.SIGNAL:
        return
    if not crash.registers.keys() - {"RSP"}:
        yield "The kernel printed no registers: print-fatal-signals=1 among its parameters does."
    if place is not None and place.layer in (LIBRARY, "") and not crash.trace:
        yield "Callers of a process are not printed: a core or gdb (--gdb) shows them."


# --- What is shown ------------------------------------------------------------------------------


def shown(report: Report) -> RenderableType:
    """Return a report for people."""
    parts: list[RenderableType] = [Text(report.headline, style="bold red")]
    about = "; ".join(filter(None, (report.access, report.process and f"in {report.process}")))
    if about:
        parts.append(Text(f"  {about}"))
    inlined = report.place.inlined if report.place else ()
    parts += [Text(f"  {one}") for one in inlined[:2]]
    parts += [
        _named("likely cause", report.cause or "no rule fits; what is known is below"),
        *([_named("what to do", report.advice)] if report.advice else []),
    ]
    if report.registers:
        parts.append(_registers(report.registers))
    if report.trace:
        parts.append(_trace(report.trace))
    parts += [_named("note", one) for one in report.notes]
    # Whole, however long it is: to be copied.
    parts.append(
        Text.assemble(
            ("console log:", "bold"), f" {report.console}", no_wrap=True, overflow="ignore"
        )
    )
    return Group(*parts)


def _named(name: str, text: str) -> Table:
    made = Table.grid(padding=(0, 1))
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    made.add_row(Text(f"{name}:"), Text(text))
    return made


def _registers(found: dict[str, str]) -> Table:
    made = Table.grid(padding=(0, 1))
    cells = [Text(f" {name:<6} {value}") for name, value in found.items()]
    for start in range(0, len(cells), COLUMNS):
        made.add_row(*cells[start : start + COLUMNS])
    return made


def _trace(found: tuple[Place, ...]) -> Table:
    made = Table.grid(padding=(0, 2))
    made.add_row(Text("called by:", style="bold"))
    for one in found[:SHOWN_TRACE]:
        doubt = "" if one.certain else "? "
        made.add_row(Text(f"  {doubt}{one.shown}"), Text(one.layer), Text(one.source))
    if len(found) > SHOWN_TRACE:
        made.add_row(Text(f"  and {len(found) - SHOWN_TRACE} more"))
    return made


def text(report: Report) -> str:
    """Return what people read where there is no terminal."""
    file = io.StringIO()
    Console(file=file, highlight=False, width=WIDTH).print(shown(report), crop=False)
    return file.getvalue()


def show(report: Report) -> None:
    """Print a report to standard error.

    :raise OSError: if nobody reads it.
    """
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        console.print(shown(report), crop=False)
    else:
        print(text(report), end="", file=sys.stderr)


@contextlib.contextmanager
def explained(
    machine: Machine, image: Image, folder: Path, keep: Callable[[Report], object]
) -> Iterator[None]:
    """Run a machine; when it is over, show a report if something has crashed.

    What happens to the run stays as it is: a report that cannot be made is a line of its own.

    :param folder: where the image.json is.
    :param keep: is given the report as well.
    """
    try:
        yield
    finally:
        if machine.outcome is not None:
            try:
                report = examined(image, folder, machine.console, machine.outcome)
                if report is not None:
                    keep(report)
                    show(report)
            except (OSError, UklError) as error:
                with contextlib.suppress(OSError):
                    print(f"ukl-run: there is no report of the crash: {error}", file=sys.stderr)
