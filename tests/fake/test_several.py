# SPDX-License-Identifier: Apache-2.0
"""Builds on several machines: two daemons of distcc, and two checkouts with one cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import project as projects
from tests.ports import free_port
from tests.project import Project
from tests.waiting import wait_for
from ukl_build.elf.contents import contents

DAEMON = "distccd"
COMPILED = re.compile(r" COMPILE_OK .*?(\S+)$", re.MULTILINE)


@dataclass
class Machine:
    """A daemon of distcc, as another machine would have one."""

    port: int
    log: Path

    @property
    def host(self) -> str:
        """What it is called in DISTCC_HOSTS; two compilers at once."""
        return f"127.0.0.1:{self.port}/2"

    def compiled(self) -> list[str]:
        """Return what it has compiled."""
        return COMPILED.findall(self.log.read_text())


@contextmanager
def machine(compiler: str = "") -> Iterator[Machine]:
    """Run a daemon, in a folder of its own.

    :param compiler: a script that it has as its compiler; empty for the one that is here.
    """
    with tempfile.TemporaryDirectory(prefix="ukl-distccd-") as place:
        folder = Path(place)
        folder.chmod(0o777)  # it will not be root
        programs = folder / "bin"
        programs.mkdir()
        for name in ("gcc", "x86_64-linux-gnu-gcc") if compiler else ():  # distcc asks for either
            (programs / name).write_text(compiler)
            (programs / name).chmod(0o755)
        it = Machine(free_port(), folder / "log")
        it.log.touch()
        it.log.chmod(0o666)
        argv = [
            *(DAEMON, "--daemon", "--no-detach", "--port", str(it.port), "--listen", "127.0.0.1"),
            *("--allow", "127.0.0.1", "--jobs", "2", "--log-file", str(it.log), "--verbose"),
            # It compiles with whatever is on its path.
            *("--enable-tcp-insecure", "--user", "nobody"),
        ]
        path = f"{programs}:{os.environ['PATH']}"
        process = subprocess.Popen(
            argv,
            env={"PATH": path, "TMPDIR": place, "HOME": place},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(lambda: "daemon started" in it.log.read_text(), DAEMON)
            yield it
        finally:
            process.terminate()
            process.wait(timeout=30)


def documented(name: str, value: str) -> str:
    """Return a variable of the command that README has, with a value that there is here."""
    text = (projects.ROOT / "README.md").read_text()
    (command,) = re.findall(rf"^    scons app=redis ({name})=\S.*$", text, re.MULTILINE)
    return f"{command}={value}"


@pytest.fixture
def two() -> Iterator[list[Machine]]:
    """Run two of them."""
    with ExitStack() as machines:
        yield [machines.enter_context(machine()) for _ in range(2)]


def units(project: Project, count: int) -> list[str]:
    """Give the application more files, so that there is something to share out."""
    source = project.source.parent
    names = [f"unit{number}.c" for number in range(count)]
    for number, name in enumerate(names):
        body = "".join(f"int f{number}_{i}(int x) {{ return x * {i}; }}\n" for i in range(300))
        (source / name).write_text(body)
    recipe = project.root / "recipes" / "hello" / "recipe.toml"
    listed = ", ".join(f'"{name}"' for name in names)
    text = recipe.read_text()
    changed = re.sub(r"^sources = \[(.*)\]$", rf"sources = [\1, {listed}]", text, flags=re.M)
    assert changed != text
    recipe.write_text(changed)
    return names


def test_two_machines_compile_and_the_code_is_the_same(
    project: Project, two: list[Machine]
) -> None:
    """But for debugging information: a compiler that gets no macros knows no columns."""
    names = units(project, 8)
    project.build()
    linked = project.out / "objects" / "app.o"
    alone = contents(linked), (project.out / "initramfs.cpio").read_bytes()
    shutil.rmtree(project.root / "build")
    shutil.rmtree(project.cache / "ukl-build" / "ccache")
    tried = 1  # each of them, before
    hosts = " ".join(one.host for one in two)
    said = project.build(documented("distcc", hosts))
    assert (contents(linked), (project.out / "initramfs.cpio").read_bytes()) == alone
    counts = [len(one.compiled()) - tried for one in two]
    assert min(counts) >= 2 and sum(counts) >= len(names), (counts, said)
    # It is not part of what was built, nor of how it is built again.
    assert "distcc" not in (project.out / "image.manifest.json").read_text()
    # What the cache has is sent nowhere.
    image = (project.out / "hello.bzImage").read_bytes()
    shutil.rmtree(project.root / "build")
    project.build(f"distcc={hosts}", "ccache=1")
    assert [len(one.compiled()) - 2 * tried for one in two] == counts
    assert (project.out / "hello.bzImage").read_bytes() == image


def test_without_the_cache_distcc_is_called_itself(project: Project, two: list[Machine]) -> None:
    names = units(project, 4)
    project.build("distcc=" + " ".join(one.host for one in two), "ccache=0")
    assert sum(len(one.compiled()) for one in two) >= len(names) + len(two)
    assert not (project.cache / "ukl-build" / "ccache").exists()


def test_machines_that_distcc_knows_are_taken(project: Project, two: list[Machine]) -> None:
    units(project, 4)
    replace(project, extra={"DISTCC_HOSTS": two[0].host}).build("distcc=1")
    assert len(two[0].compiled()) > 1 and two[1].compiled() == []


def test_a_machine_that_does_not_answer_is_named_before_anything_is_built(
    project: Project, two: list[Machine]
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    said = project.build(f"distcc={two[0].host} {dead}", status=3)
    assert f"error[distcc-unusable]: {dead} does not compile" in said
    assert not project.out.exists()


def test_another_compiler_is_refused(project: Project) -> None:
    """Its code would be in images that nobody could make again."""
    with machine('#!/bin/sh\nexec /usr/bin/gcc "$@" -O0\n') as it:
        said = project.build(f"distcc={it.host}", status=3)
    assert f"the compiler of {it.host} makes other code than the one here" in said


def test_two_checkouts_use_one_cache_at_once(project: Project, tmp_path: Path) -> None:
    """Both build the same from nothing, each with a compiler cache of its own."""
    units(project, 8)
    other = replace(project, root=tmp_path / "other-checkout", cache=tmp_path / "other-cache")
    shutil.copytree(project.root, other.root, symlinks=True)
    words = ["app=hello", documented("cache_dir", str(tmp_path / "shared")), "-j2"]
    words += [f"{name}_src={project.root / 'dist'}" for name in ("linux", "glibc")]
    running = [
        subprocess.Popen(
            one.argv(words),
            cwd=one.root,
            env=one.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        for one in (project, other)
    ]
    for process in running:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    images = [(one.out / "hello.bzImage").read_bytes() for one in (project, other)]
    assert images[0] == images[1]
    # A third, in yet another folder, takes all objects from there.
    third = replace(project, root=tmp_path / "third", cache=tmp_path / "third-cache")
    shutil.copytree(project.root, third.root, symlinks=True, ignore=shutil.ignore_patterns("build"))
    said = third.scons(*words)
    assert len(re.findall(r"^Retrieved `build/hello/objects/\S+\.o'", said, re.M)) >= 10
    assert not re.search(r"^ccache gcc ", said, re.M)
    assert (third.out / "hello.bzImage").read_bytes() == images[0]
    assert projects.ROOT not in other.root.parents
