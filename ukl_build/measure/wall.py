# SPDX-License-Identifier: Apache-2.0
"""What requests take in time, on hardware where KVM works; docs/measuring.md says what it tells.

The machines are those whose instructions are counted, but for the plugin and ``-icount``; the
guest's own clock times the same batches.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

from pydantic import Field
from rich.table import Table

from ukl_build.errors import UklError
from ukl_build.image import IMAGE_FILE, load
from ukl_build.measure.counts import announced
from ukl_build.measure.guest import Programs, machine, over, to_its_end
from ukl_build.measure.report import BASE
from ukl_build.model import Model
from ukl_build.recipe import Bench
from ukl_build.run.vm import Accel, Network

ROUNDS = 5
"""Runs of each image, all in turn: what slows the host down for a while slows all of them."""


class Timed(Model):
    """One kind of request, in one run of a guest."""

    name: str
    requests: int
    """In each batch."""
    took_ns: tuple[int, ...] = Field(min_length=1)
    """By the guest's clock, each batch."""

    @property
    def each_us(self) -> float:
        """Microseconds for one request."""
        return sum(self.took_ns) / (len(self.took_ns) * self.requests) / 1000


class Bar(Model):
    """What was timed of one image with one setting of page-table isolation."""

    image: str
    pti: bool
    runs: tuple[tuple[Timed, ...], ...] = Field(min_length=1)


class Result(Model):
    """What the result file holds."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    app: str
    accel: Accel
    """With TCG the times are those of emulation, and say nothing of hardware."""
    qemu: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Cell:
    """One kind of request on one image; microseconds."""

    median: float
    least: float
    most: float
    """Of all runs."""


_TOOK = re.compile(r"bench: took((?: \d+)+)")


def timed(lines: Sequence[str]) -> tuple[Timed, ...]:
    """Return what programs said on the console that requests took.

    :raise UklError: ``measure-failed`` if some of it is missing.
    """
    plan = announced(lines)
    times = [
        tuple(int(word) for word in match[1].split())
        for line in lines
        if (match := _TOOK.fullmatch(line))
    ]
    if [one.batches for one in plan] != [len(took) for took in times]:
        raise UklError(
            "measure-failed",
            f"times of {len(plan)} kinds of requests were expected, and {len(times)} came",
            hint="look at the console log; is the guest's program new?",
        )
    return tuple(
        Timed(name=one.name, requests=one.requests, took_ns=took)
        for one, took in zip(plan, times, strict=True)
    )


def measure(
    images: Sequence[tuple[str, Path]],
    bench: Bench,
    programs: Programs,
    *,
    accel: Accel,
    settings: Sequence[bool],
    rounds: int,
    say: Callable[[str], object],
) -> tuple[Bar, ...]:
    """Run all images in turn, several times.

    :param images: name of each, and the folder of its image.json.
    :param settings: of page-table isolation.
    :param rounds: runs of each image with each setting.
    :raise UklError: as :func:`ukl_build.measure.guest.machine` and
        :func:`ukl_build.measure.guest.to_its_end`.
    :raise OSError: if a file cannot be read or written.
    """
    found: dict[tuple[str, bool], list[tuple[Timed, ...]]] = {}
    for number in range(rounds):
        for pti in settings:
            for name, folder in images:
                say(f"{name}, pti={'on' if pti else 'off'}, round {number + 1} of {rounds}")
                image = load(folder / IMAGE_FILE)
                vm = replace(
                    machine(image, folder, pti=pti),
                    accel=accel,
                    repeatable=False,
                    network=Network.NONE,
                )
                with tempfile.TemporaryDirectory(prefix="ukl-bench-") as scratch:
                    lines = to_its_end(vm, Path(scratch), **over(image, bench, programs))
                found.setdefault((name, pti), []).append(timed(lines))
    return tuple(Bar(image=name, pti=pti, runs=tuple(runs)) for (name, pti), runs in found.items())


def cell(bar: Bar, name: str) -> Cell | None:
    """Return what is said of one kind of request on one image; None if it was not made there."""
    each = [one.each_us for run in bar.runs for one in run if one.name == name]
    return Cell(median(each), min(each), max(each)) if each else None


def title(result: Result) -> str:
    """Return what stands above a table, with what its numbers are worth."""
    how = "KVM" if result.accel is Accel.KVM else "emulation, which says nothing of hardware"
    return f"{result.app}: microseconds for one request, median (least to most), {how}"


def tables(result: Result) -> list[Table]:
    """Return a table for each setting of page-table isolation."""
    made = []
    for pti in dict.fromkeys(bar.pti for bar in result.bars):
        bars = [bar for bar in result.bars if bar.pti is pti]
        base = next((bar for bar in bars if bar.image == BASE), None)
        table = Table(title=f"{title(result)}, pti={'on' if pti else 'off'}", show_lines=True)
        table.add_column("request")
        for bar in bars:
            table.add_column(bar.image, justify="right")
        for name in dict.fromkeys(one.name for bar in bars for one in bar.runs[0]):
            table.add_row(name, *(_words(cell(bar, name), base, name) for bar in bars))
        made.append(table)
    return made


def _words(one: Cell | None, base: Bar | None, name: str) -> str:
    if one is None:
        return "-"
    other = cell(base, name) if base is not None else None
    ratio = f"  x {one.median / other.median:.3f}" if other is not None else ""
    return f"{one.median:,.3f}{ratio}\n{one.least:,.3f} to {one.most:,.3f}"
