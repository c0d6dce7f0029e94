# SPDX-License-Identifier: Apache-2.0
"""What boot tests share: a kernel, a program for its guest, and a machine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.boot import ring0
from tests.boot.redis_guest import Redis
from tests.conftest import build_folder, building, scons
from tests.project import ROOT
from ukl_build import image
from ukl_build.image import IMAGE_FILE, App, Image
from ukl_build.run import disk
from ukl_build.run.guest import start_guest
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.stages import linux
from ukl_build.testing import Unikernel

HELPER = "/helper"

Start = Callable[..., Machine]


def console(machine: Machine) -> list[str]:
    """Return the lines of the console."""
    return machine.console.read_text(errors="backslashreplace").splitlines()


def ended(machine: Machine, wait_s: float) -> tuple[Outcome, list[str]]:
    """Wait for a machine's end; also return the lines of its console.

    :param wait_s: when it is ended as one that hangs.
    """
    outcome = machine.wait(wait_s)
    if outcome is None:
        outcome = machine.give_up()
        print("It hangs:", machine.registers)
    return outcome, console(machine)


def ended_well(machine: Machine, wait_s: float) -> list[str]:
    """Wait for the end of a machine that ends with status 0, and return its console's lines."""
    outcome, lines = ended(machine, wait_s)
    assert outcome == Outcome(Kind.EXITED, 0), "\n".join(lines[-20:])
    return lines


@pytest.fixture(scope="session")
def kernel(built: Path) -> Path:
    """Return the kernel to boot."""
    return built / "tcp_server.bzImage"


def image_folder(place: Path, kernel: Path, **described: Any) -> Path:
    """Make the folder of an image as the build leaves it, and return it.

    :param described: see :class:`ukl_build.image.Image`.
    """
    out = place / "app"
    out.mkdir()
    (out / "kernel").symlink_to(kernel)
    app = App(argv=("/UKL",))
    what = Image(name="app", kernel="kernel", memory_mib=256, cpus=1, app=app, **described)
    image.store(what, out / IMAGE_FILE)
    return out


def application(
    name: str, built: Path, *words: str, target: str = "smoke", build: str = "build/test"
) -> Path:
    """Build an application and do something with it, by default what its recipe says; return its
    outputs.

    :param built: build/APP of another one; what both kernels have is not compiled again.
    :param words: variables of SCons.
    :param target: of SCons.
    :param build: folder for all outputs, relative to the project's.
    """
    out = ROOT / build_folder(build) / name
    with building():
        linux.begin_as(built / "linux", out / "linux")
        scons(f"app={name}", f"build={build}", *words, target)
    return out


@pytest.fixture(scope="session")
def redis_image(built: Path) -> Path:
    """Return the outputs of a build of redis, with shared folders for those who want them."""
    return application("redis", built, "fragments=9p")


@pytest.fixture(scope="session")
def redis_stock(redis_image: Path) -> Path:
    """Return the outputs of Debian's own redis, fetched from Debian."""
    scons("app=redis", "build=build/test", "fragments=9p", "stock")
    return redis_image / "stock"


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
def crash_image(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image's folder as the build leaves it, with crash.c as its application."""
    place = tmp_path_factory.mktemp("crash")
    linked = ring0.relink(built, place, ("crash",))
    out = image_folder(place, linked.kernel, cmdline=("console=ttyS0", "panic=-1"))
    (out / "kernel.vmlinux").symlink_to(linked.vmlinux)
    (out / "objects").mkdir()
    for name in ("app.o", "app.map"):
        (out / "objects" / name).symlink_to(place / name)
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


@pytest.fixture
def server(start: Start, redis_image: Path, tmp_path: Path) -> Redis:
    """Return Redis with a new disk; the test starts it."""
    data = tmp_path / "data.img"
    (described,) = image.load(redis_image / IMAGE_FILE).disks
    assert disk.make(data, described)
    return Redis(start, redis_image, data)


Warm = Callable[..., Unikernel]


@pytest.fixture
def warm_redis(start_unikernel: Warm, redis_image: Path) -> Warm:
    """Return a function that gives Redis, which goes on from where it first answered.

    It takes arguments of Redis besides the recipe's.  What is written to its disk is gone with it.
    """
    own = image.load(redis_image / IMAGE_FILE).app.argv[1:]

    def start_one(*words: str) -> Unikernel:
        return start_unikernel(redis_image, *(("--", *own, *words) if words else ()))

    return start_one


@pytest.fixture
def check_rdb(redis_image: Path, tmp_path: Path) -> Path:
    """Return Redis' own program that looks at a snapshot: Redis itself, by another name."""
    path = tmp_path / "redis-check-rdb"
    path.symlink_to(redis_image / "redis.static")
    return path
