# SPDX-License-Identifier: Apache-2.0
"""Draws who called whom as a flame graph (Gregg, "The Flame Graph", CACM 59(6), 2016): SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from ukl_build.measure.calltree import Stack

WIDTH, ROW, HEAD, FOOT = 1200, 17, 40, 30
"""Pixels: of the drawing, of a row, above and below."""

LEAST = 0.3
"""Pixels of the narrowest box that is drawn."""

LETTER = 6.6
"""Pixels of a letter."""

COLOURS = (
    "#77aadd", "#99ddff", "#44bb99", "#bbcc33", "#aaaa00", "#eedd88", "#ee8866", "#ffaabb",
    "#dddddd", "#c9a0dc", "#a3c1ad", "#f4c2c2", "#b0c4de", "#d2b48c", "#98d8c8", "#e6e6fa",
)  # fmt: skip
"""One for each layer, in the order in which they are met."""


@dataclass
class Box:
    """A function, called by the one that it is in."""

    own: float = 0
    """Instructions for a request, without those of functions that it called."""
    inner: dict[str, Box] = field(default_factory=dict)

    @property
    def whole(self) -> float:
        """Instructions for a request, with those."""
        return self.own + sum(one.whole for one in self.inner.values())


def boxes(found: Mapping[Stack, int], requests: int) -> Box:
    """Return what was counted as boxes within each other.

    :param requests: by how many to divide.
    """
    root = Box()
    for stack, instructions in found.items():
        here = root
        for name in stack:
            here = here.inner.setdefault(name, Box())
        here.own += instructions / requests
    return root


@dataclass(frozen=True)
class Placed:
    """A box in the drawing."""

    name: str
    box: Box
    left: float
    width: float
    depth: int


def placed(root: Box) -> list[Placed]:
    """Return where boxes are, callers before those they called; without those too narrow to see."""
    total = root.whole
    found: list[Placed] = []

    def place(inside: Box, left: float, depth: int) -> None:
        for name, box in sorted(inside.inner.items(), key=lambda one: -one[1].whole):
            width = box.whole / total * WIDTH
            if width >= LEAST:
                found.append(Placed(name, box, left, width, depth))
                place(box, left, depth + 1)
            left += width

    place(root, 0.0, 0)
    return found


def draw(title: str, root: Box, layer: Callable[[str], str]) -> str:
    """Return the drawing: outermost callers at the bottom, each box as wide as what it took.

    A box says what it is when the mouse is over it.

    :param layer: tells a function's layer, which has a colour of its own.
    """
    found = placed(root)
    total = root.whole
    layers = list(dict.fromkeys(layer(one.name) for one in found))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(layers)}
    height = HEAD + (max((one.depth for one in found), default=0) + 1) * ROW + FOOT
    lines = []
    for one in found:
        what, top = layer(one.name), height - FOOT - (one.depth + 1) * ROW
        words = (
            f"{one.name} ({what}): {one.box.whole:,.0f} instructions,"
            f" {100 * one.box.whole / total:.2f} %, {one.box.own:,.0f} its own"
        )
        lines.append(
            f"<g><title>{escape(words)}</title>"
            f'<rect x="{one.left:.2f}" y="{top}" width="{one.width:.2f}" height="{ROW - 1}"'
            f' fill="{colours[what]}"/>'
            f'<text x="{one.left + 2:.2f}" y="{top + 12}">{escape(_short(one))}</text></g>'
        )
    left = 4.0
    for name, colour in colours.items():
        lines.append(
            f'<rect x="{left:.0f}" y="{height - 20}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{left + 13:.0f}" y="{height - 11}">{escape(name)}</text>'
        )
        left += 22 + LETTER * len(name)
    text = escape(f"{title}: {total:,.0f} instructions for one request")
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
            f' viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text x="{WIDTH // 2}" y="24" font-size="15" text-anchor="middle">{text}</text>',
            *lines,
            "</svg>\n",
        )
    )


def _short(one: Placed) -> str:
    """Return what of a name there is room for."""
    letters = int((one.width - 4) / LETTER)
    if len(one.name) <= letters:
        return one.name
    return f"{one.name[: letters - 1]}…" if letters > 2 else ""
