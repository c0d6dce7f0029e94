# SPDX-License-Identifier: Apache-2.0
"""glibc's own tests in ring 0, with the verdicts that they have in ring 3: an oracle of others.

glibc.toml says which are made, glibc.py how they become one program, ``guest/glibc_run.c`` runs
each in both rings, one after the other.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot import glibc, ring0
from tests.boot.conftest import ended
from tests.boot.glibc import Case, Ended
from tests.boot.test_ring0 import COMPLAINTS, QUIET
from tests.project import ROOT
from ukl_build import cpio, toolchain
from ukl_build.cache import Cache
from ukl_build.initconf import Job
from ukl_build.run.guest import start_guest
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Vm
from ukl_build.stages import libc
from ukl_build.stages.userspace import MAGIC

# Some 600 tests, twice, of which many sleep.
pytestmark = [pytest.mark.boot, pytest.mark.long]

RUNNER = "/tests/run"
LIST = "/tests/list"
CASE_S = 900
"""When a test is ended; its own bound, of 800 seconds mostly, comes before."""
GUEST_S = 5400.0

PASS, UNSUPPORTED = "exit 0", "exit 77"

LEAST = 150
"""How many must pass."""

SEEDED = {
    "seeded/status": ("exit 0", "exit 1"),
    "seeded/hang": ("exit 0", "timeout 0"),
}
"""Tests of ours that must be found to differ, and how they end in ring 3 and in ring 0."""
SEEDED_S = 10

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C",
    # Their own bound is 20 seconds, of which a busy machine makes failures in both rings.
    "TIMEOUTFACTOR": "40",
}

TOOLS = ("sh", "cat", "cp", "echo", "true", "false", "sleep", "kill", "ls", "pwd", "rm")
"""Programs of Debian that tests start; all are of essential packages."""


@dataclass(frozen=True)
class Programs:
    """What a guest is made of."""

    image: ring0.Ring0
    ordinary: Path
    runner: Path
    cases: list[Case]
    tree: Path


@dataclass(frozen=True)
class Said:
    """What a guest said until its end."""

    ended: dict[tuple[str, int], Ended]
    """By test and ring."""
    outcome: Outcome
    lines: list[str]

    def output(self, name: str, ring: int) -> str:
        """Return the end of what a test has written, if it did not pass."""
        start = f"# {name} {ring}: "
        return "\n".join(line for line in self.lines if line.startswith(start))


@pytest.fixture(scope="module")
def programs(
    built: Path, library: libc.Parts, library_tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Programs:
    """Compile glibc's tests and link them for both rings."""
    objects = ROOT / "build" / "glibc-tests"
    shutil.rmtree(objects, ignore_errors=True)
    objects.mkdir(parents=True)
    build = glibc.Build(library_tree, objects, toolchain.compiler(Cache.default().ccache))
    table = glibc.table()
    listed = [case for folder in table.folders for case in build.listed(folder)]
    cases = glibc.choose(listed, table)
    found = build.compile(cases)
    shared = (build.support(), toolchain.file("libstdc++.a"))
    assert glibc.misfits(found, [*shared, *library.libraries]) == {}
    folder = tmp_path_factory.mktemp("glibc")
    parts = glibc.combine(found, folder)
    whole = libc.Parts(library.before, (*shared, *library.libraries), library.after)
    ordinary = folder / "ordinary"
    ring0.static(ordinary, parts, whole)
    runner = ring0.ordinary(folder, "glibc_run")
    image = ring0.link(built, folder, parts, whole)
    return Programs(image, ordinary, runner, cases, library_tree)


def list_of(cases: list[Case], tree: Path) -> str:
    """Return what the runner reads."""
    lines = []
    for case in (*(Case(name) for name in SEEDED), *cases):
        given = tree / f"{case.name}.input"
        for ring in (3, 0):
            words = [
                str(ring),
                case.name,
                str(SEEDED_S if case.name in SEEDED else CASE_S),
                f"{glibc.SOURCE}/{case.name}.input" if given.exists() else "-",
                *(f"{name}={value}" for name, value in ENVIRONMENT.items()),
                *case.env,
                "--",
                *case.args,
            ]
            lines.append("\t".join(words).replace("{objects}", f"/tests/ring{ring}"))
    return "\n".join(lines) + "\n"


def tools() -> Iterator[cpio.Entry]:
    """Return Debian's programs and what they need."""
    for folder in ("bin", "lib", "lib64"):
        yield cpio.symlink(f"/{folder}", f"usr/{folder}")
    files = set()
    for name in TOOLS:
        path = shutil.which(name)
        assert path is not None, name
        said = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
        files |= {f"/usr/bin/{name}", *re.findall(r"(/\S+) \(0x", said)}
    for path in sorted({re.sub("^/lib", "/usr/lib", path) for path in files}):
        yield cpio.file(path, Path(path).read_bytes(), mode=0o755)


def read_files(programs: Programs) -> Iterator[cpio.Entry]:
    """Return the files that tests read: what is not code in the folders of their sources."""
    for folder in sorted({case.folder for case in programs.cases}):
        for path in sorted((programs.tree / folder).rglob("*")):
            if path.is_file() and path.suffix not in (".c", ".cc", ".h", ".S"):
                place = f"{glibc.SOURCE}/{path.relative_to(programs.tree)}"
                yield cpio.file(place, path.read_bytes())


def entries(programs: Programs) -> Iterator[cpio.Entry]:
    """Return the files of the guest beside the programs."""
    yield cpio.file(LIST, list_of(programs.cases, programs.tree))
    yield cpio.file("/tests/ordinary", programs.ordinary.read_bytes(), mode=0o755)
    # Tests that become another user start themselves again.
    yield cpio.file(ring0.RING0, MAGIC, mode=0o755)
    for name in (*SEEDED, *(case.name for case in programs.cases)):
        yield cpio.symlink(f"/tests/ring3/{name}", "/tests/ordinary")
        yield cpio.symlink(f"/tests/ring0/{name}", ring0.RING0)
    yield cpio.folder(f"{glibc.SOURCE}/seeded")
    yield from tools()
    yield from read_files(programs)


@pytest.fixture(scope="module")
def said(programs: Programs, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Run all tests in both rings."""
    machine = start_guest(
        programs.image.kernel,
        tmp_path_factory.mktemp("guest"),
        base=base,
        vm=Vm("glibc", cpus=2, memory_mib=2048, cmdline=(QUIET, "oops=panic")),
        programs={RUNNER: programs.runner},
        entries=list(entries(programs)),
        app="",
        jobs=[Job((RUNNER, LIST), any_end=True)],
    )
    with machine:
        outcome, lines = ended(machine, GUEST_S)
    return Said(glibc.endings(lines), outcome, lines)


def test_all_have_run(programs: Programs, said: Said) -> None:
    assert said.outcome == Outcome(Kind.EXITED, 0), said.lines[-20:]
    assert "# all have ended" in said.lines
    names = {*SEEDED, *(case.name for case in programs.cases)}
    assert set(said.ended) == {(name, ring) for name in names for ring in (3, 0)}


def test_they_pass_in_ring_3(said: Said) -> None:
    three = {name: str(end) for (name, ring), end in said.ended.items() if ring == 3}
    bad = [name for name, end in three.items() if end not in (PASS, UNSUPPORTED)]
    assert bad == [], "\n".join(f"{name}: {three[name]}\n{said.output(name, 3)}" for name in bad)
    assert sum(end == PASS for name, end in three.items() if name not in SEEDED) >= LEAST


def test_they_end_in_ring_0_as_in_ring_3(said: Said) -> None:
    found = glibc.differences(said.ended)
    seeded = {name: found.pop(name, None) for name in SEEDED}
    assert seeded == SEEDED, "the comparison does not see a difference"
    unknown = {name: (*ends, said.output(name, 0)) for name, ends in found.items()}
    assert unknown == {}


def test_the_kernel_has_nothing_to_complain_about(said: Said) -> None:
    assert [line for line in said.lines if COMPLAINTS.search(line)] == []
