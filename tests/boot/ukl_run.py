# SPDX-License-Identifier: Apache-2.0
"""ukl-run as somebody types it, with all that it keeps in a folder of the test's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.project import ROOT


def command(*words: str) -> list[str]:
    """Return a command line of ukl-run."""
    return [sys.executable, str(ROOT / "tools" / "ukl-run"), *words]


def env(state: Path) -> dict[str, str]:
    """Return an environment in which all that is kept is in a folder."""
    return {"PATH": os.environ["PATH"], "XDG_STATE_HOME": str(state)}


def run(state: Path, *words: str, enough_s: float) -> tuple[int, str]:
    """Run it to its end; return exit status and standard error.

    :param enough_s: seconds after which the test fails.
    """
    done = subprocess.run(
        command(*words),
        cwd=ROOT,
        env=env(state),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=enough_s,
        check=False,
    )
    return done.returncode, done.stderr
