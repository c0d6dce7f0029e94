# SPDX-License-Identifier: Apache-2.0
"""The smallest memory of a smoke test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.guests import assemble
from ukl_build import image
from ukl_build.errors import UklError
from ukl_build.image import App, Image, Init, SmokeRun
from ukl_build.measure import memory

ENOUGH = 100


@pytest.mark.parametrize("least", [1, 2, 63, 64, 65, 99, 100])
def test_it_is_the_least_that_is_enough(least: int) -> None:
    asked: list[int] = []

    def passes(mib: int) -> bool:
        asked.append(mib)
        return mib >= least

    assert memory.smallest(passes, ENOUGH) == least
    assert len(asked) <= 7 * memory.CONFIRMED
    assert 0 not in asked
    # It was tried as often as that, unless it is the recipe's own; one less was tried as well.
    assert least == ENOUGH or asked.count(least) == memory.CONFIRMED
    assert least == 1 or least - 1 in asked


def test_what_passes_once_and_not_again_is_not_enough() -> None:
    """KASLR may put the kernel where there is just enough."""
    tried: dict[int, int] = {}

    def passes(mib: int) -> bool:
        tried[mib] = tried.get(mib, 0) + 1
        return mib >= 70 or (mib >= 60 and tried[mib] == 1)

    assert memory.smallest(passes, ENOUGH) == 70


def ending(folder: Path, end: str, text: str, **changes: Any) -> Image:
    """Make an image of a guest that ends in the given way."""
    assemble(folder / "app.bzImage", end, text)
    given = {"name": "app", "kernel": "app.bzImage", "cmdline": (), "memory_mib": 32, "cpus": 1}
    made = Image(**{**given, "init": Init.DIRECT, "app": App(argv=("/UKL",)), **changes})
    image.store(made, folder / "image.json")
    return made


def test_the_smoke_test_is_run_in_each_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU's firmware needs some, and loads a kernel at 1 MiB."""
    monkeypatch.setattr(memory, "LEAST_S", 2.0)
    said: list[str] = []
    run = SmokeRun(expect=("fine",))
    text = "fine\nukl: application exited with status 0\n"
    made = ending(tmp_path, "power_off", text, smoke_runs=(run,))
    least = memory.needed(made, tmp_path, said.append)
    assert least is not None and 1 <= least <= 8
    assert f"smoke test of app in {least} MiB: passes" in said
    assert least == 1 or f"smoke test of app in {least - 1} MiB: does not pass" in said


def test_what_does_not_pass_with_its_own_memory_is_an_error(tmp_path: Path) -> None:
    run = SmokeRun(expect=("other",))
    text = "fine\nukl: application exited with status 0\n"
    made = ending(tmp_path, "power_off", text, smoke_runs=(run,))
    with pytest.raises(UklError, match="ended with status 4") as error:
        memory.needed(made, tmp_path, lambda _: None)
    assert "the console lacks 'other'" in error.value.detail


def test_a_guest_that_hangs_ends_at_its_time(tmp_path: Path) -> None:
    run = SmokeRun(expect=("fine",))
    ending(tmp_path, "spin", "fine\n", smoke_runs=(run,))
    with pytest.raises(UklError, match="ended with status 241"):
        memory.smoke(tmp_path, 32, 0.5)


def test_without_a_smoke_test_there_is_no_such_memory(tmp_path: Path) -> None:
    say: Callable[[str], object] = pytest.fail
    assert memory.needed(ending(tmp_path, "power_off", ""), tmp_path, say) is None
