# SPDX-License-Identifier: Apache-2.0
"""All levels of ring 0 but the fastest, which every other test is about, stand the same tests."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.project import ROOT
from ukl_build import plan

pytestmark = [pytest.mark.boot, pytest.mark.long]

TESTS = (
    *("tests/boot/test_ring0.py", "tests/boot/test_tools.py", "tests/boot/test_memcached.py"),
    *("tests/boot/test_redis.py", "tests/boot/test_redis_commands.py"),
    *("tests/boot/test_redis_load.py", "tests/posix"),
)
"""Both rings compared; signals, ptrace, fork, two processors; data under load and kills."""


@pytest.mark.parametrize("level", [one for one in plan.RING0_FRAGMENTS if one is not plan.FASTEST])
@pytest.mark.timeout(4 * 3600)
def test_a_level_stands_what_the_fastest_does(level: str) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-m", "long or not long", *TESTS]
    env = {key: value for key, value in os.environ.items() if not key.startswith("UKL_TEST_")}
    # What it prints is the outer one's: shown at a failure, or at once with -s.
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={**env, "UKL_TEST_LEVEL": level},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0
