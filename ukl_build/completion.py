# SPDX-License-Identifier: Apache-2.0
"""What a shell can complete of our command lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence

import argcomplete


def completed(action: argparse.Action, words: Callable[[], Iterable[str]]) -> None:
    """Let a shell complete an argument.

    :param words: returns all that can stand there; what it raises is no completion.
    """

    def completer(**_: object) -> list[str]:
        try:
            return list(words())
        except Exception:
            return []

    action.completer = completer  # type: ignore[attr-defined]


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line, or tell a shell how it can go on.

    :raise SystemExit: if it is wrong, or was to be completed.
    """
    argcomplete.autocomplete(parser)
    return parser.parse_args(argv)
