# SPDX-License-Identifier: Apache-2.0
"""Programs of tests in ring 0: compiled with Debian's libc.a and linked into a copy of a kernel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.project import ROOT
from ukl_build import toolchain
from ukl_build.cache import Cache
from ukl_build.stages import kconfig, libc, linux, sources
from ukl_build.stages.archive import link_application, make_archive

GUEST = Path(__file__).parent / "guest"
POSIX = ROOT / "tests" / "posix" / "guest"
SAMPLES = ROOT / "samples"
SUITE = (
    *("suite", "faults", "context", "protect", "victim", "subject", "observed", "storm"),
    "descriptors",
)
"""Parts of the program that runs in both rings; the first has the main function."""
MAINS = ("faults", "context", "observed", "storm", "descriptors")
"""Parts whose main function is called PART_main there."""
HELPERS = ("ring", "stress", "client", "security", "inspect", "audited")
"""Ordinary programs, of one file each."""

RING0 = "/UKL"
ORDINARY = "/tests/suite"
"""Paths of the suite in the guest."""

JOBS = 2
WARNINGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror")
COMPILERS = {".c": "gcc", ".cc": "g++"}


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
    """Return the source of a part: of a program of the tests, or one of the samples."""
    names = (GUEST / part, POSIX / part, SAMPLES / part / part)
    paths = [name.with_suffix(suffix) for name in names for suffix in COMPILERS]
    return next(path for path in paths if path.is_file())


def compile_parts(folder: Path, parts: Sequence[str], flags: Sequence[str]) -> list[Path]:
    """Compile parts of a program, of which the first has the main function."""
    folder.mkdir()
    objects = []
    for number, part in enumerate(parts):
        renamed = [f"-Dmain={part}_main"] if number and part in MAINS else []
        out = folder / f"{part}.o"
        path = source(part)
        words: list[str | Path] = [
            COMPILERS[path.suffix],
            *WARNINGS,
            *flags,
            *renamed,
            f"-I{GUEST}",
        ]
        subprocess.run([*words, "-c", "-o", out, path], check=True)
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


def archive(
    folder: Path,
    objects: Sequence[Path],
    out: Path,
    library: libc.Parts,
    *,
    zero: Mapping[str, str] | None = None,
) -> None:
    """Make objects and the C library the archive that a kernel links.

    app.o is what is in it, app.map what each file has of that.
    """
    app = folder / "app.o"
    link_application(
        objects,
        app,
        link_map=folder / "app.map",
        before=library.before,
        libraries=library.libraries,
        after=library.after,
    )
    make_archive(app, out, zero=zero)


def static(out: Path, objects: Sequence[Path], library: libc.Parts) -> None:
    """Link the objects of an ordinary static program."""
    # Neither start files nor the library register unwind tables: they are found by their header.
    argv: list[str | Path] = ["ld", "-static", "--eh-frame-hdr", "-o", out]
    argv += [*library.before, *objects, "--start-group", *library.libraries, "--end-group"]
    subprocess.run([*argv, *library.after], check=True)


def fragments_of(built: Path) -> list[str]:
    """Return the names of the fragments that a kernel was configured by, in order."""
    rows = (built / "kconfig" / "report.txt").read_text(encoding="utf-8").splitlines()
    return [Path(name).stem for name in dict.fromkeys(row.partition(":")[0] for row in rows)]


def _configure(built: Path, folder: Path, fragments: Sequence[str]) -> Path:
    """Write the configuration of a built kernel with more fragments."""
    tree = sources.read_tree(built / "sources.manifest.json")
    names = dict.fromkeys((*fragments_of(built), *fragments))
    files = [ROOT / "kconfig" / f"{name}.config" for name in names]
    out, report = folder / "config", folder / "kconfig.txt"
    log = folder / "kconfig.log"
    kconfig.configure(tree.path, tree.version, files, out, report=report, log=log)
    return out


def relink(built: Path, folder: Path, parts: Sequence[str], library: libc.Parts = DEBIANS) -> Ring0:
    """Compile a program and link it into a copy of a built kernel, see :func:`link`."""
    return link(built, folder, compiled(folder, parts), library)


def link(
    built: Path,
    folder: Path,
    objects: Sequence[Path],
    library: libc.Parts,
    *,
    fragments: Sequence[str] = (),
) -> Ring0:
    """Link another application into a copy of a built kernel.

    :param built: build/APP of an application that was built.
    :param folder: takes the result; nothing of another one may be there.
    :param fragments: of kconfig/, in addition to what every image has; what they change in the copy
        is compiled.
    """
    archive(folder, objects, folder / "UKL.a", library)
    return link_kernel(built, folder, fragments)


def link_kernel(built: Path, folder: Path, fragments: Sequence[str] = ()) -> Ring0:
    """Link the archive of a folder, its UKL.a, into a copy of a built kernel."""
    built = built.resolve()
    shutil.copy2(built / "initramfs.cpio", folder)
    out = folder / "linux"
    linux.begin_as(built / "linux", out)
    result = Ring0(folder / "suite.bzImage", folder / "suite.vmlinux")
    config = built / "kconfig" / "config"
    if fragments:
        config = _configure(built, folder, fragments)
    linux.build(
        (out / "source").resolve(strict=True),
        config,
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
