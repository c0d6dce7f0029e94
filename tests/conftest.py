# SPDX-License-Identifier: Apache-2.0
"""What several kinds of tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import project as projects


@pytest.fixture
def project(tmp_path: Path) -> projects.Project:
    """Return a small project around a fake kernel, nothing built yet."""
    return projects.make(tmp_path)
