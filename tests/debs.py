# SPDX-License-Identifier: Apache-2.0
"""Debian packages that tests make themselves, with Debian's own tool."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def deb(
    folder: Path,
    name: str,
    version: str,
    content: Mapping[str, bytes | str | Path],
    fields: str = "",
) -> Path:
    """Make a package of files and return it, named as Debian's archive names it.

    :param content: path to what a file has, or to where a symbolic link leads.
    :param fields: more lines of its control file.
    """
    root = folder / "root" / f"{name}_{version}"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        f"{fields}Maintainer: nobody <nobody@example.org>\nDescription: a test\n"
    )
    for path, data in content.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, Path):
            file.symlink_to(data)
            continue
        file.write_bytes(data.encode() if isinstance(data, str) else data)
    out = folder / f"{name}_{version.replace(':', '%3a')}_amd64.deb"
    # None: nothing here is worth the time of packing it.
    words = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(out)]
    subprocess.run(words, check=True, capture_output=True)
    return out


CHANGELOG = """\
{name} ({version}) unstable; urgency=low

  * A test.

 -- nobody <nobody@example.org>  Sun, 01 Jan 2023 00:00:00 +0000
"""


def source_package(
    folder: Path,
    name: str,
    version: str,
    content: Mapping[str, str],
    patches: Mapping[str, str] | None = None,
) -> Path:
    """Make a source package of files and return its .dsc, which stands among its other files.

    :param version: with a revision behind a hyphen.
    :param patches: Debian's own changes, by their names.
    """
    upstream = version.rpartition(":")[2].rpartition("-")[0]
    tree = folder / "root" / version / f"{name}-{upstream}"
    for path, data in content.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(data)
    original = folder / f"{name}_{upstream}.orig.tar.gz"
    if not original.exists():  # revisions share it
        with tarfile.open(original, "w:gz") as tar:
            tar.add(tree, arcname=tree.name)
    for path, data in {
        "changelog": CHANGELOG.format(name=name, version=version),
        "control": f"Source: {name}\nMaintainer: nobody <nobody@example.org>\n\n"
        f"Package: {name}\nArchitecture: any\nDescription: a test\n",
        "source/format": "3.0 (quilt)\n",
        "patches/series": "".join(f"{patch}\n" for patch in patches or {}),
        **{f"patches/{patch}": text for patch, text in (patches or {}).items()},
    }.items():
        file = tree / "debian" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(data)
    words = ["dpkg-source", "-Zgzip", "--build", str(tree)]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return folder / f"{name}_{version.rpartition(':')[2]}.dsc"


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
