# SPDX-License-Identifier: Apache-2.0
"""Where two builds of an image differ: ``ukl diff A B``.

Each stage leaves a manifest with the digests of what it made.  The first stage whose outputs differ
is where two builds part, and the first byte in these is what is shown: of an ELF file its section
and symbol, of an archive the member, of an initramfs the file in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ukl_build import cpio, files, manifest
from ukl_build.commands import Command
from ukl_build.completion import completed
from ukl_build.elf.difference import ELF, in_bytes, in_elf
from ukl_build.image import IMAGE_FILE, load
from ukl_build.lint import inputs
from ukl_build.plan import Layout
from ukl_build.run import prepare

STAGES = (
    *("sources", "source", "debian", "libc", "native", "lint", "link", "archive"),
    *("kconfig", "userspace", "linux", "stock", "image"),
)
"""In the order in which they are made, each of what those before it have made."""

COMPILE = "compile"
"""What makes objects, each by itself; it leaves no manifest."""

SOURCE = "the source, its headers or the flags of the compiler"

TREE = "tree"
"""What is in a cache, named by the digest of all that it was made of."""

RECIPE = "the recipe: its patches, files or flags"

FOR_PEOPLE = (".map", "lint.json")
"""How outputs end that name folders, and of which nothing is in the image."""


@dataclass(frozen=True)
class Difference:
    """Where two builds part."""

    stage: str
    """The first whose outputs differ."""
    inputs: tuple[str, ...]
    """What differs of what went into it; nothing if the stage itself does not do the same twice."""
    output: str
    """The first of its outputs that differs, relative to the application's folder."""
    where: tuple[str, ...]
    """From outside to inside: member of an archive, section, symbol, bytes."""
    outputs: tuple[str, ...] = field(default=())
    """All of them that differ."""


@dataclass(frozen=True)
class Build:
    """The folder of an image, and the manifests of all stages."""

    folder: Path
    layout: Layout
    manifests: Mapping[str, tuple[Path, manifest.Manifest]]

    @classmethod
    def read(cls, name: str) -> Build:
        """Read one.

        :param name: as :func:`ukl_build.run.prepare.find_image` takes it.
        :raise UklError: ``image-missing``, ``image-invalid``, ``manifest-invalid``.
        :raise OSError: if something cannot be read.
        """
        folder = prepare.find_image(name)
        layout = Layout.around(folder.resolve(), load(folder / IMAGE_FILE).variant)
        found = {}
        # A variant has stages of its own, in place of the image's.
        for place in dict.fromkeys((layout.home, layout.folder)):
            for path in sorted(place.glob("*.manifest.json")):
                found[path.name.partition(".")[0]] = (path, manifest.load(path))
        return cls(folder, layout, found)

    def named(self, path: str) -> str:
        """Return the name of a file of a manifest as another folder's build has it, too."""
        parts = Path(path).parts
        for number, part in enumerate(parts):
            inside = Path(*parts[number + 1 :])
            if part == self.layout.app and (self.layout.home / inside).exists():
                return str(inside)
        return path


def compare(a: Build, b: Build) -> Difference | None:
    """Return where two builds part, None if all that they have made is the same.

    :raise OSError: if something cannot be read.
    """
    stages = sorted(
        a.manifests.keys() | b.manifests.keys(),
        key=lambda one: (STAGES.index(one) if one in STAGES else len(STAGES), one),
    )
    for stage in stages:
        if stage not in a.manifests or stage not in b.manifests:
            one = a if stage in a.manifests else b
            return Difference(stage, (f"only {one.folder} has this stage",), "", ())
        found = _stage(stage, a, b)
        if found is not None:
            return found
    return None


def _outputs(build: Build, stage: str) -> dict[str, tuple[str, Path]]:
    """Return the outputs of a stage by their names: digests, and where they are."""
    record, made = build.manifests[stage]
    found = {}
    for path, digest in made.outputs.items():
        name = TREE if Path(path).is_absolute() else path
        found[name] = (digest, record.parent / path)
    return found


def _inputs(build: Build, stage: str) -> dict[str, str]:
    """Return what went into a stage, but for the manifests of others, which name folders."""
    made = build.manifests[stage][1]
    return {
        build.named(name): value
        for name, value in made.inputs.items()
        if not name.endswith((".manifest.json", *FOR_PEOPLE))
    }


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys([*a, *b]))
    return [name for name in names if a.get(name) != b.get(name)]


def _stage(stage: str, a: Build, b: Build) -> Difference | None:
    made = _outputs(a, stage), _outputs(b, stage)
    outputs = _differing(
        *(
            {name: digest for name, (digest, _) in one.items() if not name.endswith(FOR_PEOPLE)}
            for one in made
        )
    )
    if not outputs:
        return None
    before = _differing(_inputs(a, stage), _inputs(b, stage))
    for name in before:
        # What no stage before it has made is an object that SCons has had compiled.
        paths = a.layout.home / name, b.layout.home / name
        if all(map(_is_elf, paths)):
            inside = tuple(difference(*(path.read_bytes() for path in paths)))
            return Difference(COMPILE, (SOURCE,), name, inside, (name,))
    # What says most: programs and objects before what is packed or says what these are made of.
    outputs.sort(key=lambda name: (name not in made[0] or not _is_elf(made[0][name][1]), name))
    first = outputs[0]
    where: tuple[str, ...] = ()
    if first in made[0] and first in made[1]:
        paths = made[0][first][1], made[1][first][1]
        if all(path.is_file() for path in paths):
            where = tuple(difference(*(path.read_bytes() for path in paths)))
        elif all(path.is_dir() for path in paths):
            where = tuple(_in_folders(*paths))
    if first == TREE:
        # Where they come from says nothing of what they are.
        before = [name for name in before if name != "origin"] or [RECIPE]
    return Difference(
        stage=stage,
        inputs=tuple(before),
        output=first,
        where=where,
        outputs=tuple(outputs),
    )


def _is_elf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(ELF)) == ELF


def _in_folders(a: Path, b: Path) -> Iterator[str]:
    """Yield where two trees differ."""
    listed = [{path.relative_to(top) for path in top.rglob("*")} for top in (a, b)]
    for name in sorted(listed[0] | listed[1]):
        if name not in listed[0] or name not in listed[1]:
            yield f"{name} is only in {a if name in listed[0] else b}"
            return
        one, other = a / name, b / name
        if one.is_file() and other.is_file() and files.sha256(one) != files.sha256(other):
            yield str(name)
            yield from difference(one.read_bytes(), other.read_bytes())
            return


# --- Inside files -------------------------------------------------------------------------------


def difference(a: bytes, b: bytes) -> Iterator[str]:
    """Yield where two files first differ, from outside to inside; nothing if they do not."""
    if a == b:
        return
    for magic, inside in _KINDS:
        if a.startswith(magic) and b.startswith(magic):
            try:
                yield from inside(a, b)
                return
            except ValueError:
                pass  # a damaged one is bytes
    yield from in_bytes(a, b, 0)


def _members(data: bytes) -> list[tuple[str, bytes]]:
    archive = inputs.parse_archive("", Path(), data)
    return [(unit.member or "", bytes(unit.data)) for unit in archive.units]


def _listed(data: bytes) -> list[tuple[str, bytes]]:
    return [(one.path, one.whole) for one in cpio.listed(data)]


def _parts(what: str, split: Callable[[bytes], list[tuple[str, bytes]]]) -> _Inside:
    """Return what finds the part of two files that differs.

    :param what: such a part is.
    """

    def inside(a: bytes, b: bytes) -> Iterator[str]:
        for left, right in itertools.zip_longest(split(a), split(b)):
            if left is None or right is None or left[0] != right[0]:
                names = (part[0] if part is not None else "nothing" for part in (left, right))
                yield f"{what} {' against '.join(names)}"
                return
            if left[1] != right[1]:
                yield f"{what} {left[0]}"
                yield from difference(left[1], right[1])
                return
        yield from in_bytes(a, b, 0)

    return inside


_Inside = Callable[[bytes, bytes], Iterator[str]]
_KINDS: Sequence[tuple[bytes, _Inside]] = (
    (ELF, in_elf),
    (b"!<arch>\n", _parts("member", _members)),
    (cpio.MAGIC.encode(), _parts("file", _listed)),
)


# --- The command --------------------------------------------------------------------------------


def _arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        action = parser.add_argument(
            name, metavar="APP|DIR", help="of build/, or an image's folder"
        )
        completed(action, prepare.short_names)
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def _run(options: argparse.Namespace) -> int:
    a, b = Build.read(options.a), Build.read(options.b)
    found = compare(a, b)
    if options.json:
        print(json.dumps(None if found is None else asdict(found), indent=2))
    elif found is None:
        print(f"{a.folder} and {b.folder} are the same")
    else:
        print(f"they part in the stage {found.stage}")
        why = ", ".join(found.inputs) or "nothing: it does not do the same twice"
        print(f"  differs before it: {why}")
        for depth, line in enumerate((found.output, *found.where)):
            print(f"  {'  ' * depth}{line}")
    return 1 if found is not None else 0


COMMAND = Command(
    "diff",
    "tell where two builds of an image part, to the first byte; exit status 1 if they do",
    _arguments,
    _run,
    "  ukl diff redis ../other/build/redis\n",
)
