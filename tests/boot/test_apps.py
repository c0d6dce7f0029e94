# SPDX-License-Identifier: Apache-2.0
"""The recipes of what people run: built, booted, and tested as the recipe says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.conftest import application
from ukl_build import image

pytestmark = pytest.mark.boot


def test_redis_answers(redis_image: Path) -> None:
    found = image.load(redis_image / "image.json")
    assert found.redistributable
    assert found.licences["linux"] == "GPL-2.0-only WITH Linux-syscall-note"


@pytest.mark.parametrize("name", ["memcached", "nginx", "hello"])
def test_the_others_answer(name: str, built: Path) -> None:
    assert image.load(application(name, built) / "image.json").redistributable


def test_sqlite_keeps_a_database(redis_image: Path) -> None:
    """Its disk and its share are Redis' as well, so that its kernel is nearly there."""
    assert image.load(application("sqlite", redis_image) / "image.json").redistributable
