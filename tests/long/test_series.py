# SPDX-License-Identifier: Apache-2.0
"""The kernel builds after each patch of the series."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kernel import Kernel
from tests.project import ROOT

pytestmark = pytest.mark.long

PATCHES = ROOT / "recipes" / "linux" / "patches"
LEFT_OUT = ("ACPI", "BLOCK", "INPUT", "PCI", "TTY")
"""Options without which the kernel is half as large and still has all that the series touches."""


def test_the_kernel_builds_after_each_patch(tmp_path: Path) -> None:
    kernel = Kernel.create(tmp_path)
    series = [line for line in (PATCHES / "series").read_text().splitlines() if line]
    for name in reversed(series):
        kernel.patch(PATCHES / name, "--reverse")
    for number, name in enumerate(series):
        kernel.patch(PATCHES / name)
        log = tmp_path / f"{name}.log"
        # The files of a level are there from the start; it can be chosen from its last patch on.
        coming = levels(series[number + 1 :])
        kernel.make(log, (*LEFT_OUT, *(f"UKL_{level.upper()}" for level in coming)))
        assert "warning:" not in log.read_text(), f"{name}: {log}"
    assert touched(series) - compiled(kernel) == set()


def levels(series: list[str]) -> set[str]:
    """Return the levels of ring 0 that patches are for."""
    texts = ((PATCHES / name).read_text() for name in series)
    return {level for text in texts for level in re.findall(r"^Level: (\w+)$", text, re.M)}


def touched(series: list[str]) -> set[str]:
    """Return the sources that the patches change or add."""
    text = "".join((PATCHES / name).read_text() for name in series)
    return set(re.findall(r"^\+\+\+ b/(\S+\.[chS])$", text, re.M))


def compiled(kernel: Kernel) -> set[str]:
    """Return the sources that kbuild names as read by what it built last."""
    read = re.compile(re.escape(f"{kernel.tree}/") + r"(\S+\.[chS])\b")
    return {name for cmd in kernel.out.rglob(".*.cmd") for name in read.findall(cmd.read_text())}
