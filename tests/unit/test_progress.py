# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
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
