# SPDX-License-Identifier: Apache-2.0
"""The kernel builds after each patch of the series."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel import Kernel
from tests.project import ROOT

pytestmark = pytest.mark.long

PATCHES = ROOT / "recipes" / "linux" / "patches"


def test_the_kernel_builds_after_each_patch(tmp_path: Path) -> None:
    kernel = Kernel.create(tmp_path)
    series = [line for line in (PATCHES / "series").read_text().splitlines() if line]
    for name in reversed(series):
        kernel.patch(PATCHES / name, "--reverse")
    for name in series:
        kernel.patch(PATCHES / name)
        log = tmp_path / f"{name}.log"
        kernel.make(log)
        assert "warning:" not in log.read_text(), f"{name}: {log}"
