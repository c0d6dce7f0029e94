# SPDX-License-Identifier: Apache-2.0
"""What ``scons app=NAME profile`` runs: where the instructions of a request are.

For the image and, where it is built, its twin: a flame graph of each kind of request, and a table
of layers and functions in two columns.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console
from rich.table import Table

from ukl_build import files, layers
from ukl_build.elf.functions import Function, Functions, functions
from ukl_build.elf.names import PREFIX
from ukl_build.errors import reported
from ukl_build.image import IMAGE_FILE, Image, load
from ukl_build.measure import calltree, flame, guest
from ukl_build.measure.cli import PTI, WIDTH, bench_of, label, present
from ukl_build.measure.counts import announced
from ukl_build.model import Model, store_result
from ukl_build.plan import Layout
from ukl_build.recipe import Bench
from ukl_build.run import qemu
from ukl_build.stages import libc

PLUGIN = "profile.c"

UPPER_HALF = (1 << 46, 1 << 47)
"""Addresses of user memory that the kernel gives out from above."""

SHOWN = 40
"""Functions in the table; all are in the result file."""


class Row(Model):
    """What a function takes for one request."""

    function: str
    layer: str
    instructions: dict[str, float]
    """Its own, without functions that it calls, by image."""


class Workload(Model):
    """One kind of request."""

    name: str
    requests: int
    """In all batches."""
    rows: tuple[Row, ...]

    def layers(self) -> dict[str, dict[str, float]]:
        """Return the sums of layers, by image."""
        sums: dict[str, dict[str, float]] = {}
        for row in self.rows:
            one = sums.setdefault(row.layer, {})
            for image, instructions in row.instructions.items():
                one[image] = one.get(image, 0.0) + instructions
        return sums


class Result(Model):
    """What the result file holds."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    app: str
    qemu: str
    """QEMU's version, as it says it."""
    pti: bool
    images: tuple[str, ...]
    workloads: tuple[Workload, ...]


@dataclass(frozen=True)
class Seen:
    """What was seen of one image."""

    image: str
    stacks: Mapping[str, Mapping[calltree.Stack, int]]
    """By the name of the kind of request."""
    requests: Mapping[str, int]
    """In all batches of each."""
    names: layers.Names


def say(text: str) -> None:
    """Write a line for people."""
    print(f"profile: {text}", file=sys.stderr, flush=True)


def known(image: Image, layout: Layout) -> tuple[Functions, layers.Names]:
    """Return the functions of an image, and their layers.

    :raise UklError: ``elf-format``, ``manifest-invalid``, ``tool-missing`` or ``tool-failed``.
    :raise OSError: if a file cannot be read.
    """
    # Nothing else is executed there: programs are static, and stacks cannot be.
    found = [*functions(layout.vmlinux), Function(*UPPER_HALF, layers.VDSO)]
    if not image.variant.ring0:
        found += functions(layout.ordinary, prefix=PREFIX)
    library = frozenset[str]()
    if layout.libc.is_file():
        archives = libc.parts(libc.read(layout.libc)).libraries
        library = frozenset().union(*map(layers.library_names, archives))
    names = layers.Names(layers.kernel_names(layout.linux), library)
    return Functions(found), names


def look(folder: Path, name: str, bench: Bench, programs: guest.Programs, *, pti: bool) -> Seen:
    """Run an image once, and return who executed what.

    :param folder: where its image.json is.
    :param name: what it is called.
    :param pti: whether its page tables are isolated.
    :raise UklError: as :func:`known` and :func:`ukl_build.measure.guest.observe`.
    :raise OSError: if a file cannot be read or written.
    """
    image = load(folder / IMAGE_FILE)
    functions, names = known(image, Layout.around(folder, image.variant))
    vm = guest.machine(image, folder, pti=pti)
    with tempfile.TemporaryDirectory(prefix="ukl-profile-") as scratch:
        out = Path(scratch) / "profile"
        over = guest.over(image, bench, programs)
        lines = guest.watched(vm, programs.plugin, out, Path(scratch), **over)
        tree = calltree.parse(out.read_bytes())
    parts = calltree.of_workload(announced(lines), tree)
    return Seen(
        image=name,
        stacks={one.name: calltree.stacks(tree, functions, batches) for one, batches in parts},
        requests={one.name: one.requests * one.batches for one, _ in parts},
        names=names,
    )


def together(seen: Sequence[Seen]) -> tuple[Workload, ...]:
    """Return what was seen of all images, function by function; the largest of the first first."""
    made = []
    for name, requests in seen[0].requests.items():
        rows: dict[str, dict[str, float]] = {}
        layers: dict[str, str] = {}
        for one in seen:
            for function, instructions in calltree.by_function(one.stacks.get(name, {})).items():
                rows.setdefault(function, {})[one.image] = instructions / one.requests[name]
                layers.setdefault(function, one.names.layer(function))
        ordered = sorted(rows.items(), key=lambda row: -row[1].get(seen[0].image, 0.0))
        made.append(
            Workload(
                name=name,
                requests=requests,
                rows=tuple(
                    Row(function=function, layer=layers[function], instructions=numbers)
                    for function, numbers in ordered
                ),
            )
        )
    return tuple(made)


def table(result: Result, workload: Workload) -> Table:
    """Return layers and the largest functions of one kind of request.

    With two images the last column is what the first takes more than the second.
    """
    images = result.images
    made = Table(title=f"{result.app}, {workload.name}: instructions for one request")
    made.add_column("layer")
    made.add_column("function")
    for image in images:
        made.add_column(image, justify="right")
    if len(images) > 1:
        made.add_column(f"{images[0]} - {images[1]}", justify="right")

    def row(layer: str, function: str, numbers: Mapping[str, float]) -> None:
        cells = [numbers.get(image, 0.0) for image in images]
        difference = [f"{cells[0] - cells[1]:+,.0f}"] if len(cells) > 1 else []
        made.add_row(layer, function, *(f"{cell:,.0f}" for cell in cells), *difference)

    sums = workload.layers()
    whole = {image: sum(one.get(image, 0.0) for one in sums.values()) for image in images}
    row("all", "", whole)
    for layer, numbers in sorted(sums.items(), key=lambda one: -one[1].get(images[0], 0.0)):
        row(layer, "", numbers)
    made.add_section()
    for one in workload.rows[:SHOWN]:
        row(one.layer, one.function, one.instructions)
    return made


def file_name(text: str) -> str:
    """Return the part of a file's name that stands for a kind of request."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m ukl_build.measure.profiler",
        description="Tell where the instructions of requests are.",
        allow_abbrev=False,
    )
    made.add_argument("--recipe", type=Path, required=True, help="folder of the recipe")
    made.add_argument("--out", type=Path, required=True, help="result file, JSON")
    made.add_argument("--ukl", metavar="NAME", required=True, help="what the image is called")
    made.add_argument("--pti", choices=[*PTI][:2], default="off", help="page-table isolation")
    made.add_argument("folders", nargs="+", metavar="FOLDER", type=Path, help="of an image.json")
    return made


def profile(options: argparse.Namespace) -> int:
    """Look at one image after the other.

    :return: the exit status.
    :raise UklError: for everything that goes wrong.
    :raise OSError: if a file cannot be read or written.
    """
    recipe, bench = bench_of(options.recipe)
    pti = options.pti == "on"
    seen = []
    with tempfile.TemporaryDirectory(prefix="ukl-profile-") as scratch:
        programs = guest.Programs.build(Path(scratch), PLUGIN)
        for folder in present(options.folders, say):
            name = label(folder, recipe.name, options.ukl)
            say(name)
            seen.append(look(folder, name, bench, programs, pti=pti))
    result = Result(
        app=recipe.name,
        qemu=qemu.version(),
        pti=pti,
        images=tuple(one.image for one in seen),
        workloads=together(seen),
    )
    store_result(result, options.out)
    drawn = []
    for one in seen:
        for name, stacks in one.stacks.items():
            path = options.out.with_name(f"{options.out.stem}-{one.image}-{file_name(name)}.svg")
            root = flame.boxes(stacks, one.requests[name])
            files.write(
                path, flame.draw(f"{recipe.name} {one.image}, {name}", root, one.names.layer)
            )
            drawn.append(path)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    for workload in result.workloads:
        console.print(table(result, workload))
    say(f"all functions are in {os.path.relpath(options.out)}, {len(drawn)} flame graphs beside it")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = parser().parse_args(argv)
    return reported(lambda: profile(options))


if __name__ == "__main__":
    sys.exit(main())
