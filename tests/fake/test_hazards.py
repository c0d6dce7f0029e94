# SPDX-License-Identifier: Apache-2.0
"""Builds that are killed, that meet, or that find the disk full come to the same image."""

from __future__ import annotations

import pickle
import random
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.project import Project, make
from tests.unit.test_run_lifecycle import MOUNT, NEEDS_MOUNT
from tests.waiting import wait_for
from ukl_build import files, scons_tool

KILLS = 50
SEED = 20261123
ENOUGH_S = 300.0
ALONE = (*MOUNT, "--pid", "--fork", "--kill-child", "--mount-proc")
"""With processes of its own: all are killed with the first, as when a machine loses power."""


def image(project: Project) -> dict[str, str]:
    """Return the digests of what is booted, and of what says how."""
    names = ("hello.bzImage", "image.json", "UKL.a", "initramfs.cpio")
    return {name: files.sha256(project.out / name) for name in names}


def words(project: Project, *more: str) -> list[str]:
    """Return the command line of a build."""
    return project.argv(["-j2", "app=hello", f"linux_src={project.root / 'dist'}", *more])


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what an ordinary build makes."""
    project = make(tmp_path_factory.mktemp("ordinary"))
    project.build()
    return image(project)


@NEEDS_MOUNT
@pytest.mark.long
def test_a_build_that_is_killed_at_fifty_moments_comes_to_the_same_image(
    project: Project, expected: dict[str, str]
) -> None:
    chance = random.Random(SEED)
    begun = time.monotonic()
    project.build()
    whole_s = time.monotonic() - begun
    ended = 0
    for _ in range(KILLS):
        # From the start each third time, so that no stage is done for ever.
        if ended or chance.random() < 1 / 3:
            subprocess.run(["rm", "-rf", project.root / "build", project.cache], check=True)
            ended = 0
        with subprocess.Popen(
            [*ALONE, *words(project)],
            cwd=project.root,
            env=project.env(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                ended = process.wait(chance.uniform(0, whole_s)) == 0
            except subprocess.TimeoutExpired:
                process.kill()
    project.build()
    assert image(project) == expected
    assert "up to date" in project.build()


@NEEDS_MOUNT
@pytest.mark.parametrize(
    ("place", "size"),
    [("build", "4k"), ("build", "40k"), ("build", "150k"), ("cache", "4k"), ("cache", "16k")],
)
def test_a_full_disk_is_named_and_the_next_build_goes_on(
    project: Project, expected: dict[str, str], place: str, size: str
) -> None:
    folder = {"build": project.root / "build", "cache": project.cache}[place]
    folder.mkdir(exist_ok=True)
    build, mount = shlex.join(words(project)), shlex.quote(str(folder))
    result = project.root / "result"
    done = subprocess.run(
        [
            *(*MOUNT, "sh", "-c"),
            f"mount -t tmpfs -o size={size} tmpfs {mount} && {{ {build}; echo status $?;"
            # There is room now.
            f" mount -o remount,size=1g {mount} && {build} > again && cp -r build {result}; }}",
        ],
        cwd=project.root,
        env=project.env(),
        capture_output=True,
        text=True,
        timeout=ENOUGH_S,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "status 2" in done.stdout, said
    assert "No space left on device" in said
    assert "error[" in said and "hint: " in said, said
    assert "Traceback" not in said
    shutil.rmtree(project.root / "build")
    result.rename(project.root / "build")
    assert image(project) == expected


def test_what_scons_remembers_is_forgotten_if_it_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is of the build before, and would take what that made for what is wanted now."""
    path = tmp_path / "sconsign.dblite"
    path.write_bytes(pickle.dumps({"a": b"before"}))
    found = scons_tool.Signatures(path).open(str(path.with_suffix("")), "c")
    assert found["a"] == b"before"
    found["a"] = b"now"
    (tmp_path / "sconsign.tmp").symlink_to("/dev/full")  # where SCons writes the new one first
    with pytest.raises(SystemExit) as end:
        found.sync()
    assert end.value.code == 2
    found.close()
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().err
    assert said.startswith(f"error[system]: {path}: No space left on device\nhint: ")


def test_two_builds_at_once_do_not_mix(project: Project, expected: dict[str, str]) -> None:
    """They have other variables, so that each would make something else of what they share."""
    project.linux.mkdir(parents=True)
    (project.linux / "wait").touch()
    logs = [project.root / f"{name}.log" for name in ("base", "fastest")]
    processes = []
    try:
        for log, more in zip(logs, (["level=base"], []), strict=True):
            with log.open("w") as out:
                processes.append(
                    subprocess.Popen(
                        words(project, *more),
                        cwd=project.root,
                        env=project.env(),
                        stdout=out,
                        stderr=out,
                    )
                )
            if len(processes) == 1:
                wait_for((project.linux / "waiting").exists, "the fake kernel's compilation")
        wait_for(lambda: "waiting for another build" in logs[1].read_text(), "the message")
    finally:
        (project.linux / "wait").unlink()
        ends = [process.wait(ENOUGH_S) for process in processes]
    assert ends == [0, 0], "\n".join(log.read_text() for log in logs)
    assert image(project) == expected
