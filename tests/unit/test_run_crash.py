# SPDX-License-Identifier: Apache-2.0
"""The report of a crash: from what kernels have printed to what people read.

``crashes/`` has consoles of guests: of tests/boot/guest/crash.c in ring 0, of LKDTM, of kernels
without a root.  Nothing is changed in them but that they are cut.
"""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ukl_build.elf.contents import contents
from ukl_build.elf.functions import Function, functions
from ukl_build.image import App, Image, Variant
from ukl_build.plan import Layout
from ukl_build.run import outcome as outcomes
from ukl_build.run.crash import report, rules
from ukl_build.run.crash.console import MAX_CRASHES, MAX_TRACE, Crash, Kind, Seen, Spot, read
from ukl_build.run.crash.places import Files, Places, layers, source
from ukl_build.run.outcome import Outcome

RECORDED = Path(__file__).parent / "crashes"

NOWHERE = Files(Path("/no/such.vmlinux"), None, Layout(Path("/no/such"), "app"))


def seen_in(name: str) -> Seen:
    """Return what a recorded console says."""
    return read((RECORDED / f"{name}.txt").read_text())


def only(seen: Seen) -> Crash:
    """Return the one crash of a console."""
    (crash,) = seen.crashes
    return crash


# --- What the kernel prints -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "signal", "trap", "symbol"),
    [
        ("inlined", 11, "page fault", "ukl.inlined"),
        ("overflow", 11, "page fault", "ukl.overflow"),
        ("library", 11, "page fault", "ukl.__memset_avx2_unaligned_erms"),
        ("noncanonical", 11, "general protection fault", "ukl.noncanonical"),
        ("divide", 8, "divide error", "ukl.divide"),
        ("illegal", 4, "invalid opcode", "ukl.illegal"),
        ("aborts", 6, "", "ukl.__pthread_kill_implementation.constprop.0"),
        ("jump", 11, "page fault", ""),
    ],
)
def test_a_signal_is_read_with_its_fault(name: str, signal: int, trap: str, symbol: str) -> None:
    crash = only(seen_in(name))
    assert (crash.kind, crash.signal, crash.trap) == (Kind.SIGNAL, signal, trap)
    assert (crash.process, crash.pid) == ("UKL", 24)
    assert crash.spot is not None and crash.spot.symbol == symbol
    assert {"RAX", "RSP", "R15", "EFLAGS"} <= crash.registers.keys()
    assert ("ORIG_RAX" in crash.registers) == (signal == 6)


def test_an_oops_is_read_up_to_where_the_kernel_was_entered() -> None:
    crash = only(seen_in("kernel-null"))
    assert (crash.kind, crash.trap, crash.address) == (Kind.OOPS, "page fault", 0)
    assert (crash.error, crash.process, crash.pid) == (2, "provoke", 29)
    assert crash.spot == Spot("lkdtm_EXCEPTION", 5, 0x20)
    # Those of the oops, not those of the system call behind it.
    assert crash.registers["RAX"] == 0xFFFFFFFFA03BFA30
    assert crash.registers["CR2"] == 0
    first, *_, last = crash.trace
    assert first == Spot("direct_entry.cold", 0x18, 0x24)
    assert last == Spot(address=0x439510)
    assert [one.symbol for one in crash.trace if not one.certain] == ["kmem_cache_free"]


def test_the_instructions_are_read_with_the_one_that_was_executed() -> None:
    crash = only(seen_in("inlined"))
    assert len(crash.code) == 64
    assert crash.at == 42
    assert crash.here.startswith(b"\xc7\x40\x40\x01")


def test_a_task_that_waits_has_no_place_but_a_trace() -> None:
    crash = only(seen_in("hung-task"))
    assert (crash.kind, crash.process, crash.spot) == (Kind.LOCKUP, "provoke", None)
    assert [one.symbol for one in crash.trace][:2] == ["__schedule", "schedule"]


def test_a_panic_is_a_crash_only_without_an_oops_before() -> None:
    seen = seen_in("panic")
    assert (only(seen).kind, seen.panic) == (Kind.PANIC, "dumptest")
    oops = (RECORDED / "kernel-null.txt").read_text()
    behind = oops + "[    9.000000] Kernel panic - not syncing: Fatal exception\n"
    seen = read(behind + "[    9.000001] Kernel Offset: 0x1e000000 from 0xffffffff80000000 (...)\n")
    assert (only(seen).kind, seen.panic, seen.moved) == (Kind.OOPS, "Fatal exception", 0x1E000000)
    assert seen_in("panic").moved is None


def test_a_kernel_without_names_prints_addresses() -> None:
    text = (RECORDED / "kernel-null.txt").read_text()
    text = text.replace("lkdtm_EXCEPTION+0x5/0x20", "0xffffffffa03bfa35")
    text = text.replace(" direct_entry.cold+0x18/0x24", " ? 0xffffffffa0512345")
    crash = only(read(text))
    assert crash.spot == Spot(address=0xFFFFFFFFA03BFA35)
    assert crash.ip == 0xFFFFFFFFA03BFA35
    assert crash.trace[0] == Spot(address=0xFFFFFFFFA0512345, certain=False)


def test_lines_of_others_do_not_belong_to_it() -> None:
    text = (RECORDED / "inlined.txt").read_text()
    kernels = [line for line in text.splitlines() if line.startswith("[")]
    mixed = "".join(
        f"RIP: 0010:fake+0x0/0x9\n{number} busy{line}\n" for number, line in enumerate(kernels)
    )
    crash = only(read(mixed))
    assert crash.spot is not None and crash.spot.symbol == "ukl.inlined"
    assert crash.words[-2:] == ("RIP: 0010:fake+0x0/0x9", "1 busy")


def test_what_was_written_before_is_kept_without_control_characters() -> None:
    crash = only(read("\x1b[2Jlast\x07 words\r\n" + (RECORDED / "aborts.txt").read_text()))
    assert "?[2Jlast? words" in crash.words


def test_without_times_every_line_can_be_the_kernels() -> None:
    lines = (RECORDED / "inlined.txt").read_text().splitlines()
    bare = "\n".join(line.partition("] ")[2] for line in lines if line.startswith("["))
    assert only(read(bare)).spot == only(seen_in("inlined")).spot


@pytest.mark.parametrize("path", sorted(RECORDED.iterdir()), ids=lambda path: path.stem)
def test_nothing_that_a_guest_prints_stops_the_reader(path: Path) -> None:
    chance = random.Random(path.stem)
    data = path.read_bytes()
    for _ in range(40):
        broken = bytearray(data[chance.randrange(len(data)) : chance.randrange(1, len(data))])
        broken = broken or bytearray(data)
        for _ in range(chance.randrange(60)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        lines = bytes(broken).split(b"\n")
        chance.shuffle(lines)
        for text in (bytes(broken), b"\n".join(lines)):
            for crash in (seen := read(text)).crashes:
                found = report.explain(seen, crash, NOWHERE, path, ring0=True)
                assert found.headline


def test_a_guest_that_prints_without_end_fills_no_memory() -> None:
    oops = (RECORDED / "kernel-null.txt").read_text()
    seen = read(oops * 1000 + " frame+0x1/0x2\n" * 100_000 + "x" * 1_000_000)
    assert len(seen.crashes) == MAX_CRASHES
    assert all(len(crash.trace) <= MAX_TRACE for crash in seen.crashes)
    assert max(map(len, seen.words)) <= 1000


# --- Causes ---------------------------------------------------------------------------------------


def line(text: str) -> str:
    """Return a line of the kernel."""
    return f"[    1.000000] {text}\n"


PRINTED = {
    "emulator": line("int3: 0000 [#1] SMP NOPTI")
    + line("RIP: 0010:__flush_smp_call_function_queue+0x91/0x1d0")
    + line("Code: 48 89 c3 e8 11 22 33 44 0f <1f> 44 00 00 48 8b 1b 48 85 db"),
    "image-too-big": line("Initramfs unpacking failed: write error")
    + line("Kernel panic - not syncing: No working init found.  Try passing init= option"),
    "file-system-missing": "mount: /data: unknown filesystem type 'ext4'\n"
    + line("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"),
    "double-fault": line("double fault: 0000 [#1] SMP NOPTI")
    + line("RIP: 0010:asm_exc_page_fault+0x3/0x30"),
    "exception": "terminate called after throwing an instance of 'std::bad_alloc'\n"
    + line("potentially unexpected fatal signal 6."),
    "dlopen": "cannot open shared object file: No such file or directory: libz.so\n"
    + line("potentially unexpected fatal signal 6."),
    "executable-memory": "JIT: mmap: Permission denied\n"
    + line("potentially unexpected fatal signal 6."),
    "seccomp": line("potentially unexpected fatal signal 31."),
    "sent": line("potentially unexpected fatal signal 11.")
    + line("RSP: 0018:00007ffe36b6df88 EFLAGS: 00040246 ORIG_RAX: 00000000000000ea"),
    "privileged": line(
        "traps: UKL[24] general protection fault ip:ffffffffa5008b37 sp:7ffe7c260658 error:4"
    )
    + line("potentially unexpected fatal signal 11.")
    + line("Code: 00 00 00 b8 04 00 00 00 <0f> 00 d8 c3 66 90 66 90 66 90 66 90"),
    "no-root": line('VFS: Cannot open root device "(null)" or unknown-block(0,0): error -6')
    + line("Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"),
    "no-init": line("Run /sbin/init as init process")
    + line(
        "Kernel panic - not syncing: No working init found.  Try passing init= option to kernel."
    ),
    "init-ended": line("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100"),
    "null-call": line(
        "UKL[24]: segfault at 0 ip 0000000000000000 sp 00007ffc442bb228 error 14 likely on CPU 0"
    ),
    "bus": line("potentially unexpected fatal signal 7."),
}
"""What Linux prints of causes that no recorded console has: as its sources have the lines."""

CAUSES = {
    "inlined": "null",
    "wild": "wild-pointer",
    "noncanonical": "noncanonical",
    "kernel": "kernel-memory",
    "overflow": "stack-overflow",
    "readonly": "read-only",
    "data": "data-executed",
    "user-data": "data-executed",
    "jump": "wild-jump",
    "divide": "divide",
    "illegal": "trap",
    "newer": "instruction-missing",
    "aborts": "abort",
    "asserts": "assertion",
    "library": "null",
    "smashed": "stack-smashed",
    "freed": "heap-damaged",
    "memory": "no-memory",
    "unsupported": "executable-memory",
    "enosys": "kernel-option",
    "kernel-null": "kernel-null",
    "kernel-bug": "kernel-bug",
    "kernel-warning": "kernel-warning",
    "kernel-data-executed": "kernel-data-executed",
    "smep": "smep",
    "smap": "smap",
    "kernel-read-only": "kernel-read-only",
    "kernel-stack": "kernel-stack",
    "kernel-stack-overwritten": "kernel-stack-overwritten",
    "lockup": "lockup",
    "hung-task": "hung-task",
    "panic": "",
}
"""Recorded consoles and the rule that fits."""


def rule_of(seen: Seen) -> str:
    """Return the rule that fits the first crash."""
    found = rules.cause(rules.Evidence(seen, seen.crashes[0]))
    return found.name if found else ""


@pytest.mark.parametrize("name", CAUSES)
def test_a_recorded_crash_has_its_cause(name: str) -> None:
    assert rule_of(seen_in(name)) == CAUSES[name]


@pytest.mark.parametrize("name", PRINTED)
def test_what_linux_prints_has_its_cause(name: str) -> None:
    assert rule_of(read(PRINTED[name])) == name


def test_every_rule_and_every_recorded_console_is_tested() -> None:
    assert {rule.name for rule in rules.RULES} == {*CAUSES.values(), *PRINTED} - {""}
    assert {path.stem for path in RECORDED.iterdir()} == {*CAUSES}


def test_an_ordinary_process_may_make_code_at_run_time() -> None:
    seen = read(PRINTED["executable-memory"])
    found = rules.cause(rules.Evidence(seen, seen.crashes[0], ring0=False))
    assert found is not None and found.name == "abort"


# --- Places ---------------------------------------------------------------------------------------

KERNEL_C = """\
int sink;
__attribute__((noinline)) int vfs_read(int n) { sink += n; return n * 3; }
__attribute__((noinline)) int do_syscall_64(int n) { return vfs_read(n + 1) + 1; }
"""

APPLICATION_C = """\
int helper(int);
static inline __attribute__((always_inline)) void store(volatile int *where)
{
    *where = 1;
}
__attribute__((noinline)) int broken(int n)
{
    store((volatile int *)(long)n);
    return helper(n) + 1;
}
void _start(void) { broken(0); }
"""

LIBRARY_C = "__attribute__((noinline)) int helper(int n) { return n ^ 5; }\n"

TEXT = 0xFFFFFFFF81000000
MOVED = 0x1C00000


@dataclass(frozen=True)
class Built:
    """A small kernel with an application of one file and a library."""

    files: Files

    def function(self, name: str) -> Function:
        """Return a function of vmlinux."""
        return next(one for one in functions(self.files.vmlinux) if one.name == name)

    def code(self, address: int, before: int) -> str:
        """Return a Code: line as the kernel prints it."""
        text = next(one for one in contents(self.files.vmlinux) if one.code)
        start = address - text.address
        data = text.data[start - before : start + 12]
        words = [f"{byte:02x}" for byte in data]
        words[before] = f"<{words[before]}>"
        return " ".join(words)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build it in the way that the real ones are, without Linux."""
    home = tmp_path_factory.mktemp("build") / "app"
    (home / "objects").mkdir(parents=True)

    def run(*words: str | Path) -> None:
        subprocess.run(words, cwd=home, check=True)

    flags = ("-O2", "-g", "-ffreestanding", "-fno-pic", "-mcmodel=kernel", "-fcf-protection=none")
    for name, text in (("kernel", KERNEL_C), ("application", APPLICATION_C), ("lib", LIBRARY_C)):
        (home / f"{name}.c").write_text(text)
        run("gcc", *flags, *(["-g0"] if name == "kernel" else []), "-c", f"{name}.c")
    run("ar", "rc", "libc.a", "lib.o")
    layout = Layout(home.parent, "app")
    app_o = layout.linked
    run("ld", "-r", f"-Map={layout.link_map}", "-o", app_o, "application.o", "libc.a")
    run("objcopy", "--prefix-symbols=ukl.", app_o, "prefixed.o")
    run(
        *("ld", "-e", "ukl._start", f"-Ttext={TEXT:#x}", "-o", layout.vmlinux),
        *("kernel.o", "prefixed.o"),
    )
    return Built(Files(layout.vmlinux, None, layout))


def crashed(built: Built, name: str, offset: int, **more: object) -> Crash:
    """Return a crash of a process in a function of vmlinux, moved by KASLR."""
    address = built.function(name).address + offset
    text = line("potentially unexpected fatal signal 11.") + line(f"RIP: 0010:{address + MOVED:#x}")
    text += line(f"Code: {built.code(address, offset)}")
    return only(read(text))


def test_the_printed_instructions_tell_where_kaslr_has_moved_it(made: Built) -> None:
    crash = crashed(made, "ukl.broken", 6)
    places = Places(made.files, crash)
    assert (places.moved, places.notes) == (MOVED, [])
    assert crash.spot is not None
    (place,) = places.look([crash.spot])
    assert (place.function, place.offset, place.layer) == ("broken", 6, "application")


def test_a_line_is_that_of_the_inlined_function_and_of_its_caller(made: Built) -> None:
    broken = made.function("ukl.broken")
    crash = Crash(Kind.SIGNAL, "", spot=Spot("ukl.broken", 0, broken.end - broken.address))
    places = Places(made.files, crash)
    found = [
        places.look([Spot("ukl.broken", offset, 0x100)])[0]
        for offset in range(broken.end - broken.address)
    ]
    inside = next(one for one in found if one.inlined)
    home = made.files.layout.home
    assert inside.source == f"{home}/application.c:4"
    assert inside.inlined == (f"store, inlined into broken at {home}/application.c:8",)


def test_layers_are_those_of_the_files_that_were_linked(made: Built) -> None:
    crash = crashed(made, "ukl.helper", 2)
    places = Places(made.files, crash)
    names = ("ukl.helper", "ukl._start", "vfs_read", "unheard_of")
    found = places.look([Spot(name, 1, 0x100) for name in names])
    assert [one.layer for one in found] == ["C library", "application", "kernel", "kernel"]
    assert [bool(one.source) for one in found] == [True, True, False, False]
    assert found[3].function == "unheard_of"


def test_a_caller_is_where_it_calls_not_where_it_goes_on(made: Built) -> None:
    start = made.function("ukl._start")
    crash = crashed(made, "ukl.helper", 2)
    first, second = Places(made.files, crash).look(
        [Spot("ukl._start", 0, 9), Spot(address=start.end + MOVED)]
    )
    assert first.function == "_start"
    # Behind the last instruction is nothing, or something else.
    assert second.address == start.end


def test_a_vmlinux_of_another_build_is_noticed(made: Built) -> None:
    broken = made.function("ukl.broken")
    size = broken.end - broken.address
    crash = Crash(Kind.SIGNAL, "", spot=Spot("ukl.broken", 2, size), code=bytes(range(40)), at=2)
    places = Places(made.files, crash)
    assert not places.usable
    assert "of another build" in places.notes[0]
    (place,) = places.look([Spot("ukl.broken", 2, size)])
    assert (place.function, place.source) == ("broken", "")
    named = Crash(Kind.OOPS, "", spot=Spot("gone", 1, 2), trace=[Spot("gone_too", 1, 2)])
    assert not Places(made.files, named).usable


def test_without_vmlinux_there_is_what_the_kernel_printed() -> None:
    found = report.explain(
        seen_in("inlined"), only(seen_in("inlined")), NOWHERE, Path("log"), ring0=True
    )
    assert found.place is not None
    assert (found.place.function, found.place.layer) == ("inlined", "application or a library")
    assert "is not there" in found.notes[0]


def test_layers_of_a_map_with_archives() -> None:
    text = (
        " .text          0x0000000000000000       0x22 /libs/crt1.o\n"
        " .text          0x0000000000000030       0x10 /home/app/objects/a.o\n"
        " .text          0x0000000000000040       0x10 /libs/libz.a(inflate.o)\n"
        " .text.long_name\n"
        "                0x0000000000000000       0x10 /libs/libc.a(abort.o)\n"
    )
    of = [Function(0x3C, 0x3F, "main", ".text"), Function(0, 9, "_start", ".text")]
    of += [Function(0x40, 0x49, "inflate", ".text"), Function(0x90, 0x99, "gone", ".text")]
    assert layers(text, of) == {
        "main": "application",
        "_start": "C library",
        "inflate": "library libz.a",
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("??:?", ""),
        ("??:0", ""),
        ("/usr/src/redis/src/server.c:6856", "/usr/src/redis/src/server.c:6856"),
        ("/usr/src/a.c:7 (discriminator 3)", "/usr/src/a.c:7"),
        (f"/home/x/.cache/ukl-build/trees/{'0a' * 32}/stdlib/abort.c:49", "stdlib/abort.c:49"),
        ("", ""),
    ],
)
def test_a_source_is_named_by_a_path_that_says_something(text: str, shown: str) -> None:
    assert source(text) == shown


# --- Which crash, and the report ------------------------------------------------------------------

SEGFAULT = Outcome(outcomes.Kind.SIGNALED, 11)
KILLED = Outcome(outcomes.Kind.SIGNALED, 9)
PANICKED = Outcome(outcomes.Kind.PANIC, why="something")


def test_the_last_signal_of_that_number_is_the_applications() -> None:
    child = (RECORDED / "wild.txt").read_text()
    seen = read(child + (RECORDED / "inlined.txt").read_text())
    found = report.chosen(seen, SEGFAULT)
    assert found is seen.crashes[1]
    assert report.chosen(seen, Outcome(outcomes.Kind.EXITED, 0)) is None
    assert report.chosen(seen, Outcome(outcomes.Kind.SIGNALED, 15)) is None


def test_an_oops_is_told_however_the_application_ended() -> None:
    warning = (RECORDED / "kernel-warning.txt").read_text()
    seen = read(warning + (RECORDED / "kernel-null.txt").read_text())
    for outcome in (Outcome(outcomes.Kind.EXITED, 0), PANICKED, KILLED):
        found = report.chosen(seen, outcome)
        assert found is not None and found.kind is Kind.OOPS


def test_a_signal_or_a_panic_without_a_word_is_told_as_well() -> None:
    found = report.chosen(Seen(), SEGFAULT)
    assert found is not None and found.signal == 11
    found = report.chosen(Seen(), PANICKED)
    assert found is not None and (found.kind, found.title) == (Kind.PANIC, "something")
    assert report.chosen(Seen(), Outcome(outcomes.Kind.SIGNALED, 15)) is None


LOG = Path("/state") / ("long-" * report.WIDTH) / "app.log"


@pytest.mark.parametrize("name", [*CAUSES])
def test_a_report_fits_on_a_screen_and_into_json(name: str) -> None:
    seen = seen_in(name)
    found = report.explain(seen, seen.crashes[0], NOWHERE, LOG, ring0=True)
    text = report.text(found)
    assert len(text.splitlines()) <= 25, text
    assert f"console log: {LOG}\n" in text
    assert "\x1b" not in text
    assert ("no rule fits" in text) == (CAUSES[name] == "")
    assert report.Report.model_validate_json(found.model_dump_json(by_alias=True)) == found


def test_a_report_says_what_happened_first() -> None:
    seen = seen_in("inlined")
    lines = report.text(
        report.explain(seen, only(seen), NOWHERE, Path("log"), ring0=True)
    ).splitlines()
    assert lines[0] == "SIGSEGV in the application or a library: inlined+0x7"
    assert lines[1] == "  write to 0x40, where nothing is mapped; in UKL[24]"
    assert lines[2].startswith("likely cause: A pointer is NULL: 0x40 ")


def test_square_brackets_of_a_guest_are_no_markup() -> None:
    text = (RECORDED / "inlined.txt").read_text().replace("Comm: UKL", "Comm: [/bold]x")
    seen = read(text)
    assert "in [/bold]x[24]" in report.text(
        report.explain(seen, only(seen), NOWHERE, Path("log"), ring0=True)
    )


def test_a_run_is_examined_by_the_end_of_its_console(made: Built, tmp_path: Path) -> None:
    app = App(argv=("/UKL",))
    image = Image(name="app", kernel="app.bzImage", cmdline=(), memory_mib=64, cpus=1, app=app)
    folder = made.files.layout.home
    log = tmp_path / "console.log"
    crash = line(
        f"UKL[24]: segfault at 8 ip {made.function('ukl.helper').address + MOVED:x} sp 1 "
        "error 6 likely on CPU 0"
    )
    crash += line(f"Code: {made.code(made.function('ukl.helper').address, 0)}")
    log.write_text("x" * (report.CONSOLE_END + 7) + "\n" + crash)
    found = report.examined(image, folder, log, SEGFAULT)
    assert found is not None and found.place is not None
    assert (found.place.function, found.place.layer) == ("helper", "C library")
    assert found.headline.startswith("SIGSEGV in the C library: helper+0x0 at ")
    assert "print-fatal-signals=1" in found.notes[0]
    log.write_text("all is well\n")
    assert report.examined(image, folder, log, Outcome(outcomes.Kind.EXITED, 0)) is None


def test_an_ordinary_process_is_looked_up_in_its_own_program(made: Built, tmp_path: Path) -> None:
    home = tmp_path / "build" / "app"
    twin = home / "twin"
    twin.mkdir(parents=True)
    (home / "objects").mkdir()
    for path in (made.files.layout.linked, made.files.layout.link_map):
        (home / "objects" / path.name).write_bytes(path.read_bytes())
    (twin / "app.vmlinux").write_bytes(made.files.vmlinux.read_bytes())
    app_o = home / "objects" / "app.o"
    program = twin / "app.static"
    # -mcmodel=kernel is linked where no process is: compiled anew, for the low addresses.
    source_c = made.files.layout.home / "application.c"
    library_c = made.files.layout.home / "lib.c"
    flags = ["-O2", "-g", "-ffreestanding", "-fno-pic", "-nostdlib", "-static"]
    subprocess.run(["gcc", *flags, "-o", program, source_c, library_c], check=True)
    address = next(one for one in functions(program) if one.name == "broken").address
    assert app_o.is_file() and address < 1 << 47
    app = App(path="/bin/app", argv=("/bin/app",))
    image = Image(
        name="app",
        variant=Variant.TWIN,
        kernel="app.bzImage",
        cmdline=(),
        memory_mib=64,
        cpus=1,
        app=app,
    )
    log = tmp_path / "console.log"
    log.write_text(
        line(
            f"app[24]: segfault at 0 ip {address:016x} sp 00007ffd95b70f58 error 6 in app[401000"
            "+1000] likely on CPU 0 (core 0, socket 0)"
        )
    )
    found = report.examined(image, twin, log, SEGFAULT)
    assert found is not None and found.place is not None
    assert (found.place.function, found.place.layer) == ("broken", "application")
    assert found.place.source.startswith(f"{source_c}:")
