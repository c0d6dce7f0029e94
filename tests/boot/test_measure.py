# SPDX-License-Identifier: Apache-2.0
"""What is counted of Linux guests: to the instruction, and the same in every run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.boot.conftest import application
from tests.boot.ring0 import RING0, Ring0, ordinary, relink
from tests.conftest import scons
from ukl_build.errors import UklError
from ukl_build.image import App, Image, load, store
from ukl_build.measure import profiler, wall
from ukl_build.measure.counts import Counts, Run
from ukl_build.measure.guest import Programs, machine, observe, run
from ukl_build.measure.report import Result, cell, names
from ukl_build.recipe import Bench, Workload
from ukl_build.run.vm import Accel, Vm

pytestmark = [pytest.mark.boot, pytest.mark.long]

ROUNDS = 500_000
CALLS = 100
MARK = 1
"""The mark at the beginning is counted after it has been noted."""

ORDINARY = "/counted"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Compile the plugin and the load."""
    return Programs.build(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def image(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Ring0:
    """Link what is to be counted into a copy of the kernel."""
    return relink(built, tmp_path_factory.mktemp("ring0"), ("counted",))


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the same as an ordinary program."""
    return ordinary(tmp_path_factory.mktemp("ordinary"), "counted")


def described(kernel: Path) -> Image:
    """Return the description of an image."""
    app = App(argv=(RING0,))
    return Image(name="x", kernel=str(kernel), cmdline=(), memory_mib=128, cpus=1, app=app)


def vm_of(image: Ring0) -> Vm:
    """Return the machine that an image is measured on; the base is inside the kernel."""
    return machine(described(image.kernel), Path("/"), pti=False)


def batches(found: Run) -> tuple[Counts, Counts]:
    """Return what the loop and the system calls took."""
    loop, calls = found.workloads
    assert (loop.name, calls.name) == ("loop", "calls")
    return loop.batches[0].measured, calls.batches[0].measured


def in_ring3(
    image: Ring0, counted: Path, programs: Programs, folder: Path, calls: int
) -> tuple[Counts, Counts]:
    """Count the ordinary program."""
    folder.mkdir()
    argv = (ORDINARY, str(ROUNDS), str(calls))
    over = {"programs": {ORDINARY: counted}, "app": ORDINARY, "argv": argv}
    return batches(observe(vm_of(image), programs.plugin, folder, **over))


def in_ring0(image: Ring0, programs: Programs, folder: Path, calls: int) -> tuple[Counts, Counts]:
    """Count the program in the kernel."""
    folder.mkdir()
    argv = (RING0, str(ROUNDS), str(calls))
    return batches(observe(vm_of(image), programs.plugin, folder, argv=argv))


def test_an_ordinary_program_is_counted_to_the_instruction(
    image: Ring0, counted: Path, programs: Programs, tmp_path: Path
) -> None:
    first = in_ring3(image, counted, programs, tmp_path / "a", CALLS)
    assert first == in_ring3(image, counted, programs, tmp_path / "b", CALLS)
    loop, calls = first
    # The clock may interrupt the loop, which is an instruction of the kernel's, not of the loop.
    assert (loop.user, loop.application, loop.syscall) == (MARK + 2 * ROUNDS, 0, 0)
    assert calls.application == 0
    assert (calls.syscall, calls.sysret) == (CALLS, CALLS)
    assert CALLS <= calls.rings == calls.entries <= CALLS + 1

    # One more is seen, and nothing else.
    _, more = in_ring3(image, counted, programs, tmp_path / "c", CALLS + 1)
    one = more - calls
    assert (one.syscall, one.sysret, one.rings, one.entries) == (1, 1, 1, 1)
    assert 0 < one.user == (calls.user - MARK) // CALLS < 20
    assert 20 < one.kernel < 1000


def test_an_application_in_ring_0_is_counted_to_the_instruction(
    image: Ring0, programs: Programs, tmp_path: Path
) -> None:
    first = in_ring0(image, programs, tmp_path / "a", CALLS)
    assert first == in_ring0(image, programs, tmp_path / "b", CALLS)
    loop, calls = first
    assert (loop.application, loop.user, loop.syscall) == (MARK + 2 * ROUNDS, 0, 0)
    # Debian's C library has SYSCALL instructions, which change no ring here.
    assert (calls.syscall, calls.sysret, calls.user, calls.rings) == (CALLS, 0, 0, 0)
    assert CALLS <= calls.entries <= CALLS + 1
    assert calls.iret >= CALLS

    _, more = in_ring0(image, programs, tmp_path / "c", CALLS + 1)
    one = more - calls
    assert (one.syscall, one.rings, one.entries) == (1, 0, 1)
    assert 0 < one.application < 30


def test_requests_are_the_applications_and_not_the_loads(
    built: Path, programs: Programs, tmp_path: Path
) -> None:
    """The echo server without a C library makes two system calls for each request, or three."""
    asked = Workload(name="echo", connections=4, requests=400, send="hello\n", expect="hello\n")
    bench = Bench(port=5555, workloads=(asked,))
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        what = described(built / "tcp_server.bzImage")
        found.append(run(what, Path("/"), bench, programs, tmp_path / name, pti=False))
    assert found[0] == found[1]
    ready = found[0].ready
    assert ready is not None and 50e6 < ready < 2e9
    # An instruction is a nanosecond, and it may have idled meanwhile.
    ready_ns = found[0].ready_ns
    assert ready_ns is not None and 0.99 * ready < ready_ns < 10 * ready
    (workload,) = found[0].workloads
    for batch in workload.batches:
        # All in ring 0, but the load's.
        assert batch.measured.user == 0 < batch.measured.application
        assert batch.load.application == 0 < batch.load.user
        assert batch.measured.rings == 0
        # It sends each, and receives and waits for no more than that.
        assert 2 * 400 <= batch.load.rings <= 3 * 400 + 10
        assert 2 * 400 <= batch.measured.entries <= 3 * 400 + 10
        assert batch.idle.instructions == 0


def test_requests_are_timed_in_emulation(built: Path, programs: Programs, tmp_path: Path) -> None:
    """Where KVM works it is the same but for the accelerator."""
    asked = Workload(name="echo", connections=4, requests=400, send="hello\n", expect="hello\n")
    store(described(built / "tcp_server.bzImage"), tmp_path / "image.json")
    (bar,) = wall.measure(
        [("ukl", tmp_path)],
        Bench(port=5555, workloads=(asked,)),
        programs,
        accel=Accel.TCG,
        settings=(False,),
        rounds=2,
        say=print,
    )
    for run_of_guest in bar.runs:
        (one,) = run_of_guest
        assert (one.name, len(one.took_ns)) == ("echo", 3)
        # A request is 10,000 instructions or so on both sides.
        assert 10 < one.each_us < 100_000


def test_a_wrong_answer_is_an_error_with_the_console(
    built: Path, programs: Programs, tmp_path: Path
) -> None:
    asked = Workload(name="echo", requests=4, send="hello\n", expect="other\n")
    bench = Bench(port=5555, workloads=(asked,))
    with pytest.raises(UklError, match="not all that is to be counted was done") as error:
        what = described(built / "tcp_server.bzImage")
        run(what, Path("/"), bench, programs, tmp_path, pti=False)
    assert "another answer was expected than hello" in error.value.detail


def test_bench_counts_system_calls_of_an_image(built: Path) -> None:
    """The target of SCons, with nothing beside the image; and what its file says."""
    # As the kernel that is there: less is compiled.
    out = application("calls", built, "fragments=virtio-net", target="bench")
    result = Result.model_validate_json((out / "bench.json").read_bytes())
    assert [(bar.image, bar.pti, len(bar.runs)) for bar in result.bars] == [
        *(("ukl", False, 2), ("ukl", True, 2)),
    ]
    for bar in result.bars:
        assert bar.runs[0] == bar.runs[1]
        cells = {name: cell(bar, name, None) for name in names([bar])}
        assert len(cells) == 15
        for one in cells.values():
            # None of them is left out by a compiler, and none has a long way.
            assert one is not None and one.entries > 0.99
            assert one.instructions.mean < 2_000_000
            assert one.transitions < 0.01
        getppid = cells["getppid"]
        assert getppid is not None
        assert getppid.entries == pytest.approx(1, abs=0.01)
        assert getppid.instructions.mean < 500
        # Both halves are about the whole; memory of the one is still warm for the other there.
        halves = [cells[f"{name}, 1 byte by UDP"] for name in ("sendto", "recvfrom")]
        both = cells["sendto and recvfrom, 1 byte by UDP"]
        assert both is not None
        assert sum(it.instructions.mean for it in halves if it) == pytest.approx(
            both.instructions.mean, rel=0.1
        )
        assert bar.memory_mib is not None and 16 < bar.memory_mib < 128
        assert set(bar.versions) == {"Linux"}


def test_an_ordinary_process_takes_the_same_beside_an_application(
    built: Path, programs: Programs, tmp_path: Path
) -> None:
    """One program in ring 3, on the kernel with an application in it and on one without."""
    # In a folder of its own: where there is a twin, bench and profile look at it as well.
    words, build = ("fragments=virtio-net",), "build/beside"
    out = application("calls", built, *words, target="image", build=build)
    scons("app=calls", f"build={build}", *words, "twin")
    found = []
    for folder in (out / "twin", out):
        image = load(folder / "image.json")
        scratch = tmp_path / image.variant
        scratch.mkdir()
        over = {"programs": {ORDINARY: out / "twin" / "calls"}, "app": ORDINARY}
        vm = machine(image, folder, pti=False)
        took = observe(vm, programs.plugin, scratch, **over, argv=(ORDINARY,)).workloads
        assert all(batch.measured.application == 0 for one in took for batch in one.batches)
        found.append(
            {one.name: sum(it.measured.instructions for it in one.batches) for one in took}
        )
    without, beside = found
    assert beside.keys() == without.keys()
    print(*(f"{name}: {beside[name] / without[name]:.4f}" for name in without), sep="\n")
    # Three instructions for each access_ok(), of which this one has four, and six in the entry.
    dear = "read, 1 byte of /dev/zero"
    assert [name for name in without if beside[name] > 1.03 * without[name]] == [dear]
    assert beside[dear] < 1.045 * without[dear]


def test_a_profile_agrees_with_what_is_counted(built: Path) -> None:
    """To the block that a batch begins or ends in, and faults in the middle of one."""
    words = "fragments=virtio-net"
    bench = application("calls", built, words, target="bench") / "bench.json"
    out = application("calls", built, words, target="profile")
    bar = Result.model_validate_json(bench.read_bytes()).bars[0]
    found = profiler.Result.model_validate_json((out / "profile.json").read_bytes())
    assert (bar.image, bar.pti, found.images, found.pti) == ("ukl", False, ("ukl",), False)
    for one in found.workloads:
        counted = cell(bar, one.name, None)
        assert counted is not None
        whole = sum(row.instructions["ukl"] for row in one.rows)
        # Faults end blocks in the middle; threads and processes take many.
        assert whole == pytest.approx(counted.instructions.mean, rel=0.005), one.name
    (getppid,) = [one for one in found.workloads if one.name == "getppid"]
    layers = {name: numbers["ukl"] for name, numbers in getppid.layers().items()}
    rows = {row.function: row.instructions["ukl"] for row in getppid.rows}
    # docs/design.md says how many there are outside the kernel's own function.
    assert layers["entry and exit"] == pytest.approx(33, abs=0.5)
    assert layers["C library"] == pytest.approx(2, abs=0.1)
    assert rows["__x64_sys_getppid"] + rows["__task_pid_nr_ns"] > 20
    drawing = (out / "profile-ukl-getppid.svg").read_text()
    # Who called it is there: the path is not only a sum.
    assert "__x64_sys_getppid (processes and signals)" in drawing
    assert {"ukl.main", "ukl.getppid", "ukl_sys_110"} <= set(re.findall(r"<title>(\S+) ", drawing))
