# SPDX-License-Identifier: Apache-2.0
"""Builds an application by its project's own makefiles, and writes down how the program is linked.

It is built in a copy of the sources at a place that stays the same, from the beginning each time:
what a killed build left would be half of something, and the compiler cache has the rest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ukl_build import files, proc, toolchain
from ukl_build.errors import UklError
from ukl_build.model import Model, parse_json
from ukl_build.recipe import NativeBuild
from ukl_build.recorder import Recorder, resolve

CODE = "manifest-invalid"


class Program(Model):
    """What a program is linked from; paths are relative to the folder of this record."""

    objects: tuple[str, ...]
    archives: tuple[str, ...]
    cxx: bool
    """Whether libstdc++ is linked."""
    sha256: dict[str, str]
    """Of each of the files."""


@dataclass(frozen=True)
class Files:
    """The files of a program that was built."""

    objects: tuple[Path, ...]
    archives: tuple[Path, ...]
    cxx: bool


def build(
    name: str,
    tree: Path,
    recipe: NativeBuild,
    place: Path,
    out: Path,
    *,
    program: Path,
    headers: Sequence[str],
    libraries: Sequence[Path],
    jobs: int,
    compiler: toolchain.Compiler,
    logs: Path,
) -> None:
    """Build a program and write what it is linked from.

    :param name: of the application.
    :param tree: the sources, which are left as they are.
    :param place: folder to build in; what is there is removed.
    :param out: takes a :class:`Program`.
    :param program: takes the program as the build links it: static and ordinary.
    :param headers: the compilers' flags for the headers of packages.
    :param libraries: folders of packages with archives.
    :param jobs: how many compilers may run at once.
    :raise UklError: ``tool-failed`` or ``tool-missing``; ``link-missing``, ``link-unsupported`` or
        ``link-undeclared`` if the program's link cannot be followed, ``link-stale`` if it takes
        what was not built now.
    :raise OSError: if something cannot be read or written.
    """
    source = copy(tree, place)
    # Neither messages nor debugging information shall depend on where this is done.
    flags = [*headers, toolchain.mapped(source, f"{toolchain.SOURCES}/{name}")]
    recorder = Recorder.install(place / "recorder", compiler, flags, libraries=libraries)
    folder = source / recipe.folder
    make(recipe, folder, recorder, compiler=compiler, jobs=jobs, logs=logs)
    link = recorder.program(Path(os.path.normpath(folder / recipe.program)))
    inputs = resolve(link, source, libraries)

    def relative(paths: Sequence[Path]) -> tuple[str, ...]:
        return tuple(os.path.relpath(path, out.parent) for path in paths)

    found = (*inputs.objects, *inputs.archives)
    check_new(name, found, source, tree)
    record = Program(
        objects=relative(inputs.objects),
        archives=relative(inputs.archives),
        cxx=inputs.cxx,
        sha256={key: files.sha256(path) for key, path in zip(relative(found), found, strict=True)},
    )
    files.write(program, link.output.read_bytes(), mode=0o755)
    files.write(out, record.model_dump_json(indent=2) + "\n")


def check_new(name: str, found: Sequence[Path], source: Path, tree: Path) -> None:
    """See that what is linked was compiled now: make keeps what somebody has built before.

    :param name: of the application.
    :param found: what is linked.
    :param source: the copy that was built.
    :param tree: what it was copied from.
    :raise UklError: ``link-stale``.
    """
    inside = [path.relative_to(source) for path in found if path.is_relative_to(source)]
    if old := [str(path) for path in inside if (tree / path).exists()]:
        raise UklError(
            "link-stale",
            f"{name} is linked with files that were in {tree} before it was built, and were not"
            " compiled for ring 0",
            detail="\n".join(old),
            hint=f"remove what was built there: make -C {tree} clean",
        )


def copy(tree: Path, place: Path) -> Path:
    """Return a copy of the sources to build in, at a place from which all else is removed.

    :raise OSError: if something cannot be read or written.
    """
    shutil.rmtree(place, ignore_errors=True)
    source = place / "source"
    shutil.copytree(tree, source, symlinks=True)
    return source


def make(
    recipe: NativeBuild,
    folder: Path,
    recorder: Recorder,
    *,
    compiler: toolchain.Compiler,
    jobs: int,
    logs: Path,
) -> None:
    """Run a project's own build, with what it links noted by the recorder.

    :param folder: of the copy, where the build is started.
    :param jobs: how many compilers may run at once.
    :raise UklError: ``tool-failed`` or ``tool-missing``.
    """
    env = {
        **recorder.env(compiler.env),
        "HOME": str(recorder.folder.parent),
        # What would put the time of the build into the program (reproducible-builds.org).
        "SOURCE_DATE_EPOCH": "0",
        # The sources may lie below somebody's repository, which is not theirs.
        "GIT_CEILING_DIRECTORIES": str(recorder.folder.parent),
    }
    for step, argv in _steps(recipe, jobs).items():
        proc.run(argv, cwd=folder, env=env, log=logs / f"native-{step}.log")


def _steps(recipe: NativeBuild, jobs: int) -> Mapping[str, Sequence[str]]:
    """Return what is run, by the name of its log."""
    make = ["make", f"-j{jobs}", *recipe.make]
    match recipe.system:
        case "make":
            return {"make": make}
        case "configure":
            return {"configure": ["./configure", *recipe.configure], "make": make}
        case "cmake":
            return {"configure": ["cmake", *recipe.configure, "."], "make": make}


def read(record: Path) -> Files:
    """Return the files of a program that :func:`build` wrote down.

    :raise UklError: ``manifest-invalid``.
    :raise OSError: if it cannot be read.
    """
    found = parse_json(Program, record.read_bytes(), where=record, code=CODE)
    objects, archives = (
        tuple(Path(os.path.normpath(record.parent / name)) for name in names)
        for names in (found.objects, found.archives)
    )
    return Files(objects, archives, found.cxx)
