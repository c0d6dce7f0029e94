# SPDX-License-Identifier: Apache-2.0
"""From counts to what is said about them: the result file and the rows of the table; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pydantic import Field

from ukl_build.image import Variant
from ukl_build.measure.counts import Run, Workload
from ukl_build.model import Model

UKL = Variant.UKL.value
"""What the image is called that it is all about."""

BASE = Variant.TWIN.value
"""The image that others are compared with: it differs in one thing only."""


class Bar(Model):
    """What was counted of one image with one setting of page-table isolation."""

    image: str
    """``ukl``, ``twin``, ``stock``, or the name of another folder."""
    pti: bool
    """Whether the guest's page tables are isolated."""
    image_bytes: int
    """Size of what is booted: the kernel, and the initramfs if it is not in there."""
    memory_mib: int | None = None
    """Smallest memory in which the smoke test passes, as :mod:`ukl_build.measure.memory` finds it;
    None without such a test."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the application, if it is a package of Debian's, and of Linux, by what they are called."""
    runs: tuple[Run, ...] = Field(min_length=1)
    """All of the same machine, so that they must be the same."""


class Result(Model):
    """What the result file holds."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    app: str
    qemu: str
    """QEMU's version, as it says it."""
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Value:
    """One number of one kind of request, for each request."""

    mean: float
    spread: float
    """Largest difference of a batch's from the mean, as a part of the mean."""


@dataclass(frozen=True)
class Cell:
    """One kind of request on one image."""

    instructions: Value
    """Executed for others than the load program and the idle task."""
    application: float
    """Of these, the application's own."""
    transitions: float
    """Changes of the ring."""
    entries: float
    """System calls, faults and interrupts."""
    cr3: float
    """Writes of CR3: other address spaces, or with page-table isolation the other half's tables."""
    rep: float
    """Of the instructions, rounds of string instructions."""
    repeats: bool
    """Whether all runs were the same to the last instruction."""
    ratio: float | None
    """Instructions divided by the base's; None without one."""


def value(numbers: Sequence[int], requests: int) -> Value:
    """Return what a request takes.

    :param numbers: of each batch.
    :param requests: in each batch.
    """
    mean = fmean(numbers)
    most = max(abs(number - mean) for number in numbers)
    return Value(mean / requests, most / mean if mean else 0.0)


def _mean(workload: Workload, of: str) -> float:
    numbers = [getattr(batch.measured, of) for batch in workload.batches]
    return value(numbers, workload.requests).mean


def _instructions(workload: Workload) -> Value:
    return value([it.measured.instructions for it in workload.batches], workload.requests)


def find(bar: Bar, name: str) -> Workload | None:
    """Return one kind of request of the first run."""
    return next((one for one in bar.runs[0].workloads if one.name == name), None)


def cell(bar: Bar, name: str, base: Bar | None) -> Cell | None:
    """Return what is said of one kind of request on one image; None if it was not made there."""
    workload = find(bar, name)
    if workload is None:
        return None
    instructions = _instructions(workload)
    other = find(base, name) if base is not None else None
    return Cell(
        instructions=instructions,
        application=_mean(workload, "user") + _mean(workload, "application"),
        transitions=_mean(workload, "transitions"),
        entries=_mean(workload, "entries"),
        cr3=_mean(workload, "cr3"),
        rep=_mean(workload, "rep"),
        repeats=repeats(bar, name),
        ratio=instructions.mean / _instructions(other).mean if other is not None else None,
    )


def words(cell: Cell) -> str:
    """Return the instructions, and how they compare with the base's."""
    ratio = "" if cell.ratio is None else f"  x {cell.ratio:.3f}"
    return f"{cell.instructions.mean:,.0f}{ratio}"


def repeats(bar: Bar, name: str) -> bool:
    """Tell whether all runs of a bar counted the same of one kind of request."""
    found = [[one for one in run.workloads if one.name == name] for run in bar.runs]
    return all(one == found[0] for one in found)


def names(bars: Sequence[Bar]) -> list[str]:
    """Return the names of all kinds of requests, each once, in their order."""
    return list(dict.fromkeys(one.name for bar in bars for one in bar.runs[0].workloads))


def settings(result: Result) -> Iterator[tuple[bool, list[Bar]]]:
    """Return the bars that may be compared with each other, by whether page tables are isolated."""
    for pti in dict.fromkeys(bar.pti for bar in result.bars):
        yield pti, [bar for bar in result.bars if bar.pti is pti]


def base_of(bars: Sequence[Bar]) -> Bar | None:
    """Return the bar that others are compared with."""
    return next((bar for bar in bars if bar.image == BASE), None)


def facts(bars: Sequence[Bar]) -> list[tuple[str, list[str]]]:
    """Return what there is to say of images beside their requests, and of each what it is."""
    runs = [bar.runs[0] for bar in bars]
    rows: list[tuple[str, list[str | None]]] = [
        (
            "power-on to the first answer, instructions",
            [f"{run.ready:,}" if run.ready is not None else None for run in runs],
        ),
        (
            "the same, seconds of the guest's clock",
            [f"{run.ready_ns / 1e9:.3f}" if run.ready_ns is not None else None for run in runs],
        ),
        (
            "smallest memory, MiB",
            [str(bar.memory_mib) if bar.memory_mib is not None else None for bar in bars],
        ),
        ("bytes that are booted", [f"{bar.image_bytes:,}" for bar in bars]),
    ]
    named = dict.fromkeys(name for bar in bars for name in bar.versions)
    rows += [(f"version of {name}", [bar.versions.get(name) for bar in bars]) for name in named]
    return [(what, [cell or "-" for cell in cells]) for what, cells in rows if any(cells)]


def markdown(result: Result) -> str:
    """Return the table for a document.

    Of each request and image: instructions, and changes of the ring behind them.
    """
    images = list(dict.fromkeys(bar.image for bar in result.bars))
    # Of levels each is compared with the twin.
    pairs = [(UKL, name) for name in images if name != UKL]
    if UKL not in images:
        pairs = [(name, BASE) for name in images if name != BASE] if BASE in images else []
    rows = [[result.app, "pti", *images, *(f"{one} / {other}" for one, other in pairs)]]
    rows.append(["---", "---", *("---:" for _ in rows[0][2:])])
    for pti, some in settings(result):
        by_name = {bar.image: bar for bar in some}
        for name in names(some):
            cells = {image: cell(bar, name, None) for image, bar in by_name.items()}
            row = [name, "on" if pti else "off", *(_brief(cells.get(image)) for image in images)]
            rows.append(row + [_ratio(cells.get(one), cells.get(other)) for one, other in pairs])
    _, first = next(settings(result))
    rows += [[what, "", *cells, *("" for _ in pairs)] for what, cells in facts(first)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _brief(one: Cell | None) -> str:
    return "-" if one is None else f"{one.instructions.mean:,.0f} · {one.transitions:.1f}"


def _ratio(one: Cell | None, other: Cell | None) -> str:
    if one is None or other is None:
        return "-"
    return f"{one.instructions.mean / other.instructions.mean:.3f}"
