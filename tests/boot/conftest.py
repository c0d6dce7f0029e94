# SPDX-License-Identifier: Apache-2.0
"""What boot tests share: a kernel, a program for its guest, and a machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ukl_build.initconf import InitConf
from ukl_build.run.guest import start_guest
from ukl_build.run.machine import Machine
from ukl_build.stages.userspace import Userspace, build_initramfs

PROJECT = Path(__file__).resolve().parents[2]
KERNEL = PROJECT / "build" / "tcp_server" / "tcp_server.bzImage"
HELPER = "/helper"

Start = Callable[..., Machine]


@pytest.fixture(scope="session")
def kernel() -> Path:
    """Return the kernel to boot: $UKL_TEST_KERNEL or tcp_server's, which is built first."""
    given = os.environ.get("UKL_TEST_KERNEL")
    if given is not None:
        return Path(given)
    # The environment as it is: compiler and package caches are where the user has them.
    built = subprocess.run(
        [sys.executable, "-m", "SCons", "-Q", "app=tcp_server"],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # Not skipped: a gate that boots nothing must not be green.
    assert built.returncode == 0, built.stdout
    return KERNEL


@pytest.fixture(scope="session")
def helper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile helper.c for a guest without libraries."""
    out = tmp_path_factory.mktemp("helper") / "helper"
    source = Path(__file__).parent / "helper.c"
    subprocess.run(["gcc", "-static", "-Os", "-Wall", "-Werror", "-o", out, source], check=True)
    return out


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a userspace of this tree, so that the init inside the kernel does not matter."""
    out = tmp_path_factory.mktemp("base") / "initramfs.cpio"
    build_initramfs(Userspace(InitConf(stop_wait_s=2)), out)
    return out


@pytest.fixture
def start(kernel: Path, helper: Path, base: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts guests with the helper in them; all are ended afterwards."""
    with ExitStack() as machines:
        count = 0

        def start_one(**what: Any) -> Machine:
            nonlocal count
            folder = tmp_path / f"guest{count}"
            folder.mkdir()
            count += 1
            programs = {HELPER: helper, **what.pop("programs", {})}
            what.setdefault("base", base)
            machine = start_guest(kernel, folder, programs=programs, **what)
            return machines.enter_context(machine)

        yield start_one
