# SPDX-License-Identifier: Apache-2.0
"""docs/first-ten-minutes.md and README.md: what a newcomer types gives what is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.project import ROOT

pytestmark = pytest.mark.boot

README = ROOT / "README.md"
DOCUMENT = ROOT / "docs" / "first-ten-minutes.md"
ENOUGH_S = 300.0
BUILD = "./bootstrap scons app=redis smoke"
"""The first command: the fixture has run it, but for the folder."""


def steps(text: str) -> list[tuple[str, str]]:
    """Return the commands of a document, each with what is shown of its output."""
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found: list[tuple[str, list[str]]] = []
    for line in "".join(blocks).splitlines():
        # A shell's prompt has a blank behind it, the answer of Redis has none.
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in found]


def pattern(shown: str) -> str:
    """Return a regular expression for what is shown.

    ``...`` stands for anything in its line, and alone for any lines.
    """
    found = ""
    for line in shown.splitlines():
        if line == "...":
            found += r"(?:.*\n)*"
        else:
            found += re.sub(r"(\\ )*\\\.\\\.\\\.(\\ )*", ".*", re.escape(line)) + r"\n"
    return found


def test_only_what_stands_for_anything_may_differ() -> None:
    assert re.fullmatch(pattern("a ... b"), "a x  y b\n")
    assert not re.fullmatch(pattern("a ... b"), "a\nb\n")
    for between in ("", "1\n", "1\n2\n"):
        assert re.fullmatch(pattern("a\n...\nb"), f"a\n{between}b\n")
    assert not re.fullmatch(pattern("a.b"), "axb\n")


def follow(commands: list[tuple[str, str]], redis_image: Path, folder: Path) -> None:
    """Run commands of a document where redis is built, and compare what they print."""
    (folder / "build").symlink_to(redis_image.parent)
    (folder / "tools").symlink_to(ROOT / "tools")
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    env = {
        **{"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "COLUMNS": "200"},
        **{"XDG_STATE_HOME": str(folder / "state"), "XDG_RUNTIME_DIR": str(runtime)},
        **{"XDG_CACHE_HOME": str(folder / "cache")},
    }
    try:
        for command, shown in commands:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=ENOUGH_S,
                check=False,
            )
            said = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
            assert re.fullmatch(pattern(shown), said), f"$ {command}\n{said}"
    finally:
        kill = ["bash", "-c", "tools/ukl kill $(tools/ukl ps -q) 2>/dev/null"]
        subprocess.run(kill, cwd=folder, env=env, stdout=subprocess.DEVNULL, check=False)


def shown(document: Path) -> list[tuple[str, str]]:
    """Return the steps of a document, with a port that is free."""
    return steps(document.read_text().replace("6390", str(free_port())))


def test_a_newcomer_sees_what_is_shown(redis_image: Path, tmp_path: Path) -> None:
    (first, _), *others = shown(DOCUMENT)
    assert first == BUILD
    assert f"    {BUILD}\n" in README.read_text()
    follow(others, redis_image, tmp_path)


def test_what_the_readme_shows(redis_image: Path, tmp_path: Path) -> None:
    follow(shown(README), redis_image, tmp_path)
