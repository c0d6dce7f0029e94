# SPDX-License-Identifier: Apache-2.0
"""What can be run here: images that were built, and applications that could be."""

from __future__ import annotations

import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ukl_build.image import IMAGE_FILE, Image, load
from ukl_build.recipe import Kind, names
from ukl_build.run.prepare import BUILD, built_images

RECIPES = Path("recipes")


def table(*columns: str) -> Table:
    """Return a table without lines, for people and for ``awk``."""
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=True, overflow="ignore")
    return made


def out() -> Console:
    """Return standard output; where it is no terminal a line is as long as it is."""
    console = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = 10_000
    return console


def age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit: ``12 s``, ``5 min``, ``3 h``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _kernel(image: Image, folder: Path) -> Path:
    return folder / image.kernel


def show(*, as_json: bool = False) -> int:
    """Print what can be run, and say how.

    :return: exit status 0.
    :raise UklError: ``image-invalid``, ``recipe-invalid``.
    """
    found = [(folder, load(folder / IMAGE_FILE)) for folder in built_images()]
    built = [(folder, image) for folder, image in found if _kernel(image, folder).is_file()]
    labels = {image.label for _, image in built}
    others = [name for name in names(RECIPES, Kind.APPLICATION) if name not in labels]
    if as_json:
        images = [
            {"name": image.label, "folder": str(folder), "image": image.model_dump(mode="json")}
            for folder, image in built
        ]
        print(json.dumps({"images": images, "not_built": others}))
        return 0
    console = out()
    if built:
        rows = table("IMAGE", "RUN", "PORTS", "MEMORY", "KERNEL", "BUILT")
        for folder, image in built:
            kernel = _kernel(image, folder).stat()
            shown = folder.relative_to(BUILD) if folder.parent == BUILD else folder
            rows.add_row(
                image.label,
                f"ukl-run --qemu {shown}",
                " ".join(f"{port.guest}/{port.proto}" for port in image.ports),
                f"{image.memory_mib} MiB",
                f"{kernel.st_size / (1 << 20):.1f} MiB",
                f"{age(time.time() - kernel.st_mtime)} ago",
            )
        console.print(rows)
    else:
        console.print(f"No image is built in {BUILD}/ here.")
    if others:
        console.print(f"\nTo be built by `scons app=NAME`: {', '.join(others)}")
    console.print("\nukl-run --help tells the rest.")
    return 0
