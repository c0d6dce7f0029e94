# SPDX-License-Identifier: Apache-2.0
"""From the plugin's file, and what programs say, to the table."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ukl_build.elf.linked import application_text
from ukl_build.errors import UklError
from ukl_build.image import App, Image, Init, store
from ukl_build.measure import cli, plot, report
from ukl_build.measure.counts import (
    Announced,
    Batch,
    Counts,
    Mark,
    Role,
    Run,
    Which,
    Workload,
    announced,
    gather,
    parse,
)
from ukl_build.measure.guest import load_argv, machine
from ukl_build.model import store_result
from ukl_build.recipe import Bench, load
from ukl_build.recipe import Workload as Asked

N = len(Counts.model_fields)
NAMESPACE = b"http://www.w3.org/2000/svg"


def file_of(rows: Sequence[tuple[int, Sequence[int]]], **changes: int) -> bytes:
    """Return a file as the plugin writes it."""
    head = {"magic": 0x434C4B55, "version": 1, "counts": N, "roles": 3, "capacity": 4}
    head |= {"marks": len(rows)} | changes
    body = b"".join(struct.pack(f"<Q{3 * N}Q", which, *numbers) for which, numbers in rows)
    return struct.pack("<6I", *head.values()) + bytes(8 * N) + body


def mark(which: Which, measured: int, load: int = 0) -> Mark:
    """Return a mark after some instructions of the kernel."""
    return Mark(which, (Counts(kernel=measured), Counts(kernel=load), Counts()))


def test_a_file_has_counts_by_role_in_the_order_of_the_plugin() -> None:
    (found,) = parse(file_of([(1, range(3 * N))]))
    assert found.which is Which.BEGIN
    measured, made = found.counts[Role.MEASURED], found.counts[Role.LOAD]
    assert (measured.user, measured.application, measured.kernel) == (0, 1, 2)
    assert (measured.rep, measured.entries, measured.rings, made.user) == (3, N - 2, N - 1, N)
    assert measured.instructions == 3
    assert measured.transitions == 2 * (N - 1)
    assert found.instructions == sum(3 * (N * role + 1) for role in range(3))


def test_the_plugin_has_the_same_names_in_the_same_order() -> None:
    text = (Path(__file__).parents[2] / "measure" / "count.c").read_text()
    enum = text[text.index("enum count {") : text.index("COUNTS,")]
    names = [line.split(",")[0].strip().lower() for line in enum.splitlines() if "," in line]
    assert names == list(Counts.model_fields)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "damaged"),
        (file_of([(9, range(3 * N))]), "damaged"),
        (file_of([(1, range(3 * N))])[:-1], "damaged"),
        (file_of([], magic=0), "another version"),
        (file_of([], version=2), "another version"),
        (file_of([], counts=N + 1), "another version"),
        (file_of([], roles=4), "another version"),
        (file_of([], marks=5), "there is room for 4"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(UklError, match=words) as error:
        parse(data)
    assert error.value.code == "measure-failed"


def test_what_is_announced_is_found_between_other_lines() -> None:
    lines = ["[    0.1] bench: 1 2 x", "bench: 2000 3 GET, 1 connection", "bench: done", ""]
    assert announced(lines) == (Announced("GET, 1 connection", 2000, 3),)


def test_batches_are_what_is_between_marks() -> None:
    marks = [
        *(mark(Which.LOAD, 5), mark(Which.READY, 10, 7), mark(Which.BEGIN, 100, 10)),
        *(mark(Which.END, 150, 30), mark(Which.BEGIN, 200, 30), mark(Which.END, 260, 31)),
    ]
    run = gather(["bench: ready at 34", "bench: 10 2 a", "bench: done"], marks)
    assert (run.ready, run.ready_ns) == (17, 34)
    (workload,) = run.workloads
    assert [it.measured.kernel for it in workload.batches] == [50, 60]
    assert [it.load.kernel for it in workload.batches] == [20, 1]


@pytest.mark.parametrize(
    "which", [[], [Which.BEGIN], [Which.END, Which.BEGIN], [Which.BEGIN, Which.END] * 2]
)
def test_marks_that_are_not_announced_or_missing_are_an_error(which: list[Which]) -> None:
    with pytest.raises(UklError, match="2 marks of batches were expected"):
        gather(["bench: 10 1 a"], [mark(one, 0) for one in which])


def workload(name: str, kernel: Sequence[int], requests: int = 10, **others: int) -> Workload:
    """Return a workload with so many instructions in each batch."""
    batches = [
        Batch(measured=Counts(kernel=number, **others), load=Counts(), idle=Counts())
        for number in kernel
    ]
    return Workload(name=name, requests=requests, batches=tuple(batches))


def bar(image: str, *runs: Workload, pti: bool = False) -> report.Bar:
    """Return a bar of runs of one workload each."""
    made = tuple(Run(workloads=(one,)) for one in runs)
    return report.Bar(image=image, pti=pti, image_bytes=1, runs=made)


def test_a_cell_has_the_mean_and_the_spread_of_the_batches() -> None:
    one = workload("a", [90, 100, 110], user=5, application=15, rings=20, entries=30, cr3=40)
    found = report.cell(bar("ukl", one), "a", None)
    assert found is not None
    assert found.instructions.mean == 12
    assert found.instructions.spread == pytest.approx(10 / 120)
    assert (found.application, found.transitions, found.entries, found.cr3) == (2, 4, 3, 4)
    assert found.ratio is None
    assert report.cell(bar("ukl", one), "b", None) is None


def test_the_ratio_is_to_the_twin_with_the_same_setting() -> None:
    bars = (
        *(bar("ukl", workload("a", [50])), bar("twin", workload("a", [100]))),
        *(bar("ukl", workload("a", [60]), pti=True), bar("twin", workload("a", [80]), pti=True)),
    )
    result = report.Result(app="x", qemu="7", bars=bars)
    ratios = []
    for _, some in report.settings(result):
        found = report.cell(some[0], "a", report.base_of(some))
        assert found is not None
        ratios.append(found.ratio)
    assert ratios == [0.5, 0.75]


def test_runs_that_differ_by_one_instruction_of_anybody_are_told() -> None:
    same = workload("a", [100, 101])
    assert report.repeats(bar("ukl", same, workload("a", [100, 101])), "a")
    assert not report.repeats(bar("ukl", same, workload("a", [100, 102])), "a")
    assert not report.repeats(bar("ukl", same, workload("a", [100, 101], hlt=1)), "a")


def test_the_table_shows_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    bars = (
        bar("ukl", workload("a", [500]), workload("a", [501])),
        bar("twin", workload("a", [1000], rings=20)),
        bar("stock", workload("b", [70])),
    )
    result = report.Result(app="redis", qemu="7", bars=bars)
    cli.show(result)
    said = capsys.readouterr().out
    assert "redis, pti=off" in said
    (row,) = [line for line in said.splitlines() if "│ a " in line]
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        *("a", "50  x 0.500", "100  x 1.000", "-"),
    ]
    assert "4.00 rings" in said
    assert "runs differ" in said
    with pytest.raises(UklError, match="are no result") as error:
        cli.check(result)
    assert error.value.detail == "a on ukl, pti=off"
    cli.check(result.model_copy(update={"bars": bars[1:]}))


def test_what_is_said_of_images_stands_below_the_requests() -> None:
    """What nobody has is no row, what one lacks is a dash."""
    ready = Run(ready=2_000_000, ready_ns=34_500_000, workloads=(workload("a", [500]),))
    full = bar("ukl", workload("a", [500])).model_copy(
        update={"runs": (ready,), "memory_mib": 40, "versions": {"redis": "7", "Linux": "6.1"}}
    )
    plain = bar("twin", workload("a", [500]))
    assert report.facts([full, plain]) == [
        ("power-on to the first answer, instructions", ["2,000,000", "-"]),
        ("the same, seconds of the guest's clock", ["0.035", "-"]),
        ("smallest memory, MiB", ["40", "-"]),
        ("bytes that are booted", ["1", "1"]),
        ("version of redis", ["7", "-"]),
        ("version of Linux", ["6.1", "-"]),
    ]
    assert [what for what, _ in report.facts([plain])] == ["bytes that are booted"]


def test_the_table_for_a_document_has_both_settings_and_the_ratios() -> None:
    bars = (
        bar("ukl", workload("a", [600_000])),
        bar("twin", workload("a", [800_000], rings=20)),
        bar("stock", workload("b", [70])),
        bar("ukl", workload("a", [700_000]), pti=True),
    )
    assert report.markdown(report.Result(app="redis", qemu="7", bars=bars)) == (
        "| redis | pti | ukl | twin | stock | ukl / twin | ukl / stock |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| a | off | 60,000 · 0.0 | 80,000 · 4.0 | - | 0.750 | - |\n"
        "| b | off | - | - | 7 · 0.0 | - | - |\n"
        "| a | on | 70,000 · 0.0 | - | - | - | - |\n"
        "| bytes that are booted |  | 1 | 1 | 1 |  |  |\n"
    )


def test_the_result_file_has_all_counts(tmp_path: Path) -> None:
    result = report.Result(app="x", qemu="7", bars=(bar("ukl", workload("a", [1, 2])),))
    store_result(result, tmp_path / "r.json")
    assert report.Result.model_validate_json((tmp_path / "r.json").read_bytes()) == result


def image(folder: Path, **changes: object) -> Image:
    """Write an image.json and return it."""
    values = {"name": "x", "kernel": "x.bzImage", "cmdline": ("quiet",), "memory_mib": 64}
    made = Image(**{**values, "cpus": 2, "app": App(argv=("/UKL",)), **changes})  # type: ignore[arg-type]
    store(made, folder / "image.json")
    return made


def test_the_machine_has_one_processor_and_no_random_addresses(tmp_path: Path) -> None:
    vm = machine(image(tmp_path), tmp_path, pti=True)
    assert vm.repeatable and vm.cpus == 1
    assert vm.cmdline[-5:] == ("quiet", "nokaslr", "norandmaps", "ukl.ip=none", "pti=on")
    with pytest.raises(UklError, match="without our init"):
        machine(image(tmp_path, init=Init.DIRECT), tmp_path, pti=True)


def test_the_load_gets_nine_words_for_each_workload() -> None:
    asked = Asked(name="a b", connections=5, requests=7, send="x\r\n", expect="y")
    words = load_argv(Bench(port=80, workloads=(asked, asked)))
    assert words[:2] == ("/ukl-load", "80")
    assert words[2:11] == ("a b", "5", "7", "3", "", "", "x\r\n", "y", "")
    assert len(words) == 2 + 2 * 9


def test_images_that_are_not_built_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tmp_path)
    missing = tmp_path / "stock"
    assert cli.present([tmp_path, missing]) == [tmp_path]
    assert f"{missing} is not built" in capsys.readouterr().err
    with pytest.raises(UklError, match="none of the images is built"):
        cli.present([missing])


def test_an_application_without_bench_is_told(tmp_path: Path) -> None:
    root = Path(__file__).parents[2] / "recipes"
    with pytest.raises(UklError, match="tcp_server does not say what is to be counted"):
        cli.bench_of(root / "tcp_server")
    with pytest.raises(UklError, match="the recipe of linux"):
        cli.bench_of(root / "linux")
    assert cli.bench_of(root / "redis")[0].name == "redis"


def test_nginx_is_asked_for_a_page_of_1_kib_with_an_end_of_its_own() -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    _, bench = cli.bench_of(recipes / "nginx")
    page = (recipes / "nginx" / "index.html").read_text()
    assert len(page) == 1024
    for one in bench.workloads:
        assert "1 KiB" in one.name
        assert page.index(one.until) == len(page) - len(one.until)


def test_workloads_need_a_port(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "recipes" / "redis" / "recipe.toml").read_text()
    (tmp_path / "redis").mkdir()
    bad = text.replace('""]\nport = 6379\n', '""]\n')
    assert bad != text
    (tmp_path / "redis" / "recipe.toml").write_text(bad)
    with pytest.raises(UklError, match="port is missing"):
        load(tmp_path / "redis")


def test_where_the_applications_code_is_comes_from_the_linker(tmp_path: Path) -> None:
    source, out = tmp_path / "a.S", tmp_path / "a"
    names = "__ukl_text_start", "__ukl_text_end", "__ukl_text_end_of_another"
    source.write_text("".join(f".globl {name}\n{name}: .quad 0\n" for name in names))
    subprocess.run(["gcc", "-c", "-o", out, source], check=True)
    assert application_text(out) == (0, 8)
    source.write_text(f"{names[0]}: .quad 0\n")
    subprocess.run(["gcc", "-c", "-o", out, source], check=True)
    assert application_text(out) is None
    out.write_bytes(b"no ELF")
    with pytest.raises(UklError, match="cannot be read"):
        application_text(out)


def test_the_drawing_has_all_bars_and_is_the_same_each_time() -> None:
    bars = (
        *(bar("ukl", workload("a", [500])), bar("twin", workload("a", [1000]))),
        bar("stock", workload("b & c", [70])),
    )
    drawn = plot.draw("redis", bars)
    root = ElementTree.fromstring(drawn)
    texts = {"".join(node.itertext()).strip() for node in root.iter() if node.text}
    assert {"ukl", "twin", "stock", "a", "b & c", "50  x 0.500", "twin = 1"} <= texts
    assert any("redis, pti=off" in text for text in texts)
    # Nothing is fetched or runs when it is looked at, and no date makes it another file.
    assert not [
        word for word in (b"<script", b"<!--", b"http") if word in drawn.replace(NAMESPACE, b"")
    ]
    assert drawn == plot.draw("redis", bars)
    alone = ElementTree.fromstring(plot.draw("redis", bars[:1]))
    assert "50" in {"".join(node.itertext()).strip() for node in alone.iter() if node.text}


@pytest.mark.parametrize("others", [(), ("stock",), ("twin", "stock")])
@pytest.mark.parametrize("most", [200_000, 900_000_000])
def test_a_drawing_shows_each_bar_with_its_words(others: Sequence[str], most: int) -> None:
    """The shortest has a length, no word is cut, the words begin in the bar."""
    long = "write and read, a very long name of a request through a pipe"
    bars = [
        report.Bar(
            image=name,
            pti=False,
            image_bytes=1,
            runs=(Run(workloads=(workload("a", [100_000]), workload(long, [most]))),),
        )
        for name in ("ukl", *others)
    ]
    root = ElementTree.fromstring(plot.draw("calls", bars))
    rects = [node for node in root.iter() if "reactive" in node.get("class", "")]
    widths = [float(node.get("width", "0")) for node in rects if node.tag.endswith("rect")]
    drawn = [width for width in widths if width != 12]  # boxes of the legend
    assert len(drawn) == 2 * len(bars)
    assert min(drawn) > 5
    assert max(drawn) < plot.WIDTH
    texts = {"".join(node.itertext()).strip() for node in root.iter() if node.text}
    assert not [text for text in texts if "…" in text]
    words = [node for node in root.iter() if node.tag.endswith("text")]
    values = [node for node in words if node.get("class") == "value"]
    assert len(values) == 2 * len(bars)
    assert {node.get("text-anchor") for node in values} == {"start"}
    said = {"".join(node.itertext()) for node in values}
    assert said == {
        f"{number:,}{'  x 1.000' if 'twin' in others else ''}" for number in (10_000, most // 10)
    }


def test_an_image_has_the_same_colour_whatever_is_beside_it() -> None:
    bars = [bar(name, workload("a", [500])) for name in ("ukl", "twin", "stock")]
    for some in (bars, bars[::2]):
        drawn = plot.draw("redis", some).decode()
        last = f".color-{len(some) - 1}"
        assert re.search(rf"{last}\b[^{{]*{{[^}}]*{plot.OTHER_COLOUR}", drawn)
        assert re.search(rf"\.color-0\b[^{{]*{{[^}}]*{plot.COLOURS['ukl']}", drawn)


def test_each_setting_has_a_drawing_of_its_own(tmp_path: Path) -> None:
    bars = (bar("ukl", workload("a", [1])), bar("ukl", workload("a", [2]), pti=True))
    result = report.Result(app="x", qemu="7", bars=bars)
    assert cli.drawings(result, tmp_path / "bench.json") == [
        (tmp_path / "bench-pti-off.svg", [bars[0]]),
        (tmp_path / "bench-pti-on.svg", [bars[1]]),
    ]
