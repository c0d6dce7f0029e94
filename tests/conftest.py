# SPDX-License-Identifier: Apache-2.0
"""What several kinds of tests share."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import project as projects
from ukl_build import manifest
from ukl_build.cache import Cache
from ukl_build.initconf import InitConf
from ukl_build.stages import libc, linux
from ukl_build.stages.userspace import Userspace, build_initramfs

pytest_plugins = ["ukl_build.testing"]


@pytest.fixture
def project(tmp_path: Path) -> projects.Project:
    """Return a small project around a fake kernel, nothing built yet."""
    return projects.make(tmp_path)


LEVEL = os.environ.get("UKL_TEST_LEVEL", "")
"""The level of ring 0 that is tested, if it is not the fastest: see tests/long/test_levels.py."""


def build_folder(name: str = "build") -> str:
    """Return the folder in which something is built, relative to the project's.

    :param name: which it is at the fastest level; each other has one of its own.
    """
    return f"build/level-{LEVEL}/{name}" if LEVEL else name


_held = threading.local()


@contextmanager
def building() -> Iterator[None]:
    """Let no other worker of this test run build in the project's folder; may be nested."""
    depth = getattr(_held, "depth", 0)
    with ExitStack() as ends:
        if not depth:
            place = projects.ROOT / "build"
            place.mkdir(exist_ok=True)
            file = ends.enter_context((place / "tests.lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        _held.depth = depth + 1
        try:
            yield
        finally:
            _held.depth = depth


def scons(*words: str) -> None:
    """Run SCons, in the environment as it is: caches are where the user has them.

    :param words: of its command line; ``build=`` is taken for :func:`build_folder`.
    """
    if LEVEL:
        given = [word.removeprefix("build=") for word in words if word.startswith("build=")]
        others = [word for word in words if not word.startswith("build=")]
        words = (*others, f"build={build_folder(*given)}", f"level={LEVEL}")
    with building():
        done = subprocess.run(
            [sys.executable, "-m", "SCons", "-Q", *words],
            cwd=projects.ROOT,
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
    build = dict(word.split("=") for word in words).get("build", "build")
    out = projects.ROOT / build_folder(build) / "tcp_server"
    fastest = projects.ROOT / build / "tcp_server" / "linux"
    with building():
        if LEVEL and fastest.is_dir():
            out.mkdir(parents=True, exist_ok=True)
            linux.begin_as(fastest, out / "linux")
        scons("app=tcp_server", *words)
    return out


@pytest.fixture(scope="session")
def library_record() -> Path:
    """Return the manifest of the C library, which is built first."""
    record = projects.ROOT / "build" / "hello" / "libc.manifest.json"
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


FOR_TESTS = ("fragments=test,ext4,virtio-blk,9p,watchdog,efi,virtio-mmio", "build=build/test")


@pytest.fixture(scope="session")
def built_for_tests() -> Path:
    """Return the outputs of a build with kconfig/test.config and for all kinds of machines."""
    return outputs("UKL_TEST_BUILD_FOR_TESTS", *FOR_TESTS)


@pytest.fixture(scope="session")
def twin_for_tests() -> Path:
    """Return the outputs of its twin."""
    scons("app=tcp_server", *FOR_TESTS, "twin")
    return projects.ROOT / "build" / "test" / "tcp_server" / "twin"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a userspace of this tree, so that the init inside the kernel does not matter."""
    out = tmp_path_factory.mktemp("base") / "initramfs.cpio"
    build_initramfs(Userspace(InitConf(stop_wait_s=2)), out)
    return out
