# SPDX-License-Identifier: Apache-2.0
"""What ukl-run says of an application that crashes in ring 0: layer, function, line and cause."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.boot import ring0, ukl_run
from tests.project import ROOT

pytestmark = pytest.mark.boot

ENOUGH_S = 120.0
SOURCE = ring0.GUEST / "crash.c"


def run(folder: Path, *words: str) -> tuple[int, str]:
    """Run ukl-run to its end; return exit status and standard error."""
    return ukl_run.run(folder.parent / "state", "--qemu", str(folder), *words, enough_s=ENOUGH_S)


def line_of(function: str, text: str) -> int:
    """Return the number of the first line with some text behind a function's begin."""
    lines = SOURCE.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if f" {function}(" in line)
    return next(number for number in range(begin, len(lines)) if text in lines[number]) + 1


@pytest.mark.parametrize(
    ("way", "number", "at", "cause"),
    [
        ("null", signal.SIGSEGV, "= 1;", "A pointer is NULL: 0x0 "),
        ("overflow", signal.SIGSEGV, "room[0] = depth", "The stack is used up: 0x7"),
        ("divide", signal.SIGFPE, "/ by", "An integer was divided by 0"),
    ],
)
def test_a_fault_of_the_application_is_told_with_its_line(
    crash_image: Path, way: str, number: signal.Signals, at: str, cause: str
) -> None:
    code, said = run(crash_image, "--", way)
    assert code == 128 + number, said
    place = f"{SOURCE.relative_to(ROOT)}:{line_of(way, at)}"
    assert re.search(rf"^{number.name} in the application: {way}\+0x\w+ at {place}$", said, re.M), (
        said
    )
    assert f"likely cause: {cause}" in said
    (log,) = re.findall(r"^console log: (\S+)$", said, re.M)
    assert "potentially unexpected fatal signal" in Path(log).read_text()
    assert "of another build" not in said
    # The registers are those of the fault.
    assert re.search(r"RSP +00007f\w{10}", said), said


def test_abort_is_told_as_the_c_librarys_with_its_reason(crash_image: Path) -> None:
    code, said = run(crash_image, "--", "asserts")
    assert code == 134, said
    assert re.search(r"^SIGABRT in the C library: \S*pthread_kill\S*\+0x", said, re.M), said
    assert "likely cause: An assertion of the application does not hold" in said


def test_a_wild_jump_is_in_no_function(crash_image: Path) -> None:
    code, said = run(crash_image, "--", "jump")
    assert code == 139, said
    assert "SIGSEGV at 0x123456789000, which is in no function that is known" in said
    assert "likely cause: The application jumped to 0x123456789000" in said


def test_a_run_that_ends_well_has_no_report(crash_image: Path) -> None:
    code, said = run(crash_image, "--", "no such way")
    assert code == 2, said
    assert "likely cause" not in said


def test_a_panic_keeps_its_error_and_its_status(crash_image: Path) -> None:
    code, said = run(crash_image, "--append", "rdinit=/no/such")
    assert code == 240, said
    assert "likely cause: " in said
    assert said.index("kernel panic: ") < said.index("error[guest-panic]")
