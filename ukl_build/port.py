# SPDX-License-Identifier: Apache-2.0
"""``ukl-port``: write the recipe of a project from a build of it, and say what stands in the way.

The project is built once in a copy, by its own makefiles with the stand-ins of
:mod:`ukl_build.recorder`, against this machine's libraries.  How it links its program tells the
recipe; what cannot be followed, and what the lint finds in the objects, are the obstacles.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from ukl_build import apt, files, image, licence, packages, proc, toolchain
from ukl_build.cache import Cache
from ukl_build.completion import parse
from ukl_build.elf.names import PROVIDED, UNPREFIXED, load_tables
from ukl_build.elf.reader import parse_object
from ukl_build.elf.rules import Severity
from ukl_build.errors import Fault, UklError, reported
from ukl_build.lint import inputs, libraries
from ukl_build.lint.check import lint
from ukl_build.lint.findings import Finding
from ukl_build.model import nearest
from ukl_build.recipe import RECIPE_FILE, NativeBuild
from ukl_build.recorder import Inspected, Library, Link, Recorder, inspect
from ukl_build.stages import native

BUILD = Path(__file__).resolve().parents[1] / "build" / "port"
"""Takes the copies that projects are built in, and the logs."""

IN_THE_WAY = 1
"""Exit status if something stands in the way."""

EXIT_STATUSES = f"""\
exit status:
    0  nothing stands in the way, warnings apart
    {IN_THE_WAY}  something does
    {Fault.USER:d}  what was asked for is wrong
    {Fault.MACHINE:d}  this machine could not do it, or the project's build failed
   {Fault.BUG:d}  an error of ukl-port itself
"""
EXAMPLES = """\
examples:
  ukl-port ../redis -- make -C src redis-server
  ukl-port ../memcached -- ./configure --disable-docs -- make memcached
  ukl-port ../project -- cmake -DTESTS=OFF . -- make server
"""

System = Literal["make", "configure", "cmake"]
_MAKEFILES = ("GNUmakefile", "makefile", "Makefile")
_BEGUN_BY: dict[System, str] = {"configure": "configure", "cmake": "CMakeLists.txt"}
"""What is there in a project that has no makefile yet."""
_BUILD_FILES = re.compile(
    r"(gnu)?makefile(\..*)?|.*\.(mk|am|cmake)|cmakelists.txt|configure\.(ac|in)"
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_NETWORK = frozenset(("socket", "getaddrinfo"))
"""Names that only a program with a network uses."""


@dataclass(frozen=True)
class Obstacle:
    """Something that stands in the way, or may."""

    place: str
    severity: Severity
    text: str
    """What it is, and what to do."""

    def __str__(self) -> str:
        return f"{self.place}: {self.severity}: {self.text}"


@dataclass
class Package:
    """A Debian package that archives are taken of."""

    name: str
    version: str
    licence: str
    """An SPDX expression, or nothing if it is not known."""
    archives: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Port:
    """What became of a project."""

    recipe: str
    """The text of its recipe."""
    obstacles: tuple[Obstacle, ...]
    failed: str = ""
    """How the project's own link failed, if it did."""


# --- What was asked for


def read_commands(words: Sequence[str], tree: Path) -> NativeBuild:
    """Return the build that commands describe; ``--`` stands between them.

    The last is make, before it may be ``./configure`` or ``cmake``.  If it is not and the project
    has no makefile yet, it is added without words.  The program's name is left open.

    :raise UklError: ``port-invalid``.
    """
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            commands.append([])
        else:
            commands[-1].append(word)
    *before, last = [_split(command) for command in commands]
    name, make = last
    if name != "make" or len(before) > 1:
        raise _unclear(words)
    folder, words_of_make = _without_options(make)
    configure: list[str] = []
    if before:
        ((path, configure),) = before
        program = PurePosixPath(path)
        if program.name not in get_args(System) or program.name == "make":
            raise _unclear(words)
        system: System = "cmake" if program.name == "cmake" else "configure"
        if folder != ".":
            # What is configured decides where it all begins.
            words_of_make = ["-C", folder, *words_of_make]
        folder = str(program.parent) if system == "configure" else "."
        if system == "cmake" and any(
            word.startswith(("-B", "--build", "-S", "-G")) for word in configure
        ):
            raise UklError(
                "port-invalid",
                f"{shlex.join(words)} builds in another folder, or not by make",
                hint="leave -S, -B and -G out: it is built in a copy, beside its sources",
            )
        configure = [word for word in configure if word != "."]
    else:
        system = _system(tree / folder)
    return NativeBuild(
        system=system,
        program="unknown",
        folder=folder,
        configure=tuple(configure),
        make=tuple(words_of_make),
    )


def _unclear(words: Sequence[str]) -> UklError:
    return UklError(
        "port-invalid",
        f"{shlex.join(words)!r} is not understood",
        hint="after -- comes make with its words; before it may stand `./configure … --` or"
        " `cmake … . --`",
    )


def _split(command: list[str]) -> tuple[str, list[str]]:
    """Return what is run and its words; variables that stand before it are words as well."""
    variables = 0
    while variables < len(command) and _ASSIGNMENT.fullmatch(command[variables]):
        variables += 1
    if variables == len(command):
        return "", command
    return command[variables], [*command[:variables], *command[variables + 1 :]]


def _without_options(make: list[str]) -> tuple[str, list[str]]:
    """Return the folder that make is told to go to, and its words without it and without jobs."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-C", "--directory", default=".")
    parser.add_argument("-j", "--jobs", nargs="?")
    known, rest = parser.parse_known_args(make)
    return os.path.normpath(known.directory), rest


def _system(folder: Path) -> System:
    if any((folder / name).is_file() for name in _MAKEFILES):
        return "make"
    for system, name in _BEGUN_BY.items():
        if (folder / name).is_file():
            return system
    raise UklError(
        "port-invalid",
        f"{folder} has no makefile, no configure and no CMakeLists.txt",
        hint="name the folder of the project; one with autogen.sh or configure.ac alone wants that"
        " run first",
    )


# --- The build


def port(
    tree: Path,
    build: NativeBuild,
    place: Path,
    *,
    program: str | None,
    own_licence: str | None,
    jobs: int,
    compiler: toolchain.Compiler,
    shown: str,
    said: str,
) -> Port:
    """Build a project and return its recipe with what stands in the way.

    :param tree: the project's folder, which is left as it is.
    :param place: folder to build in; what is there is removed.
    :param program: where the program is linked, relative to the folder that make begins in; by
        default it is the only one, or the one that is called like a target or the folder.
    :param own_licence: the project's licence, an SPDX expression.
    :param jobs: how many compilers may run at once.
    :param shown: what the project's folder is called in messages.
    :param said: for people: what was asked for.
    :raise UklError: ``port-invalid``, ``link-missing``, ``link-stale``; ``tool-missing`` or
        ``tool-failed`` if the build fails before the link.
    :raise OSError: if something cannot be read or written.
    """
    name = tree.name
    source = native.copy(tree, place)
    mapped = PurePosixPath(toolchain.SOURCES) / name
    # Lines for the findings; the project's own -g may be missing.
    flags = ["-g", toolchain.mapped(source, str(mapped))]
    recorder = Recorder.install(place / "recorder", compiler, flags)
    folder = source / build.folder
    failure = None
    try:
        native.make(build, folder, recorder, compiler=compiler, jobs=jobs, logs=place / "logs")
    except UklError as error:
        if error.code != "tool-failed":
            raise
        failure = error
    link = _program(recorder, source, folder, build, asked=program, name=name, failure=failure)
    if failure is not None and link.output.is_file():
        raise failure  # it was not this link that failed
    found = inspect(link, source, ())
    native.check_new(name, (*found.inputs.objects, *found.inputs.archives), source, tree)
    build = _begun_above(build, source, link.output)
    where = os.path.relpath(link.output, source / build.folder)
    of_program = f"{shown}/{os.path.relpath(link.output, source)}"
    wanted: dict[str, Package] = {}
    obstacles = []
    for refused in found.refused:
        first = refused.option.split()[0]
        at = _mentioned(tree, shown, re.compile(rf"-{re.escape(first)}(?![\w-])")) or of_program
        text = f"it is linked with {refused.option}; {refused.why}"
        obstacles.append(Obstacle(at, Severity.ERROR, text))
    lacking = []
    for library in found.undeclared:
        why = _declare(library, wanted)
        if why is not None:
            at = _mentioned(tree, shown, _naming(library)) or of_program
            lacking.append(Obstacle(at, Severity.ERROR, why))
    units = list(dict.fromkeys((*found.inputs.objects, *found.inputs.archives)))
    for path in [one for one in units if ".so" in one.suffixes]:
        at = _mentioned(tree, shown, re.compile(re.escape(path.name))) or of_program
        text = f"{path.name} is a shared library of the project; have a static one built"
        lacking.append(Obstacle(at, Severity.ERROR, text))
        units.remove(path)
    obstacles += lacking
    network = False
    if all(path.is_file() for path in units):
        network = _uses_network(units)
        taken = [one.path for one in found.undeclared if one.path and one.path.suffix == ".a"]
        # What a library that is not there would define is no obstacle of its own.
        ignored = ("undefined",) if lacking else ()
        obstacles += [
            obstacle
            for obstacle, code in _linted(
                found, units, taken, source=source, mapped=mapped, shown=shown
            )
            if code not in ignored
        ]
    if failure is not None and not obstacles:
        raise failure
    text = _recipe(
        name,
        build,
        where,
        wanted=wanted,
        own_licence=own_licence or "",
        network=network,
        said=said,
    )
    obstacles += _unknown_licences(shown, text)
    return Port(text, tuple(obstacles), failure.message if failure else "")


def _program(
    recorder: Recorder,
    source: Path,
    folder: Path,
    build: NativeBuild,
    *,
    asked: str | None,
    name: str,
    failure: UklError | None,
) -> Link:
    """Return the link of the program that is meant."""
    links = [one for one in recorder.links() if one.makes_program]
    # What configure scripts and CMake try out is gone again, or CMake's own.
    made = {
        one.output: one
        for one in links
        if one.output.is_relative_to(source)
        and "CMakeFiles" not in one.output.parts
        and (one.output.is_file() or (failure is not None and one is links[-1]))
    }
    if asked is not None:
        path = Path(os.path.normpath(folder / asked))
        if path not in made:
            known = [os.path.relpath(one, folder) for one in made]
            raise UklError(
                "link-missing",
                f"the build has not linked {asked}{nearest(asked, known)}",
                detail="\n".join(known) or "it has linked no program at all",
                hint="correct --program, or what make is asked for",
            )
        return made[path]
    if not made and failure is not None:
        raise failure
    if not made:
        raise UklError(
            "link-missing",
            "the build has linked no program",
            hint="if it had been built here before, `make clean` first: what is up to date is not"
            " linked again; a compiler that is called by its path, not by its name, is not noticed",
        )
    called = {*build.make, name}
    likely = [one for path, one in made.items() if path.name in called] or list(made.values())
    if len(likely) > 1:
        raise UklError(
            "port-invalid",
            "the build links several programs",
            detail="\n".join(os.path.relpath(one.output, folder) for one in likely),
            hint="say which is meant: --program NAME",
        )
    return likely[0]


def _begun_above(build: NativeBuild, source: Path, output: Path) -> NativeBuild:
    """Return a build that begins in a folder which the program is below of.

    :raise UklError: ``port-invalid``.
    """
    if output.is_relative_to(source / build.folder):
        return build
    if build.system != "make":
        raise UklError(
            "port-invalid",
            f"{output.relative_to(source)} is not below {build.folder}, which is configured",
            hint="have it linked there; a recipe cannot name a program elsewhere",
        )
    return build.model_copy(update={"folder": ".", "make": ("-C", build.folder, *build.make)})


# --- What it is linked with


def _declare(library: Library, wanted: dict[str, Package]) -> str | None:
    """Add the package of a library to what the recipe names, or return why that cannot be."""
    path = library.path
    if path is None or not path.is_file():
        return (
            f"{library.word} is not on this machine; install the package that has it"
            f" (apt-file search), or build without it"
        )
    of = libraries.package(path) or libraries.package(path.resolve())
    if path.suffix != ".a":
        owner = f" of {of}" if of else ""
        return (
            f"{library.word} is {path}{owner}, and there is no static archive of it; build"
            " without it, or link its sources as well"
        )
    folders = [Path("/") / one for one in packages.LIBRARIES]
    inside = [path.relative_to(one) for one in folders if path.is_relative_to(one)]
    if of is None or not inside:
        return f"{path} is of no Debian package; build its sources with the project's"
    if of not in wanted:
        version = proc.run(["dpkg-query", "--show", "--showformat=${Version}", of]).stdout
        wanted[of] = Package(of, version, _licence_of(of))
    wanted[of].archives.append(str(inside[0]))
    return None


def _licence_of(package: str) -> str:
    """Return what a package's copyright file says of most of its files, if that is SPDX's word.

    https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
    """
    path = Path("/usr/share/doc") / package / "copyright"
    with contextlib.suppress(OSError, UnicodeDecodeError, ValueError):
        for fields in apt.stanzas(path.read_text(encoding="utf-8")):
            if fields.get("files", "").strip() == "*":
                return licence.checked(fields.get("license", "").partition("\n")[0].strip())
    return ""


def _naming(library: Library) -> re.Pattern[str]:
    """Return what names a library in a makefile, or in CMake's files."""
    if not library.word.startswith("-l"):
        return re.compile(re.escape(PurePosixPath(library.word).name))
    name = re.escape(library.word[2:])
    return re.compile(rf"-l{name}(?![\w-])|target_link_libraries\b.*\W{name}\W")


def _mentioned(tree: Path, shown: str, pattern: re.Pattern[str]) -> str | None:
    """Return ``file:line`` of the first place of the project's build that has something."""
    for parent, folders, names in os.walk(tree):
        folders.sort()
        for name in sorted(names):
            if not _BUILD_FILES.fullmatch(name.lower()):
                continue
            path = Path(parent) / name
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            for number, line in enumerate(lines, 1):
                if pattern.search(line):
                    return f"{shown}/{path.relative_to(tree)}:{number}"
    return None


# --- What the objects are


def _uses_network(paths: Sequence[Path]) -> bool:
    for unit in inputs.read([str(path) for path in paths]).units():
        with contextlib.suppress(UklError):  # the lint says so
            obj = parse_object(unit.data, unit.name)
            if any(one.undefined and one.name in _NETWORK for one in obj.symbols):
                return True
    return False


def _linted(
    found: Inspected,
    units: Sequence[Path],
    taken: Sequence[Path],
    *,
    source: Path,
    mapped: PurePosixPath,
    shown: str,
) -> Iterator[tuple[Obstacle, str]]:
    """Yield what the lint says of the project's part of the program, with the rule's code."""
    around = [name for name in libraries.STANDARD if found.inputs.cxx or name != "libstdc++.a"]
    *start, crtend, crtn = libraries.START_FILES
    link = [
        *(toolchain.file(name) for name in start),
        *units,
        *taken,
        *(toolchain.file(name, toolchain.CXX) for name in around),
        *(toolchain.file(name) for name in (crtend, crtn)),
    ]
    looked_at = {str(path) for path in (*units, *taken)}
    tables = load_tables(UNPREFIXED, PROVIDED)
    given = inputs.read([str(path) for path in link])
    data = {(unit.file, unit.member): unit.data for unit in given.units()}
    # This machine's C library is not the one that will be linked: what is found in it is not said.
    for one in lint(given, tables, program=True).findings:
        if one.severity is Severity.NOTE or one.file not in looked_at:
            continue
        unit = data.get((one.file, one.member))
        place = one.place.replace(f"{source}/", f"{shown}/")
        for line in _lines(one, unit) if unit is not None else ():
            if PurePosixPath(line).is_relative_to(mapped):
                place = f"{shown}/{PurePosixPath(line).relative_to(mapped)}"
                break
        text = f"{one.what}; {one.why}; {one.do} [{one.code}]"
        yield Obstacle(place, one.severity, text), one.code


def _lines(one: Finding, data: bytes | memoryview) -> list[str]:
    """Return ``file:line`` of a finding from the object's debugging information.

    If it is in an inlined function, that comes first, and then where that is called.
    """
    if one.section is None or one.section_offset is None:
        return []
    with tempfile.NamedTemporaryFile(suffix=".o") as file:
        file.write(data)
        file.flush()
        words = ["addr2line", "-i", "-e", file.name, "-j", one.section, hex(one.section_offset)]
        said = proc.run(words).stdout.splitlines()
    found = (re.fullmatch(r"(/.*):(\d+)(?: \(.*\))?", line) for line in said)
    return [f"{os.path.normpath(one[1])}:{one[2]}" for one in found if one]


# --- The recipe


def _recipe(
    name: str,
    build: NativeBuild,
    program: str,
    *,
    wanted: dict[str, Package],
    own_licence: str,
    network: bool,
    said: str,
) -> str:
    lines = [
        f"# Written by ukl-port from: {said}",
        "schema = 1",
        'kind = "application"',
        f"name = {_toml(name)}",
        f"summary = {_toml(f'{name}, as its own makefiles build it')}",
        f"licence = {_toml(own_licence)}  # an SPDX expression",
        *("", "[source]", 'folder = "."', "", "[build]", f"system = {_toml(build.system)}"),
        *([f"folder = {_toml(build.folder)}"] if build.folder != "." else []),
        f"program = {_toml(program)}",
        *([f"configure = {_toml(build.configure)}"] if build.configure else []),
        *([f"make = {_toml(build.make)}"] if build.make else []),
    ]
    for one in wanted.values():
        lines += [
            *("", "[[debian]]", f"package = {_toml(one.name)}", f"tested = {_toml(one.version)}"),
            f"licence = {_toml(one.licence)}  # see /usr/share/doc/{one.name}/copyright",
            f"archives = {_toml(one.archives)}",
        ]
    if network:
        lines += ["", "[kconfig]", 'fragments = ["virtio-net"]  # it uses sockets']
    lines += [
        "",
        "[guest]",
        "memory_mib = 256",
        "# Arguments, ports, files, disks, and how to tell",
    ]
    lines += ["# that it works: docs/recipes.md."]
    return "\n".join(lines) + "\n"


def _toml(value: str | Sequence[str]) -> str:
    """Return a string or an array of TOML, which are JSON's."""
    return json.dumps(value if isinstance(value, str) else list(value), ensure_ascii=False)


def _unknown_licences(shown: str, text: str) -> Iterator[Obstacle]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith('licence = ""'):
            place = f"{shown}/{RECIPE_FILE}:{number}"
            what = "the licence is not known; write its SPDX expression, such as BSD-3-Clause"
            yield Obstacle(place, Severity.ERROR, what)


# --- The command line


def _licence(text: str) -> str:
    try:
        return licence.checked(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before the commands."""
    made = argparse.ArgumentParser(
        prog="ukl-port",
        usage="ukl-port [OPTION]… DIR -- [./configure WORDS -- | cmake WORDS . --] make WORDS",
        description="Build a project in a copy, write a recipe from what its build did, and say\n"
        "what stands in the way of it in ring 0.\n\n" + EXAMPLES.rstrip(),
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("dir", metavar="DIR", type=Path, help="folder of the project's sources")
    made.add_argument("--program", metavar="FILE", help="which program, if several are linked")
    made.add_argument("--licence", metavar="SPDX", type=_licence, help="the project's licence")
    made.add_argument("-j", dest="jobs", metavar="N", type=int, default=os.cpu_count() or 1)
    write = made.add_mutually_exclusive_group()
    write.add_argument(
        "-n",
        "--dry-run",
        action="store_true",
        help="show the recipe on standard output and write nothing",
    )
    write.add_argument("--force", action="store_true", help="replace a recipe that is there")
    return made


def run(options: argparse.Namespace, words: Sequence[str], say: Callable[[str], None]) -> int:
    """Do what the command line asks for.

    :return: the exit status.
    :raise UklError: for everything that goes wrong.
    """
    tree: Path = options.dir.resolve()
    name = tree.name
    if not tree.is_dir():
        raise UklError("port-invalid", f"{options.dir} is no folder", hint="name the project's")
    if not re.fullmatch(image.NAME, name):
        raise UklError(
            "port-invalid",
            f"an application cannot be called {name!r}, as its folder is",
            hint="rename the folder: small letters, digits, - and _, a letter first",
        )
    place = BUILD / name
    if place.is_relative_to(tree):
        raise UklError(
            "port-invalid",
            f"{tree} holds the folder that it would be built in",
            hint="name another",
        )
    out = tree / RECIPE_FILE
    if out.exists() and not (options.dry_run or options.force):
        raise UklError(
            "port-invalid",
            f"{out} is there already",
            hint="--force replaces it, --dry-run shows what it would be",
        )
    build = read_commands(words, tree)
    say(f"building {name} in {place}")
    found = port(
        tree,
        build,
        place,
        program=options.program,
        own_licence=options.licence,
        jobs=options.jobs,
        compiler=toolchain.compiler(Cache.default().ccache),
        shown=os.path.normpath(options.dir),
        said=shlex.join(words),
    )
    if options.dry_run:
        sys.stdout.write(found.recipe)
    else:
        files.write(out, found.recipe)
        say(f"wrote {out}; next: scons app={options.dir}")
    for one in found.obstacles:
        print(one, file=sys.stderr if options.dry_run else sys.stdout)
    if found.failed:
        say(f"the project's own link failed: {found.failed}; see {place / 'logs'}")
    stopping = sum(one.severity is Severity.ERROR for one in found.obstacles)
    say(f"{stopping or 'nothing'} in the way, {len(found.obstacles) - stopping} to look at")
    return IN_THE_WAY if stopping else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = list(sys.argv[1:] if argv is None else argv)
    end = given.index("--") if "--" in given else len(given)
    options = parse(parser(), given[:end])
    words = given[end + 1 :] or ["make"]
    return reported(
        lambda: run(options, words, lambda text: print(f"ukl-port: {text}", file=sys.stderr))
    )


if __name__ == "__main__":
    sys.exit(main())
