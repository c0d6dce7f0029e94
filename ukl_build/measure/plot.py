# SPDX-License-Identifier: Apache-2.0
"""Draws what was counted; the only importer of pygal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pygal

from ukl_build.image import Variant
from ukl_build.measure import report

WIDTH, HEIGHT_OF_BAR, HEIGHT_OF_REST = 900, 24, 150
"""Pixels: of the drawing, of one bar, of title, scale and legend."""

STEP = 0.25
"""Between the lines of the scale that are drawn at parts of the twin's."""

DECADES = 10
"""With the longest bar so many times as long as the shortest, the scale is a logarithmic one."""

COLOURS = {Variant.UKL.value: "#ee8866", Variant.TWIN.value: "#77aadd"}
OTHER_COLOUR = "#dddddd"
"""Told apart by who sees red and green as one, and in grey; light enough for black words on them
(Paul Tol, "Colour Schemes", SRON/EPS/TN/09-002, the light scheme)."""

STYLE = {
    "background": "#ffffff",
    "plot_background": "#ffffff",
    "opacity": "1",  # the lines of the scale are behind
    "guide_stroke_color": "#bbbbbb",
    "major_guide_stroke_color": "#bbbbbb",
    "label_font_size": 12,
    "major_label_font_size": 12,
    "value_font_size": 13,
    "legend_font_size": 14,
    "title_font_size": 16,
}


def draw(app: str, bars: Sequence[report.Bar]) -> bytes:
    """Return the bars with one setting of page-table isolation as an SVG.

    With a twin among them, they show how others compare with it, since single system calls differ
    by a factor of a thousand; without one, the instructions themselves.
    """
    base = report.base_of(bars)
    names = report.names(bars)
    # pygal draws from the bottom up.
    rows = {
        bar.image: [_value(report.cell(bar, name, base)) for name in reversed(names)]
        for bar in bars
    }
    lengths = [one["value"] for row in rows.values() for one in row if one is not None]
    chart = pygal.HorizontalBar(
        pygal.Config(
            title=f"{app}, pti={'on' if bars[0].pti else 'off'}: instructions for one request",
            x_title="" if base is None else f"{report.BASE} = 1",
            width=WIDTH,
            height=HEIGHT_OF_REST + HEIGHT_OF_BAR * (len(bars) + 1) * len(names),
            margin_right=40,  # half of the scale's last number
            style=pygal.style.Style(
                colors=[COLOURS.get(bar.image, OTHER_COLOUR) for bar in bars], **STYLE
            ),
            no_prefix=True,  # a random one
            print_values=True,
            print_values_position="bottom",  # where a bar begins
            legend_at_bottom=True,
            legend_at_bottom_columns=len(bars),
            truncate_label=-1,
            **_scale(lengths, STEP if base is not None else None),
        )
    )
    chart.x_labels = names[::-1]
    for image, row in rows.items():
        chart.add(image, row)
    chart.add_xml_filter(_drawing)
    drawn: bytes = chart.render()
    return drawn


def _scale(lengths: Sequence[float], step: float | None) -> dict[str, Any]:
    """Return the scale of bars; each is long enough to be seen.

    :param step: between its lines; None for one that suits whole numbers.
    """
    least, most = min(lengths), max(lengths)
    if step is None and most > DECADES * least:
        first, last = math.ceil(math.log10(least)) - 1, math.ceil(math.log10(most))
        powers = [10**power for power in range(first, last + 1)]
        return {"logarithmic": True, "zero": powers[0], "y_labels": powers, **_form("{:,.0f}")}
    form = "{:,.0f}" if step is None else "{:.2f}"
    step = step or 10 ** math.floor(math.log10(most))
    labels = [step * number for number in range(math.ceil(most / step) + 1)]
    return {"y_labels": labels, **_form(form)}


def _form(form: str) -> dict[str, Any]:
    return {"value_formatter": form.format}


def _value(cell: report.Cell | None) -> dict[str, Any] | None:
    """Return a bar's length and its words; None if there is none."""
    if cell is None:
        return None
    mean, words = cell.instructions.mean, report.words(cell)
    return {"value": mean if cell.ratio is None else cell.ratio, "formatter": lambda _: words}


def _drawing(root: Any) -> Any:
    """Leave only what is drawn: no scripts, and no comments, which have the date in them."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.endswith("script"):
                parent.remove(child)
        if parent.get("class") == "value":
            # pygal puts the middle of the words where the bar begins.
            parent.set("text-anchor", "start")
    return root
