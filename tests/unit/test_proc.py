# SPDX-License-Identifier: Apache-2.0
"""Programs of a build that is told to stop."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ukl_build import proc
from ukl_build.errors import UklError


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the other tests in this process know nothing of a stop."""
    monkeypatch.setattr(proc, "_stopped", threading.Event())


def test_a_stop_ends_what_runs_and_what_would_be_started() -> None:
    start = time.monotonic()
    timer = threading.Timer(0.3, proc.terminate_all)
    timer.start()
    with pytest.raises(UklError, match="SIGTERM"):
        proc.run(["sleep", "20"])
    timer.join()
    with pytest.raises(UklError) as caught:
        proc.run(["sleep", "20"])
    assert caught.value.code == "stopped"
    assert time.monotonic() - start < 10


def test_a_stop_ends_the_wait_for_a_lock(tmp_path: Path) -> None:
    said: list[str] = []
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        proc.lock(one, lambda: said.append("one"))
        threading.Timer(0.3, proc.terminate_all).start()
        with pytest.raises(UklError) as caught:
            proc.lock(other, lambda: said.append("other"))
    assert caught.value.code == "stopped"
    assert said == ["other"]
