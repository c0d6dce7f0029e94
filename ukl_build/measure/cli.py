# SPDX-License-Identifier: Apache-2.0
"""What ``scons app=NAME bench`` runs: counts or times what requests take on several images.

The table goes to standard output, what is being done to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ukl_build import files
from ukl_build.errors import UklError, reported
from ukl_build.image import IMAGE_FILE, load
from ukl_build.measure import memory, plot, report, wall
from ukl_build.measure.guest import Programs, run
from ukl_build.measure.versions import versions
from ukl_build.model import store_result
from ukl_build.recipe import AppRecipe, Bench
from ukl_build.recipe import load as load_recipe
from ukl_build.run import accel, qemu
from ukl_build.run.vm import Accel, from_image

PTI = {"off": (False,), "on": (True,), "both": (False, True)}

RUNS = 2
"""Of each image that is counted, to compare."""

WIDTH = 120
"""Columns of a table that goes into a file."""


def say(text: str) -> None:
    """Write a line for people."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m ukl_build.measure.cli",
        description="Count the instructions that requests take.",
        allow_abbrev=False,
    )
    made.add_argument("--recipe", type=Path, required=True, help="folder of the recipe")
    made.add_argument("--out", type=Path, required=True, help="result file, JSON")
    made.add_argument(
        "--ukl", default=report.UKL, metavar="NAME", help="what the image itself is called"
    )
    made.add_argument("--pti", choices=PTI, default="both", help="page-table isolation")
    made.add_argument(
        "--accel",
        choices=[one.value for one in Accel],
        help="time requests instead of counting; tcg is emulation, and says nothing of hardware",
    )
    made.add_argument(
        "--runs", type=int, choices=range(1, 10), help="runs of each image, to compare"
    )
    made.add_argument(
        "folders",
        nargs="+",
        metavar="FOLDER",
        type=Path,
        help="of an image.json; what is not built is left out",
    )
    return made


def bench_of(folder: Path) -> tuple[AppRecipe, Bench]:
    """Return the recipe of an application and what is to be counted of it.

    :raise UklError: ``recipe-invalid`` or ``run-invalid``.
    """
    recipe = load_recipe(folder)
    if not isinstance(recipe, AppRecipe) or recipe.bench is None:
        raise UklError(
            "run-invalid",
            f"the recipe of {recipe.name} does not say what is to be counted",
            hint="add a table [bench], as recipes/redis has one",
        )
    return recipe, recipe.bench


def present(folders: Sequence[Path], say: Callable[[str], object] = say) -> list[Path]:
    """Return those folders in which there is an image, and say which are left out.

    :param say: writes a line for people.
    """
    found = [folder for folder in folders if (folder / IMAGE_FILE).is_file()]
    for folder in folders:
        if folder not in found:
            say(f"{folder} is not built, and left out")
    if not found:
        raise UklError(
            "image-missing",
            "there is nothing to be counted: none of the images is built",
            hint="build one: scons app=NAME",
        )
    return found


def label(folder: Path, app: str, ukl: str) -> str:
    """Return what an image is called in the table.

    :param ukl: what that of the application itself is called.
    """
    return ukl if folder.name == app else folder.name


def measure(
    recipe: AppRecipe,
    bench: Bench,
    folder: Path,
    programs: Programs,
    *,
    name: str,
    settings: Sequence[bool],
    runs: int,
) -> list[report.Bar]:
    """Run an image several times with each setting of page-table isolation.

    :param name: what it is called.
    :raise UklError: as :func:`ukl_build.measure.guest.run` and
        :func:`ukl_build.measure.memory.needed`.
    """
    image = load(folder / IMAGE_FILE)
    vm = from_image(image, folder)
    least = memory.needed(image, folder, say)
    bars = []
    for pti in settings:
        done = []
        for number in range(runs):
            say(f"{name}, pti={'on' if pti else 'off'}, run {number + 1} of {runs}")
            with tempfile.TemporaryDirectory(prefix="ukl-bench-") as scratch:
                done.append(run(image, folder, bench, programs, Path(scratch), pti=pti))
        bars.append(
            report.Bar(
                image=name,
                pti=pti,
                image_bytes=sum(path.stat().st_size for path in (vm.kernel, vm.initrd) if path),
                memory_mib=least,
                versions=versions(recipe, image, folder),
                runs=tuple(done),
            )
        )
    return bars


def _cell(cell: report.Cell | None) -> Text:
    if cell is None:
        return Text("-")
    text = Text(report.words(cell))
    text.append(f"\n±{100 * cell.instructions.spread:.2f} %", style="dim")
    text.append(f", {cell.transitions:.2f} rings, {cell.entries:.2f} entries", style="dim")
    text.append(f"\napplication {cell.application:,.0f}, rep {cell.rep:,.0f}", style="dim")
    text.append(f", CR3 {cell.cr3:.2f}", style="dim")
    if not cell.repeats:
        text.append("\nruns differ", style="bold red")
    return text


def table(app: str, pti: bool, bars: Sequence[report.Bar]) -> Table:
    """Return the table of the bars with one setting."""
    made = Table(
        title=f"{app}, pti={'on' if pti else 'off'}: instructions for one request",
        show_lines=True,
    )
    made.add_column("request")
    for bar in bars:
        made.add_column(bar.image, justify="right")
    base = report.base_of(bars)
    for name in report.names(bars):
        made.add_row(name, *(_cell(report.cell(bar, name, base)) for bar in bars))
    for what, cells in report.facts(bars):
        made.add_row(what, *cells)
    return made


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=WIDTH)


def show(result: report.Result) -> None:
    """Print the tables."""
    console = _console()
    for pti, bars in report.settings(result):
        console.print(table(result.app, pti, bars))


def check(result: report.Result) -> None:
    """Refuse numbers that another run would not give.

    :raise UklError: ``measure-differs``.
    """
    differ = [
        f"{name} on {bar.image}, pti={'on' if bar.pti else 'off'}"
        for bar in result.bars
        for name in report.names([bar])
        if not report.repeats(bar, name)
    ]
    if differ:
        raise UklError(
            "measure-differs",
            "runs of the same machine differ, so these numbers are no result",
            detail="\n".join(differ),
            hint="look for what of the host gets into the guest: a device, a clock, a number",
        )


def drawings(result: report.Result, out: Path) -> list[tuple[Path, list[report.Bar]]]:
    """Return the files of the drawings, and what is drawn in each.

    :param out: the result file.
    """
    return [
        (out.with_name(f"{out.stem}-pti-{'on' if pti else 'off'}.svg"), bars)
        for pti, bars in report.settings(result)
    ]


def time(options: argparse.Namespace) -> int:
    """Time requests, of all images in turn.

    :return: the exit status.
    :raise UklError: for everything that goes wrong.
    :raise OSError: if a file cannot be read or written.
    """
    verdict = accel.here(options.accel)
    recipe, bench = bench_of(options.recipe)
    folders = present(options.folders)
    with tempfile.TemporaryDirectory(prefix="ukl-bench-") as scratch:
        bars = wall.measure(
            [(label(folder, recipe.name, options.ukl), folder) for folder in folders],
            bench,
            Programs.build(Path(scratch)),
            accel=verdict.accel,
            settings=PTI[options.pti],
            rounds=options.runs or wall.ROUNDS,
            say=say,
        )
    result = wall.Result(app=recipe.name, accel=verdict.accel, qemu=qemu.version(), bars=bars)
    out = options.out.with_stem(f"{options.out.stem}-{verdict.accel}")
    store_result(result, out)
    console = _console()
    for made in wall.tables(result):
        console.print(made)
    say(f"the times are in {os.path.relpath(out)}")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Count what requests take, of one image after the other.

    :return: the exit status.
    :raise UklError: for everything that goes wrong.
    :raise OSError: if a file cannot be read or written.
    """
    recipe, bench = bench_of(options.recipe)
    folders = present(options.folders)
    with tempfile.TemporaryDirectory(prefix="ukl-bench-") as scratch:
        programs = Programs.build(Path(scratch))
        bars = [
            bar
            for folder in folders
            for bar in measure(
                recipe,
                bench,
                folder,
                programs,
                name=label(folder, recipe.name, options.ukl),
                settings=PTI[options.pti],
                runs=options.runs or RUNS,
            )
        ]
    result = report.Result(app=recipe.name, qemu=qemu.version(), bars=tuple(bars))
    store_result(result, options.out)
    files.write(options.out.with_suffix(".md"), report.markdown(result))
    for drawing, some in drawings(result, options.out):
        files.write(drawing, plot.draw(recipe.name, some))
    show(result)
    say(f"the counts are in {os.path.relpath(options.out)}, table and drawings beside it")
    check(result)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = parser().parse_args(argv)
    return reported(lambda: time(options) if options.accel else compare(options))


if __name__ == "__main__":
    sys.exit(main())
