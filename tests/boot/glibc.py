# SPDX-License-Identifier: Apache-2.0
"""glibc's own tests in one program, the same objects for ring 3 and for ring 0.

Its makefiles say which tests there are without a shared library, how each is compiled and what it
is called with.  All that a test defines becomes local to it, and its main function gets a name of
its own; ``guest/glibc.c`` calls the right one.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from tests.boot.ring0 import GUEST, JOBS, WARNINGS
from ukl_build import proc, toolchain
from ukl_build.stages import libc

TABLE = Path(__file__).with_name("glibc.toml")
SUPPORT = "support/libsupport.a"
"""What glibc's tests share, by its place in the folder that is built in."""

SOURCE = "/tests/source"
"""Where the guest has the files that tests read, in folders of their own."""

PATHS = {
    "SRCDIR_PATH": SOURCE,
    "OBJDIR_PATH": "/tests/ring3",
    "OBJDIR_ELF_LDSO_PATH": "/nowhere",
    "INSTDIR_PATH": "/usr",
    "LIBDIR_PATH": "/usr/lib",
    "BINDIR_PATH": "/usr/bin",
    "SBINDIR_PATH": "/usr/sbin",
    "SLIBDIR_PATH": "/lib",
    "ROOTSBINDIR_PATH": "/sbin",
    "COMPLOCALEDIR_PATH": "/usr/lib/locale",
}
"""What support/Makefile tells of the machine that it runs on."""

STACKS = "-D_STACKINFO_H -D_STACK_GROWS_DOWN -DDEFAULT_STACK_PERMS=0 -DPF_X=1"
"""In place of a header that makes the stacks of tests executable: in ring 0 nothing is."""


@dataclass(frozen=True)
class Case:
    """One of glibc's tests."""

    name: str
    """Its folder and its own name, as ``string/tst-strtok``."""
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    """What its makefile calls it with; the folder that is built in is ``{objects}``."""

    @property
    def folder(self) -> str:
        """Its folder in glibc's sources."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class Table:
    """Which tests are made, and what is known of them: glibc.toml."""

    folders: tuple[str, ...]
    excluded: Mapping[str, str]
    """Pattern of names, and why those are not made."""
    arguments: Mapping[str, Sequence[str]]
    """Pattern of names, and what those are called with beside what their makefile says."""


def table() -> Table:
    """Read glibc.toml."""
    words = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return Table(tuple(words["folders"]), words["excluded"], words["arguments"])


class Build:
    """A folder in which glibc's makefiles compile tests.

    :param tree: the prepared sources.
    :param objects: an empty folder; the same one each time, or the compiler cache is of no use.
    """

    def __init__(self, tree: Path, objects: Path, compiler: toolchain.Compiler) -> None:
        """Configure it."""
        self.tree = tree
        self.objects = objects
        self.compiler = compiler
        libc.configure(tree, objects, jobs=JOBS, compiler=compiler, logs=objects / "logs")
        # Tests of other folders include what this one makes.
        self.make("misc", str(objects / "misc" / "bits" / "syscall.h"))

    def make(self, folder: str, *words: str) -> str:
        """Run make as it runs for one folder of the sources, and return what it says."""
        argv = ["make", "-s", f"-j{JOBS}", "-C", str(self.tree / folder), f"subdir={folder}"]
        place = ["..=../", "srcdir=..", f"objdir={self.objects}"]
        flags = [*libc.MAKE, libc.STATIC]
        return proc.run([*argv, *place, *flags, *words], env=self.compiler.env).stdout

    def listed(self, folder: str) -> list[Case]:
        """Return the tests that a folder's makefile lists."""
        show = "$(info case|$(t)|$($(t)-ARGS)|$($(t)-ENV))"
        said = self.make(
            folder,
            # What make would run; the rules that set it are those of the tests' outputs.
            "host-test-program-cmd=$(objpfx)$(t)",
            f"--eval=list: ; @:$(foreach t,$(sort $(tests) $(tests-internal)),{show})",
            "list",
        )
        found = [line.split("|") for line in said.splitlines() if line.startswith("case|")]
        return [
            Case(f"{folder}/{name}", self._words(args), self._words(env))
            for _, name, args, env in found
        ]

    def _words(self, text: str) -> tuple[str, ...]:
        for path, place in ((self.objects, "{objects}"), (self.tree, SOURCE)):
            text = text.replace(str(path), place)
        return tuple(shlex.split(text.replace("//", "/")))

    def support(self) -> Path:
        """Make the library that tests share."""
        paths = " ".join(f"-D{name}='\"{path}\"'" for name, path in PATHS.items())
        out = self.objects / SUPPORT
        flags = [f"CFLAGS-support_paths.c={paths}", f"CFLAGS-support_stack_alloc.c={STACKS}"]
        self.make("support", *flags, str(out))
        return out

    def compile(self, cases: Iterable[Case]) -> dict[str, Path]:
        """Compile tests, and return their objects by their names."""
        found = {case.name: self.objects / f"{case.name}.o" for case in cases}
        for folder in {case.folder for case in cases}:
            outs = [str(out) for name, out in found.items() if name.startswith(f"{folder}/")]
            # Some have a rule that writes there before make's own have made it.
            (self.objects / folder).mkdir(exist_ok=True)
            self.make(folder, *outs)
        return found


def choose(listed: Sequence[Case], known: Table) -> list[Case]:
    """Return the tests that are not excluded; each pattern of the table must be of use."""
    names = [case.name for case in listed]
    patterns = {*known.excluded, *known.arguments}
    idle = [one for one in patterns if not any(fnmatchcase(name, one) for name in names)]
    assert idle == [], f"there is no such test: take {idle} out of glibc.toml"
    return [
        replace(case, args=(*case.args, *_matching(case.name, known.arguments)))
        for case in listed
        if not any(fnmatchcase(case.name, one) for one in known.excluded)
    ]


def _matching(name: str, arguments: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for pattern, words in arguments.items():
        if fnmatchcase(name, pattern):
            yield from words


def misfits(objects: Mapping[str, Path], libraries: Iterable[Path]) -> dict[str, str]:
    """Return tests that would not be the same in one program with others, and why."""
    theirs = {name for _, name in _definitions(libraries)}
    by_path = {str(path): name for name, path in objects.items()}
    clashes: dict[str, list[str]] = {}
    for path, defined in _definitions(objects.values()):
        if defined in theirs and defined != "main":
            clashes.setdefault(by_path[path], []).append(defined)
    found = {
        name: f"replaces {', '.join(sorted(clash))} of the C library"
        for name, clash in clashes.items()
    }
    for path in _with_sections(objects.values(), "_ARRAY "):
        found[by_path[path]] = "has constructors or destructors"
    return found


def _definitions(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Return each file with each global name that it defines."""
    argv: list[str | Path] = ["nm", "-gA", "--defined-only", *files]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    # Empty lines stand for empty members of archives.
    for line in filter(None, said.splitlines()):
        yield line.partition(":")[0], line.split()[-1]


def _with_sections(files: Iterable[Path], kind: str) -> set[str]:
    """Return the files that have a section of a type."""
    argv: list[str | Path] = ["readelf", "-SW", *files]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return {part.splitlines()[0] for part in said.split("\nFile: ")[1:] if kind in part}


def combine(objects: Mapping[str, Path], folder: Path) -> list[Path]:
    """Return the objects of one program of many tests.

    :param folder: takes them; it must be there.
    """
    out, lines = [], []
    # string/test-string.h gathers functions in a section of this name, and reads its bounds.
    section = "impls"
    whole = folder / "whole.o"
    grouped = _with_sections(objects.values(), " GROUP ")
    for number, (name, path) in enumerate(objects.items()):
        main = f"case_{number}"
        one = folder / f"{main}.o"
        if str(path) in grouped:
            # Groups (C++) are known by global names, which are about to become local.
            subprocess.run(["ld", "-r", "--force-group-allocation", "-o", whole, path], check=True)
        renamed = {"main": main} | {
            f"__{end}_{section}": f"__{end}_{section}_{number}" for end in ("start", "stop")
        }
        words = [f"--redefine-sym={old}={new}" for old, new in renamed.items()]
        words += [f"--rename-section={section}={section}_{number}", f"--keep-global-symbol={main}"]
        words += ["--strip-debug", str(whole if str(path) in grouped else path)]
        subprocess.run(["objcopy", *words, one], check=True)
        out.append(one)
        lines.append(f'CASE("{name}", {main})\n')
    (folder / "glibc_cases.h").write_text("".join(lines))
    first = folder / "glibc.o"
    flags = [*WARNINGS, *toolchain.CODE_FLAGS, f"-I{folder}"]
    subprocess.run(["gcc", *flags, "-c", "-o", first, GUEST / "glibc.c"], check=True)
    return [first, *out]


@dataclass(frozen=True)
class Ended:
    """How a test ended."""

    how: str
    """``exit``, ``signal`` or ``timeout``."""
    number: int
    """Exit status or signal."""
    ms: int

    def __str__(self) -> str:
        """Return the verdict."""
        return f"{self.how} {self.number}"


def endings(lines: Iterable[str]) -> dict[tuple[str, int], Ended]:
    """Read what ``guest/glibc_run.c`` said: by name and ring."""
    pattern = re.compile(r"# ended (\S+) ([03]) (exit|signal|timeout) (\d+) (\d+)")
    found = (pattern.fullmatch(line) for line in lines)
    return {(one[1], int(one[2])): Ended(one[3], int(one[4]), int(one[5])) for one in found if one}


def differences(ended: Mapping[tuple[str, int], Ended]) -> dict[str, tuple[str, str]]:
    """Return the tests that end differently in ring 3 and in ring 0, and how."""
    both = {
        name: (str(end), str(ended.get((name, 0), "not run")))
        for (name, ring), end in ended.items()
        if ring == 3
    }
    return {name: ends for name, ends in both.items() if ends[0] != ends[1]}
