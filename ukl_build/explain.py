# SPDX-License-Identifier: Apache-2.0
"""``ukl explain``: say more of an error than the error does."""

from __future__ import annotations

import argparse

from ukl_build.commands import Command
from ukl_build.errors import CODES, Fault, UklError
from ukl_build.model import nearest

_WHOSE = {
    Fault.USER: "what was asked for is wrong",
    Fault.MACHINE: "this machine or its network could not do it",
    Fault.GUEST: "the guest failed",
    Fault.BUG: "an error of ours: please report it",
}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "code",
        nargs="?",
        metavar="CODE",
        help="what stands in brackets; without it, all are listed",
    )


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
    print(f"Whose fault: {_WHOSE[fault]}.")
    return 0


COMMAND = Command(
    "explain",
    "say more of an error code",
    _arguments,
    _run,
    examples="  ukl explain guest-panic\n",
)
