# SPDX-License-Identifier: Apache-2.0
"""What a program may use, in ring 0 as in ring 3: the same objects, the same C library, one guest.

The objects of ``guest/posix.c`` are linked twice with the C library that is built for ring 0: into
the kernel, and as an ordinary static program.  A guest runs each theme of it in both rings, one
after the other; both must make the same checks, in the same order, with the same result, print the
same values and end with the same status.  test_ring0.py tells how the programs say so.
``nouns.toml`` has the list of what is tested.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot import ring0
from tests.boot.conftest import ended
from tests.boot.test_ring0 import COMPLAINTS, QUIET, Part, parts
from ukl_build import cpio, toolchain
from ukl_build.initconf import Job
from ukl_build.run.guest import start_guest
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.qemu import CPU_MODELS
from ukl_build.run.vm import Accel, Drive, Vm
from ukl_build.stages import libc

pytestmark = pytest.mark.boot

THEMES = (
    *("stdio", "runtime", "cxx", "string", "memory", "threads", "cancel", "signals", "contexts"),
    *("timers", "io", "pins", "net", "process", "names", "limits", "values"),
)
"""Parts of the program, each in a file of its own."""
DISK = "disk"
"""One for which the kernel of the others has no driver."""
PARTS = ("posix", *THEMES, DISK)
WITHOUT_AVX = ("string", "cxx", "cancel", "contexts")
"""What uses vector registers, or saves them."""


@dataclass(frozen=True)
class Bench:
    """A machine, and what is run on it."""

    cpu: str
    themes: tuple[str, ...]
    fragments: tuple[str, ...] = ()
    """What its kernel is configured by, in addition."""


CPU = CPU_MODELS[Accel.TCG]
BENCHES = {
    "avx": Bench(CPU, THEMES),
    "no-avx": Bench(f"{CPU},-avx,-avx2,-f16c,-fma", WITHOUT_AVX),
    "disk": Bench(CPU, (DISK,), ("virtio-blk",)),
}
# Some hundred files of the kernel are compiled for the disk.
SEVERAL = ("avx", "no-avx", pytest.param("disk", marks=pytest.mark.long))
WHOLE = SEVERAL[::2]

ORDINARY = "/tests/posix"
OBJECT = "/tests/object.so"
SHELL = ("/bin/sh", "/bin/cat", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6")
"""Debian's shell and another ordinary program, with the shared objects that they load."""
LOCALE = Path("/usr/lib/locale/C.utf8")
"""Of Debian's libc-bin, which is essential."""
DISK_SIZE = 1 << 20

THEME_S = 100
"""When a theme is ended; many times what the slowest takes."""
GUEST_S = 400.0

ROOT = Path(__file__).resolve().parents[2]
NOUNS = Path(__file__).parent / "nouns.toml"
ENOUGH = 8
"""Checks for each noun."""


@dataclass(frozen=True)
class Said:
    """What a guest said until its end."""

    bench: Bench
    found: Mapping[tuple[str, int], Part]
    """By theme and ring."""
    statuses: Mapping[tuple[str, int], str]
    """How the programs ended, by theme and ring."""
    outcome: Outcome
    lines: list[str]


def with_cxx(library: libc.Parts) -> libc.Parts:
    """Return what a C++ program is linked with: Debian's libstdc++, as it is."""
    libraries = (toolchain.file("libstdc++.a"), *library.libraries)
    return libc.Parts(library.before, libraries, library.after)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Compile the program, once for both rings."""
    return ring0.compiled(tmp_path_factory.mktemp("objects"), PARTS)


@pytest.fixture(scope="module")
def files(
    objects: list[Path], library: libc.Parts, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Link the ordinary program; return it and what both need, by their paths in the guest."""
    folder = tmp_path_factory.mktemp("files")
    ordinary = folder / "posix"
    ring0.static(ordinary, objects, with_cxx(library))
    shared = folder / "object.so"
    flags = [*ring0.WARNINGS, "-fPIC", "-shared", "-nostdlib"]
    subprocess.run(["gcc", *flags, "-o", shared, ring0.source("object")], check=True)
    return {ORDINARY: ordinary, OBJECT: shared, **{path: Path(path) for path in SHELL}}


Kernels = Callable[[tuple[str, ...]], Path]


@pytest.fixture(scope="module")
def kernels(
    built: Path,
    objects: list[Path],
    library: libc.Parts,
    tmp_path_factory: pytest.TempPathFactory,
) -> Kernels:
    """Return a function that links the program into a kernel, with more fragments."""

    @functools.cache
    def link(fragments: tuple[str, ...]) -> Path:
        folder = tmp_path_factory.mktemp("kernel")
        linked = ring0.link(built, folder, objects, with_cxx(library), fragments=fragments)
        return linked.kernel

    return link


def run_bench(
    bench: Bench, kernel: Path, files: Mapping[str, Path], base: Path, folder: Path
) -> Said:
    """Run themes in both rings, one after the other, in one guest."""
    disk = folder / "disk"
    disk.write_bytes(bytes(DISK_SIZE))
    # A kernel that is broken says nothing about what comes after.
    vm = Vm("posix", cpus=2, cpu=bench.cpu, cmdline=(QUIET, "oops=panic"), drives=(Drive(disk),))
    machine = start_guest(
        kernel,
        folder,
        base=base,
        vm=vm,
        programs=files,
        entries=[
            cpio.file(str(path), path.read_bytes())
            for path in sorted(LOCALE.rglob("*"))
            if path.is_file()
        ],
        app="",
        jobs=[
            Job((path, theme), name=f"{theme} {ring}", any_end=True, timeout_s=THEME_S)
            for theme in bench.themes
            for ring, path in ((3, ORDINARY), (0, ring0.RING0))
        ],
    )
    with machine:
        outcome, lines = ended(machine, GUEST_S)
        ends = [event for event in machine.events if event.get("event") == "exited"]
    statuses = {}
    for end in ends:
        theme, _, ring = str(end.get("job")).partition(" ")
        if ring:
            statuses[theme, int(ring)] = f"status {end.get('code')}, signal {end.get('signal')}"
    found = {(part.program, part.ring): part for part in parts(lines)}
    return Said(bench, found, statuses, outcome, lines)


@pytest.fixture(scope="module", params=SEVERAL)
def said(
    request: pytest.FixtureRequest,
    kernels: Kernels,
    files: dict[str, Path],
    base: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Said:
    """Run what belongs on a machine."""
    bench = BENCHES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    return run_bench(bench, kernels(bench.fragments), files, base, folder)


def results(part: Part) -> Iterator[tuple[str, str]]:
    """Return the names of a program's checks, and for each FILE:LINE: NAME: RESULT."""
    for name in part.good:
        yield name, f"{part.places.get(name, '?')}: {name}: ok"
    for line in part.bad:
        name, _, rest = line.partition(": ")
        place, _, why = rest.partition(": ")
        yield name, f"{place}: {name}: {why}"
    for name, text in part.same.items():
        place, _, value = text.partition(" ")
        yield f"same {name}", f"{place}: {name}: {value}"


def differences(three: Part, zero: Part) -> list[str]:
    """Return what the rings differ in, each as FILE:LINE: NAME: RESULT."""
    of_three, of_zero = dict(results(three)), dict(results(zero))
    found = []
    for name in {**of_three, **of_zero}:
        in_three, in_zero = of_three.get(name, "not made"), of_zero.get(name, "not made")
        if in_three != in_zero:
            found.append(f"{in_zero} in ring 0, but {in_three} in ring 3")
    if not found and three.good != zero.good:
        found.append(f"in another order: {three.good}, {zero.good}")
    return found


def test_each_ring_makes_the_same_checks_with_the_same_results(said: Said) -> None:
    nothing = Part("", 0, 0)
    wrong = [
        f"{theme}: {line}"
        for theme in said.bench.themes
        for line in differences(*(said.found.get((theme, ring), nothing) for ring in (3, 0)))
    ]
    assert wrong == []


def test_all_checks_pass_in_ring_3(said: Said) -> None:
    assert [line for (_, ring), part in said.found.items() if ring for line in part.bad] == []


def test_all_checks_pass_in_ring_0(said: Said) -> None:
    assert [line for (_, ring), part in said.found.items() if not ring for line in part.bad] == []


def test_all_themes_come_to_their_end(said: Said) -> None:
    themes = said.bench.themes
    good = "status 0, signal None"
    assert said.statuses == {(theme, ring): good for theme in themes for ring in (3, 0)}
    for theme in themes:
        for ring in (3, 0):
            part = said.found[theme, ring]
            assert part.ended, (theme, ring, part.good[-3:])
            assert len(set(part.good)) == len(part.good), "a name is used twice"
            assert set(part.places) == set(part.good), "a check does not say where it is"


def test_the_kernel_has_nothing_to_complain_about(said: Said) -> None:
    assert [line for line in said.lines if COMPLAINTS.search(line)] == []
    assert said.outcome == Outcome(Kind.EXITED, 0), said.lines[-20:]


def table(name: str) -> dict[str, list[str]]:
    """Return a table of nouns.toml: patterns of the names of checks, by what they are for."""
    found: dict[str, list[str]] = tomllib.loads(NOUNS.read_text(encoding="utf-8"))[name]
    return found


def made(said: Said, ring: int) -> set[str]:
    """Return the names of what was checked and printed in a ring."""
    parts = [part for (_, one), part in said.found.items() if one == ring]
    return {name for part in parts for name in (*part.good, *part.same)}


def theme_of(pattern: str) -> str:
    """Return the theme whose checks have such names."""
    return pattern.partition(".")[0]


@pytest.mark.parametrize("said", WHOLE, indirect=True)
@pytest.mark.parametrize("ring", [3, 0])
def test_each_noun_has_enough_checks(said: Said, ring: int) -> None:
    names = made(said, ring)
    counts = {
        noun: len({name for one in patterns for name in fnmatch.filter(names, one)})
        for noun, patterns in table("nouns").items()
        if all(theme_of(one) in said.bench.themes for one in patterns)
    }
    assert counts
    assert {noun: count for noun, count in counts.items() if count < ENOUGH} == {}


def test_each_noun_is_counted() -> None:
    whole = [set(THEMES), {DISK}]
    for patterns in table("nouns").values():
        assert any({theme_of(one) for one in patterns} <= themes for themes in whole), patterns


@pytest.mark.parametrize("said", WHOLE[:1], indirect=True)
def test_each_pattern_stands_for_checks(said: Said) -> None:
    names = made(said, 0)
    patterns = [one for name in ("nouns", "limits") for row in table(name).values() for one in row]
    for one in patterns:
        if "::" in one:  # seen at the build
            path, _, test = one.partition("::")
            assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), one
        elif theme_of(one) in said.bench.themes:
            assert fnmatch.filter(names, one), one


def test_what_cannot_work_is_what_the_table_has() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, found, rest = readme.partition("\n## What cannot work\n")
    assert found
    entries = re.findall(r"^\* \*\*(.*?)\*\*", rest.partition("\n## ")[0], re.MULTILINE)
    assert entries == list(table("limits"))
