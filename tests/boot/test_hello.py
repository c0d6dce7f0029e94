# SPDX-License-Identifier: Apache-2.0
"""A plain C program with the C library that is built for ring 0: there, and as it is in ring 3."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from tests.boot.conftest import Start, ended_well
from tests.boot.ring0 import RING0, compiled, relink, static
from ukl_build.image import Variant
from ukl_build.initconf import Job
from ukl_build.run import attend, prepare
from ukl_build.stages import libc

pytestmark = pytest.mark.boot

GUEST_S = 60.0


def test_it_runs_in_ring_0(start: Start, built: Path, library: libc.Parts, tmp_path: Path) -> None:
    image = relink(built, tmp_path, ("hello",), library)
    machine = start(kernel=image.kernel, app="", jobs=(Job((RING0, "a b", "c")),))
    (line,) = [line for line in ended_well(machine, GUEST_S) if line.startswith("Hello")]
    assert line.endswith(", a b c")
    names = image.symbols()
    # The kernel's entry took the place of the library's, and its clock is linked.
    assert "ukl.clock_gettime" in names or "ukl.__clock_gettime" in names
    assert names["ukl_syscall"] < names["ukl._start"]


@pytest.fixture
def program(library: libc.Parts, tmp_path: Path) -> Path:
    """Link it as an ordinary program."""
    out = tmp_path / "program"
    static(out, compiled(tmp_path, ("hello",)), library)
    return out


def test_the_same_library_makes_an_ordinary_program(program: Path) -> None:
    said = subprocess.run([program, "x"], check=True, capture_output=True, text=True).stdout
    assert said == f"Hello from Linux {platform.release()}, x\n"


def test_gdb_finds_the_librarys_sources_where_it_is_told_that_they_are(
    program: Path, library_record: Path
) -> None:
    def listed(*before: str) -> str:
        commands = [word for command in (*before, "list printf") for word in ("-ex", command)]
        argv = ["gdb", "-nx", "-batch", *commands, str(program)]
        return subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/").stdout

    told = attend.substituted(prepare.sources(library_record.parent, Variant.UKL))
    assert "va_start (arg, format)" in listed(*told)
    assert "va_start" not in listed()
    # The same wherever it was built.
    assert b"/ukl-build/trees/" not in program.read_bytes()
