# SPDX-License-Identifier: Apache-2.0
"""Builds the static C library of applications.

The same objects are an ordinary program's: the call ``ukl_syscall`` is a weak ``syscall; ret`` that
the kernel's entry overrides.  Only static objects are made; the shared library, the dynamic loader
and the programs that come with it are of no use here and would take twice the time.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ukl_build import files, manifest, proc, toolchain
from ukl_build.cache import Cache, Say
from ukl_build.errors import UklError

FORMAT = "2"
"""Part of every library's digest; to be raised when the way it is built changes."""

START_FILES = ("csu/crt1.o", "csu/crti.o", "csu/crtn.o")
"""What every program is linked with, beside the compiler's own files."""

LIBRARIES = (
    *("math/libm.a", "mathvec/libmvec.a", "resolv/libresolv.a"),
    # Empty, for build systems that ask for them: all of it is in libc.a.
    *("nptl/libpthread.a", "rt/librt.a", "dlfcn/libdl.a", "login/libutil.a"),
)
"""Archives beside libc.a, by their place in the folder that is built in."""

CONFIGURE: Mapping[str, str] = {
    "--prefix=/usr": "where locales, zone data and /etc are looked for",
    "--disable-werror": "warnings of a compiler newer than the library are not ours to mend",
    "--disable-crypt": "Debian has it from another project",
    "--disable-nscd": "names and users come from files and DNS",
    "--disable-build-nscd": "as --disable-nscd",
    "--disable-profile": "no library for gprof",
    "--disable-default-pie": "a program at one known address",
    "--enable-stack-protector=no": "see toolchain.CODE_FLAGS",
    "--enable-kernel=6.1": "no code for kernels that it never runs on",
    "--without-selinux": "as --disable-nscd",
}
"""Words for configure, and why."""

MAKE: Mapping[str, str] = {
    "object-suffixes=.o": "static objects only; configure's --disable-shared is broken upstream",
    "object-suffixes-for-libc=.o": "as object-suffixes",
    "pic-default=": "the compiler makes position-independent code unless it is told",
    f"pie-default={' '.join(toolchain.CODE_FLAGS)}": "glibc's name for the flags of static objects",
}
"""Words for make, and why."""

SOURCE = f"{toolchain.SOURCES}/glibc"
"""Where debugging information says that its sources are."""

STATIC = "build-shared=no"
"""Another one, without which the loader would be linked.  It leaves out headers that all need, so
the first folder is made without it."""


def digest(tree_digest: str) -> str:
    """Return the digest of a library: of its sources, its flags and its compiler."""
    made = (*CONFIGURE, *MAKE, STATIC, *LIBRARIES, *START_FILES)
    words = (FORMAT, tree_digest, toolchain.version_line(), *made)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def configure(
    tree: Path,
    objects: Path,
    *,
    jobs: int,
    compiler: toolchain.Compiler,
    logs: Path,
    keep: Sequence[int] = (),
) -> None:
    """Prepare a folder to build in: its configuration, and the headers that all parts need.

    :param objects: an empty folder.
    :param keep: file descriptors that the programs inherit, such as one that holds a lock.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    # In CC, for assembly as well.
    names = (toolchain.mapped(tree, SOURCE), toolchain.mapped(objects, f"{SOURCE}/build"))
    words = [str(tree / "configure"), *CONFIGURE, f"CC={' '.join((compiler.command, *names))}"]
    headers = ["make", f"-j{jobs}", *MAKE, "csu/subdir_lib"]
    for name, argv in (("configure", words), ("headers", headers)):
        log = logs / f"libc-{name}.log"
        proc.run(argv, cwd=objects, env=compiler.env, log=log, keep=keep)


def build(
    tree: Path,
    tree_digest: str,
    cache: Cache,
    *,
    jobs: int,
    compiler: toolchain.Compiler,
    logs: Path,
    say: Say,
) -> Path:
    """Return the folder with the archives and start files, building them if the cache has none.

    A build that is killed begins anew, with what the compiler cache has.

    :param tree: the prepared sources, and what changes whenever they do.
    :param jobs: how many compilers may run at once.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    place = cache.libraries / digest(tree_digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        proc.lock(lock, lambda: say("waiting for another build of the same C library"))
        if place.is_dir():
            return place
        work = place.with_suffix(".build")
        shutil.rmtree(work, ignore_errors=True)
        objects, result = work / "objects", work / "result"
        for folder in (objects, result):
            folder.mkdir(parents=True)
        configure(tree, objects, jobs=jobs, compiler=compiler, logs=logs, keep=[lock.fileno()])
        make = ["make", f"-j{jobs}", *MAKE, STATIC]
        others = [f"{Path(name).parent}/others" for name in LIBRARIES]
        for name, targets in (("make", ["lib"]), ("others", others)):
            log = logs / f"libc-{name}.log"
            argv = [*make, *targets]
            proc.run(argv, cwd=objects, env=compiler.env, log=log, keep=[lock.fileno()])
        for name in ("libc.a", *LIBRARIES, *START_FILES):
            shutil.copyfile(objects / name, result / Path(name).name)
        proc.run(["sync", "--file-system", result])
        result.rename(place)
        files.sync_folder(place.parent)
        shutil.rmtree(work)
    return place


def record(library: Path, inputs: Mapping[str, str], out: Path, *, repeat: str) -> None:
    """Write which library is linked, and what it was made of, as a manifest."""
    outputs = {str(library): library.name}
    manifest.store(
        manifest.Manifest(stage="libc", inputs=dict(inputs), outputs=outputs, repeat=repeat), out
    )


def read(path: Path) -> Path:
    """Read which library is linked.

    :return: its folder.
    :raise UklError: ``manifest-invalid``.
    :raise OSError: if it cannot be read.
    """
    outputs = manifest.load(path).outputs
    if len(outputs) != 1:
        raise UklError("manifest-invalid", f"{path} does not name a library", hint=f"delete {path}")
    return Path(next(iter(outputs)))


@dataclass(frozen=True)
class Parts:
    """What a static link takes beside the program's own objects, in this order around them."""

    before: tuple[Path, ...] = ()
    libraries: tuple[Path, ...] = ()
    after: tuple[Path, ...] = ()


def parts(library: Path, *, cxx: bool = False) -> Parts:
    """Return the files of a library's folder and the compiler's own.

    The compiler's are not rebuilt.  Nothing is written into the red zone that they were compiled
    with, since they enter the kernel by functions of the C library alone; what must be true of
    each object and instruction of them is checked where they are linked, as of any other.
    crtbeginS.o is the one of the three that has no 32-bit addresses.

    :param cxx: whether the program is of C++.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    return Parts(
        before=(library / "crt1.o", library / "crti.o", toolchain.file("crtbeginS.o")),
        libraries=(
            *((toolchain.file("libstdc++.a", toolchain.CXX),) if cxx else ()),
            *(library / Path(name).name for name in LIBRARIES),
            library / "libc.a",
            *(toolchain.file(name) for name in ("libgcc.a", "libgcc_eh.a")),
        ),
        after=(toolchain.file("crtendS.o"), library / "crtn.o"),
    )
