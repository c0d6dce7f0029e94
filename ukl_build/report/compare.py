# SPDX-License-Identifier: Apache-2.0
"""What differs between two images, as far as reports tell; pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Literal

from pydantic import Field

from ukl_build.model import Model
from ukl_build.report import facts
from ukl_build.report.facts import Report


class Change(Model):
    """A number in the one and in the other; None where it is not there."""

    name: str
    before: float | None
    after: float | None

    @property
    def more(self) -> float:
        """How much it has grown; what is not there counts as 0."""
        return (self.after or 0) - (self.before or 0)


class Reworded(Model):
    """A value in the one and in the other; None where it is not there."""

    name: str
    before: str | None
    after: str | None


class Comparison(Model):
    """All of it; only what differs, but for whole images and milestones."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    before: str
    """What the one is called."""
    after: str
    same: bool
    """Whether the bootable files are the same."""
    whole: tuple[Change, ...]
    """The file, and its memory; bytes."""
    owners: tuple[Change, ...]
    """Bytes in memory by owner, the largest change first.  How much a part takes when it is packed
    depends on what is packed beside it."""
    files: tuple[Change, ...]
    """The same by object or archive member, for those that have changed most."""
    milestones: tuple[Change, ...]
    """Instructions from power-on."""
    phases: tuple[Change, ...]
    """Instructions from each milestone that both have to the next."""
    options: tuple[Reworded, ...]
    components: tuple[Reworded, ...]
    """Versions, licences and digests of parts."""


FILES = 40
"""Of the largest changes of single files that are kept."""


def _changes(before: Mapping[str, float], after: Mapping[str, float]) -> list[Change]:
    names = dict.fromkeys([*before, *after])
    return [Change(name=one, before=before.get(one), after=after.get(one)) for one in names]


def _changed(before: Mapping[str, float], after: Mapping[str, float]) -> list[Change]:
    """Return what differs, the largest change first."""
    found = [one for one in _changes(before, after) if one.before != one.after]
    return sorted(found, key=lambda one: (-abs(one.more), one.name))


def _reworded(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Reworded, ...]:
    names = sorted(before.keys() | after.keys())
    return tuple(
        Reworded(name=one, before=before.get(one), after=after.get(one))
        for one in names
        if before.get(one) != after.get(one)
    )


def _sums(parts: Iterable[facts.Part], key: Callable[[facts.Part], str]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for part in parts:
        sums[key(part)] = sums.get(key(part), 0) + part.memory
    return sums


def _file(part: facts.Part) -> str:
    """Return what a file is called in whichever folder it was built."""
    if part.owner.startswith("application"):
        return f"{part.owner}: {part.file.rsplit('/', 1)[-1]}"
    return part.file or part.owner


def _options(report: Report) -> dict[str, str]:
    # Not set and unknown to Kconfig are the same here.
    return {one.name: one.value for one in report.options if one.value != "n"}


def _components(report: Report) -> dict[str, str]:
    return {
        one.name: ", ".join(word for word in (one.version, one.licence, one.digest[:12]) if word)
        for one in report.components
    }


def _milestones(report: Report) -> dict[str, float]:
    made = report.timeline
    return {one.name: float(one.instructions) for one in made.milestones} if made else {}


def _phases(milestones: Mapping[str, float], both: Set[str]) -> dict[str, float]:
    """Return the instructions from each milestone to the next of those that both have."""
    names = [one for one in milestones if one in both]
    return {
        f"{one} to {following}": milestones[following] - milestones[one]
        for one, following in itertools.pairwise(names)
    }


def compare(a: Report, b: Report) -> Comparison:
    """Return what differs between two images."""
    names = [a.image.label, b.image.label]
    if names[0] == names[1]:
        names = [f"{a.image.label} ({one})" for one in ("before", "after")]
    whole: tuple[Mapping[str, float], Mapping[str, float]] = (
        {"bootable file": a.file} | ({"kernel in memory": a.memory} if a.memory else {}),
        {"bootable file": b.file} | ({"kernel in memory": b.memory} if b.memory else {}),
    )
    points = _milestones(a), _milestones(b)
    both = points[0].keys() & points[1].keys()
    return Comparison(
        before=names[0],
        after=names[1],
        same=a.digest == b.digest,
        whole=tuple(_changes(*whole)),
        owners=tuple(_changed(*(_sums(one.parts, lambda part: part.owner) for one in (a, b)))),
        files=tuple(_changed(*(_sums(one.parts, _file) for one in (a, b)))[:FILES]),
        milestones=tuple(_changes(*points)),
        phases=tuple(_changes(*(_phases(one, both) for one in points))),
        options=_reworded(_options(a), _options(b)),
        components=_reworded(_components(a), _components(b)),
    )
