# SPDX-License-Identifier: Apache-2.0
"""Says what is being built, and how long that took last time.

On a terminal the stages that run are shown with a bar that fills in the time of the last run, and
how much of that is over; elsewhere there is a plain line at the start and at the end of each.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from ukl_build import files


def duration(seconds: float) -> str:
    """Return a time for people: ``0.4 s``, ``12 s``, ``5 min 12 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Times(ProgressColumn):
    """How long a stage runs, and how long it ran last time: ``12 s of 5 min 17 s``."""

    def render(self, task: Task) -> Text:
        elapsed = duration(task.elapsed or 0)
        return Text(elapsed if task.total is None else f"{elapsed} of {duration(task.total)}")


class Counted(Protocol):
    """What counts something while a stage runs, and says how much as its text."""

    def read(self) -> bool:
        """Bring it up to date; return whether there is anything to say."""
        ...


class _Counted(ProgressColumn):
    """What is counted beside a stage: ``350 of 812 cached``."""

    def render(self, task: Task) -> Text:
        counted = task.fields["counted"]
        return Text(str(counted) if counted is not None and counted.read() else "")


@dataclass
class Reporter:
    """Shows stages; several may run at once, in several threads."""

    durations: Path
    """File that keeps how many seconds each stage took last time."""
    console: Console = field(default_factory=lambda: Console(file=sys.stderr, highlight=False))
    quiet: bool = False
    """Whether only warnings are shown."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._bars: Progress | None = None
        self._running = 0
        self._last: dict[str, float] = {}
        if self.durations.is_file():
            try:
                self._last = json.loads(self.durations.read_text(encoding="utf-8"))
            except ValueError:
                self._last = {}  # only a comfort: not worth an error

    def say(self, line: str) -> None:
        """Show a line, above the bars if there are some."""
        style = "yellow" if line.startswith("warning:") else None
        if self.quiet and style is None:
            return
        with self._lock:
            console = self._bars.console if self._bars else self.console
            console.print(line, style=style, markup=False, soft_wrap=True)

    def announce(self, stage: str, what: str) -> str:
        """Return the line that announces a stage."""
        last = self._last.get(f"{stage} {what}")
        return f"[{stage}] {what}" + (f" (last time {duration(last)})" if last else "")

    @contextmanager
    def stage(self, stage: str, what: str, counted: Counted | None = None) -> Iterator[None]:
        """Show a stage while it runs, and remember how long it took if it succeeds.

        :param counted: shown beside it, and when it is over.
        """
        key = f"{stage} {what}"
        start = time.monotonic()
        bar = self._begin(key, counted)
        try:
            yield
        finally:
            self._end(bar)
        seconds = time.monotonic() - start
        beside = f", {counted}" if counted is not None and counted.read() else ""
        self.say(f"[{stage}] {what}: {duration(seconds)}{beside}")
        with self._lock:
            self._last[key] = round(seconds, 1)
            files.write(self.durations, json.dumps(self._last, indent=1, sort_keys=True) + "\n")

    def _begin(self, key: str, counted: Counted | None) -> TaskID | None:
        if self.quiet or not self.console.is_terminal:
            return None
        with self._lock:
            if self._bars is None:
                self._bars = Progress(
                    # A stage is a line: where there is little room, first the bar gives way, then
                    # the end of the name.
                    TextColumn(
                        "{task.description}",
                        markup=False,
                        table_column=Column(no_wrap=True, min_width=20),
                    ),
                    BarColumn(bar_width=None, table_column=Column(ratio=1)),
                    _Times(Column(no_wrap=True)),
                    _Counted(Column(no_wrap=True)),
                    expand=True,
                    console=self.console,
                    transient=True,
                )
                self._bars.start()
                threading.Thread(target=self._advance, args=(self._bars,), daemon=True).start()
            self._running += 1
            return self._bars.add_task(key, total=self._last.get(key), counted=counted)

    def _advance(self, bars: Progress) -> None:
        while self._bars is bars:  # not `bars.finished`: without a bar yet they are
            for task in bars.tasks:
                if task.total:
                    # Never full before it is done: last time may have been quicker.
                    bars.update(task.id, completed=min(task.elapsed or 0, 0.99 * task.total))
            time.sleep(0.2)

    def _end(self, bar: TaskID | None) -> None:
        if bar is None:
            return
        with self._lock:
            assert self._bars is not None
            self._bars.remove_task(bar)
            self._running -= 1
            if self._running == 0:
                self._bars.stop()
                self._bars = None
