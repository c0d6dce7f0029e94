# SPDX-License-Identifier: Apache-2.0
"""Gets Debian's own kernel and its own package of an application, and what of them a guest needs.

The packages come from a folder that the user names, else by apt, which follows their dependencies
itself.  Of all that they install, the guest gets the program, the libraries that the dynamic
linker will load for it, what the recipe names besides, and the kernel's modules for QEMU's devices.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ukl_build import apt, files, packages
from ukl_build.cache import Cache, Say
from ukl_build.elf import loading
from ukl_build.errors import UklError
from ukl_build.packages import Found, Package
from ukl_build.recipe import Stock

KERNEL = "linux-image-cloud-amd64"
"""The package that depends on Debian's newest kernel for virtual machines."""

KERNEL_IMAGE = "linux-image-[0-9]*-cloud-amd64"
"""The name of that kernel's package."""

MODULES: Mapping[str, str] = {
    "virtio_pci": "finds all the following",
    "virtio_console": "the status port",
    "virtio_rng": "random numbers",
    "virtio_net": "the network card",
    "virtio_blk": "disks",
    "ext4": "what is on them",
    "pvpanic_pci": "a panic is told from a power-off",
    "button": "the power button",
}
"""Drivers of the machine that ukl-run makes, and what for; loaded if they are not built in."""

LIBRARIES = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib")
"""Where Debian's dynamic linker looks for libraries (ld.so.conf.d of libc6)."""

MAX_LINKS = 8
"""Symbolic links that are followed from one name."""


@dataclass(frozen=True)
class Root:
    """What the guest and its start take of the packages."""

    kernel: Path
    config: Path
    """The kernel's configuration."""
    files: Mapping[str, Path]
    """Path in the guest to a regular file of a package, but for the program."""
    folders: tuple[str, ...]
    """Paths of folders that are there, empty or not."""
    modules: tuple[str, ...]
    """Paths of modules in the guest, each behind those that it needs."""
    program: Path


def prepare(
    wanted: Stock, folder: Path | None, cache: Cache, *, logs: Path, say: Say
) -> list[Package]:
    """Return the packages of the application, all that it depends on, and the kernel's, unpacked.

    :param folder: folder with the .deb files; nothing is fetched then.
    :param logs: folder for the logs of what is run.
    :raise UklError: ``source-missing`` if the folder lacks the application or the kernel,
        ``source-unavailable`` if apt delivers none, ``source-corrupt`` if one is damaged.
    """
    with cache.locked(say):
        found = (
            _in_folder(wanted, folder)
            if folder is not None
            else _by_apt(wanted, cache, logs=logs, say=say)
        )
        packages.unpack([file for _, file, _ in found], cache, logs)
    made = [
        Package(name, version, file, cache.packages / file.sha256) for name, file, version in found
    ]
    for one in made:
        if one.name == wanted.package:
            packages.warn_of_version(one.name, one.version, wanted.tested, say)
    return made


def _in_folder(wanted: Stock, folder: Path) -> list[tuple[str, Found, str]]:
    if not folder.is_dir():
        raise UklError("source-missing", f"{folder} is not a folder", hint="correct debs=FOLDER")
    found = []
    for path in sorted(folder.glob("*.deb")):
        digest = files.sha256(path)
        version = packages.version(path, digest)
        file = Found(path, digest, f"{path}, as the user named it")
        found.append((packages.field(path, "Package"), file, version))
    names = [name for name, _, _ in found]
    lacking = [
        what
        for what, there in (
            (f"{wanted.package}_*.deb ({wanted.tested} was tested last)", wanted.package in names),
            (f"{KERNEL_IMAGE}_*.deb", any(map(is_kernel, names))),
        )
        if not there
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    kernels = [name for name in names if is_kernel(name)]
    if lacking or twice or len(kernels) > 1:
        raise UklError(
            "source-missing",
            f"{folder} does not hold each package once: the application's, those of its libraries,"
            " one kernel's",
            detail="\n".join(
                [
                    *(f"missing: {one}" for one in lacking),
                    *(f"several files of: {one}" for one in twice),
                    *(f"one of several kernels: {one}" for one in kernels if len(kernels) > 1),
                ]
            ),
            hint="without debs= they are fetched here; in the log of that stands which they are",
        )
    return found


def is_kernel(name: str) -> bool:
    """Tell whether a package is a kernel, which has its version in its name."""
    return PurePosixPath(name).match(KERNEL_IMAGE)


def _by_apt(wanted: Stock, cache: Cache, *, logs: Path, say: Say) -> list[tuple[str, Found, str]]:
    say(f"downloading Debian's {wanted.package}, what it depends on, and {KERNEL}")
    hint = "check the name, the network and /etc/apt, or name a folder with the .deb files: debs="
    with packages.fetching(f"{wanted.package} and {KERNEL}", hint=hint):
        sources = apt.debian_only(apt.machine_sources(), apt.codename())
        found = []
        with cache.scratch() as scratch:
            private = scratch / "apt"
            private.mkdir()
            fetched = apt.download_installable(
                wanted.package, KERNEL, private, sources, log=logs / "stock-apt.log"
            )
            for path in fetched:
                name, version = (packages.field(path, key) for key in ("Package", "Version"))
                plain = path.rename(scratch / f"{name}.deb")
                found.append((name, packages.admit(plain, name, version, cache), version))
    return found


def gather(wanted: Stock, place: Path) -> Root:
    """Look for what a guest needs of published packages.

    :param place: the folder they are published in.
    :raise UklError: ``source-missing`` if something is in none of them, ``elf-format``.
    """
    trees = sorted(place.iterdir())
    (kernel,) = (tree for tree in trees if is_kernel(tree.name))
    others = [tree for tree in trees if tree != kernel]
    union = _Union(others)
    found: dict[str, Path] = {}
    folders: list[str] = []
    for name in wanted.files:
        inside = union.below(name)
        folders += [one for one, path in inside.items() if path is None]
        found |= {one: path for one, path in inside.items() if path is not None}
    elves = [path for path in found.values() if path.suffix == ".so" or ".so." in path.name]
    found |= loaded(others, wanted.program, elves)
    program = found.pop(wanted.program)
    release = kernel.name.removeprefix("linux-image-")
    parts = _Union([kernel])
    modules = _modules(kernel.resolve(), release)
    return Root(
        kernel=parts.file(f"/boot/vmlinuz-{release}", "the kernel"),
        config=parts.file(f"/boot/config-{release}", "its configuration"),
        files={**found, **modules},
        folders=tuple(dict.fromkeys(folders)),
        modules=tuple(modules),
        program=program,
    )


def loaded(trees: Sequence[Path], program: str, others: Sequence[Path] = ()) -> dict[str, Path]:
    """Return a program and all that the dynamic linker loads for it, by their paths in the guest.

    :param trees: unpacked packages that have them.
    :param program: its path in the guest.
    :param others: libraries that it may load besides; what they need is returned, they are not.
    :raise UklError: ``source-missing`` if something is in none of them, ``elf-format``.
    """
    union = _Union(trees)
    file = union.file(program, "which is to run")
    return {program: file, **_libraries(union, [file, *others])}


def _missing(what: str, why: str) -> UklError:
    return UklError(
        "source-missing",
        f"none of the packages has {what}, {why}",
        hint="correct the recipe's [stock], or add the package to the folder of debs=",
    )


class _Union:
    """Unpacked packages, as if they were installed in one root."""

    def __init__(self, trees: Sequence[Path]) -> None:
        self._trees = [tree.resolve() for tree in trees]

    def look(self, path: str) -> Path | None:
        """Return the regular file that a path in the guest leads to, if there is one."""
        for _ in range(MAX_LINKS):
            relative = path.lstrip("/")
            there = [tree / relative for tree in self._trees]
            link = next((one for one in there if one.is_symlink()), None)
            if link is None:
                return next((one for one in there if one.is_file()), None)
            path = os.path.normpath(PurePosixPath("/", path).parent / link.readlink())
        return None

    def file(self, path: str, why: str) -> Path:
        """Return a regular file.

        :raise UklError: ``source-missing``.
        """
        found = self.look(path)
        if found is None:
            raise _missing(path, why)
        return found

    def below(self, path: str) -> dict[str, Path | None]:
        """Return a file, or a folder and all that is in it, by the paths in the guest.

        :return: None for a folder.
        :raise UklError: ``source-missing``.
        """
        relative = path.lstrip("/")
        roots = [tree for tree in self._trees if (tree / relative).is_dir()]
        if not roots:
            return {path: self.file(path, "one of the recipe's stock.files")}
        inside: dict[str, Path | None] = {path: None}
        for tree in roots:
            for one in sorted((tree / relative).rglob("*")):
                name = f"/{one.relative_to(tree)}"
                if one.is_dir() and not one.is_symlink():
                    inside[name] = None
                else:
                    inside[name] = self.file(name, f"which is in {path}")
        return inside


def _libraries(union: _Union, elves: Sequence[Path]) -> dict[str, Path]:
    """Return what the dynamic linker loads for some programs and libraries, and itself.

    Each stands at the name that it is looked for by, so that no link is needed.
    """
    found: dict[str, Path] = {}
    todo = list(elves)
    while todo:
        path = todo.pop()
        wants = loading.dynamic(path)
        if wants.interpreter is not None and wants.interpreter not in found:
            found[wants.interpreter] = union.file(wants.interpreter, "the dynamic linker")
        for name in wants.needed:
            places = [f"{folder}/{name}" for folder in (*wants.folders, *LIBRARIES)]
            if any(place in found for place in places):
                continue
            there = {place: file for place in places if (file := union.look(place)) is not None}
            if not there:
                raise _missing(name, f"a library that {path.name} needs")
            place = next(iter(there))
            found[place] = there[place]
            todo.append(there[place])
    return found


def _modules(kernel: Path, release: str) -> dict[str, Path]:
    """Return the modules to load, by their paths in the guest and in an order that works.

    :param kernel: its unpacked package.
    :param release: its name in paths, which ``uname -r`` shows.
    :raise UklError: ``source-missing`` if a driver is neither a module nor built in.
    """
    folder = kernel / "lib" / "modules" / release
    built_in = folder / "modules.builtin"
    if not built_in.is_file():
        raise _missing(f"/lib/modules/{release}/modules.builtin", "the list of its drivers")
    there = {_name(path.name): path for path in (folder / "kernel").rglob("*.ko")}
    lines = built_in.read_text(encoding="utf-8").split()
    inside = {_name(line.rpartition("/")[2]) for line in lines}
    order: dict[str, Path] = {}

    def add(name: str, why: str) -> None:
        path = there.get(name)
        if path is None:
            raise UklError(
                "source-missing",
                f"the kernel {release} has no driver {name}, {why}",
                hint="take another kernel of Debian 12: this one may pack its modules",
            )
        place = f"/{path.relative_to(kernel)}"
        if place in order:
            return
        for needed in loading.needed_modules(path):
            if needed not in inside:
                add(needed.replace("-", "_"), f"which {name} needs")
        order[place] = path

    for name, why in MODULES.items():
        if name not in inside:
            add(name, why)
    return order


def _name(file: str) -> str:
    """Return a module's name, which has no hyphens whatever its file is called."""
    return file.removesuffix(".ko").replace("-", "_")
