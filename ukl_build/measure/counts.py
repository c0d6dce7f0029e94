# SPDX-License-Identifier: Apache-2.0
"""What was counted in one run of a guest: from the plugin's file to numbers; pure.

``measure/count.c`` writes the file, and is the home of what is counted.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ukl_build.errors import UklError
from ukl_build.model import Model

_HEAD = struct.Struct("<6I")
_MAGIC = 0x434C4B55
_FORMAT = 1


class Counts(Model):
    """Numbers of what the guest's processor did; names and order are those of count.c."""

    user: int = 0
    """Instructions of applications in the user half of the address space: ring 3."""
    application: int = 0
    """Instructions of the application in the kernel half: ring 0."""
    kernel: int = 0
    """All other instructions."""
    rep: int = 0
    """Of all these, rounds of string instructions with a REP prefix."""
    syscall: int = 0
    sysret: int = 0
    iret: int = 0
    cr3: int = 0
    """Writes of CR3: other address spaces."""
    wrmsr: int = 0
    hlt: int = 0
    entries: int = 0
    """Times that the kernel was left for an application: system calls, faults, interrupts."""
    rings: int = 0
    """Times that it was left for ring 3."""

    @property
    def instructions(self) -> int:
        """All instructions."""
        return self.user + self.application + self.kernel

    @property
    def transitions(self) -> int:
        """Changes of the ring: each way out to ring 3 has one way in."""
        return 2 * self.rings

    def __sub__(self, other: Counts) -> Counts:
        """Return what happened between two times."""
        return Counts(**{name: getattr(self, name) - getattr(other, name) for name in _NAMES})


_NAMES = tuple(Counts.model_fields)


class Role(IntEnum):
    """For whom instructions were executed."""

    MEASURED = 0
    """All tasks but the two below: the application, its children, threads of the kernel."""
    LOAD = 1
    """The program that makes the requests, and what the kernel did for it or meanwhile."""
    IDLE = 2


class Which(IntEnum):
    """Which mark a program executed, see measure/mark.h."""

    LOAD = 0
    BEGIN = 1
    END = 2
    READY = 3


@dataclass(frozen=True)
class Mark:
    """A place that a program came to."""

    which: Which
    counts: tuple[Counts, ...]
    """Since the start of the machine, by :class:`Role`."""

    @property
    def instructions(self) -> int:
        """All instructions since the start of the machine, for whomever."""
        return sum(one.instructions for one in self.counts)


@dataclass(frozen=True)
class Announced:
    """What a program said on the console that it was about to do between marks."""

    name: str
    requests: int
    """In each batch."""
    batches: int


class Batch(Model):
    """What requests took, all of one batch."""

    measured: Counts
    load: Counts
    idle: Counts


class Workload(Model):
    """One kind of request, in one run of a guest."""

    name: str
    requests: int
    """In each batch."""
    batches: tuple[Batch, ...]


class Run(Model):
    """What was counted in one run of a guest."""

    ready: int | None = None
    """Instructions from the start of the machine to the first answer, or to where an application
    that is not asked anything begins."""
    ready_ns: int | None = None
    """The same in nanoseconds of the guest's clock: instructions, and the time that it idled."""
    workloads: tuple[Workload, ...]


def parse(data: bytes) -> tuple[Mark, ...]:
    """Read the plugin's file.

    :raise UklError: ``measure-failed`` if it is damaged, or there was no room for all marks.
    """
    try:
        magic, version, n_counts, n_roles, capacity, n_marks = _HEAD.unpack_from(data)
        if (magic, version, n_counts, n_roles) != (_MAGIC, _FORMAT, len(_NAMES), len(Role)):
            raise _failed("the plugin's file is of another version of the plugin")
        if n_marks > capacity:
            raise _failed(f"the guest has set {n_marks} marks, and there is room for {capacity}")
        record = struct.Struct(f"<Q{n_roles * n_counts}Q")
        begin = _HEAD.size + 8 * n_counts
        rows = [record.unpack_from(data, begin + number * record.size) for number in range(n_marks)]
        return tuple(Mark(Which(row[0]), _by_role(row[1:])) for row in rows)
    except (struct.error, ValueError) as error:
        raise _failed(f"the plugin's file is damaged: {error}") from error


def _by_role(numbers: Sequence[int]) -> tuple[Counts, ...]:
    width = len(_NAMES)
    return tuple(
        Counts(**dict(zip(_NAMES, numbers[width * role : width * (role + 1)], strict=True)))
        for role in Role
    )


_ANNOUNCED = re.compile(r"bench: (\d+) (\d+) (.+)")
DONE = "bench: done"
"""What a program says when all is done."""


def announced(lines: Sequence[str]) -> tuple[Announced, ...]:
    """Return what programs said on the console that they were about to do, in order."""
    found = [_ANNOUNCED.fullmatch(line) for line in lines]
    return tuple(
        Announced(match[3], requests=int(match[1]), batches=int(match[2]))
        for match in found
        if match is not None
    )


_READY = re.compile(r"bench: ready at (\d+)")


def ready_at(lines: Sequence[str]) -> int | None:
    """Return the guest's clock at the first answer, as the program that got it said it, in ns."""
    found = [match for line in lines if (match := _READY.fullmatch(line))]
    return int(found[0][1]) if found else None


def gather(lines: Sequence[str], marks: Sequence[Mark]) -> Run:
    """Return what was counted.

    :param lines: of the console.
    :raise UklError: ``measure-failed`` if marks are missing, or there are others.
    """
    plan = announced(lines)
    ready = next((one.instructions for one in marks if one.which is Which.READY), None)
    ends = [one for one in marks if one.which in (Which.BEGIN, Which.END)]
    expected = [Which.BEGIN, Which.END] * sum(one.batches for one in plan)
    if [one.which for one in ends] != expected:
        raise _failed(f"{len(expected)} marks of batches were expected, and {len(ends)} came")
    batches = iter(
        [
            Batch(**{role.name.lower(): b.counts[role] - a.counts[role] for role in Role})
            for a, b in zip(ends[::2], ends[1::2], strict=True)
        ]
    )
    workloads = tuple(
        Workload(
            name=one.name,
            requests=one.requests,
            batches=tuple(next(batches) for _ in range(one.batches)),
        )
        for one in plan
    )
    return Run(ready=ready, ready_ns=ready_at(lines), workloads=workloads)


def _failed(what: str) -> UklError:
    return UklError("measure-failed", what, hint="look at the console log; is the plugin's new?")
