# SPDX-License-Identifier: Apache-2.0
"""Samples by their recipes, in ring 0 and as ordinary programs: the same objects, the same output.

SCons makes the archive, as for any application; only the kernel is one that is there already.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot.conftest import Start, ended_well
from tests.boot.ring0 import RING0, link_kernel, static
from tests.boot.test_ring0 import COMPLAINTS, QUIET
from tests.conftest import scons
from tests.project import ROOT
from ukl_build.initconf import Job
from ukl_build.run.vm import Vm
from ukl_build.stages import libc

pytestmark = pytest.mark.boot

ORDINARY = "/tests/sample"
GUEST_S = 120.0
KILLED = re.compile(r"init: .* was killed by signal (\d+)$")
NOT_THE_PROGRAM = re.compile(r"\[ *\d+\.\d+\] |init: ")

PCRE2_ERROR_NOMEMORY = -48


@dataclass(frozen=True)
class Sample:
    """A sample in a kernel, and as an ordinary program."""

    kernel: Path
    program: Path

    def said(
        self,
        start: Start,
        ring: int,
        *words: str,
        env: Mapping[str, str] | None = None,
        killed_by: int | None = None,
    ) -> list[str]:
        """Return what it prints in a guest of its own, where it ends with status 0.

        :param killed_by: signal that it must be ended by instead.
        """
        machine = start(
            kernel=self.kernel,
            vm=Vm("sample", cpus=2, cmdline=(QUIET,)),
            programs={ORDINARY: self.program},
            app="",
            env=env,
            jobs=(Job((RING0 if ring == 0 else ORDINARY, *words), any_end=bool(killed_by)),),
        )
        lines = ended_well(machine, GUEST_S)
        assert [line for line in lines if COMPLAINTS.search(line)] == []
        signals = [int(found[1]) for line in lines if (found := KILLED.search(line))]
        assert signals == ([killed_by] if killed_by else []), "\n".join(lines[-20:])
        return [line for line in lines if not NOT_THE_PROGRAM.match(line)]


def sample(name: str, built: Path, folder: Path) -> Sample:
    """Build a sample for both rings."""
    out = ROOT / "build" / name
    scons(f"app={name}", str(out / "UKL.a"))
    shutil.copy(out / "UKL.a", folder)
    return in_both_rings(out / "objects" / "app.o", built, folder)


def in_both_rings(app_o: Path, built: Path, folder: Path) -> Sample:
    """Link the archive of a folder, its UKL.a, into a kernel, and what it was made of by itself."""
    program = folder / "program"
    static(program, [app_o], libc.Parts())
    return Sample(link_kernel(built, folder).kernel, program)


@pytest.fixture(scope="module")
def archives(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return sample("archives", built, tmp_path_factory.mktemp("archives"))


def test_debians_archives_do_the_same_in_both_rings(start: Start, archives: Sample) -> None:
    said = archives.said(start, 0)
    assert said == archives.said(start, 3)
    # What does not depend on how well zlib packs; the CRC is what Python says of the same bytes.
    assert said[:4] == [
        "4 groups: Größe (7 bytes) is 42, in µm",
        "4 groups: Ελλάδα (12 bytes) is 7, in км",
        "4 groups: width (5 bytes) is 1300, in mm",
        "3 lines match",
    ]
    packed = re.match(r"544000 bytes packed to (\d+), CRC-32 2ba7a012", said[4])
    assert packed is not None
    assert said[5:] == [
        "libevent waits by epoll",
        "the other end has closed",
        "3 ticks, none too early",
        f"{packed[1]} bytes arrived, 544000 unpacked",
        "the texts are equal",
    ]


def test_patterns_are_interpreted_where_they_cannot_be_compiled(
    start: Start, archives: Sample
) -> None:
    """No executable memory in ring 0: PCRE2's compiler says so, and matching goes on without it."""
    compiled, interpreted = (archives.said(start, ring, "jit") for ring in (3, 0))
    assert (compiled[0], interpreted[0]) == ("jit: 0", f"jit: {PCRE2_ERROR_NOMEMORY}")
    assert compiled[1:] == interpreted[1:]


@pytest.fixture(scope="module")
def cxx(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return sample("cxx", built, tmp_path_factory.mktemp("cxx"))


def test_exceptions_of_c_plus_plus_do_the_same_in_both_rings(start: Start, cxx: Sample) -> None:
    """Through C, out of libstdc++ and of threads that throw at the same time; and none at all."""
    said = cxx.said(start, 0)
    assert said == cxx.said(start, 3)
    assert said == [
        "through C: [2 * (3 + 4) = 14] [1 / 3 = 0.3333] [((1 / (2 - 2))) = division by zero,"
        " column 4",
        "2 sums, 2 braces",
        "a sum: no number, column 5",
        "dynamic_cast: std::bad_cast",
        "typeid: std::bad_typeid",
        "map: map::at",
        "new: std::bad_alloc",
        "half: first member gone, stoi",
        "regex: Mismatched '(' and ')' in regular expression",
        "file_size: filesystem error: cannot get file size: No such file or directory [/no/such]",
        "stream: basic_ios::clear: iostream error",
        "number: something else",
        "the second sum",
        ">no number",
        "the thread's own is gone",
        "4 threads have thrown",
        "kept: division by zero, column 2",
        "2 x division",
        "8 x of the library",
        "1 x something else",
        "1 x sum_error",
    ]


def test_an_exception_that_nothing_catches_ends_the_program(start: Start, cxx: Sample) -> None:
    for ring in (3, 0):
        assert cxx.said(start, ring, "1 / 0", killed_by=signal.SIGABRT) == [
            "terminate called after throwing an instance of 'division'",
            "  what():  division by zero",
        ]
