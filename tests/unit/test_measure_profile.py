# SPDX-License-Identifier: Apache-2.0
"""Where instructions are: the plugin that tells, what is read of its file, and what is drawn."""

from __future__ import annotations

import io
import struct
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.guests import assemble
from ukl_build import layers
from ukl_build.elf.functions import Function, Functions, functions
from ukl_build.errors import UklError
from ukl_build.image import Init
from ukl_build.measure import calltree, flame, profiler
from ukl_build.measure.counts import Announced
from ukl_build.measure.guest import build_plugin, counting
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind
from ukl_build.run.vm import Vm

ENOUGH_S = 60.0
LABELS = ("nested", "middle", "inner", "tail", "no_idt")

# --- The plugin


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the plugin."""
    return build_plugin(tmp_path_factory.mktemp("plugin") / "profile.so", profiler.PLUGIN)


def labels(path: Path) -> Functions:
    """Return the functions of the guest."""
    text = subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
    found = {name: int(address, 16) for address, _, name in map(str.split, text.splitlines())}
    ends = sorted(found[name] for name in LABELS)
    return Functions(
        [
            Function(found[name], ends[ends.index(found[name]) + 1], name)
            for name in LABELS
            if found[name] != ends[-1]
        ]
    )


@pytest.mark.parametrize("rounds", [1, 1000])
def test_what_functions_take_and_who_called_them(tmp_path: Path, plugin: Path, rounds: int) -> None:
    guest = assemble(tmp_path / "guest", "nested", "", f"-DROUNDS={rounds}")
    vm = Vm(
        name="bare",
        kernel=guest,
        memory_mib=32,
        init=Init.DIRECT,
        repeatable=True,
        extra=counting(plugin, tmp_path / "out", None),
    )
    with Machine(vm, console=tmp_path / "console.log") as machine:
        machine.start()
        outcome = machine.wait(ENOUGH_S)
        assert outcome is not None and outcome.kind is Kind.NO_STATUS
    tree = calltree.parse((tmp_path / "out").read_bytes())
    assert tree.batches == 1
    found = calltree.stacks(tree, labels(guest), range(1))
    assert calltree.by_function(found) == {
        # The jump to the loop is in the block of the mark, and the mark's own end is counted.
        "nested": 3 * rounds + 1 + 2,
        "middle": 4 * rounds,
        "inner": 3 * rounds,
        "tail": 2 * rounds,
    }
    # Whatever the firmware left on the stack is below; nobody has called the first of these.
    assert {stack[-2:] for stack in found if stack[-1] in ("inner", "tail")} == {
        ("middle", "inner"),
        ("middle", "tail"),
    }
    assert {stack[-2:].count("middle") for stack in found if stack[-1] == "middle"} == {1}


def test_of_several_names_of_a_place_the_first_counts() -> None:
    found = Functions([Function(2, 9, "b"), Function(1, 2, "a"), Function(2, 2, "label")])
    assert [found.at(place) for place in (0, 1, 2, 8, 9)] == ["0x0", "a", "b", "b", "0x0"]


# --- Its file

NAMED = Functions([Function(0x100, 0x200, "outer"), Function(0x200, 0x280, "inner")])


def written(
    calls: list[tuple[int, int]], places: list[tuple[int, int, int, int]], **head: int
) -> bytes:
    """Return a file as the plugin writes it."""
    fields = {"magic": 0x504C4B55, "format": 1, "nodes": len(calls), "leaves": len(places) + 1}
    fields |= {"batches": 2, "lost": 0} | head
    data = struct.pack("<6I", *fields.values())
    data += b"".join(struct.pack("<IIQ", parent, 0, entry) for parent, entry in calls)
    data = data.ljust(24 + 16 * (1 << 18), b"\0") + bytes(24)
    return data + b"".join(struct.pack("<IIQQ", *leaf) for leaf in places)


NODES = [(0, 0), (0, 0x100), (1, 0x200)]
LEAVES = [
    (1, 0, 0x110, 5),
    (2, 0, 0x210, 7),
    (2, 1, 0x210, 100),
    (2, 0, 0x150, 2),
    (0, 0, 0x9000, 1),
]


def test_blocks_are_put_where_they_were_executed() -> None:
    tree = calltree.parse(written(NODES, LEAVES))
    found = calltree.stacks(tree, NAMED, range(1))
    assert found == {
        ("outer",): 5,
        ("outer", "inner"): 7,
        ("outer", "inner", "outer"): 2,  # by a jump
        ("0x9000",): 1,
    }
    assert calltree.by_function(found) == {"outer": 7, "inner": 7, "0x9000": 1}
    assert calltree.stacks(tree, NAMED, range(1, 2)) == {("outer", "inner"): 100}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"short", "unpack"),
        (written(NODES, LEAVES)[:-4], "unpack"),
        (written(NODES, LEAVES, magic=1), "another version"),
        (written(NODES, LEAVES, format=9), "another version"),
        (written(NODES, LEAVES, lost=1), "no room"),
        (written(NODES, LEAVES, nodes=1 << 18), "no room"),
        (written([(0, 0), (1, 0x100)], []), "by itself"),
        (written(NODES, [(7, 0, 0x100, 1)]), "nobody's"),
        (written(NODES, [(0, 2, 0x100, 1)]), "nobody's"),
    ],
)
def test_a_damaged_file_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(UklError, match="measure-failed") as error:
        calltree.parse(data)
    assert words in error.value.message


def test_batches_belong_to_what_was_announced() -> None:
    tree = calltree.parse(written(NODES, LEAVES))
    one, other = Announced("a", 10, 1), Announced("b", 20, 1)
    assert calltree.of_workload([one, other], tree) == [(one, range(1)), (other, range(1, 2))]
    with pytest.raises(UklError, match="3 batches were expected, and 2 came"):
        calltree.of_workload([one, Announced("b", 20, 2)], tree)


# --- Names

TWICE = '__attribute__((noinline)) static int twice(int n) { asm(""); return n + 1; }\n'


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a program whose two files have a function of one name each."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "one.c").write_text(TWICE + "int main(int n, char **v) { (void)v; return twice(n); }")
    (folder / "two.c").write_text(TWICE + "int other(int n); int other(int n) { return twice(n); }")
    (folder / "asm.S").write_text(".text\n.globl bare\nbare: nop\nnop\n.globl after\nafter: ret\n")
    files = [folder / name for name in ("one.c", "two.c", "asm.S")]
    subprocess.run(["gcc", "-O1", "-o", folder / "program", *files], check=True)
    return folder / "program"


def test_functions_of_one_name_are_told_apart_by_their_files(program: Path) -> None:
    found = {one.name: one for one in functions(program)}
    assert {"twice (one.c)", "twice (two.c)", "main", "other"} <= set(found)
    assert found["bare"].end == found["after"].address
    assert found["main"].end > found["main"].address
    prefixed = {one.name for one in functions(program, prefix="ukl.")}
    assert "ukl.twice (two.c)" in prefixed


def test_a_program_without_symbols_is_refused(program: Path, tmp_path: Path) -> None:
    subprocess.run(["strip", "-o", tmp_path / "stripped", program], check=True)
    with pytest.raises(UklError, match="elf-format"):
        list(functions(tmp_path / "stripped"))


def test_layers_are_folders_of_the_kernel() -> None:
    names = layers.Names(
        kernel={
            "tcp_sendmsg": frozenset({"net/ipv4/tcp.o"}),
            "vfs_read": frozenset({"fs/read_write.o"}),
            "twice": frozenset({"kernel/sched/core.o", "drivers/net/loopback.o"}),
            "ukl_time": frozenset({"arch/x86/entry/ukl_time.o"}),
            "ukl_bypass": frozenset({"arch/x86/entry/ukl_64.o"}),
        },
        library=frozenset({"memcpy"}),
    )
    assert {
        name: names.layer(name)
        for name in ("tcp_sendmsg", "vfs_read", "twice (core.c)", "twice (loopback.c)",
                     "ukl.memcpy", "ukl.main", "nobody", "0x1000", "ukl_time", "ukl_bypass", "vDSO")
    } == {
        "tcp_sendmsg": "TCP",
        "vfs_read": "VFS",
        "twice (core.c)": "scheduler",
        "twice (loopback.c)": "drivers",
        "ukl.memcpy": "C library",
        "ukl.main": "application",
        "nobody": "other",
        "0x1000": "other",
        "ukl_time": "vDSO",
        "ukl_bypass": "entry and exit",
        "vDSO": "vDSO",
    }  # fmt: skip


def test_the_objects_of_a_kernel_are_asked_for_their_functions(tmp_path: Path) -> None:
    for path, name in (("fs/a.o", "one"), ("net/ipv4/tcp.o", "two"), ("lib/c.o", "three")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        source = f"int {name}(void); int {name}(void) {{ return 1; }} int {name}_data = 1;"
        words: list[str | Path] = ["gcc", "-c", "-x", "c", "-o", tmp_path / path, "-"]
        subprocess.run(words, input=source, text=True, check=True)
    (tmp_path / "arch/x86/lib").mkdir(parents=True)
    for archive, *members in (
        ("vmlinux.a", "fs/a.o", "net/ipv4/tcp.o"),
        ("lib/lib.a", "lib/c.o"),
        ("arch/x86/lib/lib.a",),
    ):
        subprocess.run(["ar", "crT", archive, *members], cwd=tmp_path, check=True)
    found = layers.kernel_names(tmp_path)
    assert {name: set(paths) for name, paths in found.items()} == {
        "one": {"fs/a.o"},
        "two": {"net/ipv4/tcp.o"},
        "three": {"lib/c.o"},
    }


# --- The drawing

STACKS = Counter({("a",): 100, ("a", "b"): 300, ("a", "b", "c<{}>"): 200, ("d",): 400})


def test_boxes_are_as_wide_as_what_they_took() -> None:
    root = flame.boxes(STACKS, 10)
    assert root.whole == 100
    found = {one.name: one for one in flame.placed(root)}
    assert {name: round(one.width) for name, one in found.items()} == {
        "a": 720, "b": 600, "c<{}>": 240, "d": 480,
    }  # fmt: skip
    assert found["b"].left == found["a"].left == 0
    assert found["d"].left == pytest.approx(720)
    assert [found[name].depth for name in ("a", "b", "c<{}>", "d")] == [0, 1, 2, 0]


def test_the_drawing_is_svg_that_says_what_each_box_is() -> None:
    text = flame.draw("app & co", flame.boxes(STACKS, 10), lambda name: f"layer {name[0]}")
    root = ET.fromstring(text)
    name = "{http://www.w3.org/2000/svg}"
    titles = [one.text for one in root.iter(f"{name}title")]
    assert "c<{}> (layer c): 20 instructions, 20.00 %, 20 its own" in titles
    assert "a (layer a): 60 instructions, 60.00 %, 10 its own" in titles
    words = [one.text for one in root.iter(f"{name}text")]
    assert "app & co: 100 instructions for one request" in words
    assert {"layer a", "layer b", "layer c", "layer d"} <= set(words)
    height = float(root.get("height") or 0)
    for one in root.iter(f"{name}rect"):
        assert float(one.get("x") or 0) >= 0 and float(one.get("width") or 0) <= flame.WIDTH
        assert float(one.get("y") or 0) + float(one.get("height") or 0) <= height


def test_nothing_can_be_drawn_as_well() -> None:
    assert "0 instructions" in flame.draw("nothing", flame.boxes({}, 1), str)


# --- The table


def test_images_stand_beside_each_other() -> None:
    names = layers.Names({"b": frozenset({"fs/b.o"})}, frozenset())
    seen = [
        profiler.Seen("ukl", {"GET": {("a", "b"): 300, ("ukl.main",): 10}}, {"GET": 10}, names),
        profiler.Seen("twin", {"GET": {("b",): 800, ("only",): 20}}, {"GET": 20}, names),
    ]
    (workload,) = profiler.together(seen)
    assert [(row.function, row.layer, row.instructions) for row in workload.rows] == [
        ("b", "VFS", {"ukl": 30.0, "twin": 40.0}),
        ("ukl.main", "application", {"ukl": 1.0}),
        ("only", "other", {"twin": 1.0}),
    ]
    assert workload.layers()["VFS"] == {"ukl": 30.0, "twin": 40.0}
    result = profiler.Result(
        app="x", qemu="q", pti=False, images=("ukl", "twin"), workloads=(workload,)
    )
    with io.StringIO() as file:
        Console(width=100, file=file).print(profiler.table(result, workload))
        text = file.getvalue()
    assert "ukl - twin" in text and "-10" in text


def test_names_of_drawings_are_names_of_files() -> None:
    assert profiler.file_name("GET, 50 connections") == "get-50-connections"
