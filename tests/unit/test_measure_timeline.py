# SPDX-License-Identifier: Apache-2.0
"""When a guest comes where: what the plugin notes, and what is made of it."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.guests import assemble
from ukl_build.errors import UklError
from ukl_build.image import Init
from ukl_build.measure import timeline
from ukl_build.measure.guest import build_plugin, loading
from ukl_build.measure.timeline import Note, Place, asked, boot_places, milestones, noted
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import GuestError, Kind
from ukl_build.run.vm import Vm

ROUNDS = 100
ROUND = 12
"""Instructions of a round of guest.S's `nested`."""
MOST = 64
"""Notes that the plugin takes of one place."""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the plugin."""
    return build_plugin(tmp_path_factory.mktemp("plugin") / "plugin.so", timeline.POINTS)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Vm:
    """Return a machine whose guest calls functions that are known."""
    folder = tmp_path_factory.mktemp("guest")
    return Vm(
        name="bare",
        kernel=assemble(folder / "guest", "nested", "", f"-DROUNDS={ROUNDS}"),
        memory_mib=32,
        init=Init.DIRECT,
        repeatable=True,
        extra=loading(plugin, f"out={folder / 'points'}"),
    )


def symbols(vm: Vm) -> dict[str, int]:
    """Return the addresses of the guest's functions."""
    assert vm.kernel is not None
    lines = subprocess.run(["nm", vm.kernel], check=True, capture_output=True, text=True).stdout
    return {line.split()[2]: int(line.split()[0], 16) for line in lines.splitlines()}


def test_each_place_is_noted_with_the_instructions_before_it(tmp_path: Path, bare: Vm) -> None:
    known = symbols(bare)
    assert bare.kernel is not None
    points = bare.kernel.with_name("points")
    wanted = [known["tail"], known["middle"], known["nested"], 0x1234]
    points.write_bytes(asked(wanted))
    with Machine(bare, console=tmp_path / "console.log") as machine:
        machine.start()
        outcome = machine.wait(60)
        assert outcome is not None and outcome.kind is Kind.NO_STATUS
    notes = noted(points.read_bytes())
    of = {one: [note for note in notes if note.address == known[one]] for one in known}
    assert [len(of[one]) for one in ("nested", "middle", "tail")] == [1, MOST, MOST]
    # The first round: mov, mark, jmp, call; from the call of middle to tail 7.
    start = of["nested"][0].instructions
    assert of["middle"][0].instructions - start == 4
    assert of["tail"][0].instructions - of["middle"][0].instructions == 7
    assert {b.instructions - a.instructions for a, b in pairwise(of["middle"])} == {ROUND}
    (ready,) = (note for note in notes if note.address is None)
    # What comes before the rounds; behind them a jump, the mark of the end, and another jump.
    assert ready.instructions - start == 3 + ROUNDS * ROUND + 3
    assert [note.instructions for note in notes] == sorted(note.instructions for note in notes)
    assert all(a.seconds <= b.seconds for a, b in pairwise(notes))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "this names no places"),
        (b"", "this names no places"),
        (asked([1, 2])[:-1], "this names no places"),
        (b"x" * 4096, "this names no places"),
    ],
)
def test_a_file_that_names_no_places_is_refused(
    tmp_path: Path, bare: Vm, content: bytes | None, words: str
) -> None:
    assert bare.kernel is not None
    points = bare.kernel.with_name("points")
    points.unlink(missing_ok=True)
    if content is not None:
        points.write_bytes(content)
    with (
        Machine(bare, console=tmp_path / "c") as machine,
        pytest.raises(GuestError) as error,
    ):
        machine.start()
    assert words in error.value.detail


def test_a_second_processor_is_refused(tmp_path: Path, bare: Vm) -> None:
    with (
        Machine(replace(bare, cpus=2), console=tmp_path / "c") as machine,
        pytest.raises(GuestError) as error,
    ):
        machine.start()
    assert "one processor" in error.value.detail


def test_a_file_without_room_for_all_notes_is_no_result() -> None:
    data = bytearray(asked([1]))
    struct.pack_into("<I", data, 12, 1 << 20)
    with pytest.raises(UklError, match="have room") as error:
        noted(bytes(data))
    assert error.value.code == "measure-failed"
    with pytest.raises(UklError, match="cannot be read"):
        noted(b"")


def note(address: int, instructions: int) -> Note:
    return Note(address, instructions, instructions / 1000)


def test_milestones_are_in_order_though_addresses_come_again() -> None:
    order = [
        Place("decompressor", "", (0x100000,)),
        Place("init", "", (0x400000,)),
        Place("exec", "", (0x10,), last_before="entry"),
        Place("entry", "", (0x20,)),
        Place("main", "", (0x30,)),
        Place("listen", "", (0x40, 0x41)),
    ]
    notes = [
        *(note(0x400000, 5), note(0x100000, 10), note(0x10, 15)),  # the kernel starts the init
        *(note(0x400000, 20), note(0x10, 25), note(0x10, 30)),  # the init a program, and this one
        *(note(0x20, 35), note(0x10, 40), note(0x41, 50), note(0x40, 55), note(0x100000, 60)),
    ]
    found = {name: one.instructions for name, one in milestones(order, notes).items()}
    # Nobody came to main, and before the decompressor nothing is an init.
    assert found == {"decompressor": 10, "init": 20, "exec": 30, "entry": 35, "listen": 50}


def test_what_is_no_bzimage_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\0" * 4096)
    with pytest.raises(UklError, match="is no bzImage"):
        boot_places(tmp_path / "x")


def test_the_kernels_words_of_protections_are_found_without_their_times() -> None:
    lines = [
        "[    0.000000] NX (Execute Disable) protection: active",
        "[    0.015683] Spectre V1 : Mitigation: usercopy/swapgs barriers",
        "[    0.015683] MDS: Vulnerable: Clear CPU buffers attempted, no microcode",
        "[    0.667976] input: Power Button as /devices",
        "Spectre of an application",
    ]
    assert list(timeline.said(lines)) == [line.partition("] ")[2] for line in lines[:3]]
