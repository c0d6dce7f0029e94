# SPDX-License-Identifier: Apache-2.0
"""Programs of tests in ring 0: compiled with Debian's libc.a and linked into a copy of a kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ukl_build import toolchain
from ukl_build.cache import Cache
from ukl_build.stages import libc, linux
from ukl_build.stages.archive import link_application, make_archive

GUEST = Path(__file__).parent / "guest"
SAMPLES = Path(__file__).resolve().parents[2] / "samples"
SUITE = ("suite", "faults", "context", "protect", "victim")
"""Parts of the program that runs in both rings; the first has the main function."""
HELPERS = ("ring", "stress", "client", "security")
"""Ordinary programs, of one file each."""

RING0 = "/UKL"
ORDINARY = "/tests/suite"
"""Paths of the suite in the guest."""

JOBS = 2
WARNINGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Ring0:
    """A kernel with a program of the tests as its application."""

    kernel: Path
    vmlinux: Path

    def symbols(self) -> Mapping[str, int]:
        """Return the addresses the kernel was linked at, by name."""
        found = subprocess.run(["nm", self.vmlinux], check=True, capture_output=True, text=True)
        words = (line.split() for line in found.stdout.splitlines())
        return {name: int(address, 16) for address, _, name in (w for w in words if len(w) == 3)}


def source(part: str) -> Path:
    """Return the source of a part: a program of the tests, or one of the samples."""
    path = GUEST / f"{part}.c"
    return path if path.is_file() else SAMPLES / part / f"{part}.c"


def compile_parts(folder: Path, parts: Sequence[str], flags: Sequence[str]) -> list[Path]:
    """Compile parts of a program; the main function of each but the first is called PART_main."""
    folder.mkdir()
    objects = []
    for number, part in enumerate(parts):
        renamed = [f"-Dmain={part}_main"] if number and part in ("faults", "context") else []
        out = folder / f"{part}.o"
        command: list[str | Path] = [
            "gcc",
            *WARNINGS,
            *flags,
            *renamed,
            "-c",
            "-o",
            out,
            source(part),
        ]
        subprocess.run(command, check=True)
        objects.append(out)
    return objects


def ordinary(folder: Path, name: str, parts: Sequence[str] = ()) -> Path:
    """Compile an ordinary static program of the guest."""
    # The tests' own assembly pushes, below which a red zone would be.
    objects = compile_parts(folder / name, parts or (name,), ["-mno-red-zone"])
    out = folder / name / name
    subprocess.run(["gcc", "-static", "-o", out, *objects], check=True)
    return out


DEBIANS = libc.Parts(
    before=tuple(toolchain.file(name) for name in ("crt1.o", "crti.o", "crtbeginS.o")),
    libraries=tuple(toolchain.file(name) for name in ("libc.a", "libgcc.a", "libgcc_eh.a")),
    after=tuple(toolchain.file(name) for name in ("crtendS.o", "crtn.o")),
)
"""Debian's own C library, as it is."""


def compiled(folder: Path, parts: Sequence[str]) -> list[Path]:
    """Compile the parts of a program for ring 0."""
    return compile_parts(folder / "ring0", parts, list(toolchain.CODE_FLAGS))


def archive(folder: Path, objects: Sequence[Path], out: Path, library: libc.Parts) -> None:
    """Make objects and the C library the archive that a kernel links."""
    app = folder / "app.o"
    link_application(
        objects,
        app,
        before=library.before,
        libraries=library.libraries,
        after=library.after,
    )
    make_archive(app, out)


def static(out: Path, objects: Sequence[Path], library: libc.Parts) -> None:
    """Link the objects of an ordinary static program."""
    # As gcc calls it: without the header nothing can be unwound, and no thread cancelled.
    argv: list[str | Path] = ["ld", "-static", "--eh-frame-hdr", "-o", out]
    argv += [*library.before, *objects]
    argv += ["--start-group", *library.libraries, "--end-group", *library.after]
    subprocess.run(argv, check=True)


def _move_tools(old: Path, new: Path) -> None:
    """Tell objtool's makefiles the new place, or they make it again and with it all objects.

    It is the only part of the output folder that remembers where it was made.
    """
    for path in (new / "tools").rglob(".*.cmd"):
        text = path.read_text()
        if str(old) in text:
            time = path.stat().st_mtime_ns
            path.write_text(text.replace(str(old), str(new)))
            os.utime(path, ns=(time, time))


def relink(built: Path, folder: Path, parts: Sequence[str], library: libc.Parts = DEBIANS) -> Ring0:
    """Compile a program and link it into a copy of a built kernel, see :func:`link`."""
    return link(built, folder, compiled(folder, parts), library)


def link(built: Path, folder: Path, objects: Sequence[Path], library: libc.Parts) -> Ring0:
    """Link another application into a copy of a built kernel.

    :param built: build/APP of an application that was built.
    :param folder: takes the result; nothing of another one may be there.
    """
    built = built.resolve()
    archive(folder, objects, folder / "UKL.a", library)
    shutil.copy2(built / "initramfs.cpio", folder)
    out = folder / "linux"
    shutil.copytree(built / "linux", out, symlinks=True)
    _move_tools(built / "linux", out)
    result = Ring0(folder / "suite.bzImage", folder / "suite.vmlinux")
    linux.build(
        (out / "source").resolve(strict=True),
        built / "kconfig" / "config",
        out,
        bzimage=result.kernel,
        vmlinux=result.vmlinux,
        jobs=JOBS,
        compiler=toolchain.compiler(Cache.default().ccache),
        logs=folder,
        say=print,
    )
    shutil.rmtree(out)  # a quarter of a gigabyte that nobody needs any more
    return result
