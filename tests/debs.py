# SPDX-License-Identifier: Apache-2.0
"""Debian packages that tests make themselves, with Debian's own tool."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def deb(folder: Path, name: str, version: str, content: Mapping[str, bytes | str]) -> Path:
    """Make a package of files and return it, named as Debian's archive names it."""
    root = folder / "root" / f"{name}_{version}"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: a test\n"
    )
    for path, data in content.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)
    out = folder / f"{name}_{version.replace(':', '%3a')}_amd64.deb"
    # None: nothing here is worth the time of packing it.
    words = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(out)]
    subprocess.run(words, check=True, capture_output=True)
    return out


def library(folder: Path, source: str, *flags: str) -> bytes:
    """Return an archive of one object, compiled as Debian compiles: nothing said of a kernel.

    :param flags: more flags of the compiler.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compile_it = ["gcc", "-O2", *flags, "-xc", "-c", "-o", "one.o", "-"]
    subprocess.run(compile_it, input=source, text=True, cwd=folder, check=True)
    (folder / "one.a").unlink(missing_ok=True)
    subprocess.run(["ar", "rcsD", "one.a", "one.o"], cwd=folder, check=True)
    return (folder / "one.a").read_bytes()
