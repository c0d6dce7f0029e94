# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, their digests, and whole trees of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in lower-case hexadecimal.

    :raise OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


NOT_SOURCES = (".git", ".pc")
"""What tools keep in a tree of sources: its history, and the undone state of patches."""


def stat_digest(folder: Path) -> str:
    """Return a digest of the names, sizes and times of all files of a tree of sources.

    A tree that someone works on has 80,000 files; reading them all at each start would take longer
    than the incremental build.  make goes by times, too.

    :raise OSError: if one cannot be read.
    """
    hasher = hashlib.sha256()
    for path, status in _walk(folder):
        line = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n"
        hasher.update(line.encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()


def copy_tree(folder: Path, place: Path) -> None:
    """Copy a tree of sources with the times of its files.

    :raise OSError: if one cannot be read or written.
    """
    shutil.copytree(folder, place, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCES))


def date_back(folder: Path, time_ns: int) -> None:
    """Give each file of a tree that is newer than a time that time.

    Otherwise a tree that is made again, after the cache was emptied, would be compiled again.

    :param time_ns: nanoseconds since the epoch.
    :raise OSError: if one cannot be changed.
    """
    for path, status in _walk(folder):
        if status.st_mtime_ns > time_ns:
            os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - set(NOT_SOURCES))
        for name in sorted(names):
            path = f"{parent}/{name}"
            yield path, os.lstat(path)


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
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # write(2) and fsync(2) know a descriptor alone
        raise


def copy(source: Path, target: Path) -> None:
    """Copy a large file so that the copy appears at once; a build that is killed makes it again.

    :raise OSError: if it cannot be read or written.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(target)


def link(path: Path, target: Path) -> None:
    """Make a symbolic link, or change one atomically; one that is right is left alone.

    What is behind a link is looked at while it changes: SCons asks for headers in one thread while
    a stage runs in another, and takes one that is not there for a moment for missing.

    :raise OSError: if the folder cannot be made or written.
    """
    if path.is_symlink() and path.readlink() == target:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a build that was killed
    temporary.symlink_to(target)
    temporary.replace(path)
