# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console

from ukl_build.progress import Reporter
from ukl_build.toolchain import CacheLog


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


def compiled(folder: Path, hits: int, misses: int) -> CacheLog:
    """Return the log of a compiler cache."""
    path = folder / "ccache"
    path.write_text("# a.c\ndirect_cache_hit\n" * hits + "# b.c\ncache_miss\n" * misses)
    return CacheLog(path)


@pytest.mark.parametrize("width", [50, 80, 120])
def test_each_stage_is_a_line_on_every_terminal(tmp_path: Path, width: int) -> None:
    durations = tmp_path / "durations.json"
    durations.write_text('{"linux build/redis/redis.bzImage": 317.0}')
    out = io.StringIO()
    reporter = Reporter(durations, Console(file=out, force_terminal=True, width=width))
    log = compiled(tmp_path, 350, 462)
    with reporter.stage("linux", "build/redis/redis.bzImage", log), reporter.stage("native", "x"):
        assert reporter._bars is not None
        shown = Console(file=io.StringIO(), width=width, record=True)
        shown.print(reporter._bars.get_renderable())
        lines = shown.export_text().splitlines()
    assert [line.split()[0] for line in lines] == ["linux", "native"]
    assert {len(line.rstrip()) <= width for line in lines} == {True}
    whole = "build/redis/redis.bzImage .*s of 5 min 17 s 350 of 812 cached"
    assert re.search(whole if width >= 80 else r"build/.*… .*s of.* 350", lines[0])


def test_elsewhere_it_is_a_plain_line(tmp_path: Path) -> None:
    out = io.StringIO()
    reporter = Reporter(tmp_path / "durations.json", Console(file=out, highlight=False))
    with reporter.stage("linux", "x", compiled(tmp_path, 1, 2)):
        pass
    with reporter.stage("archive", "y", compiled(tmp_path, 0, 0)):
        pass
    assert re.fullmatch(
        r"\[linux\] x: \d\.\d s, 1 of 3 cached\n\[archive\] y: \d\.\d s\n", out.getvalue()
    )


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
