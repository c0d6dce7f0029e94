# SPDX-License-Identifier: Apache-2.0
"""The suites find what is wrong with a kernel: each of faults/*.patch must turn one of them red.

A patch's header tells what runs (``Run:``) and what must be among the verdict (``Shown-by:``, a
regular expression).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot import ring0
from tests.boot.conftest import Start, ended
from tests.boot.test_ring0 import COMPLAINTS, QUIET, parts
from tests.kernel import Kernel
from tests.posix.test_posix import ORDINARY, PARTS, with_cxx
from ukl_build import proc
from ukl_build.initconf import Job
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Vm
from ukl_build.stages import libc, sources

pytestmark = pytest.mark.boot

FOLDER = Path(__file__).parent / "faults"
FAULTS = sorted(FOLDER.glob("*.patch"))
GUEST_S = 200.0

SUITE = ("context", "faults", "observed", "storm", "descriptors")
POSIX = ("timers", "threads")
"""What can run: parts of the two programs of the tests."""


@dataclass
class Bench:
    """The kernel with faults, and the programs that are linked into it or run beside."""

    kernel: Kernel
    folder: Path
    ordinary: dict[str, Path]
    libc: libc.Parts
    built: str = ""
    """Of what the application in the output folder was made."""

    def link(self, run: str) -> None:
        """Make the archive that the next kernel is linked with."""
        wanted = "posix" if run in POSIX else "suite"
        if wanted == self.built:
            return
        work = self.folder / "archive"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        objects = ring0.compiled(work, PARTS if wanted == "posix" else ring0.SUITE)
        ring0.archive(work, objects, work / "UKL.a", self.libc)
        shutil.copy2(work / "UKL.a", self.folder)
        self.built = wanted

    @contextmanager
    def fault(self, patch: Path) -> Iterator[None]:
        """Have a fault in the sources for a while."""
        self.kernel.patch(patch)
        try:
            yield
        finally:
            self.kernel.patch(patch, "--reverse")

    def boot(self, start: Start, run: str) -> list[str]:
        """Build the kernel as it is and return the verdict of a suite on it."""
        self.link(run)
        self.kernel.make(self.folder / "make.log")
        return verdict(
            start(
                kernel=self.kernel.bzimage,
                programs=self.ordinary,
                vm=Vm("guest", cpus=2, cmdline=(QUIET, "oops=panic")),
                app="",
                jobs=jobs(run),
            )
        )


def jobs(run: str) -> tuple[Job, ...]:
    """Return what a guest does."""
    if run == "leak":
        words = ("/tests/stress", "leak", ring0.RING0, "1000", "0")
        return (Job(words, any_end=True, timeout_s=150),)
    paths = (ORDINARY if run in POSIX else ring0.ORDINARY, ring0.RING0)
    return tuple(Job((path, run), any_end=True, timeout_s=90) for path in paths)


def verdict(machine: Machine) -> list[str]:
    """Return what is wrong with a guest; nothing, if it is as it must be."""
    outcome, lines = ended(machine, GUEST_S)
    wrong = [f"complaint: {line}" for line in lines if COMPLAINTS.search(line)]
    ran = False
    for part in parts(lines):
        # "leak" is an ordinary program that starts the one in ring 0.
        tested = part.ring == 0 or part.program == "leak"
        wrong += [f"not ok {line}" for line in part.bad if tested]
        assert tested or not part.bad, "the ordinary program is the oracle"
        ran |= tested
        if not part.ended:
            wrong.append(f"not ended: {part.program}")
    if not ran:
        wrong.append("nothing ran in ring 0")
    if outcome != Outcome(Kind.EXITED, 0):
        wrong.append(f"outcome: {outcome}")
    return wrong


@pytest.fixture(scope="module")
def bench(
    ordinary: dict[str, Path], library: libc.Parts, tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    kernel = Kernel.create(folder)
    library = with_cxx(library)
    posix = folder / "posix"
    ring0.static(posix, ring0.compiled(folder, PARTS), library)
    return Bench(kernel, folder, {**ordinary, ORDINARY: posix}, library)


@pytest.mark.long
@pytest.mark.parametrize("run", [*SUITE, "leak", *POSIX])
def test_without_a_fault_all_is_well(bench: Bench, start: Start, run: str) -> None:
    assert bench.boot(start, run) == []


@pytest.mark.parametrize("patch", FAULTS, ids=lambda path: path.stem)
def test_a_fault_is_still_one_of_this_kernel(built: Path, patch: Path) -> None:
    tree = sources.read_tree(built / "sources.manifest.json").path
    words = ("patch", "--dry-run", "--strip=1", "--fuzz=0", "--batch", f"--input={patch}")
    proc.run(words, cwd=tree)


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 10


@pytest.mark.long
@pytest.mark.parametrize("patch", FAULTS, ids=lambda path: path.stem)
def test_a_fault_is_found(bench: Bench, start: Start, patch: Path) -> None:
    head = dict(
        re.findall(r"^([A-Z][\w-]*): (.*)$", patch.read_text().partition("\n---\n")[0], re.M)
    )
    with bench.fault(patch):
        wrong = bench.boot(start, head["Run"])
    assert [line for line in wrong if re.search(head["Shown-by"], line)], wrong
