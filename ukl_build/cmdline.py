# SPDX-License-Identifier: Apache-2.0
"""What the kernel's command line can carry (Linux: lib/cmdline.c, next_arg(); init/main.c)."""

from __future__ import annotations

from collections.abc import Sequence

MAX_COMMAND_LINE = 2047
"""COMMAND_LINE_SIZE of x86 without its NUL; the kernel cuts what is longer."""

MAX_INIT_ARGS = 31
"""Arguments that the kernel passes to process 1, its name apart (init/main.c: MAX_INIT_ARGS)."""


def quote(word: str) -> str:
    """Quote a parameter, or an argument behind ``--``, so that it arrives as it is.

    :raise ValueError: if it cannot: the kernel knows double quotes and no way to escape one, takes
        a second ``--`` for the end, and leaves out what is empty.
    """
    if not word or word == "--" or '"' in word or not word.isascii() or not _printable(word):
        raise ValueError(f"the kernel's command line cannot carry {word!r} to process 1")
    return f'"{word}"' if " " in word or "\t" in word else word


def quote_args(args: Sequence[str]) -> tuple[str, ...]:
    """Quote what stands behind ``--``: the arguments of process 1.

    :raise ValueError: if one of them cannot be passed on, or they are too many.
    """
    if len(args) > MAX_INIT_ARGS:
        raise ValueError(f"the kernel passes at most {MAX_INIT_ARGS} arguments to process 1")
    return tuple(quote(arg) for arg in args)


def _printable(word: str) -> bool:
    return word.replace("\t", " ").isprintable()
