# SPDX-License-Identifier: Apache-2.0
"""Gets the sources of the kernel and of the C library, and prepares the tree that is built.

Places are tried in this order: a folder that the user names, then for each place of the recipe the
cache and the place itself (upstream, if the digest of its file is known; Debian's package, which
may be installed already).  The result is a tree named by the digest of everything that went in:
the source file, the new files and the patches, in their order.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ukl_build import apt, files, manifest, packages, proc
from ukl_build.cache import Cache, Say
from ukl_build.errors import UklError
from ukl_build.packages import Found
from ukl_build.recipe import DebianPlace, Kind, SourcesRecipe, UpstreamPlace

FORMAT = "1"
"""Part of every tree's digest; to be raised when the way a tree is prepared changes."""

_NETWORK_TIMEOUT = 60.0  # seconds without a byte
_DEBIAN_HINT = "the Debian package is used instead when it can be had"


@dataclass(frozen=True)
class Project:
    """What the sources of one project look like."""

    name: str
    tarballs: tuple[str, ...]
    """Patterns of source files in a folder that the user names."""
    packaged: str
    """Pattern of the source file in a Debian package."""
    is_tree: Callable[[Path], bool]
    version: Callable[[Path], str]
    """Reads the version out of an unpacked tree."""
    mark: tuple[str, str]
    """Pattern of files, and a text that stands in one of them if our patches are in already."""


@dataclass(frozen=True)
class Options:
    """What the user says about the sources."""

    folder: Path | None = None
    """Folder with a tarball or .deb in it, or an unpacked tree."""
    sha256: str | None = None
    """Digest of the source file; enables the upstream place."""
    version: str | None = None
    """Upstream version to fetch in place of the recipe's."""


@dataclass(frozen=True)
class Tree:
    """A tree that can be built."""

    path: Path
    digest: str
    """Changes whenever the tree's contents do."""
    version: str
    """As the tree's own Makefile says, such as ``6.1.192``."""
    origin: str
    source_sha256: str | None
    """SHA-256 of the file it was unpacked from; ``None`` for a tree that was there unpacked."""


def prepare(
    recipe: SourcesRecipe,
    folder: Path,
    options: Options,
    cache: Cache,
    *,
    logs: Path,
    say: Say,
) -> Tree:
    """Return the prepared tree, making it first if the cache does not have it.

    :param folder: the recipe's folder, with ``files/`` and ``patches/``.
    :param logs: folder for the logs of what is run.
    :raise UklError: if no place delivers, a file is wrong, or a patch does not apply.
    """
    changes = Changes.read(folder)
    project = PROJECTS[recipe.kind]
    if options.folder is not None and project.is_tree(options.folder):
        return _own_tree(recipe, changes, options.folder, cache, logs=logs, say=say)
    with cache.locked(say):
        found = _find(recipe, options, cache, logs=logs, say=say)
        digest = changes.digest(found.sha256)

        def make(scratch: Path) -> Path:
            say(f"unpacking {found.file.name}")
            tree = _unpack(project, found, scratch / "unpacked", logs)
            _check_series(recipe, tree, found.origin)
            changes.apply(tree, _named(project, tree), log=logs / "patch.log")
            return tree

        path = cache.tree(digest, make)
        return Tree(path, digest, project.version(path), found.origin, found.sha256)


def record(tree: Tree, out: Path, *, repeat: str) -> None:
    """Write which tree is built as a manifest."""
    inputs = {"origin": tree.origin, "version": tree.version}
    if tree.source_sha256:
        inputs["sha256"] = tree.source_sha256
    outputs = {str(tree.path): tree.digest}
    manifest.store(
        manifest.Manifest(stage="sources", inputs=inputs, outputs=outputs, repeat=repeat), out
    )


def read_tree(path: Path) -> Tree:
    """Read which tree is built.

    :raise UklError: ``manifest-invalid``.
    :raise OSError: if it cannot be read.
    """
    found = manifest.load(path)
    try:
        ((folder, digest),) = found.outputs.items()
        version, origin = found.inputs["version"], found.inputs["origin"]
    except (KeyError, ValueError) as error:
        raise UklError(
            "manifest-invalid", f"{path} does not name a tree", hint=f"delete {path}"
        ) from error
    return Tree(Path(folder), digest, version, origin, found.inputs.get("sha256"))


# --- Which file ---------------------------------------------------------------------------------


def _find(recipe: SourcesRecipe, options: Options, cache: Cache, *, logs: Path, say: Say) -> Found:
    if options.folder is not None:
        return _from_folder(recipe, options.folder, options.sha256)
    failures: list[UklError] = []
    upstream = enabled(recipe.upstream, options)
    if upstream is not None:
        try:
            return from_upstream(upstream, cache, say=say)
        except UklError as error:
            failures.append(error)
            detail = f"; {error.detail}" if error.detail else ""
            say(f"warning: {error.message}{detail}; {_DEBIAN_HINT}")
    try:
        found = _from_debian(recipe, cache, logs=logs, say=say)
    except UklError as error:
        failures.append(error)
        raise UklError(
            "source-unavailable",
            f"no place has the sources of {recipe.name} {recipe.accepted}",
            detail="\n".join(f"{one.message}\n{one.detail}".rstrip() for one in failures),
            hint=f"name a folder with the sources: {recipe.name}_src=FOLDER",
        ) from error
    return found


def enabled(place: UpstreamPlace | None, options: Options) -> UpstreamPlace | None:
    """Return the upstream place with the user's version and digest, or nothing without a digest."""
    if place is None:
        return None
    version = options.version or place.version
    # The recipe's digest is of the recipe's version only.
    sha256 = options.sha256 or (place.sha256 if version == place.version else None)
    if sha256 is None:
        return None
    return place.model_copy(update={"version": version, "sha256": sha256})


def _from_folder(recipe: SourcesRecipe, folder: Path, sha256: str | None) -> Found:
    variable, patterns = f"{recipe.name}_src=FOLDER", PROJECTS[recipe.kind].tarballs
    if not folder.is_dir():
        raise UklError("source-missing", f"{folder} is not a folder", hint=f"correct {variable}")
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    found = [path for path in found if path.suffix not in (".sign", ".asc", ".sha256", ".sig")]
    if not found:
        raise UklError(
            "source-missing",
            f"{folder} is neither a tree of {recipe.name} nor holds {' or '.join(patterns)}",
            hint=f"correct {variable}",
        )
    digests = {path: files.sha256(path) for path in found}
    if sha256 is not None:
        right = [path for path in found if digests[path] == sha256]
        if not right:
            raise UklError(
                "source-corrupt",
                f"none of the files in {folder} has the SHA-256 {sha256}",
                detail="\n".join(f"{digest}  {path}" for path, digest in digests.items()),
                hint=f"correct {recipe.name}_sha256=..., or replace the file",
            )
        found = right
    if len({digests[path] for path in found}) > 1:
        raise UklError(
            "source-missing",
            f"{folder} holds several source files",
            detail="\n".join(str(path) for path in found),
            hint=f"choose one with {recipe.name}_sha256=..., or name a folder with just one",
        )
    return Found(found[0], digests[found[0]], f"{found[0]}, as the user named it")


def from_upstream(place: UpstreamPlace, cache: Cache, *, say: Say) -> Found:
    """Return a file from the cache or its URL; needs the cache's lock.

    :param place: with a digest.
    :raise UklError: ``source-corrupt`` or ``source-unavailable``.
    """
    url, expected = place.resolved_url, place.sha256
    assert expected is not None  # enabled() saw to it
    name = Path(urllib.parse.urlsplit(url).path).name
    origin = f"upstream {name}"
    cached = cache.download(expected, name)
    if cached.is_file():
        if files.sha256(cached) == expected:
            return Found(cached, expected, origin)
        packages.expel(cache, cached, expected, say)
    say(f"downloading {url}")
    with cache.scratch() as scratch:
        file = scratch / name
        try:
            with (
                urllib.request.urlopen(url, timeout=_NETWORK_TIMEOUT) as response,
                file.open("wb") as out,
            ):
                while data := response.read(1 << 20):
                    proc.check_stop()  # SCons would wait for the rest
                    out.write(data)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            raise UklError(
                "source-unavailable",
                f"{url} could not be downloaded: {error}",
                hint="check the network, or name a folder with the sources (linux_src, glibc_src)",
            ) from error
        actual = files.sha256(file)
        if actual != expected:
            raise packages.corrupt(url, "SHA-256", expected, actual)
        return Found(cache.admit(file, expected), expected, origin)


def _from_debian(recipe: SourcesRecipe, cache: Cache, *, logs: Path, say: Say) -> Found:
    place = recipe.debian
    found, version = (
        packages.cached(
            place.package,
            Path(place.file).name,
            tested=place.tested,
            accepts=lambda version: debian_version_in_series(version, recipe.series),
            cache=cache,
            say=say,
        )
        or debian_installed(place, say)
        or _debian_apt(place, cache, logs=logs, say=say)
    )
    if not debian_version_in_series(version, recipe.series):
        raise UklError(
            "source-series",
            f"{place.package} is of version {version}, the recipe accepts {recipe.accepted}",
            hint=f"name a folder with the sources: {recipe.name}_src=FOLDER",
        )
    packages.warn_of_version(place.package, version, place.tested, say)
    return found


def debian_version_in_series(version: str, series: str) -> bool:
    """Tell whether a Debian version such as ``6.1.192-2`` belongs to a series such as ``6.1``."""
    return _in_series(version.rpartition(":")[2].rpartition("-")[0], series)


def _in_series(version: str, series: str) -> bool:
    return version == series or version.startswith(f"{series}.")


def debian_installed(place: DebianPlace, say: Say) -> tuple[Found, str] | None:
    """Return the file of an installed package and its version, if dpkg says that it is whole."""
    file = Path("/") / place.file
    if not file.is_file():
        return None
    query = "${db:Status-Abbrev}\t${Version}"
    try:
        said = proc.run(["dpkg-query", "--show", f"--showformat={query}", place.package]).stdout
        sums = proc.run(["dpkg-query", "--control-show", place.package, "md5sums"]).stdout
    except UklError:
        proc.check_stop()
        return None  # a file that no package owns is nobody's
    status, _, version = said.partition("\t")
    expected = next((s.split()[0] for s in sums.splitlines() if s.split()[1:] == [place.file]), "")
    if not status.startswith("ii") or not expected:
        return None
    with file.open("rb") as content:
        # MD5 is what dpkg keeps; it finds damage, and whoever could forge it is root already.
        actual = hashlib.file_digest(
            content, lambda: hashlib.md5(usedforsecurity=False)
        ).hexdigest()
    if actual != expected:
        error = packages.corrupt(str(file), "MD5", expected, actual)
        say(f"warning: {error.message}; {error.detail}; Debian's archive is asked")
        return None
    return Found(file, files.sha256(file), f"Debian {place.package} {version}, installed"), version


def _debian_apt(place: DebianPlace, cache: Cache, *, logs: Path, say: Say) -> tuple[Found, str]:
    say(f"downloading Debian's package {place.package}")
    sources = apt.debian_only(apt.machine_sources(), apt.codename())
    with cache.scratch() as scratch:
        private = scratch / "apt"
        private.mkdir()
        (package,) = apt.download([place.package], private, sources, log=logs / "apt.log")
        version = packages.field(package, "Version")
        file = _out_of_package(package, place.file, scratch / "package", logs)
        return packages.admit(file, place.package, version, cache), version


def _out_of_package(package: Path, name: str, folder: Path, logs: Path) -> Path:
    """Unpack a .deb and return the file in it.

    :param name: its path, or a pattern that one file has.
    """
    proc.run(["dpkg-deb", "--extract", package, folder], log=logs / "dpkg-deb.log")
    found = sorted(folder.glob(name))
    if len(found) != 1 or not found[0].is_file():
        raise UklError(
            "source-missing",
            f"{package.name} does not hold one {name}",
            hint="correct the recipe, or name another folder",
        )
    return found[0]


# --- The tree -----------------------------------------------------------------------------------


def is_tree(folder: Path) -> bool:
    """Tell whether a folder is an unpacked tree of any of the projects."""
    return any(project.is_tree(folder) for project in PROJECTS.values())


def _is_linux(folder: Path) -> bool:
    return (folder / "Kbuild").is_file() and (folder / "Makefile").is_file()


def _is_glibc(folder: Path) -> bool:
    return (folder / "version.h").is_file() and (folder / "nptl").is_dir()


def glibc_version(tree: Path) -> str:
    """Return the version that a tree's version.h states, such as ``2.36``.

    :raise UklError: ``source-series`` if it states none.
    """
    text = (tree / "version.h").read_text(encoding="utf-8")
    found = re.search(r'^#define VERSION "(\S+)"$', text, re.M)
    if found is None:
        raise UklError(
            "source-series", f"{tree / 'version.h'} states no version", hint="name another"
        )
    return found[1]


def kernel_version(tree: Path) -> str:
    """Return the version that a tree's Makefile states, such as ``6.1.192``.

    :raise UklError: ``source-series`` if it states none.
    """
    text = (tree / "Makefile").read_text(encoding="utf-8")
    found = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION) *= *(\S*)$", text, re.M))
    if not found.get("VERSION") or not found.get("PATCHLEVEL"):
        raise UklError(
            "source-series", f"{tree / 'Makefile'} states no kernel version", hint="name another"
        )
    numbers = ".".join(found.get(key) or "0" for key in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
    return f"{numbers}{found.get('EXTRAVERSION', '')}"


PROJECTS: Mapping[Kind, Project] = {
    Kind.LINUX: Project(
        name="Linux",
        tarballs=("linux-*.tar*", "linux-source-*.deb"),
        packaged="usr/src/linux-source-*.tar.*",
        is_tree=_is_linux,
        version=kernel_version,
        mark=("**/Kconfig*", "config UNIKERNEL_LINUX"),
    ),
    Kind.GLIBC: Project(
        name="glibc",
        tarballs=("glibc-*.tar*", "glibc-source_*.deb"),
        packaged="usr/src/glibc/glibc-*.tar.*",
        is_tree=_is_glibc,
        version=glibc_version,
        mark=("sysdeps/unix/sysv/linux/x86_64/sysdep.h", "ukl_syscall"),
    ),
}


def _check_series(recipe: SourcesRecipe, tree: Path, origin: str) -> None:
    project = PROJECTS[recipe.kind]
    version = project.version(tree)
    if not _in_series(version, recipe.series):
        raise UklError(
            "source-series",
            f"{origin} is {project.name} {version}, the recipe accepts {recipe.accepted}",
            hint=f"name a folder with sources of that series: {recipe.name}_src=FOLDER",
        )


def _unpack(project: Project, found: Found, folder: Path, logs: Path) -> Path:
    """Unpack a source file into a folder and return the tree in it."""
    file = found.file
    folder.mkdir()
    try:
        if file.suffix == ".deb":
            file = _out_of_package(file, project.packaged, folder.with_name("package"), logs)
        proc.run(
            ["tar", "--extract", "--file", file, "--directory", folder, "--no-same-owner"],
            log=logs / "unpack.log",
        )
    except UklError as error:
        if error.code != "tool-failed":
            raise
        raise packages.damaged(found.file, found.sha256, error) from error
    trees = [path for path in folder.iterdir() if project.is_tree(path)]
    if len(trees) != 1:
        raise UklError(
            "source-corrupt",
            f"{found.file} does not hold one tree of {project.name}",
            hint=f"replace it by the sources of {project.name}",
        )
    return trees[0]


def _named(project: Project, tree: Path) -> str:
    return f"{project.name} {project.version(tree)}"


def _own_tree(
    recipe: SourcesRecipe, changes: Changes, folder: Path, cache: Cache, *, logs: Path, say: Say
) -> Tree:
    """Take an unpacked tree: as it is if it has the UKL patches already, else a patched copy."""
    folder = folder.resolve()
    origin = f"{folder}, as the user named it"
    _check_series(recipe, folder, origin)
    state = files.stat_digest(folder)
    project = PROJECTS[recipe.kind]
    pattern, mark = project.mark
    if any(mark in path.read_text(errors="replace") for path in folder.glob(pattern)):
        say(f"{folder} has the UKL patches and is built as it is")
        return Tree(folder, state, project.version(folder), origin, None)
    with cache.locked(say):
        digest = changes.digest(state)

        def make(scratch: Path) -> Path:
            say(f"copying {folder}")
            tree = scratch / "tree"
            files.copy_tree(folder, tree)
            changes.apply(tree, _named(project, tree), log=logs / "patch.log")
            return tree

        path = cache.tree(digest, make)
        return Tree(path, digest, project.version(path), origin, None)


# --- What is changed in it ----------------------------------------------------------------------


@dataclass(frozen=True)
class Changes:
    """The new files and the patches of a recipe, in order."""

    new: tuple[tuple[str, Path], ...]
    """Path in the tree, and the file to be copied there."""
    patches: tuple[Path, ...]

    @classmethod
    def read(cls, folder: Path) -> Changes:
        """Read a recipe's ``files/`` and ``patches/series``.

        :raise UklError: ``recipe-invalid`` if the series and the folder do not agree.
        """
        root = folder / "files"
        new = [(str(path.relative_to(root)), path) for path in root.rglob("*") if path.is_file()]
        patches = folder / "patches"
        series = patches / "series"
        text = series.read_text(encoding="utf-8") if series.is_file() else ""
        listed = [line.partition("#")[0].strip() for line in text.splitlines()]
        listed = [line for line in listed if line]
        there = {str(path.relative_to(patches)) for path in patches.rglob("*.patch")}
        wrong = {
            "listed twice": sorted({name for name in listed if listed.count(name) > 1}),
            "listed but not there": sorted(set(listed) - there),
            "there but not listed": sorted(there - set(listed)),
        }
        faults = [f"{name}: {what}" for what, group in wrong.items() for name in group]
        if faults:
            raise UklError(
                "recipe-invalid",
                f"{series} and the patches in its folder do not agree",
                detail="\n".join(faults),
                hint="list every patch once, in the order they are applied",
            )
        return cls(tuple(sorted(new)), tuple(patches / name for name in listed))

    def digest(self, source: str) -> str:
        """Return the digest of a tree made from a source (its digest) with these changes."""
        hasher = hashlib.sha256(f"{FORMAT}\n{source}\n".encode())
        for name, path in self.new:
            executable = bool(path.stat().st_mode & 0o100)
            hasher.update(f"file {name} {executable} {files.sha256(path)}\n".encode())
        for path in self.patches:
            hasher.update(f"patch {files.sha256(path)}\n".encode())
        return hasher.hexdigest()

    def apply(self, tree: Path, version: str, *, log: Path) -> None:
        """Change an unpacked tree.

        Lines may have moved, but the context must be there unchanged (no fuzz, as in Debian's
        source packages): this is entry code, and a hunk that lands in the wrong place can compile.

        :param version: name and version of the sources, for people.
        :raise UklError: ``patch-failed``, naming the patch and showing what was rejected.
        """
        # What is changed gets the time of the rest; another tree has another path.
        time_ns = (tree / "Makefile").stat().st_mtime_ns
        self._apply(tree, version, log)
        files.date_back(tree, time_ns)

    def _apply(self, tree: Path, version: str, log: Path) -> None:
        for name, path in self.new:
            place = tree / name
            if place.exists():
                raise UklError(
                    "patch-failed",
                    f"the sources have a file {name} already, which the recipe adds",
                    hint="change it by a patch instead of adding it",
                )
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
        rejects = tree.with_name("rejects")
        for path in self.patches:
            try:
                proc.run(
                    [
                        "patch",
                        "--strip=1",
                        "--fuzz=0",
                        "--forward",
                        "--batch",
                        "--no-backup-if-mismatch",
                        f"--reject-file={rejects}",
                        f"--input={path.resolve()}",
                    ],
                    cwd=tree,
                    log=log,
                )
            except UklError as error:
                if error.code != "tool-failed":
                    raise
                shown = proc.tail(rejects, 60) if rejects.is_file() else ""
                raise UklError(
                    "patch-failed",
                    f"{path.name} does not apply to {version}",
                    detail=f"{proc.tail(log)}\n{shown}".rstrip(),
                    hint=f"adapt {path.name} to these sources, or use the version tested last",
                ) from error
