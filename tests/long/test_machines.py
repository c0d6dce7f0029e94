# SPDX-License-Identifier: Apache-2.0
"""What needs a machine of its own, or Debian's mirrors."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.project import ROOT
from ukl_build import apt, packages, proc, recipe
from ukl_build.cache import Cache
from ukl_build.stages import dsc

pytestmark = pytest.mark.long

README = (ROOT / "README.md").read_text()
COMMANDS = ("./bootstrap scons app=redis smoke", "./bootstrap scons test")


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mmdebstrap") is None, reason="needs root and mmdebstrap"
)
@pytest.mark.parametrize(("user", "commands"), [("root", COMMANDS[:1]), ("sudo", COMMANDS)])
def test_the_commands_of_the_readme_pass_on_a_fresh_debian(
    user: str, commands: Sequence[str]
) -> None:
    """The gate as root is what CI runs; as another user it is seen here only."""
    for command in commands:
        assert f"\n    {command}\n" in README
    argv = [str(ROOT / "tools" / "fresh-machine"), "--user", user, "--", " && ".join(commands)]
    subprocess.run([sys.executable, *argv], check=True)


def test_packages_come_from_debian_without_root(tmp_path: Path) -> None:
    """Several at once; as an ordinary user where this runs as root."""
    place = recipe.load_sources(ROOT / "recipes", recipe.Kind.LINUX).debian
    folder = tmp_path / "apt"
    folder.mkdir()
    sources = apt.debian_only(apt.machine_sources(), apt.codename())
    wanted = {place.package: place.file, "zlib1g-dev": "usr/include/zlib.h"}
    found = apt.download(list(wanted), folder, sources, log=tmp_path / "apt.log")
    for (package, file), deb in zip(wanted.items(), found, strict=True):
        listed = proc.run(["dpkg-deb", "--contents", deb]).stdout
        assert f"./{file}" in listed
        assert proc.run(["dpkg-deb", "--field", deb, "Package"]).stdout.strip() == package


def test_a_source_package_comes_from_debian_without_root(tmp_path: Path) -> None:
    """Its patches are applied, and a second time nothing is asked."""
    cache = Cache(tmp_path / "cache")
    said: list[str] = []

    def prepare() -> dsc.Tree:
        return dsc.prepare(
            "memcached", "1.6.18-1", None, cache, logs=tmp_path / "logs", say=said.append
        )

    tree = prepare()
    assert sorted([tree.version, "1.6"], key=packages.order)[0] == "1.6"
    assert (tree.path / "memcached.c").is_file()
    series = (tree.path / "debian" / "patches" / "series").read_text().split()
    assert (tree.path / ".pc" / "applied-patches").read_text().split() == series != []
    asked = [line for line in said if line.startswith("downloading")]
    shutil.rmtree(cache.trees)
    assert prepare() == tree
    assert [line for line in said if line.startswith("downloading")] == asked != []
