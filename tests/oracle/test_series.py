# SPDX-License-Identifier: Apache-2.0
"""The kernel series against the kernel's own style checker."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.project import ROOT
from ukl_build import proc, recipe
from ukl_build.cache import Cache
from ukl_build.stages import sources

LINUX = ROOT / "recipes" / "linux"
PATCHES = sorted((LINUX / "patches").glob("*.patch"))
NEW = sorted(path for path in (LINUX / "files").rglob("*") if path.is_file())
NOT_C = {
    "arch/x86/entry/ukl.h": "assembly, like calling.h beside it",
    "arch/x86/include/asm/ukl.lds.h": "parts of the linker script, like vmlinux.lds.h",
}
"""Headers that checkpatch takes for C by their name."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the patched tree."""
    return sources.prepare(
        recipe.load_sources(ROOT / "recipes", recipe.Kind.LINUX),
        LINUX,
        sources.Options(),
        Cache.default(),
        logs=tmp_path_factory.mktemp("logs"),
        say=print,
    ).path


def checkpatch(tree: Path, *words: str | Path) -> str:
    """Return what checkpatch says, nothing if it is content."""
    done = subprocess.run(
        [tree / "scripts" / "checkpatch.pl", "--no-tree", "--terse", "--quiet", *words],
        cwd=tree,
        env={**proc.BASE_ENV, "HOME": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    lines = done.stdout.splitlines()
    return "\n".join(line for line in lines if "ERROR:" in line or "WARNING:" in line)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.name)
def test_checkpatch_is_content_with_each_patch(tree: Path, patch: Path) -> None:
    # A Kconfig that is sourced is named in the file that does.  Who signs off is for upstream.
    said = checkpatch(tree, "--no-signoff", "--ignore=EMBEDDED_FILENAME", patch)
    assert not said, said


@pytest.mark.parametrize(
    "path",
    [path for path in NEW if str(path.relative_to(LINUX / "files")) not in NOT_C],
    ids=lambda path: path.name,
)
def test_checkpatch_is_content_with_each_new_file(tree: Path, path: Path) -> None:
    said = checkpatch(tree, "--file", path)
    assert not said, said


def test_checkpatch_finds_something_to_say(tree: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.c"
    bad.write_text("// SPDX-License-Identifier: GPL-2.0\nint  f( void ) { return 1; }\n")
    assert "ERROR" in checkpatch(tree, "--file", bad)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.name)
def test_each_patch_says_why(patch: Path) -> None:
    header = patch.read_text().partition("\n---\n")[0]
    subject, _, body = header.partition("\n\n")
    assert subject.startswith("Subject: ") and ": " in subject.removeprefix("Subject: ")
    assert len(body.split()) >= 10, body


def test_the_series_is_small() -> None:
    """The reference needs 1,250 lines and does less."""
    subprocess.run([ROOT / "tools" / "kernel-size"], check=True, stdout=subprocess.PIPE)
