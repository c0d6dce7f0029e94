# SPDX-License-Identifier: Apache-2.0
"""The C library in ring 0, an ordinary static program of the same sources being the oracle.

``guest/libc.c`` is linked into the kernel and compiled as an ordinary program.  One guest runs each
theme of it in both rings, one after the other.  test_ring0.py tells what the programs print.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot import ring0
from tests.boot.conftest import console
from tests.boot.test_ring0 import COMPLAINTS, QUIET, Part, names, parts
from ukl_build import cpio
from ukl_build.initconf import Job
from ukl_build.run.guest import start_guest
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Vm

# In check-long until it is linked with the C library that is built for ring 0.
pytestmark = [pytest.mark.boot, pytest.mark.long]

THEMES = (
    *("stdio", "runtime", "string", "memory", "threads", "cancel", "signals"),
    *("contexts", "timers", "io", "net", "process", "names"),
)
ALONE = "pins"
"""A theme that has a guest of its own: see there."""
PARTS = ("libc", *(f"libc_{theme}" for theme in (*THEMES, ALONE)))
ORDINARY = "/tests/libc"
OBJECT = "/tests/libc_object.so"
LOCALE = Path("/usr/lib/locale/C.utf8")
"""Of Debian's libc-bin, which is essential."""

THEME_S = 100
"""When a theme is ended; many times what the slowest takes."""
GUEST_S = 400.0


@dataclass(frozen=True)
class Said:
    """What a guest said until its end."""

    found: dict[tuple[str, int], Part]
    """By theme and ring."""
    outcome: Outcome | None
    lines: list[str]


@dataclass(frozen=True)
class Programs:
    """The program of all themes, twice."""

    kernel: Path
    files: dict[str, Path]
    """For ring 3, and what both need, by their paths in the guest."""


@pytest.fixture(scope="module")
def programs(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Build the program for both rings."""
    folder = tmp_path_factory.mktemp("libc")
    image = ring0.relink(built, folder, PARTS)
    shared = folder / "libc_object.so"
    source = ring0.GUEST / "libc_object.c"
    flags = [*ring0.WARNINGS, "-fPIC", "-shared", "-nostdlib"]
    subprocess.run(["gcc", *flags, "-o", shared, source], check=True)
    ordinary = ring0.ordinary(folder, "libc", PARTS)
    return Programs(image.kernel, {ORDINARY: ordinary, OBJECT: shared})


def run_themes(programs: Programs, base: Path, folder: Path, *themes: str) -> Said:
    """Run themes in both rings, one after the other, in one guest."""
    machine = start_guest(
        programs.kernel,
        folder,
        base=base,
        # A kernel that is broken says nothing about what comes after.
        vm=Vm("libc", cpus=2, cmdline=(QUIET, "oops=panic")),
        programs=programs.files,
        entries=[
            cpio.file(str(path), path.read_bytes())
            for path in sorted(LOCALE.rglob("*"))
            if path.is_file()
        ],
        app="",
        jobs=[
            Job((path, theme), any_end=True, timeout_s=THEME_S)
            for theme in themes
            for path in (ORDINARY, ring0.RING0)
        ],
    )
    with machine:
        outcome = machine.wait(GUEST_S)
        if outcome is None:
            machine.give_up()
        lines = console(machine)
    found = {(part.program, part.ring): part for part in parts(lines)}
    return Said(found, outcome, lines)


@pytest.fixture(scope="module")
def said(programs: Programs, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Run all themes but one."""
    return run_themes(programs, base, tmp_path_factory.mktemp("guest"), *THEMES)


@pytest.mark.parametrize("ring", [3, 0])
@pytest.mark.parametrize("theme", THEMES)
def test_all_checks_of_a_theme_pass(said: Said, theme: str, ring: int) -> None:
    part = said.found.get((theme, ring))
    assert part is not None, said.lines[-20:]
    assert part.bad == []
    assert part.ended, part.good[-3:]


@pytest.mark.parametrize("theme", THEMES)
def test_both_rings_make_the_same_checks(said: Said, theme: str) -> None:
    three, zero = said.found[theme, 3], said.found[theme, 0]
    assert names(three) == names(zero)
    assert len(set(names(three))) == len(names(three)), "a name is used twice"
    assert zero.same == three.same


def test_the_kernel_has_nothing_to_complain_about(said: Said) -> None:
    assert [line for line in said.lines if COMPLAINTS.search(line)] == []
    assert said.outcome == Outcome(Kind.EXITED, 0), said.lines[-20:]


@pytest.fixture(scope="module")
def said_alone(programs: Programs, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Run the theme after which there may be no kernel any more."""
    return run_themes(programs, base, tmp_path_factory.mktemp("alone"), ALONE)


def test_memory_of_more_than_a_page_is_pinned_in_ring_3(said_alone: Said) -> None:
    part = said_alone.found[ALONE, 3]
    assert (part.bad, part.ended) == ([], True)


def test_globals_of_more_than_a_page_are_pinned(said_alone: Said) -> None:
    three, zero = said_alone.found[ALONE, 3], said_alone.found[ALONE, 0]
    assert (zero.bad, names(zero)) == ([], names(three))
    assert said_alone.outcome == Outcome(Kind.EXITED, 0)
