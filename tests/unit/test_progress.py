# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import re
import time
from pathlib import Path

from rich.console import Console

from ukl_build.progress import Reporter


def test_a_bar_fills_in_the_time_of_the_last_run(tmp_path: Path) -> None:
    durations = tmp_path / "durations.json"
    durations.write_text('{"a b": 10.0}')
    console = Console(file=io.StringIO(), force_terminal=True)
    reporter = Reporter(durations, console)
    with reporter.stage("a", "b"):
        assert reporter._bars is not None
        (bar,) = reporter._bars.tasks
        end = time.monotonic() + 10
        while bar.completed == 0 and time.monotonic() < end:
            time.sleep(0.05)
        assert 0 < bar.completed < 10


def test_how_long_it_takes_and_took_is_shown(tmp_path: Path) -> None:
    durations = tmp_path / "durations.json"
    durations.write_text('{"a b": 317.0}')
    out = io.StringIO()
    reporter = Reporter(durations, Console(file=out, force_terminal=True, width=100))
    with reporter.stage("a", "b"), reporter.stage("c", "d"):
        end = time.monotonic() + 10
        while "of 5 min 17 s" not in out.getvalue() and time.monotonic() < end:
            time.sleep(0.05)
    assert re.search(r"a b .*\d\.\d s of 5 min 17 s", out.getvalue())
    assert re.search(r"c d .*\d\.\d s +\r", out.getvalue())


def test_quiet_shows_warnings_only(tmp_path: Path) -> None:
    out = io.StringIO()
    durations = tmp_path / "durations.json"
    reporter = Reporter(durations, Console(file=out, force_terminal=True), quiet=True)
    with reporter.stage("a", "b"):
        reporter.say("something")
        reporter.say("warning: something else")
    assert "warning: something else" in out.getvalue()
    assert out.getvalue().count("\n") == 1
    # It is remembered all the same.
    assert "a b" in durations.read_text()
