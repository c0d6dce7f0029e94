# SPDX-License-Identifier: Apache-2.0
"""What unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an empty project."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "runtime").mkdir(mode=0o700)
    return Place(tmp_path)
