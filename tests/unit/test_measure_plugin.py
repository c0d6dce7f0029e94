# SPDX-License-Identifier: Apache-2.0
"""The plugin counts what guests do that are known to the instruction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.guests import assemble
from ukl_build.image import Init
from ukl_build.measure.counts import Counts, Mark, Role, Which, parse
from ukl_build.measure.guest import build_plugin, counting
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import GuestError, Kind
from ukl_build.run.vm import Vm

ENOUGH_S = 60.0

MARK = 1
"""Instructions of the mark at the beginning; it is counted after it has been noted."""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the plugin."""
    return build_plugin(tmp_path_factory.mktemp("plugin") / "count,er.so")


def bare(folder: Path, plugin: Path, rounds: int, text: tuple[int, int] | None) -> Vm:
    """Return a machine whose guest does nothing but what is counted."""
    return Vm(
        name="bare",
        kernel=assemble(folder / "guest", "count", "", f"-DROUNDS={rounds}"),
        memory_mib=32,
        init=Init.DIRECT,
        repeatable=True,
        extra=counting(plugin, folder / "co,unts", text),
    )


def run(vm: Vm, folder: Path) -> tuple[Mark, ...]:
    """Run a machine to its end, and return the marks it came to."""
    with Machine(vm, console=folder / "console.log") as machine:
        machine.start()
        outcome = machine.wait(ENOUGH_S)
        assert outcome is not None and outcome.kind is Kind.NO_STATUS
    return parse((folder / "co,unts").read_bytes())


def between(marks: tuple[Mark, ...], number: int) -> Counts:
    """Return what was counted between a mark and the next."""
    begin, end = marks[2 * number : 2 * number + 2]
    assert (begin.which, end.which) == (Which.BEGIN, Which.END)
    assert end.counts[Role.LOAD] == begin.counts[Role.LOAD] == Counts()
    return end.counts[Role.MEASURED] - begin.counts[Role.MEASURED]


@pytest.mark.parametrize("rounds", [1, 1000, 500_000])
def test_each_instruction_is_counted_once(tmp_path: Path, plugin: Path, rounds: int) -> None:
    marks = run(bare(tmp_path, plugin, rounds, None), tmp_path)
    assert between(marks, 0) == Counts(user=MARK + 2 * rounds)
    # Each round, and the one that finds that none is left.
    assert between(marks, 1) == Counts(user=MARK + rounds + 1, rep=rounds + 1)
    # A read of CR3 is none of its writes.
    assert between(marks, 2) == Counts(user=MARK + 3, cr3=2)


def test_two_runs_count_the_same_from_reset_on(tmp_path: Path, plugin: Path) -> None:
    vm = bare(tmp_path, plugin, 1000, None)
    first = run(vm, tmp_path)
    assert first == run(vm, tmp_path)
    # The firmware and QEMU's loader came before.
    assert first[0].instructions > 100_000


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("out=x", "text=5-5"), "not understood: text=5-5"),
        (("out=x", "other=1"), "not understood: other=1"),
        (("text=1-2",), "out=FILE is missing"),
        (("out=/nowhere/x",), "cannot write /nowhere/x"),
    ],
)
def test_what_the_plugin_does_not_understand_is_refused(
    tmp_path: Path, plugin: Path, extra: tuple[str, ...], words: str
) -> None:
    vm = bare(tmp_path, plugin, 1, None)
    option = ",".join([vm.extra[1].partition(",out=")[0], *extra])
    with (
        Machine(replace(vm, extra=("-plugin", option)), console=tmp_path / "c") as machine,
        pytest.raises(GuestError) as error,
    ):
        machine.start()
    assert words in error.value.detail


def test_a_second_processor_is_refused(tmp_path: Path, plugin: Path) -> None:
    vm = replace(bare(tmp_path, plugin, 1, None), cpus=2)
    with (
        Machine(vm, console=tmp_path / "c") as machine,
        pytest.raises(GuestError, match="QEMU failed") as error,
    ):
        machine.start()
    assert "one processor" in error.value.detail
