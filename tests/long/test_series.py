# SPDX-License-Identifier: Apache-2.0
"""The kernel builds after each patch of the series."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT
from ukl_build import proc, toolchain
from ukl_build.cache import Cache
from ukl_build.stages import linux, sources

pytestmark = pytest.mark.long

PATCHES = ROOT / "recipes" / "linux" / "patches"
BUILD = ROOT / "build" / "tcp_server"


def test_the_kernel_builds_after_each_patch(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "SCons", "-Q", "app=tcp_server"], cwd=ROOT, check=True)
    prepared = sources.read_tree(BUILD / "sources.manifest.json").path
    tree = tmp_path / "tree"
    shutil.copytree(prepared, tree, symlinks=True)
    series = [line for line in (PATCHES / "series").read_text().splitlines() if line]
    patch = ["patch", "--strip=1", "--fuzz=0", "--batch"]
    for name in reversed(series):
        proc.run([*patch, "--reverse", f"--input={PATCHES / name}"], cwd=tree)
    for name in ("UKL.a", "initramfs.cpio"):
        shutil.copy2(BUILD / name, tmp_path)
    out = tmp_path / "linux"
    out.mkdir()
    config = (BUILD / "kconfig" / "config").read_text()
    compiler = toolchain.compiler(Cache.default().ccache)
    jobs = f"-j{os.cpu_count() or 1}"
    for name in series:
        proc.run([*patch, f"--input={PATCHES / name}"], cwd=tree)
        # Options that are not there yet are dropped, and asked for again after the next patch.
        (out / ".config").write_text(config)
        for target in ("olddefconfig", "bzImage"):
            line = linux.make_line(tree, out, compiler, target)
            proc.run([*line, jobs], env=compiler.env, log=tmp_path / f"{name}.log")
        log = (tmp_path / f"{name}.log").read_text()
        assert "warning:" not in log, f"{name}: {log}"
