# SPDX-License-Identifier: Apache-2.0
"""Times of requests: what programs say, what is made of it, and in which order images run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.project import ROOT
from ukl_build.errors import UklError
from ukl_build.image import App, Image, store
from ukl_build.measure import cli, wall
from ukl_build.measure.guest import Programs
from ukl_build.model import store_result
from ukl_build.recipe import Bench
from ukl_build.run.vm import Accel, Network, Vm

LINES = ["bench: ready at 5", "bench: 10 2 a", "bench: took 30000 50000", "bench: done"]


def test_a_request_takes_the_mean_of_all_batches() -> None:
    (one,) = wall.timed(LINES)
    assert (one.name, one.requests, one.took_ns) == ("a", 10, (30_000, 50_000))
    assert one.each_us == 4


@pytest.mark.parametrize("lines", [LINES[:2], [*LINES[:2], "bench: took 1"], [LINES[2]]])
def test_a_time_that_is_missing_is_an_error(lines: list[str]) -> None:
    with pytest.raises(UklError, match="kinds of requests were expected"):
        wall.timed(lines)


def bar(image: str, *each_us: int, pti: bool = False) -> wall.Bar:
    """Return a bar with these times, one of each run."""
    runs = [(wall.Timed(name="a", requests=1, took_ns=(1000 * us,)),) for us in each_us]
    return wall.Bar(image=image, pti=pti, runs=tuple(runs))


def test_a_cell_is_the_median_and_what_it_lies_between() -> None:
    one = wall.cell(bar("ukl", 9, 1, 3, 2, 100), "a")
    assert one == wall.Cell(3, 1, 100)
    assert wall.cell(bar("ukl", 1), "b") is None


@pytest.mark.parametrize(("accel", "emulation"), [(Accel.KVM, False), (Accel.TCG, True)])
def test_the_table_says_what_its_numbers_are_worth(
    accel: Accel, emulation: bool, tmp_path: Path
) -> None:
    bars = (bar("ukl", 3, 1, 2), bar("twin", 4, 4, 4), bar("ukl", 8, pti=True))
    result = wall.Result(app="redis", accel=accel, qemu="7", bars=bars)
    off, on = wall.tables(result)
    assert ("says nothing of hardware" in str(off.title)) is emulation
    assert str(off.title).endswith("pti=off") and str(on.title).endswith("pti=on")
    cells = [list(column.cells) for column in off.columns]
    assert cells == [["a"], ["2.000  x 0.500\n1.000 to 3.000"], ["4.000  x 1.000\n4.000 to 4.000"]]
    assert [list(column.cells) for column in on.columns] == [["a"], ["8.000\n8.000 to 8.000"]]
    store_result(result, tmp_path / "r.json")
    assert wall.Result.model_validate_json((tmp_path / "r.json").read_bytes()) == result


def test_images_run_in_turn_without_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, bool]] = []

    def fake(vm: Vm, scratch: Path, **over: Any) -> list[str]:
        assert (vm.accel, vm.repeatable, vm.network, vm.extra, vm.cpus) == (
            *(Accel.KVM, False, Network.NONE, (), 1),
        )
        ran.append((vm.name, "pti=on" in vm.cmdline))
        return LINES

    monkeypatch.setattr(wall, "to_its_end", fake)
    images = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made = Image(name=name, kernel="k", cmdline=(), memory_mib=64, cpus=2, app=App(argv=("x",)))
        store(made, tmp_path / name / "image.json")
        images.append((name, tmp_path / name))
    bars = wall.measure(
        images,
        Bench(),
        Programs(Path("no plugin"), Path("no load")),
        accel=Accel.KVM,
        settings=(False, True),
        rounds=2,
        say=lambda _: None,
    )
    assert ran == [("a", False), ("b", False), ("a", True), ("b", True)] * 2
    assert [(one.image, one.pti, len(one.runs)) for one in bars] == [
        *(("a", False, 2), ("b", False, 2), ("a", True, 2), ("b", True, 2)),
    ]


def test_kvm_that_does_not_work_is_an_error_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(asked: str) -> None:
        raise UklError("kvm-unusable", f"{asked} does not work", hint="count")

    monkeypatch.setattr("ukl_build.run.accel.here", refuse)
    recipe = ROOT / "recipes" / "redis"
    words = [
        "--recipe",
        str(recipe),
        "--out",
        str(tmp_path / "o.json"),
        "--accel",
        "kvm",
        "nowhere",
    ]
    assert cli.main(words) == 3
    assert "error[kvm-unusable]: kvm does not work\nhint: count" in capsys.readouterr().err
