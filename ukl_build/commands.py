# SPDX-License-Identifier: Apache-2.0
"""What a command of ``ukl`` is.

Each is defined in a module of its own; :mod:`ukl_build.ukl` lists them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One command, as ``ukl NAME``."""

    name: str
    help: str
    """What it does, in half a line, for the list of all."""
    arguments: Callable[[argparse.ArgumentParser], None]
    """Adds its arguments to a parser."""
    run: Callable[[argparse.Namespace], int]
    """Does it and returns the exit status; raises UklError or OSError."""
    examples: str = ""
    """Lines to paste, each with what it does."""
