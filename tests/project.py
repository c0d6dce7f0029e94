# SPDX-License-Identifier: Apache-2.0
"""A whole small project around a fake kernel, built by the real SConstruct in seconds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ukl_build import plan, proc

ROOT = Path(__file__).resolve().parents[1]
FAKE_LINUX = Path(__file__).resolve().parent / "fake" / "linux"
FAKE_GLIBC = Path(__file__).resolve().parent / "fake" / "glibc"
VERSION = "6.1.999"

LINUX_RECIPE = """\
schema = 1
kind = "linux"
name = "linux"
summary = "fake"
licence = "GPL-2.0-only"
series = "6.1"

[debian]
package = "no-such-package-in-debian"
file = "usr/src/nothing.tar.xz"
tested = "6.1.999-1"

[upstream]
url = "file:///nowhere/linux-{version}.tar.xz"
version = "6.1.999"
"""

GLIBC_RECIPE = """\
schema = 1
kind = "glibc"
name = "glibc"
summary = "fake"
licence = "LGPL-2.1-or-later"
series = "2.36"

[debian]
package = "no-such-package-in-debian"
file = "usr/src/nothing.tar.xz"
tested = "2.36-1"
"""

APP_RECIPE = """\
schema = 1
kind = "application"
name = "hello"
summary = "small"
licence = "MIT"

[source]
folder = "samples/hello"

[build]
system = "plain"
libc = false
sources = ["start.S", "tcp_server.c"]
cflags = ["-std=gnu11", "-ffreestanding"]

[guest]
ports = [{ guest = 5555 }]
"""

FRAGMENTS = {
    "base": "CONFIG_MODULES=n  # one file\nCONFIG_LZ4=y  # quick\nCONFIG_DEFAULT_ON=n  # unused\n",
    "userspace": 'CONFIG_INITRAMFS_SOURCE="../initramfs.cpio"  # one file\n',
    "net": "CONFIG_NET=y  # needed by INET\nCONFIG_INET=y  # it is a server\n",
    "ukl": "CONFIG_UNIKERNEL_LINUX=y  # the point of it all\n"
    'CONFIG_UKL_ARCHIVE_PATH="../UKL.a"  # relative to the output folder\n',
    "ukl-ret": "CONFIG_UKL_RET=y  # the second level\n",
    "ukl-bypass": "CONFIG_UKL_BYPASS=y  # the third\n",
    "ukl-shortcut": "CONFIG_UKL_SHORTCUT=y  # the fourth\n",
    "again": "CONFIG_UNIKERNEL_LINUX=y  # a second time\n",
    "unmet": "CONFIG_NET=n  # overrides net: a test\n",
}

SERIES_PATCH = """\
--- a/a.c
+++ b/a.c
@@ -1,2 +1,3 @@
 /* SPDX-License-Identifier: Apache-2.0 */
 int a;
+int patched;
"""


@dataclass(frozen=True)
class Project:
    """A project in a temporary folder."""

    root: Path
    cache: Path
    extra: Mapping[str, str] = field(default_factory=dict)
    """Of the environment of whoever builds."""

    @property
    def out(self) -> Path:
        """Outputs of the application."""
        return self.root / "build" / "hello"

    @property
    def linux(self) -> Path:
        """The fake kernel's output folder."""
        return self.out / "linux"

    @property
    def source(self) -> Path:
        """The application's C file."""
        return self.root / "samples" / "hello" / "tcp_server.c"

    @property
    def twin(self) -> Path:
        """Outputs of the application as an ordinary process."""
        return self.out / "twin"

    def calls(self, linux: Path | None = None) -> list[str]:
        """Take what the fake kernel's make did since the last time.

        :param linux: another output folder.
        """
        path = (linux or self.linux) / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def argv(self, words: Sequence[str]) -> list[str]:
        """Return the command line of SCons."""
        return [sys.executable, "-m", "SCons", *words]

    def env(self) -> dict[str, str]:
        """Return an environment without anything of this machine's user."""
        return {
            **proc.BASE_ENV,
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(self.cache),
            "HOME": str(self.root / "no-home"),
            **self.extra,
        }

    def scons(self, *words: str, status: int | None = 0) -> str:
        """Run SCons and return what it says; check its exit status unless that is None."""
        done = subprocess.run(
            self.argv(words),
            cwd=self.root,
            env=self.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=120,
            check=False,
        )
        assert status is None or done.returncode == status, done.stdout
        return done.stdout

    def build(self, *words: str, status: int | None = 0) -> str:
        """Build the application from the tarballs of the fake kernel and C library."""
        origin = [f"{name}_src={self.root / 'dist'}" for name in ("linux", "glibc")]
        return self.scons("app=hello", *origin, *words, status=status)

    def edit(self, text: str = "int edited;\n") -> None:
        """Change the application."""
        with self.source.open("a") as file:
            file.write(text)


def tarball(tree: Path, out: Path, top: str = f"linux-{VERSION}") -> Path:
    """Pack a tree as kernel.org does: one folder at the top."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w:xz", preset=0) as tar:
        tar.add(tree, arcname=top)
    return out


def make(folder: Path) -> Project:
    """Make a project."""
    root = folder / "project"
    shutil.copytree(ROOT / "samples" / "tcp_server", root / "samples" / "hello")
    shutil.copytree(ROOT / "linker", root / "linker")
    shutil.copy(ROOT / "SConstruct", root)
    for name, text in (("linux", LINUX_RECIPE), ("glibc", GLIBC_RECIPE), ("hello", APP_RECIPE)):
        (root / "recipes" / name).mkdir(parents=True)
        (root / "recipes" / name / "recipe.toml").write_text(text)
    patches = root / "recipes" / "linux" / "patches"
    patches.mkdir()
    (patches / "0001-a.patch").write_text(SERIES_PATCH)
    (patches / "series").write_text("# a comment\n0001-a.patch\n")
    (root / "kconfig").mkdir()
    for name in (*plan.FRAGMENTS, *plan.FRAGMENTS_LAST, *FRAGMENTS):
        (root / "kconfig" / f"{name}.config").write_text(FRAGMENTS.get(name, "# nothing\n"))
    tarball(FAKE_LINUX, root / "dist" / f"linux-{VERSION}.tar.xz")
    tarball(FAKE_GLIBC, root / "dist" / "glibc-2.36.tar.xz", top="glibc-2.36")
    return Project(root, folder / "cache")
