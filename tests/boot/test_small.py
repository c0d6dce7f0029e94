# SPDX-License-Identifier: Apache-2.0
"""Kernels with what their application asks for and nothing else, made small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.conftest import application
from ukl_build import dotconfig, image
from ukl_build.run import cli
from ukl_build.size import Sizes

pytestmark = [pytest.mark.boot, pytest.mark.long]

BUILD = "build/test/small"
SMALL = "fragments=small"

FILE_BYTES = 4_000_000
MEMORY_MIB = 36
"""What Redis may take, file and guest."""

WITHOUT_A_DISK = ("BLK_DEV", "EXT4_FS", "9P_FS")
"""Options that come only with what a recipe asks for."""


@pytest.fixture(scope="module")
def redis(built: Path) -> Path:
    """Return the outputs of a small Redis that has answered, with its sizes."""
    application("redis", built, SMALL, build=BUILD)
    return application("redis", built, SMALL, target="size", build=BUILD)


def options(out: Path) -> dict[str, str]:
    """Return the options of a kernel."""
    return dotconfig.read_settings((out / "kconfig" / "config").read_text())


@pytest.mark.parametrize("name", ["memcached", "nginx", "sqlite", "hello"])
def test_the_others_answer(name: str, redis: Path) -> None:
    out = application(name, redis, SMALL, build=BUILD)
    has = {option for option in WITHOUT_A_DISK if options(out).get(option) == "y"}
    described = image.load(out / "image.json")
    wanted = {"BLK_DEV", "EXT4_FS"} if described.disks else set()
    assert has == wanted | ({"9P_FS"} if described.shares else set())


def test_redis_is_small(redis: Path) -> None:
    found = Sizes.model_validate_json((redis / "size.json").read_bytes())
    assert found.file == (redis / "redis.bzImage").stat().st_size <= FILE_BYTES
    assert options(redis).get("9P_FS") != "y"


def test_redis_answers_in_little_memory(redis: Path) -> None:
    words = ["--qemu", str(redis), "-m", str(MEMORY_MIB), "--smoke", "--accel", "tcg"]
    assert cli.main(words) == 0
