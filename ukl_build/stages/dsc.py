# SPDX-License-Identifier: Apache-2.0
"""Gets the sources of an application that is a Debian source package.

A package comes from a folder that the user names, else from the cache, else by apt.  dpkg-source
unpacks it and applies Debian's patches, which have the security fixes.  The result is a tree in the
cache, named by the digest of all that went in, with a link to it in the application's folder, so
that messages and debugging information name paths that stay the same.  An unpacked tree that the
user names is copied instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ukl_build import apt, files, manifest, packages, proc
from ukl_build.cache import Cache, Say
from ukl_build.errors import UklError
from ukl_build.packages import Found

FORMAT = "1"
"""Part of every tree's digest; to be raised when the way a tree is prepared changes."""

PARTS = ("*.dsc", "*.orig.tar.*", "*.debian.tar.*", "*.diff.gz")
"""Names of a source package's files; a folder without any of them is an unpacked tree."""


_VERSION = re.compile(r"[A-Za-z0-9.+~:-]+")
"""deb-version(7); it becomes part of a file's name."""


@dataclass(frozen=True)
class Tree:
    """A tree that can be built."""

    path: Path
    digest: str
    """Changes whenever the tree's contents do."""
    package: str
    version: str
    origin: str
    """For people: where it is from."""
    inputs: Mapping[str, str]
    """The files it was unpacked from, by their names, and their digests."""


@dataclass(frozen=True)
class _Package:
    """A source package whose files are all there and right."""

    dsc: Found
    version: str
    files: Mapping[str, Found]
    """By the names that the .dsc has for them."""


def is_tree(folder: Path) -> bool:
    """Tell whether a folder is an unpacked tree, and not one with a package or with nothing."""
    return (
        folder.is_dir()
        and any(folder.iterdir())
        and not any(path for pattern in PARTS for path in folder.glob(pattern))
    )


def prepare(
    package: str, tested: str, folder: Path | None, cache: Cache, *, logs: Path, say: Say
) -> Tree:
    """Return the tree of a source package, making it first if the cache does not have it.

    :param tested: version that was tested last; another one is a warning.
    :param folder: folder with the package's .dsc and the files it lists, or an unpacked tree;
        nothing is fetched then.
    :param logs: folder for the logs of what is run.
    :raise UklError: ``source-missing`` if the folder lacks a file or is of something else,
        ``source-unavailable`` if apt delivers none, ``source-corrupt`` if a file is wrong.
    """
    with cache.locked(say):
        if folder is not None and is_tree(folder):
            return _copied(package, tested, folder.resolve(), cache, say)
        found = (
            _in_folder(package, tested, folder)
            if folder is not None
            else _in_cache(package, tested, cache, say)
            or _by_apt(package, cache, logs=logs, say=say)
        )
        packages.warn_of_version(package, found.version, tested, say)
        return _unpacked(package, found, cache, logs, say)


def publish(tree: Tree, link: Path, out: Path, *, repeat: str) -> None:
    """Link a tree into the application's folder, and write which it is as a manifest.

    Where it is from is left out: the same sources from another place are the same.

    :raise OSError: if it cannot be written.
    """
    files.link(link, tree.path)
    record = manifest.Manifest(
        stage="source",
        inputs={tree.package: tree.version, **tree.inputs},
        outputs={link.name: tree.digest},
        repeat=repeat,
    )
    manifest.store(record, out)


# --- Which package ------------------------------------------------------------------------------


def _in_folder(package: str, tested: str, folder: Path) -> _Package:
    if not folder.is_dir():
        raise UklError("source-missing", f"{folder} is not a folder", hint="correct app_src=FOLDER")
    found = sorted(folder.glob(f"{package}_*.dsc"))
    if not found:
        raise UklError(
            "source-missing",
            f"{folder} is neither an unpacked tree nor holds a {package}_*.dsc"
            f" ({tested} was tested last)",
            hint=f"`apt-get source --download-only {package}` fetches it; without app_src= it is"
            " fetched here",
        )
    if len(found) > 1:
        raise UklError(
            "source-missing",
            f"{folder} holds several versions of the source package {package}",
            detail="\n".join(str(path) for path in found),
            hint="leave one .dsc there",
        )
    return _read(package, found[0], f"{found[0]}, as the user named it")


def _in_cache(package: str, tested: str, cache: Cache, say: Say) -> _Package | None:
    """Return a package whose files the cache has all, the version tested last before others."""
    index, name = _index(package)
    while there := packages.cached(index, name, tested=tested, cache=cache, say=say):
        dsc, version = there
        found = {
            part: Found(cache.download(digest, part), digest, dsc.origin)
            for part, digest in _parse(package, dsc)[1].items()
        }
        for one in found.values():
            if one.file.is_file() and files.sha256(one.file) != one.sha256:
                packages.expel(cache, one.file, one.sha256, say)
        if all(one.file.is_file() for one in found.values()):
            return _Package(dsc, version, found)
        cache.expel(dsc.file)  # it is of no use without them
    return None


def _by_apt(package: str, cache: Cache, *, logs: Path, say: Say) -> _Package:
    say(f"downloading Debian's source package {package}")
    hint = (
        "check the name, the network and /etc/apt, or name a folder with the source package:"
        " app_src=FOLDER"
    )
    with packages.fetching(f"the source package {package}", hint=hint), cache.scratch() as scratch:
        private = scratch / "apt"
        private.mkdir()
        sources = apt.debian_only(apt.machine_sources(), apt.codename())
        log = logs / "source-apt.log"
        dsc = apt.download_source(package, private, sources, log=log, say=say)
        found = _read(package, dsc, dsc.name)
        kept = {
            name: Found(cache.admit(one.file, one.sha256), one.sha256, one.origin)
            for name, one in found.files.items()
        }
        index, name = _index(package)  # last, as it names the others
        plain = packages.admit(dsc.rename(scratch / name), index, found.version, cache)
        return _Package(plain, found.version, kept)


def _index(package: str) -> tuple[str, str]:
    """Return what a package is called in the cache's index, and what its .dsc is there.

    A binary package of the same name and version is another thing; ``src:`` is apt's word for it.
    """
    return f"src:{package}", f"{package}.dsc"


def _read(package: str, dsc: Path, origin: str) -> _Package:
    """Read a package whose files stand beside each other, and see that each is right."""
    described = Found(dsc, files.sha256(dsc), origin)
    version, sums = _parse(package, described)
    missing = [name for name in sums if not (dsc.parent / name).is_file()]
    if missing:
        raise UklError(
            "source-missing",
            f"{dsc.parent} lacks files that {dsc.name} lists",
            detail="\n".join(missing),
            hint=f"`apt-get source --download-only {package}` fetches them all",
        )
    found = {}
    for name, expected in sums.items():
        file = dsc.parent / name
        actual = files.sha256(file)
        if actual != expected:
            raise packages.corrupt(str(file), "SHA-256", expected, actual)
        found[name] = Found(file, expected, origin)
    return _Package(described, version, found)


def _parse(package: str, dsc: Found) -> tuple[str, dict[str, str]]:
    """Return the version that a .dsc states (dsc(5)), and the digest of each file that it lists."""
    text = dsc.file.read_text(encoding="utf-8", errors="replace")
    for fields in apt.stanzas(text):  # one, maybe between parts of a signature
        rows = [row.split() for row in fields.get("checksums-sha256", "").split("\n") if row]
        # Names are of files beside it, not of any others.
        whole = all(len(row) == 3 and Path(row[2]).name == row[2] for row in rows)
        if not rows or not whole or not _VERSION.fullmatch(fields.get("version", "")):
            continue
        if fields.get("source") != package:
            raise UklError(
                "source-missing",
                f"{dsc.file} is of the source package {fields.get('source')}, not of {package}",
                hint="correct app_src=FOLDER",
            )
        return fields["version"], {name: digest for digest, _, name in rows}
    raise UklError(
        "source-corrupt",
        f"{dsc.file} does not describe a source package with SHA-256 digests"
        f" (its own is {dsc.sha256})",
        hint="replace it by a whole one",
    )


# --- The tree -----------------------------------------------------------------------------------


def _unpacked(package: str, found: _Package, cache: Cache, logs: Path, say: Say) -> Tree:
    # The .dsc has the digests of all others.
    digest = hashlib.sha256(f"{FORMAT}\n{found.dsc.sha256}\n".encode()).hexdigest()
    dsc = f"{package}_{found.version.partition(':')[2] or found.version}.dsc"
    together = {dsc: found.dsc, **found.files}

    def make(scratch: Path) -> Path:
        say(f"unpacking {dsc}")
        folder, tree = scratch / "package", scratch / "tree"
        folder.mkdir()
        for name, one in together.items():
            (folder / name).symlink_to(one.file)
        try:
            words = ["dpkg-source", "--no-copy", "--extract", str(folder / dsc), str(tree)]
            proc.run(words, log=logs / "dpkg-source.log")
        except UklError as error:
            if error.code != "tool-failed":
                raise
            raise packages.damaged(found.dsc.file, found.dsc.sha256, error) from error
        # The time of what the patches change is that of the unpacking.
        files.date_back(tree, int(_changelog(tree, "Timestamp")) * 10**9)
        return tree

    inputs = {name: one.sha256 for name, one in together.items()}
    path = cache.tree(digest, make)
    return Tree(path, digest, package, found.version, found.dsc.origin, inputs)


def _copied(package: str, tested: str, folder: Path, cache: Cache, say: Say) -> Tree:
    version = "of unknown version"
    if (folder / "debian" / "changelog").is_file():
        version, source = _changelog(folder, "Version"), _changelog(folder, "Source")
        if source != package:
            raise UklError(
                "source-missing",
                f"{folder} has the sources of {source}, not of {package}",
                hint="correct app_src=FOLDER",
            )
    packages.warn_of_version(package, version, tested, say)
    patches, applied = "debian/patches/series", ".pc/applied-patches"
    if (folder / patches).is_file() and not (folder / applied).is_file():
        say(f"warning: {folder} is used as it is: the patches of {patches} seem not to be applied")
    state = files.stat_digest(folder)
    digest = hashlib.sha256(f"{FORMAT}\n{state}\n".encode()).hexdigest()

    def make(scratch: Path) -> Path:
        say(f"copying {folder}")
        files.copy_tree(folder, scratch / "tree")
        return scratch / "tree"

    path = cache.tree(digest, make)
    return Tree(path, digest, package, version, f"{folder}, as the user named it", {})


def _changelog(tree: Path, field: str) -> str:
    """Return what the newest entry of a tree's debian/changelog says."""
    file = tree / "debian" / "changelog"
    words = ["dpkg-parsechangelog", "--file", str(file), "--show-field", field]
    return proc.run(words).stdout.strip()
