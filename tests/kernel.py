# SPDX-License-Identifier: Apache-2.0
"""A kernel tree of a test's own, to change and to build again and again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import scons
from tests.project import ROOT
from ukl_build import proc, toolchain
from ukl_build.cache import Cache
from ukl_build.stages import linux, sources

BUILD = ROOT / "build" / "tcp_server"


@dataclass(frozen=True)
class Kernel:
    """A copy of the prepared tree with an output folder, configured as tcp_server's kernel is."""

    tree: Path
    out: Path

    @classmethod
    def create(cls, folder: Path) -> Kernel:
        """Copy the tree, and what the kernel links, into an empty folder."""
        scons("app=tcp_server")
        prepared = sources.read_tree(BUILD / "sources.manifest.json").path
        kernel = cls(folder / "tree", folder / "linux")
        shutil.copytree(prepared, kernel.tree, symlinks=True)
        kernel.out.mkdir()
        for name in ("UKL.a", "initramfs.cpio"):
            shutil.copy2(BUILD / name, folder)
        return kernel

    @property
    def bzimage(self) -> Path:
        """The bootable file."""
        return self.out / "arch" / "x86" / "boot" / "bzImage"

    def patch(self, path: Path, *words: str) -> None:
        """Apply a patch, exactly where it says."""
        argv = ["patch", "--strip=1", "--fuzz=0", "--batch", *words, f"--input={path}"]
        proc.run(argv, cwd=self.tree)

    def make(self, log: Path, left_out: Collection[str] = ()) -> None:
        """Build the kernel.

        :param left_out: options that are n, against the application's configuration.
        """
        config = (BUILD / "kconfig" / "config").read_text()
        for name in left_out:
            assert f"\nCONFIG_{name}=y\n" in config
            config = config.replace(f"\nCONFIG_{name}=y\n", f"\n# CONFIG_{name} is not set\n")
        compiler = toolchain.compiler(Cache.default().ccache)
        # Options that the tree does not know are dropped, and asked for again the next time.
        (self.out / ".config").write_text(config)
        for target in ("olddefconfig", "bzImage"):
            line = linux.make_line(self.tree, self.out, compiler, target)
            proc.run([*line, f"-j{os.cpu_count() or 1}"], env=compiler.env, log=log)
