# SPDX-License-Identifier: Apache-2.0
"""Draws what was counted; the only importer of pygal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pygal

from ukl_build.measure import report

WIDTH, HEIGHT_OF_ONE, HEIGHT_OF_REST = 900, 60, 160
"""Pixels: of the drawing, of one kind of request, of title, scale and legend."""


def draw(app: str, bars: Sequence[report.Bar]) -> bytes:
    """Return the bars with one setting of page-table isolation as an SVG.

    With a twin among them, they show how others compare with it, since single system calls differ
    by a factor of a thousand; without one, the instructions themselves, on a logarithmic scale.
    """
    base = report.base_of(bars)
    names = report.names(bars)
    what = "instructions for one request" + ("" if base is None else f", {report.BASE} = 1")
    chart = pygal.HorizontalBar(
        pygal.Config(
            title=f"{app}, pti={'on' if bars[0].pti else 'off'}: {what}",
            width=WIDTH,
            height=HEIGHT_OF_REST + HEIGHT_OF_ONE * len(names),
            logarithmic=base is None,
            no_prefix=True,  # a random one
            print_values=True,
            legend_at_bottom=True,
            value_formatter=lambda x: f"{x:,.0f}" if base is None else f"{x:.2f}",
        )
    )
    # pygal draws from the bottom up.
    chart.x_labels = names[::-1]
    for bar in bars:
        cells = [report.cell(bar, name, base) for name in reversed(names)]
        chart.add(bar.image, [_value(cell) for cell in cells])
    chart.add_xml_filter(_drawing)
    drawn: bytes = chart.render()
    return drawn


def _value(cell: report.Cell | None) -> float | None:
    """Return the length of a bar; None if there is none."""
    if cell is None:
        return None
    return cell.instructions.mean if cell.ratio is None else cell.ratio


def _drawing(root: Any) -> Any:
    """Leave only what is drawn: no scripts, and no comments, which have the date in them."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.endswith("script"):
                parent.remove(child)
    return root
