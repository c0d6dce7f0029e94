# SPDX-License-Identifier: Apache-2.0
"""``ukl report``: writes the page of an image, or of what differs between two."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ukl_build import files
from ukl_build.commands import Command
from ukl_build.completion import completed
from ukl_build.errors import UklError
from ukl_build.model import store_result
from ukl_build.plan import Layout
from ukl_build.report import compare, facts, page, sbom
from ukl_build.run import prepare


def _say(text: str) -> None:
    print(f"report: {text}", file=sys.stderr, flush=True)


def _arguments(parser: argparse.ArgumentParser) -> None:
    action = parser.add_argument(
        "apps", metavar="APP|DIR", nargs="+", help="of build/, or an image's folder"
    )
    completed(action, prepare.short_names)
    parser.add_argument("--diff", action="store_true", help="write what differs between two images")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (report.html beside the image)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it as JSON, too")
    parser.add_argument(
        "--sbom", type=Path, metavar="FILE", help="write the parts as CycloneDX JSON, too"
    )
    parser.add_argument(
        "--no-start",
        action="store_true",
        help="do not start the image if nobody has measured its start yet",
    )


def _run(options: argparse.Namespace) -> int:
    wanted = 2 if options.diff else 1
    if len(options.apps) != wanted:
        raise UklError(
            "run-invalid",
            f"{len(options.apps)} images are named, and {wanted} are wanted",
            hint="ukl report APP, or ukl report --diff APP APP",
        )
    if options.diff and options.sbom:
        raise UklError(
            "run-invalid",
            "a list of parts is of one image",
            hint="leave --diff out",
        )
    folders = [prepare.find_image(name) for name in options.apps]
    found = [facts.gather(folder, _say, start=not options.no_start) for folder in folders]
    command = shlex.join(["ukl", "report", *(["--diff"] if options.diff else []), *options.apps])
    # As it was named, not where a link leads.
    beside = folders[0] / Layout.around(folders[0], found[0].image.variant).report.name
    if options.diff:
        difference = compare.compare(*found)
        out = options.out or beside.with_stem("report-diff")
        files.write(out, page.page_of_two(difference, command))
        if options.json:
            store_result(difference, options.json)
    else:
        out = options.out or beside
        files.write(out, page.page(found[0], command))
        if options.json:
            store_result(found[0], options.json)
        if options.sbom:
            files.write(options.sbom, sbom.sbom(found[0]))
    print(out)
    return 0


COMMAND = Command(
    "report",
    "write a page about an image: its start, bytes, options, parts, licences",
    _arguments,
    _run,
    "  ukl report redis                              build/redis/report.html\n"
    "  ukl report redis --sbom redis.cdx.json        and its parts for other programs\n"
    "  ukl report --diff redis ../other/build/redis  what has changed\n",
)
