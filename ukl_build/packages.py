# SPDX-License-Identifier: Apache-2.0
"""Debian packages: what the cache has of them, and what is where in one.

A file in the cache is named by its digest; an index says which version of which package it is.
Nothing is asked of the network for what the cache has.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ukl_build import files, manifest, proc, toolchain
from ukl_build.cache import Cache, Say
from ukl_build.errors import UklError
from ukl_build.model import nearest
from ukl_build.recipe import DebianArchives

INCLUDE = ("usr/include", "usr/include/x86_64-linux-gnu")
"""Folders of a package that the compiler searches."""

LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib")
"""Folders of a package that an archive may be in."""


@dataclass(frozen=True)
class Found:
    """A file whose bytes are known to be right."""

    file: Path
    sha256: str
    origin: str
    """For people: which place it is from, with its version."""


@dataclass(frozen=True)
class Package:
    """A package that is unpacked."""

    name: str
    version: str
    found: Found
    """The .deb."""
    path: Path
    """The unpacked files."""


def corrupt(what: str, kind: str, expected: str, actual: str) -> UklError:
    """Return the error for a file that has another digest than it must."""
    return UklError(
        "source-corrupt",
        f"{what} is not the file that is expected (truncated, damaged or another one)",
        detail=f"{kind} expected {expected}, actual {actual}",
        hint="delete it and fetch it again, or correct the expected digest",
    )


def expel(cache: Cache, file: Path, expected: str, say: Say) -> None:
    """Remove a damaged file from the cache, and say so."""
    error = corrupt(str(file), "SHA-256", expected, files.sha256(file))
    cache.expel(file)
    say(f"warning: {error.message}; {error.detail}; it was removed and is fetched again")


def cached(
    package: str,
    name: str,
    *,
    tested: str,
    accepts: Callable[[str], bool] = lambda version: True,
    cache: Cache,
    say: Say,
) -> tuple[Found, str] | None:
    """Return a file of a package and its version, if the cache has one that is whole.

    :param name: the file's name in the cache.
    :param tested: version that comes first; after it the newest does.
    :param accepts: tells whether a version will do.
    """
    prefix = f"{package}_"
    records = cache.index(prefix).parent.glob(f"{prefix}*.json")
    versions = {path.stem.removeprefix(prefix): path for path in records}
    for version in sorted(versions, key=lambda v: (v == tested, order(v)), reverse=True):
        if not accepts(version):
            continue
        try:
            digest = str(json.loads(versions[version].read_text(encoding="utf-8"))["sha256"])
        except (ValueError, KeyError, TypeError):
            cache.expel(versions[version])
            continue
        file = cache.download(digest, name)
        if not file.is_file():
            cache.expel(versions[version])
            continue
        if files.sha256(file) == digest:
            return Found(file, digest, _origin(package, version)), version
        expel(cache, file, digest, say)
    return None


def admit(file: Path, package: str, version: str, cache: Cache) -> Found:
    """Move a file of a package from a scratch folder into the cache, and into its index.

    :raise OSError: if the cache cannot be written.
    """
    digest = files.sha256(file)
    place = cache.admit(file, digest)
    record = {"package": package, "version": version, "sha256": digest}
    files.write(cache.index(f"{package}_{version}"), json.dumps(record, indent=2) + "\n")
    return Found(place, digest, _origin(package, version))


@contextmanager
def fetching(what: str, *, hint: str) -> Iterator[None]:
    """Have what goes wrong meanwhile end as one error: Debian's archive did not deliver.

    :param what: for people.
    :raise UklError: ``source-unavailable``, or ``stopped``.
    """
    try:
        yield
    except UklError as error:
        if error.code == "stopped":
            raise
        raise UklError(
            "source-unavailable",
            f"Debian's archive did not deliver {what}",
            detail=f"{error.message}\n{error.detail}".rstrip(),
            hint=hint,
        ) from error


def damaged(path: Path, digest: str, error: UklError) -> UklError:
    """Return the error for a file that a program could not unpack or read.

    :param error: how the program failed.
    """
    return UklError(
        "source-corrupt",
        f"{path} cannot be unpacked (SHA-256 {digest})",
        detail=error.detail,
        hint="replace it by a whole one",
    )


def warn_of_version(package: str, version: str, tested: str, say: Say) -> None:
    """Say it if a package is of another version than the one tested last."""
    if version != tested:
        say(f"warning: {package} {version} is used, {tested} was tested last")


def field(package: Path, name: str) -> str:
    """Return what a .deb says of itself, such as its Version.

    :raise UklError: ``tool-failed`` if it is none.
    """
    return proc.run(["dpkg-deb", "--field", package, name]).stdout.strip()


def version(path: Path, digest: str) -> str:
    """Return the version of a .deb.

    :raise UklError: ``source-corrupt`` if it is damaged.
    """
    try:
        return field(path, "Version")
    except UklError as error:
        if error.code != "tool-failed":
            raise
        raise damaged(path, digest, error) from error


def unpack(found: Sequence[Found], cache: Cache, logs: Path) -> None:
    """Unpack the packages that the cache has no files of; needs the cache's lock.

    :raise UklError: ``source-corrupt`` if one is damaged.
    """
    with cache.scratch() as scratch:
        finished = {}
        for file in found:
            place = cache.packages / file.sha256
            if place.is_dir():
                continue
            folder = scratch / file.sha256
            try:
                proc.run(["dpkg-deb", "--extract", file.file, folder], log=logs / "dpkg-deb.log")
            except UklError as error:
                if error.code != "tool-failed":
                    raise
                raise damaged(file.file, file.sha256, error) from error
            finished[folder] = place
        cache.publish(finished)


def publish(made: Sequence[Package], place: Path, out: Path, *, stage: str, repeat: str) -> None:
    """Link the packages into a folder of their own, and write which they are as a manifest.

    :param place: the folder; what else is in it is removed.
    :param stage: that they are of.
    :raise OSError: if it cannot be written.
    """
    place.mkdir(parents=True, exist_ok=True)
    links = {place / package.name: package.path for package in made}
    for link, target in links.items():
        files.link(link, target)
    for other in set(place.iterdir()) - links.keys():
        other.unlink()
    record = manifest.Manifest(
        stage=stage,
        inputs={package.name: package.version for package in made},
        outputs={f"{place.name}/{package.name}": package.found.sha256 for package in made},
        repeat=repeat,
    )
    manifest.store(record, out)


def _origin(package: str, version: str) -> str:
    return f"Debian {package} {version}"


def _compare(one: str, other: str) -> int:
    """Order two versions as Debian does (deb-version(7)); dpkg is the one that knows."""
    if one == other:
        return 0
    try:
        proc.run(["dpkg", "--compare-versions", one, "gt", other])
    except UklError as error:
        if error.code != "tool-failed":
            raise
        return -1
    return 1


order = functools.cmp_to_key(_compare)
"""Key for sorting versions, the oldest first."""


def include_flags(wanted: Sequence[DebianArchives], place: str) -> list[str]:
    """Return the compiler's flags for the headers of published packages.

    :param place: the folder they are published in.
    """
    # -isystem: warnings in them are Debian's.  Folders that are not there are ignored.
    found = [
        word
        for one in wanted
        for folder in INCLUDE
        for word in ("-isystem", f"{place}/{one.package}/{folder}")
    ]
    return found + [toolchain.mapped(f"{place}/{one.package}", "") for one in wanted]


def library_folders(wanted: Sequence[DebianArchives], place: Path) -> list[Path]:
    """Return the folders of published packages that archives may be in."""
    folders = [place / one.package / name for one in wanted for name in LIBRARIES]
    return [folder for folder in folders if folder.is_dir()]


def archives(wanted: Sequence[DebianArchives], place: Path) -> list[Path]:
    """Return the archives of published packages, in the order of the recipe.

    :raise UklError: ``source-missing`` if one is not there.
    """
    return [
        archive(one.package, place / one.package, name) for one in wanted for name in one.archives
    ]


def archive(what: str, path: Path, name: str) -> Path:
    """Return an archive of an unpacked package.

    :param what: the package, for people.
    :raise UklError: ``source-missing``, naming the nearest and what else there is.
    """
    return _find(what, path, "archive", name, LIBRARIES)


def header(what: str, path: Path, name: str) -> Path:
    """Return a header of an unpacked package; see :func:`archive`."""
    return _find(what, path, "header", name, INCLUDE)


def _find(what: str, path: Path, kind: str, name: str, folders: Sequence[str]) -> Path:
    for folder in folders:
        found = path / folder / name
        if found.is_file():
            return found
    suffix = Path(name).suffix
    there = sorted(
        str(one.relative_to(path / folder))
        for folder in folders
        for one in (path / folder).rglob(f"*{suffix}")
        if one.is_file()
    )
    raise UklError(
        "source-missing",
        f"Debian's package {what} has no {kind} {name}{nearest(name, there)}",
        detail="\n".join(there[:25]) or f"it has none at all: {kind}s are in a -dev package",
        hint="correct the recipe's [[debian]]",
    )
