# SPDX-License-Identifier: Apache-2.0
"""From what is known of an image to one page that needs nothing beside it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ukl_build import size
from ukl_build.image import Variant
from ukl_build.measure.timeline import Milestone, Timeline
from ukl_build.report.compare import Change, Comparison
from ukl_build.report.facts import Part, Report

WHAT = {
    Variant.UKL: "The application is linked into Linux and runs in ring 0.",
    Variant.TWIN: "The same objects as an ordinary process, on the same kernel without it.",
    Variant.STOCK: "Debian's package of the application, on Debian's kernel.",
    Variant.BASE: "The application in ring 0; each system call is entered as one of ring 3.",
    Variant.RET: "As level base, and system calls return by RET where they can.",
    Variant.BYPASS: "As level ret, and the C library calls the functions of system calls.",
    Variant.SHORTCUT: "As level bypass, and those on sockets, pipes and eventfds go past VFS.",
}

INITCALLS = 25
"""Of the largest that are shown."""


def _bytes(number: int) -> Markup:
    """Return a size for people, with its unit."""
    for unit, scale in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= scale:
            return Markup("{:.1f}<small> {}</small>").format(number / scale, unit)
    return Markup("{}<small> bytes</small>").format(number)


def _json(value: Any) -> Markup:
    """Return a value as a script has it: nothing in it ends the script or begins a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _share(one: Change, among: Sequence[Change]) -> float:
    """Return how large a change is, in percent of the largest."""
    most = max(abs(other.more) for other in among) or 1
    return round(100 * abs(one.more) / most, 2)


def environment() -> Environment:
    """Return what fills in the pages; what comes from outside is escaped."""
    made = Environment(
        loader=PackageLoader("ukl_build.report", "."),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(bytes=_bytes, tojson=_json, share=_share)
    return made


# --- The start ----------------------------------------------------------------------------------


def _shares(numbers: Sequence[float]) -> list[float]:
    """Return percentages of the largest."""
    most = max(numbers, default=0) or 1
    return [round(100 * number / most, 2) for number in numbers]


def _phases(made: Timeline, unit: str) -> list[dict[str, Any]]:
    """Return what is between milestones, as parts of the whole."""
    places = made.milestones
    values = [float(getattr(one, unit)) for one in places]
    whole = (values[-1] - values[0]) or 1
    phases = []
    for (one, value), (_, following) in itertools.pairwise(zip(places, values, strict=True)):
        took = max(0.0, following - value)
        words = f"{took:,.0f} instructions" if unit == "instructions" else f"{took:.3f} s"
        phases.append({"name": one.name, "share": round(100 * took / whole, 3), "words": words})
    return phases


def _rows(milestones: Sequence[Milestone]) -> Iterator[dict[str, Any]]:
    for one, following in itertools.zip_longest(milestones, milestones[1:]):
        row = one.model_dump() | {"more": "", "longer": ""}
        if following is not None:
            row["more"] = f"{following.instructions - one.instructions:,}"
            row["longer"] = f"{max(0.0, following.seconds - one.seconds):.3f}"
        yield row


# --- Bytes --------------------------------------------------------------------------------------


def path_of(part: size.Part, archives: Sequence[str]) -> list[str]:
    """Return where a part is, from the outside to the inside.

    :param archives: names of all archives of the application's link.
    """
    owner, file = part.owner, part.file
    if owner.startswith(size.KERNEL):
        name = owner.removeprefix(size.KERNEL)
        words = file.split("/") if file else []
        inside = "/".join(words[:2][: len(words) - 1])
        return ["Linux", *words] if name == inside and words else ["Linux", name, *words]
    if owner.startswith("application"):
        archive = owner.removeprefix("application").removeprefix(": ")
        name = file.rsplit("/", 1)[-1]
        if archive in archives:
            return [archive, name[name.index("(") + 1 : -1] if name.endswith(")") else name]
        return ["application", *([archive] if archive else []), name]
    return [owner]


def _leaves(parts: Sequence[Part]) -> list[list[Any]]:
    archives = sorted(
        {one.owner.removeprefix("application: ") for one in parts if one.file.endswith(")")}
    )
    return [
        [path_of(one, archives), list(one.options), one.compressed, one.memory] for one in parts
    ]


def _owners(report: Report) -> list[dict[str, Any]]:
    if report.memory is None:
        return []
    found = size.Sizes(
        app=report.image.name, file=report.file, memory=report.memory, parts=report.parts
    )
    rows = size.owners(found)
    shares = _shares([one.compressed for one in rows])
    return [
        one.model_dump() | {"memory": one.memory, "share": share}
        for one, share in zip(rows, shares, strict=True)
    ]


# --- The page -----------------------------------------------------------------------------------


def _redistributable(report: Report) -> str:
    if report.image.redistributable:
        return (
            "All licences of what is linked into the kernel let the image be handed on under"
            " GPL-2.0."
        )
    if report.image.variant.ring0:
        return "The licences of what is linked into the kernel do not let the image be handed on."
    return "Whether it may be handed on was not looked at: it is there to be compared with."


def page(report: Report, command: str) -> str:
    """Return the page of an image.

    :param command: what makes it, for the foot of the page.
    """
    made = report.timeline
    initcalls = sorted(
        made.initcalls if made is not None else (), key=lambda one: -one.instructions
    )[:INITCALLS]
    stages = sorted(report.stages, key=lambda one: -one.seconds)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            command=command,
            what=WHAT[report.image.variant],
            timeline=made,
            bars=[]
            if made is None
            else [
                ("Instructions", _phases(made, "instructions")),
                ("Seconds, in emulation", _phases(made, "seconds")),
            ],
            rows=list(_rows(made.milestones)) if made is not None else [],
            initcalls=[
                one.model_dump() | {"share": share}
                for one, share in zip(
                    initcalls, _shares([one.instructions for one in initcalls]), strict=True
                )
            ],
            owners=_owners(report),
            leaves=_leaves(report.parts),
            reasons={one.name: one.reason for one in report.options},
            images=list(
                dict.fromkeys(name for one in report.requests for name in one.instructions)
            ),
            stages=[
                one.model_dump() | {"share": share}
                for one, share in zip(stages, _shares([one.seconds for one in stages]), strict=True)
            ],
            redistributable=_redistributable(report),
        )
    )


def page_of_two(difference: Comparison, command: str) -> str:
    """Return the page of what differs between two images.

    :param command: see :func:`page`.
    """
    return environment().get_template("diff.html.j2").render(it=difference, command=command)
