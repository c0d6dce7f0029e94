# SPDX-License-Identifier: Apache-2.0
"""The smallest memory in which an image's smoke test passes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ukl_build import proc
from ukl_build.errors import UklError
from ukl_build.image import Image
from ukl_build.run.vm import Accel

ROOT = Path(__file__).resolve().parents[2]

CONFIRMED = 2
"""Times that the test must pass in a memory: KASLR puts the kernel elsewhere each time."""

PATIENCE = 4
LEAST_S = 10.0
"""A guest that has no answer after so many times what it needs with its recipe's memory, and so
many seconds, does not pass: a kernel that cannot unpack itself stops without a word."""

WAY_DOWN_S = 120.0
"""Seconds more for QEMU's start, the guest's way down and the disks that are made before."""


def smoke(folder: Path, memory_mib: int, timeout_s: float | None) -> None:
    """Do what ``ukl-run --smoke -m MIB`` does, in emulation.

    :param folder: where the image.json is.
    :param timeout_s: until the answer or the end; the recipe's if None.
    :raise UklError: ``tool-failed`` if it does not pass, with its words; ``tool-timeout``.
    """
    options = ["--smoke", "--rm", "-m", str(memory_mib), "--accel", Accel.TCG.value]
    if timeout_s is not None:
        options += ["--timeout", f"{timeout_s:.1f}"]
    proc.run(
        [sys.executable, "-m", "ukl_build.run.cli", "--qemu", folder.resolve(), *options],
        cwd=ROOT,
        env=os.environ,
        timeout=None if timeout_s is None else timeout_s + WAY_DOWN_S,
    )


def smallest(passes: Callable[[int], bool], most: int) -> int:
    """Return the smallest memory that is enough, by halving what is left.

    :param passes: tells of a memory in MiB whether the test passes there, this time.
    :param most: MiB that are known to be enough; returned if no less is.
    """
    least = 0  # is not enough
    while most - least > 1:
        middle = (least + most) // 2
        if all(passes(middle) for _ in range(CONFIRMED)):
            most = middle
        else:
            least = middle
    return most


def needed(image: Image, folder: Path, say: Callable[[str], object]) -> int | None:
    """Return the smallest memory of an image in MiB; None if its recipe has no smoke test.

    :param folder: where its image.json is.
    :raise UklError: if the test does not pass with the recipe's memory, or cannot be run.
    """
    if image.smoke is None and not image.smoke_runs:
        return None
    before = time.monotonic()
    smoke(folder, image.memory_mib, None)
    timeout = max(LEAST_S, PATIENCE * (time.monotonic() - before))

    def passes(memory_mib: int) -> bool:
        try:
            smoke(folder, memory_mib, timeout)
        except UklError as error:
            if error.code not in ("tool-failed", "tool-timeout"):
                raise
            say(f"smoke test of {image.label} in {memory_mib} MiB: does not pass")
            return False
        say(f"smoke test of {image.label} in {memory_mib} MiB: passes")
        return True

    return smallest(passes, image.memory_mib)
