# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from ukl_build.errors import UklError


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in lower-case hexadecimal.

    :raise OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(path: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Replace a file atomically: a reader, or a killed build, finds the old or the new one.

    The content goes to a temporary file in the same folder first, since only a rename within one
    file system is atomic.

    :raise OSError: if the folder cannot be made or written.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def refused(error: OSError) -> UklError:
    """Return what a person reads of an error of the operating system."""
    what = f"{error.filename}: " if error.filename is not None else ""
    return UklError(
        "system",
        f"{what}{error.strerror or error}",
        hint="look at the path, its permissions and the free disk space (df), then repeat",
    )
