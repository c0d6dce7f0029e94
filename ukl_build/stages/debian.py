# SPDX-License-Identifier: Apache-2.0
"""Gets the Debian packages whose static archives an application links, and their headers.

The archives are Debian's own, not rebuilt: position-independent code of the small model, which the
passes of the archive make fit for the kernel half.  A package comes from a folder that the user
names, else from the cache, else by apt, and is unpacked into the cache by its digest.  The
application's folder has a link to each, so that flags and messages name paths that stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ukl_build import apt, files, packages
from ukl_build.cache import Cache, Say
from ukl_build.errors import UklError
from ukl_build.packages import Found, Package
from ukl_build.recipe import DebianArchives


def prepare(
    wanted: Sequence[DebianArchives], folder: Path | None, cache: Cache, *, logs: Path, say: Say
) -> list[Package]:
    """Return the packages, unpacked into the cache.

    :param folder: folder with the .deb files; nothing is fetched then.
    :param logs: folder for the logs of what is run.
    :raise UklError: ``source-missing`` if the folder lacks a package or a package a file,
        ``source-unavailable`` if apt delivers none, ``source-corrupt`` if one is damaged.
    """
    with cache.locked(say):
        found = (
            _in_folder(wanted, folder)
            if folder is not None
            else _in_cache_or_archive(wanted, cache, logs=logs, say=say)
        )
        packages.unpack([file for file, _ in found], cache, logs)
    made = []
    for one, (file, version) in zip(wanted, found, strict=True):
        packages.warn_of_version(one.package, version, one.tested, say)
        made.append(Package(one.package, version, file, cache.packages / file.sha256))
        _require(one, made[-1])
    return made


def _in_folder(wanted: Sequence[DebianArchives], folder: Path) -> list[tuple[Found, str]]:
    if not folder.is_dir():
        raise UklError("source-missing", f"{folder} is not a folder", hint="correct debs=FOLDER")
    found, missing = [], []
    for one in wanted:
        files_of_name = sorted(folder.glob(f"{one.package}_*.deb"))
        if len(files_of_name) > 1:
            raise UklError(
                "source-missing",
                f"{folder} holds several files of the package {one.package}",
                detail="\n".join(str(path) for path in files_of_name),
                hint="leave one of them there",
            )
        if not files_of_name:
            missing.append(f"{one.package}_*.deb ({one.tested} was tested last)")
            continue
        (path,) = files_of_name
        digest = files.sha256(path)
        found.append(
            (Found(path, digest, f"{path}, as the user named it"), packages.version(path, digest))
        )
    if missing:
        raise UklError(
            "source-missing",
            f"{folder} lacks {len(missing)} of the packages that the recipe links",
            detail="\n".join(missing),
            hint="`apt-get download PACKAGE` fetches one; without debs= they are fetched here",
        )
    return found


def _in_cache_or_archive(
    wanted: Sequence[DebianArchives], cache: Cache, *, logs: Path, say: Say
) -> list[tuple[Found, str]]:
    found: dict[str, tuple[Found, str]] = {}
    for one in wanted:
        there = packages.cached(
            one.package, f"{one.package}.deb", tested=one.tested, cache=cache, say=say
        )
        if there is not None:
            found[one.package] = there
    names = [one.package for one in wanted if one.package not in found]
    if names:
        hint = (
            "check the names, the network and /etc/apt, or name a folder with the .deb files:"
            " debs=FOLDER"
        )
        with packages.fetching(", ".join(names), hint=hint):
            found |= _by_apt(names, cache, logs=logs, say=say)
    return [found[one.package] for one in wanted]


def _by_apt(
    names: Sequence[str], cache: Cache, *, logs: Path, say: Say
) -> dict[str, tuple[Found, str]]:
    say(f"downloading Debian's packages {', '.join(names)}")
    sources = apt.debian_only(apt.machine_sources(), apt.codename())
    found = {}
    with cache.scratch() as scratch:
        private = scratch / "apt"
        private.mkdir()
        fetched = apt.download(names, private, sources, log=logs / "debian-apt.log")
        for name, path in zip(names, fetched, strict=True):
            version = packages.field(path, "Version")
            plain = path.rename(scratch / f"{name}.deb")
            found[name] = packages.admit(plain, name, version, cache), version
    return found


def _require(wanted: DebianArchives, package: Package) -> None:
    """See that a package has what the recipe names."""
    what = f"{package.name} {package.version}"
    for name in wanted.archives:
        packages.archive(what, package.path, name)
    for name in wanted.headers:
        packages.header(what, package.path, name)
