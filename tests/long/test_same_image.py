# SPDX-License-Identifier: Apache-2.0
"""The same sources give the same image: elsewhere, for somebody else, and after being killed."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import scons
from tests.fake.test_hazards import ALONE, KILLS, SEED
from tests.fake.test_several import machine
from tests.project import ROOT
from tests.unit.test_run_lifecycle import NEEDS_MOUNT
from tests.users import ordinary
from ukl_build import files
from ukl_build.elf.contents import contents

pytestmark = pytest.mark.long

LONGEST_S = 15.0
"""A build of which nothing is there, but all in the compiler cache, takes a minute or two."""


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder that everybody may go through, on a disk."""
    made = Path(tempfile.mkdtemp(prefix="ukl-elsewhere-", dir="/var/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def clone(place: Path) -> Path:
    """Copy the project as it is committed."""
    project = place / "elsewhere" / "project"
    subprocess.run(["git", "clone", "--quiet", ROOT, project], check=True)
    return project


def ukl_diff(one: Path, other: Path) -> str:
    """Return what ``ukl diff`` says of two builds."""
    command = [sys.executable, str(ROOT / "tools" / "ukl"), "diff", str(one), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_another_user_in_another_folder_makes_the_same_image(place: Path) -> None:
    """With empty caches, another umask, another language, another time zone and more jobs."""
    scons("app=redis")
    project = clone(place)
    home = place / "home"
    home.mkdir()
    user = ordinary(place)
    environment = {
        **{"PATH": os.defpath, "HOME": str(home), "LC_ALL": "C.UTF-8", "LANGUAGE": "de"},
        "TZ": "Asia/Kathmandu",
        # Where pip finds packages is the machine's.
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
    }
    done = subprocess.run(
        ["./bootstrap", "scons", "-j3", "app=redis"],
        cwd=project,
        env=environment,
        umask=0o077,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **user,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    one, other = ROOT / "build" / "redis", project / "build" / "redis"
    told = ukl_diff(one, other)
    for name in ("redis.bzImage", "redis.vmlinux", "UKL.a", "initramfs.cpio", "image.json"):
        assert files.sha256(one / name) == files.sha256(other / name), told
    assert "are the same" in told


def test_two_machines_compile_a_kernel_and_the_code_is_the_same(place: Path) -> None:
    """But for its build id, of which debugging information is part, with the columns in that."""
    scons("app=hello")
    project = clone(place)
    with machine() as one, machine() as other:
        hosts = f"distcc={one.host} {other.host}"
        command = [sys.executable, "-m", "SCons", "-Q", "app=hello", "ccache=0", hosts]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        compiled = [len(daemon.compiled()) for daemon in (one, other)]
    # Assembly is not sent, nor what is compiled with a plugin or run here.
    assert min(compiled) > 300, compiled
    alone, shared = (
        {part.name: part for part in contents(folder / "build" / "hello" / "hello.vmlinux")}
        for folder in (ROOT, project)
    )
    assert {name for name in alone | shared if alone.get(name) != shared.get(name)} <= {".notes"}


@NEEDS_MOUNT
def test_a_build_that_is_killed_at_fifty_moments_comes_to_the_same_image(place: Path) -> None:
    """What is compiled is in the compiler cache; all else is done, and done again."""
    scons("app=hello")
    project = clone(place)
    chance = random.Random(SEED)
    command = [sys.executable, "-m", "SCons", "-Q", "app=hello"]
    log = place / "log"
    ended = 0
    with log.open("w") as out:
        for _ in range(KILLS):
            if ended:
                shutil.rmtree(project / "build")
            with subprocess.Popen(
                [*ALONE, *command], cwd=project, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            ) as process:
                try:
                    ended = process.wait(chance.uniform(0, LONGEST_S)) == 0
                except subprocess.TimeoutExpired:
                    process.kill()
                    ended = 0
        subprocess.run(command, cwd=project, stdout=out, stderr=out, check=True)
    one, other = ROOT / "build" / "hello", project / "build" / "hello"
    told = ukl_diff(one, other)
    for name in ("hello.bzImage", "hello.vmlinux", "UKL.a", "initramfs.cpio", "image.json"):
        assert files.sha256(one / name) == files.sha256(other / name), told
    # That it had to go on from something.
    assert log.read_text().count("the last build was killed") > KILLS // 2
