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

from tests.boot import ring0
from ukl_build import manifest
from ukl_build.cache import Cache
from ukl_build.initconf import InitConf
from ukl_build.run.guest import start_guest
from ukl_build.run.machine import Machine
from ukl_build.stages import libc
from ukl_build.stages.userspace import Userspace, build_initramfs

PROJECT = Path(__file__).resolve().parents[2]
HELPER = "/helper"

Start = Callable[..., Machine]


def console(machine: Machine) -> list[str]:
    """Return the lines of the console."""
    return machine.console.read_text(errors="backslashreplace").splitlines()


def scons(*words: str) -> None:
    """Run SCons, in the environment as it is: caches are where the user has them."""
    done = subprocess.run(
        [sys.executable, "-m", "SCons", "-Q", *words],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # Not skipped: a gate that boots nothing must not be green.
    assert done.returncode == 0, done.stdout


def outputs(variable: str, *words: str) -> Path:
    """Return the outputs of a build of tcp_server: those a variable names, or they are made first.

    :param words: variables of SCons.
    """
    given = os.environ.get(variable)
    if given is not None:
        return Path(given)
    scons("app=tcp_server", *words)
    build = dict(word.split("=") for word in words).get("build", "build")
    return PROJECT / build / "tcp_server"


@pytest.fixture(scope="session")
def library_record() -> Path:
    """Return the manifest of the C library, which is built first."""
    record = PROJECT / "build" / "hello" / "libc.manifest.json"
    scons("app=hello", str(record))
    return record


@pytest.fixture(scope="session")
def library(library_record: Path) -> libc.Parts:
    """Return what a program is linked with."""
    return libc.parts(libc.read(library_record))


@pytest.fixture(scope="session")
def library_tree(library_record: Path) -> Path:
    """Return the sources of the C library."""
    return Cache.default().trees / manifest.load(library_record).inputs["tree"]


@pytest.fixture(scope="session")
def built() -> Path:
    """Return the outputs of the build that everybody has."""
    return outputs("UKL_TEST_BUILD")


@pytest.fixture(scope="session")
def built_for_tests() -> Path:
    """Return the outputs of a build with kconfig/test.config."""
    return outputs("UKL_TEST_BUILD_FOR_TESTS", "fragments=test", "build=build/test")


@pytest.fixture(scope="session")
def kernel(built: Path) -> Path:
    """Return the kernel to boot."""
    return built / "tcp_server.bzImage"


@pytest.fixture(scope="session")
def helper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile helper.c for a guest without libraries."""
    out = tmp_path_factory.mktemp("helper") / "helper"
    source = Path(__file__).parent / "helper.c"
    subprocess.run(["gcc", "-static", "-Os", "-Wall", "-Werror", "-o", out, source], check=True)
    return out


@pytest.fixture(scope="session")
def ring0_image(built: Path, kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> ring0.Ring0:
    """Link the suite into a copy of the kernel: it is /UKL there."""
    return ring0.relink(built, tmp_path_factory.mktemp("ring0"), ring0.SUITE)


@pytest.fixture(scope="session")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Compile the suite and its helpers as ordinary programs, by their paths in the guest."""
    folder = tmp_path_factory.mktemp("ordinary")
    programs = {f"/tests/{name}": ring0.ordinary(folder, name) for name in ring0.HELPERS}
    return {**programs, ring0.ORDINARY: ring0.ordinary(folder, "suite", ring0.SUITE)}


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
            machine = start_guest(what.pop("kernel", kernel), folder, programs=programs, **what)
            return machines.enter_context(machine)

        yield start_one
