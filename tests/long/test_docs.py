# SPDX-License-Identifier: Apache-2.0
"""What docs/recipes.md tells a newcomer to type."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.project import ROOT

pytestmark = [pytest.mark.boot, pytest.mark.long]


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("From hello.c to a running image", "greeter"),
        ("The recipe of a project that is there", "words"),
    ],
)
def test_a_first_recipe_works_as_it_is_written(heading: str, name: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    commands = "\n".join(re.findall(r"^(?:    (.*)|)$", section, re.MULTILINE))
    assert f"scons app=../{name} smoke" in commands
    project = tmp_path / "project"
    subprocess.run(["git", "clone", "--quiet", ROOT, project], check=True)
    done = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert (project / "build" / name / "image.json").is_file()
