# SPDX-License-Identifier: Apache-2.0
"""Has a project's own build compile for ring 0, and notes how it links its programs.

Stand-ins for the compiler and the linker come first on the path.  The compiler's adds the flags
that all code needs behind the project's own, and makes programs static: configure
scripts then find what will be there, and what the build links runs as an ordinary process as well.
The linker's notes each of its calls before it does the work.  So nobody keeps a list of objects:
the link of the program is read from what the project's makefiles did.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ukl_build import files, proc, toolchain
from ukl_build.errors import UklError
from ukl_build.model import nearest

_TRIPLET = "x86_64-linux-gnu"
_CC_NAMES = ("gcc", "cc", "c99", f"{_TRIPLET}-gcc")
_CXX_NAMES = ("g++", "c++", f"{_TRIPLET}-g++")
_LD_NAMES = ("ld", "ld.bfd", "ld.gold", "ld.lld", f"{_TRIPLET}-ld")

LINK_FLAGS = ("-static", "-no-pie", "-fno-lto")
"""Words for the compiler that decide how programs are linked."""

_RECORD = """\
#!/bin/sh
# Notes the folder and the words, each with a zero byte behind it; and keeps the objects that the
# compiler removes after the link, those of `gcc one.c two.c`.
note=$(mktemp {links}/XXXXXXXXXX) || exit 1
printf '%s\\0' "$PWD" "$@" > "$note" || exit 1
for word do
	case $word in
	{temporary}/*.o)
		mkdir -p "$note.d" && ln "$word" "$note.d/" || exit 1
		;;
	esac
done
exec {ld} "$@"
"""

OWN_LIBRARIES = frozenset(
    ("c", "m", "mvec", "pthread", "rt", "dl", "util", "resolv", "anl", "gcc", "gcc_eh", "gcc_s")
)
"""What ``-l`` names of the C library and the compiler; they are linked in any case."""

_CXX = "stdc++"
_START_FILES = ("crt1.o", "crti.o", "crtn.o", "crtbegin", "crtend", "gcrt1.o", "Scrt1.o", "rcrt1.o")

_WITH_VALUE = frozenset(
    (
        *("-m", "-o", "-z", "-e", "-y", "-h", "-A", "-G", "-Map", "-soname", "-plugin", "-rpath"),
        *("-rpath-link", "-dynamic-linker", "-version-script", "-dynamic-list", "-fini", "-init"),
        *("-a", "-c", "-F", "-f", "-O", "-Ttext", "-Tdata", "-Tbss"),
    )
)
"""Options of ld whose value may be the next word (ld(1)); a second dash is left out here."""

_REFUSED = {
    "-T": "a linker script of its own has no place in the kernel's link",
    "-script": "a linker script of its own has no place in the kernel's link",
    "-defsym": "define the symbol in a source file instead",
    "-wrap": "symbols are not renamed on the way into the kernel",
    "-b": "only ELF objects can be linked",
    "-format": "only ELF objects can be linked",
    "-R": "only ELF objects can be linked",
    "-just-symbols": "only ELF objects can be linked",
    "-u": "have the object linked that defines the symbol",
    "-undefined": "have the object linked that defines the symbol",
}
"""Options that would change what the program is, and why they cannot be followed."""

_REFUSED_ALONE = {"-whole-archive": "have the objects linked instead of the archive"}
"""Such options without a value."""


@dataclass(frozen=True)
class Link:
    """A call of the linker."""

    folder: Path
    """Its working directory."""
    words: tuple[str, ...]
    kept: Path
    """Folder with copies of its temporary inputs; need not exist."""

    @property
    def output(self) -> Path:
        """The file that it made."""
        for word, value in self._options():
            if word in ("-o", "-output") and value is not None:
                return self.path(value)
        return self.path("a.out")

    @property
    def makes_program(self) -> bool:
        """Whether it made a program: no shared object, and no relocatable one."""
        return not any(
            word in ("-r", "-i", "-relocatable", "-shared", "-Bshareable")
            for word, _ in self._options()
        )

    def path(self, name: str) -> Path:
        """Return a file that is named in the call."""
        return Path(os.path.normpath(self.folder / name))

    def _options(self) -> Iterator[tuple[str, str | None]]:
        """Yield options with their values, and the names of files as values of nothing."""
        words = iter(self.words)
        for word in words:
            if not word.startswith("-") or word == "-":
                yield "", word
                continue
            plain = word[1:] if word.startswith("--") else word
            name, equals, value = plain.partition("=")
            if equals:
                yield name, value
            elif plain in _WITH_VALUE or plain in _REFUSED or plain in ("-l", "-L"):
                yield plain, next(words, None)
            elif plain[:2] in ("-l", "-L", "-T", "-o", "-z") and not word.startswith("--"):
                yield plain[:2], plain[2:]
            else:
                yield plain, None


@dataclass(frozen=True)
class Inputs:
    """What a program is linked from, without what every program is."""

    objects: tuple[Path, ...]
    archives: tuple[Path, ...]
    """In their order."""
    cxx: bool
    """Whether libstdc++ is among the libraries."""


@dataclass(frozen=True)
class Library:
    """A library of this machine that a program is linked with."""

    word: str
    """As the link has it: ``-lz``, or a file."""
    path: Path | None
    """The archive, or the shared library where there is no archive; None if neither is there."""

    def __str__(self) -> str:
        if self.path is not None and self.word == str(self.path):
            return self.word
        return f"{self.word}: {self.path or 'not found'}"


@dataclass(frozen=True)
class Refused:
    """An option of a link that cannot be followed."""

    option: str
    """With its value, and one dash in front."""
    why: str


@dataclass(frozen=True)
class Inspected:
    """What is known of a link."""

    inputs: Inputs
    """What the recipe and the project account for."""
    undeclared: tuple[Library, ...]
    refused: tuple[Refused, ...]


@dataclass(frozen=True)
class Recorder:
    """The stand-ins of a build and what they noted."""

    folder: Path

    @classmethod
    def install(
        cls,
        folder: Path,
        compiler: toolchain.Compiler,
        flags: Sequence[str],
        *,
        libraries: Sequence[Path] = (),
    ) -> Recorder:
        """Write the stand-ins into an empty folder.

        :param flags: for the compilers, in addition to those that all code needs.
        :param libraries: folders of archives that the link may take.
        :raise UklError: ``tool-missing``.
        """
        made = cls(folder)
        for path in (made.programs, made._links, made._temporary):
            path.mkdir(parents=True)
        hint = "./bootstrap installs it"
        search = [f"-L{one}" for one in libraries]
        words = [*toolchain.CODE_FLAGS, *flags, *LINK_FLAGS, *search]
        for names, real in ((_CC_NAMES, toolchain.CC), (_CXX_NAMES, toolchain.CXX)):
            found = proc.which(real, hint=hint, env=compiler.env)
            # By its path: ccache would find the stand-in again.
            line = shlex.join([*compiler.before, str(found)])
            text = f'#!/bin/sh\nexec {line} "$@" {shlex.join(words)}\n'
            for name in names:
                files.write(made.programs / name, text, mode=0o755)
        text = _RECORD
        for word, place in (
            ("{ld}", proc.which(toolchain.LD, hint=hint, env=compiler.env)),
            ("{links}", made._links),
            ("{temporary}", made._temporary),
        ):
            text = text.replace(word, shlex.quote(str(place)))
        for name in _LD_NAMES:
            files.write(made.programs / name, text, mode=0o755)
        return made

    @property
    def programs(self) -> Path:
        """The folder of the stand-ins."""
        return self.folder / "bin"

    @property
    def _links(self) -> Path:
        return self.folder / "links"

    @property
    def _temporary(self) -> Path:
        return self.folder / "tmp"

    def env(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return the environment for a build."""
        return {
            **base,
            "PATH": f"{self.programs}:{base['PATH']}",
            # Where the compiler looks for the linker (gcc(1)).
            "COMPILER_PATH": str(self.programs),
            "TMPDIR": str(self._temporary),
            "CC": toolchain.CC,
            "CXX": toolchain.CXX,
        }

    def links(self) -> list[Link]:
        """Return all calls of the linker, in their order."""
        found = [path for path in self._links.iterdir() if path.is_file()]
        links = []
        for path in sorted(found, key=lambda path: path.stat().st_mtime_ns):
            folder, *words = os.fsdecode(path.read_bytes()).split("\0")[:-1]
            links.append(Link(Path(folder), tuple(words), path.with_name(f"{path.name}.d")))
        return links

    def program(self, path: Path) -> Link:
        """Return the last link of a program.

        :raise UklError: ``link-missing``, naming those that were linked.
        """
        links = [link for link in self.links() if link.makes_program]
        for link in reversed(links):
            if link.output == path:
                return link
        # What configure scripts try out is gone again.
        linked = sorted({str(link.output) for link in links if link.output.is_file()})
        raise UklError(
            "link-missing",
            f"the build has not linked {path}{nearest(str(path), linked)}",
            detail="\n".join(linked) or "it has linked no program at all",
            hint="correct the recipe's build.program and what make is asked for; if it was built in"
            " its folder before, remove that: make clean",
        )


def inspect(link: Link, tree: Path, packages: Sequence[Path]) -> Inspected:
    """Return the files of a link, and what stands in the way of linking them for the kernel.

    :param tree: the project's folder.
    :param packages: folders of archives that the recipe names.
    """
    ours = [tree.resolve(), link.kept.resolve(), *(one.resolve() for one in packages)]

    def belongs(path: Path) -> bool:
        return any(path.resolve().is_relative_to(one) for one in ours)

    objects: list[Path] = []
    archives: list[Path] = []
    folders: list[Path] = []
    undeclared: list[Library] = []
    refused: list[Refused] = []
    cxx = False
    for word, value in link._options():
        why = _REFUSED.get(word) or _REFUSED_ALONE.get(word)
        if why is not None:
            refused.append(Refused(f"{word} {value or ''}".rstrip(), why))
        if word == "-L" and value is not None:
            folders.append(link.path(value))

    def first(name: str) -> Path | None:
        return next((one / name for one in folders if (one / name).is_file()), None)

    for word, value in link._options():
        if value is None:
            continue
        if word == "-l":
            if value in OWN_LIBRARIES:
                continue
            if value == _CXX:
                cxx = True
                continue
            found = first(value[1:] if value.startswith(":") else f"lib{value}.a")
            if found and belongs(found):
                archives.append(found)
            else:
                undeclared.append(Library(f"-l{value}", found or first(f"lib{value}.so")))
        elif word == "":
            path = link.path(value)
            if not path.exists():
                path = link.kept / path.name
            if path.name.startswith(_START_FILES) and not belongs(path):
                continue
            if not belongs(path):
                undeclared.append(Library(str(path), path))
            elif path.suffix == ".a":
                archives.append(path)
            else:
                objects.append(path)
    inputs = Inputs(tuple(objects), tuple(dict.fromkeys(archives)), cxx)
    return Inspected(inputs, tuple(dict.fromkeys(undeclared)), tuple(dict.fromkeys(refused)))


def resolve(link: Link, tree: Path, packages: Sequence[Path]) -> Inputs:
    """Return the files of a link that can be followed.

    :param tree: the project's folder.
    :param packages: folders of archives that the recipe names.
    :raise UklError: ``link-unsupported`` for an option that cannot be followed, ``link-undeclared``
        for a library of this machine that the recipe does not name.
    """
    found = inspect(link, tree, packages)
    for one in found.refused:
        raise UklError(
            "link-unsupported", f"{link.output.name} is linked with {one.option}", hint=one.why
        )
    if found.undeclared:
        raise UklError(
            "link-undeclared",
            f"{link.output.name} is linked with libraries that the recipe does not name",
            detail="\n".join(map(str, found.undeclared)),
            hint="name the package that has it under [[debian]] (tools/ukl-port tells which), or"
            " build without it",
        )
    return found.inputs
