# SPDX-License-Identifier: Apache-2.0
"""Which option of the configuration brings an object into a kernel: what Kbuild's makefiles say.

They are read, not run: make would tell what is built, and not why.  What is understood is what
Documentation/kbuild/makefiles.rst describes, lists of objects and folders by an option, objects of
several files, and conditions on options.  A makefile that computes its lists in another way leaves
its objects with the option of its folder.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOTS = ("Kbuild", "arch/x86/Makefile", "Makefile")
"""What names the folders of the kernel itself; the last two only in the lists below."""

LISTS = ("obj", "lib", "core", "libs", "drivers")
"""Names of lists of objects and folders, before ``-`` and an option."""

_ASSIGNED = re.compile(
    r"^\s*(?P<name>[\w./+-]+?)-(?:y|objs|\$\((?:subst m,y,\$\()?CONFIG_(?P<option>\w+)\)?\))"
    r"\s*(?::|\+|\?)?=(?P<words>.*)$"
)
_OTHER_LIST = re.compile(r"\$\((?P<name>[\w./+-]+)-y\)")
_IF_SET = re.compile(r"^\s*if(?P<negated>n?)def\s+CONFIG_(?P<option>\w+)\s*$")
_IF_EQUAL = re.compile(
    r"^\s*if(?P<negated>n?)eq\s*\(\s*\$\(CONFIG_(?P<option>\w+)\)\s*,\s*(?P<value>\w*)\s*\)\s*$"
)
_VARIABLE = {"$(SRCARCH)": "x86", "$(ARCH)": "x86", "$(BITS)": "64"}


@dataclass
class _Condition:
    """A conditional that a line is inside of."""

    holds: bool
    """The branch at hand."""
    option: str | None = None
    """The one that is on, and has what is here built."""
    known: bool = True
    """Whether it is about an option; of another one both branches are read."""


@dataclass(frozen=True)
class _Entry:
    """A word of a list that is built."""

    list: str
    word: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """Which options brought each object into a kernel."""

    objects: Mapping[str, tuple[str, ...]]
    """By its path in the tree, from the outermost folder's to its own; none for what is in every
    kernel."""
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, path: str) -> tuple[str, ...]:
        """Return those of an object, or what is known of its folder."""
        if path in self.objects:
            return self.objects[path]
        folder = posixpath.dirname(path)
        while folder and folder not in self.folders:
            folder = posixpath.dirname(folder)
        return self.folders.get(folder, ())


def options(tree: Path, config: Mapping[str, str]) -> Options:
    """Return the options that brought each object into a kernel.

    :param tree: the kernel's sources.
    :param config: its configuration, without ``CONFIG_``.
    :raise OSError: if a makefile cannot be read.
    """
    reader = _Reader(tree, config)
    for root in ROOTS:
        reader.root(root)
    return Options(reader.objects, reader.folders)


class _Reader:
    def __init__(self, tree: Path, config: Mapping[str, str]) -> None:
        self.tree = tree
        self.config = config
        self.objects: dict[str, tuple[str, ...]] = {}
        self.folders: dict[str, tuple[str, ...]] = {}

    def root(self, makefile: str) -> None:
        path = self.tree / makefile
        if path.is_file():
            # The arch's and the top one name folders from the top, whichever folder they are in.
            self._lists(self._entries(path), "", ())

    def _folder(self, folder: str, chain: tuple[str, ...]) -> None:
        if folder in self.folders:
            return
        self.folders[folder] = chain
        for name in ("Kbuild", "Makefile"):  # in this order: makefiles.rst, "The kbuild files"
            path = self.tree / folder / name
            if path.is_file():
                self._lists(self._entries(path), folder, chain)
                return

    def _lists(self, entries: list[_Entry], folder: str, chain: tuple[str, ...]) -> None:
        parts: dict[str, list[_Entry]] = {}
        for entry in entries:
            parts.setdefault(entry.list, []).append(entry)
        for name in LISTS:
            for entry in parts.get(name, ()):
                self._word(entry, parts, folder, chain)

    def _word(
        self,
        entry: _Entry,
        parts: Mapping[str, list[_Entry]],
        folder: str,
        chain: tuple[str, ...],
        within: frozenset[str] = frozenset(),
    ) -> None:
        """Follow a word of a list.

        :param within: names of lists that it was found in, which may name themselves.
        """
        own = (*chain, *(one for one in entry.options if one not in chain))
        other = _OTHER_LIST.fullmatch(entry.word)
        if other is not None:
            if other["name"] not in within:
                for part in parts.get(other["name"], ()):
                    self._word(part, parts, folder, own, within | {other["name"]})
            return
        path = posixpath.normpath(posixpath.join(folder, entry.word))
        if entry.word.endswith("/"):
            self._folder(path, own)
        elif path not in self.objects and entry.word.endswith(".o"):
            self.objects[path] = own
            for part in parts.get(entry.word.removesuffix(".o"), ()):
                if part.word != entry.word:
                    self._word(part, parts, folder, own)

    def _entries(self, makefile: Path) -> list[_Entry]:
        """Return the words of all lists of a makefile that are built with this configuration."""
        found = []
        inside: list[_Condition] = []
        for line in _lines(makefile.read_text(encoding="utf-8", errors="replace")):
            if self._conditional(line, inside) or not all(one.holds for one in inside):
                continue
            match = _ASSIGNED.match(line)
            if match is None:
                continue
            option = match["option"]
            if option is not None and self.config.get(option) != "y":
                continue
            around = [one.option for one in inside if one.option is not None]
            needed = tuple(dict.fromkeys([*around, *([option] if option else [])]))
            words = match["words"]
            for variable, value in _VARIABLE.items():
                words = words.replace(variable, value)
            found += [_Entry(match["name"], word, needed) for word in words.split()]
        return found

    def _conditional(self, line: str, inside: list[_Condition]) -> bool:
        """Follow a conditional; return whether the line is one's."""
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        if word in ("endif", "else"):
            if inside and word == "endif":
                inside.pop()
            elif inside:
                last = inside[-1]
                # What is there without an option is not there because of it.
                inside[-1] = _Condition(not last.holds or not last.known, known=last.known)
            return True
        if word not in ("ifdef", "ifndef", "ifeq", "ifneq"):
            return False
        match = _IF_SET.match(line)
        if match is not None:
            holds = self.config.get(match["option"], "n") != "n"
        else:
            match = _IF_EQUAL.match(line)
            if match is None:
                inside.append(_Condition(holds=True, known=False))
                return True
            holds = self.config.get(match["option"], "") == match["value"]
        holds = holds is not bool(match["negated"])
        on = self.config.get(match["option"]) == "y"
        inside.append(_Condition(holds, match["option"] if holds and on else None))
        return True


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a makefile, those that go on as one, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        yield line.partition("#")[0]
