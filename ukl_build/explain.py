# SPDX-License-Identifier: Apache-2.0
"""``ukl explain``: say more of an error than the error does."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from ukl_build.commands import Command
from ukl_build.completion import completed
from ukl_build.errors import CODES, Fault, UklError
from ukl_build.model import nearest

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "errors.md"
"""Has one section for each code."""

_WHOSE = {
    Fault.USER: "what was asked for is wrong",
    Fault.MACHINE: "this machine or its network could not do it",
    Fault.GUEST: "the guest failed",
    Fault.BUG: "an error of ours: please report it",
}


def sections(text: str) -> dict[str, str]:
    """Return the sections of a Markdown document by their headings, which are taken off.

    :raise ValueError: if there are two of one heading.
    """
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], (part.strip("\n") for part in parts[1::2]), strict=True))
    if len(found) < len(parts) // 2:
        raise ValueError("a heading is there twice")
    return found


def _arguments(parser: argparse.ArgumentParser) -> None:
    code = parser.add_argument(
        "code",
        nargs="?",
        metavar="CODE",
        help="what stands in brackets; without it, all are listed",
    )
    completed(code, lambda: CODES)


def _run(options: argparse.Namespace) -> int:
    if options.code is None:
        width = max(map(len, CODES))
        for code, (_, meaning) in sorted(CODES.items()):
            print(f"{code:{width}}  {meaning}")
        return 0
    # As it is pasted: error[guest-panic], [guest-panic].
    code = options.code.removeprefix("error").strip("[]:")
    if code not in CODES:
        raise UklError(
            "code-unknown",
            f"there is no error {options.code!r}{nearest(code, CODES)}",
            hint="`ukl explain` lists all",
        )
    fault, meaning = CODES[code]
    print(f"{code}: {meaning}")
    print(f"Whose fault: {_WHOSE[fault]}.\n")
    text = sections(DOCUMENT.read_text(encoding="utf-8"))[code]
    console = Console()
    # Elsewhere it is for programs and for copying, and stays as it is.
    console.print(Markdown(text)) if console.is_terminal else print(text)
    return 0


COMMAND = Command(
    "explain",
    "say more of an error code",
    _arguments,
    _run,
    examples="  ukl explain guest-panic\n",
)
