# SPDX-License-Identifier: Apache-2.0
"""Each code of an error is really raised here, by a small real thing that goes wrong.

What they look like to a person, and all the other ways to each of them, is in the tests of the
modules that raise them.
"""

from __future__ import annotations

import errno
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot import test_exec as booted_exec
from tests.boot import test_ukl_run as booted
from tests.elf.conftest import KERNEL_FLAGS, START, tool
from tests.ports import free_port
from tests.project import FAKE_LINUX, ROOT, SERIES_PATCH
from tests.unit import (
    test_measure,
    test_recorder,
    test_run_execute,
    test_run_machine,
    test_sources,
)
from tests.unit.place import Place, exited
from tests.unit.test_run_lifecycle import described
from ukl_build import (
    apt,
    distribute,
    dotconfig,
    errors,
    explain,
    image,
    manifest,
    port,
    proc,
    recipe,
    scons_tool,
    toolchain,
    ukl,
)
from ukl_build.elf import names
from ukl_build.elf.contract import check_archive_member
from ukl_build.elf.layout import MAX_IMAGE
from ukl_build.elf.linked import check_linked
from ukl_build.errors import CODES, UklError
from ukl_build.image import Init, SmokeRun
from ukl_build.lint import cli as lint_cli
from ukl_build.measure import cli as measure_cli
from ukl_build.measure import counts, report
from ukl_build.run import accel, cli, control, disk, execute, network, recording, session, warm
from ukl_build.run.machine import Machine, Saved, busy
from ukl_build.run.outcome import GuestError, Record, classify
from ukl_build.run.records import Store
from ukl_build.run.vm import Drive, Forward
from ukl_build.stages import archive, kconfig, lint, linux, native, sources, userspace
from ukl_build.ukl import parser

Trigger = Callable[[Path], object]
"""Makes something go wrong, in an empty folder, and lets through what is raised."""

TRIGGERS: dict[str, Trigger] = {}


def trigger(code: str) -> Callable[[Trigger], Trigger]:
    """Have a function make an error of a code."""

    def add(function: Trigger) -> Trigger:
        assert code not in TRIGGERS, f"{code} is there twice"
        TRIGGERS[code] = function
        return function

    return add


# --- What was asked for -------------------------------------------------------------------------


@trigger("internal")
def _(at: Path) -> None:
    proc.run(["true"], cwd=at / "no-such-folder")


@trigger("code-unknown")
def _(at: Path) -> None:
    options = parser().parse_args(["explain", "no-such-code"])
    explain.COMMAND.run(options)


@trigger("app-unknown")
def _(at: Path) -> None:
    recipe.load_app(ROOT / "recipes", "rediss")


@trigger("recipe-invalid")
def _(at: Path) -> None:
    (at / "recipe.toml").write_text('kind = "application"\nshema = 1\n')
    recipe.load(at)


@trigger("image-invalid")
def _(at: Path) -> None:
    (at / "image.json").write_text("{}")
    image.load(at / "image.json")


@trigger("variable-invalid")
def _(at: Path) -> None:
    scons_tool.read_variables(scons_tool.variables(["redis"]), [("ap", "redis")])


@trigger("fragment-unknown")
def _(at: Path) -> None:
    scons_tool.fragment_files(ROOT / "kconfig", ["ext5"])


@trigger("run-invalid")
def _(at: Path) -> None:
    folder = Place(at).image("power_off")
    run("--qemu", str(folder), "--smoke")


@trigger("image-missing")
def _(at: Path) -> None:
    run("--qemu", str(at / "nothing"))


@trigger("userspace-invalid")
def _(at: Path) -> None:
    userspace.build_initramfs(userspace.Userspace(app_mode=0o644), at / "initramfs.cpio")


@trigger("port-invalid")
def _(at: Path) -> None:
    options = port.parser().parse_args([str(at / "nothing")])
    port.run(options, ["make"], print)


@trigger("lint-input")
def _(at: Path) -> None:
    lint_cli.run(lint_cli.parser().parse_args([str(at / "nothing.o")]))


@trigger("linker-table")
def _(at: Path) -> None:
    (at / "table.toml").write_text("[[unprefixed]]\nnames = ['a']\n")
    names.load_tables(at / "table.toml", names.PROVIDED)


# --- Sources ------------------------------------------------------------------------------------


@trigger("apt-unusable")
def _(at: Path) -> None:
    (at / "os-release").write_text("ID=fedora\n")
    apt.codename(at / "os-release")


@trigger("source-missing")
def _(at: Path) -> None:
    (at / "empty").mkdir()
    test_sources.World(at).prepare(at / "empty")


@trigger("source-unavailable")
def _(at: Path) -> None:
    world = test_sources.World(at)
    place = recipe.UpstreamPlace(
        url=(at / "nothing-{version}").as_uri(), version="6.1.1", sha256="0" * 64
    )
    with world.cache.locked(print):
        sources.from_upstream(place, world.cache, say=print)


@trigger("source-corrupt")
def _(at: Path) -> None:
    world = test_sources.World(at)
    world.prepare(world.mirror, sha256="0" * 64)


@trigger("source-series")
def _(at: Path) -> None:
    tree = at / "tree"
    tool("cp", "-r", FAKE_LINUX, tree)
    makefile = tree / "Makefile"
    makefile.write_text(makefile.read_text().replace("PATCHLEVEL = 1", "PATCHLEVEL = 2"))
    test_sources.World(at).prepare(tree)


@trigger("patch-failed")
def _(at: Path) -> None:
    world = test_sources.World(at)
    world.patch(SERIES_PATCH, SERIES_PATCH)
    world.prepare(world.mirror)


@trigger("manifest-invalid")
def _(at: Path) -> None:
    (at / "manifest.json").write_text("{")
    manifest.load(at / "manifest.json")


# --- The kernel's configuration -----------------------------------------------------------------


@trigger("fragment-invalid")
def _(at: Path) -> None:
    (at / "a.config").write_text("CONFIG_NET=y\n")
    dotconfig.parse_fragment(at / "a.config")


@trigger("fragment-conflict")
def _(at: Path) -> None:
    asked = []
    for name, value in (("a", "y"), ("b", "n")):
        path = at / f"{name}.config"
        path.write_text(f"CONFIG_NET={value}  # a reason\n")
        asked.append((name, dotconfig.parse_fragment(path)))
    dotconfig.merge(asked)


@trigger("config-unmet")
def _(at: Path) -> None:
    (at / "a.config").write_text("CONFIG_NO_SUCH_OPTION=y  # a reason\n")
    kconfig.configure(
        FAKE_LINUX,
        "6.1.999",
        [at / "a.config"],
        at / "config",
        report=at / "report.txt",
        log=at / "log",
    )


@trigger("config-differs")
def _(at: Path) -> None:
    (at / "out").mkdir()
    (at / "out" / "disagree").touch()  # the fake kernel's make looks for it
    (at / "config").write_text("")
    linux.build(
        FAKE_LINUX,
        at / "config",
        at / "out",
        bzimage=at / "bzImage",
        vmlinux=at / "vmlinux",
        jobs=1,
        compiler=toolchain.Compiler((), dict(proc.BASE_ENV)),
        logs=at / "logs",
        say=print,
    )


# --- Programs of the host -----------------------------------------------------------------------


@trigger("system")
def _(at: Path) -> None:
    try:
        (at / "nothing").read_bytes()
    except OSError as error:
        raise errors.refused(error) from error


@trigger("stopped")
def _(at: Path) -> None:
    proc.terminate_all()
    proc.run(["true"])


@trigger("distcc-unusable")
def _(at: Path) -> None:
    distribute.distributed(f"127.0.0.1:{free_port()}", at / "distcc", {})


@trigger("tool-missing")
def _(at: Path) -> None:
    proc.run(["no-such-program"])


@trigger("tool-failed")
def _(at: Path) -> None:
    proc.run(["false"])


@trigger("tool-timeout")
def _(at: Path) -> None:
    proc.run(["sleep", "60"], timeout=0.1)


# --- What is linked -----------------------------------------------------------------------------


@trigger("link-missing")
def _(at: Path) -> None:
    project = test_recorder.Project(at)
    project.run("make")
    project.inputs("programme")


@trigger("link-undeclared")
def _(at: Path) -> None:
    project = test_recorder.Project(at)
    project.run("make")
    tool("cp", project.tree / "libpart.a", at / "libpart.a")
    project.run("gcc", "-o", "program", "main.o", str(at / "libpart.a"))
    project.inputs()


@trigger("link-unsupported")
def _(at: Path) -> None:
    project = test_recorder.Project(at)
    project.run("make")
    project.run("gcc", "-o", "program", "main.o", "-Wl,--defsym=x=1", "libpart.a")
    project.inputs()


@trigger("link-stale")
def _(at: Path) -> None:
    for name in ("tree", "copy"):
        (at / name).mkdir()
        (at / name / "main.o").touch()
    native.check_new("hello", [at / "copy" / "main.o"], at / "copy", at / "tree")


END = '\n.section .note.GNU-stack,"",@progbits\n'


def compiled(at: Path, source: str, name: str = "unit") -> Path:
    """Assemble a text for the kernel's half."""
    (at / f"{name}.S").write_text(source + END)
    tool("gcc", *KERNEL_FLAGS, "-c", "-o", at / f"{name}.o", at / f"{name}.S")
    return at / f"{name}.o"


def linked(at: Path, source: str, start: str = START) -> None:
    """Make an archive of a program whose function program() is a text."""
    whole = [compiled(at, start, "start"), compiled(at, source)]
    archive.link_application(whole, at / "app.o")
    archive.make_archive(at / "app.o", at / "UKL.a")


PROGRAM = ".globl program\nprogram:\n"


@trigger("elf-format")
def _(at: Path) -> None:
    (at / "app.o").write_bytes(b"\177ELF and no more")
    archive.make_archive(at / "app.o", at / "UKL.a")


@trigger("elf-section")
def _(at: Path) -> None:
    linked(at, PROGRAM + '.section both,"awx",@progbits\n.byte 1')


@trigger("elf-relocation")
def _(at: Path) -> None:
    linked(at, PROGRAM + "mov $variable, %eax\nret\n.data\nvariable: .long 0")


@trigger("elf-undefined")
def _(at: Path) -> None:
    linked(at, PROGRAM + "call somewhere\nret")


@trigger("elf-symbol")
def _(at: Path) -> None:
    linked(at, PROGRAM + "ret", start="")


@trigger("elf-size")
def _(at: Path) -> None:
    linked(at, PROGRAM + f"lea huge(%rip), %rax\nret\n.comm huge, {MAX_IMAGE}, 8")


@trigger("elf-lint")
def _(at: Path) -> None:
    lint.check_link(
        [str(compiled(at, ".globl _start\n_start: sysenter\nret"))],
        at / "lint.json",
        unprefixed=names.UNPREFIXED,
        provided=names.PROVIDED,
        zero={},
        log=at / "lint.log",
    )


@trigger("elf-contract")
def _(at: Path) -> None:
    # No pass has been over it.
    tables = names.load_tables(names.UNPREFIXED, names.PROVIDED)
    check_archive_member(compiled(at, PROGRAM + "ret"), tables)


@trigger("elf-linked")
def _(at: Path) -> None:
    # There is no application in it.
    tool(
        "gcc",
        "-nostdlib",
        "-static",
        "-o",
        at / "vmlinux",
        compiled(at, ".globl _start\n_start: ret"),
    )
    check_linked(at / "vmlinux")


# --- Machines -----------------------------------------------------------------------------------


def ended(machine: Machine, timeout_s: float = test_run_machine.ENOUGH_S) -> None:
    """Run a machine to its end, and raise what that means."""
    with machine as it:
        it.start()
        outcome = it.wait(timeout_s) or it.give_up()
        raise it.error(outcome)


@trigger("kvm-unusable")
def _(at: Path) -> None:
    accel.choose("kvm", state=at, boot_id="x", cpuinfo="", device=at / "kvm")


@trigger("disk-invalid")
def _(at: Path) -> None:
    (at / "disk.img").write_bytes(bytes(4096))
    disk.check(at / "disk.img")


@trigger("disk-busy")
def _(at: Path) -> None:
    path = at / "disk.img"
    path.write_bytes(bytes(4096))
    with test_run_machine.machine(at, "halt", drives=(Drive(path),)) as it:
        it.start()
        disk.check(path)


@trigger("port-taken")
def _(at: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        forward = Forward(server.getsockname()[1], 80)
        ended(
            test_run_machine.machine(at, "halt", network=test_run_machine.USER, forwards=(forward,))
        )


@trigger("network-failed")
def _(at: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as end:
        network.start_passt([Forward(server.getsockname()[1], 80)], end)


@trigger("export-invalid")
def _(at: Path) -> None:
    made = Place(at).image("halt", cmdline=("console=ttyS0", "--", '"a b"'))
    options = ukl.parser().parse_args(["export", str(made), "--format", "raw"])
    options.command.run(options)


@trigger("recording-invalid")
def _(at: Path) -> None:
    recording.find(at)


@trigger("snapshot-missing")
def _(at: Path) -> None:
    vm = test_run_machine.machine(at, "halt").vm
    warm.find(vm, warm.place_of(vm), "app")


@trigger("snapshot-failed")
def _(at: Path) -> None:
    (at / "state").write_bytes(b"this is no state of QEMU's")
    vm = test_run_machine.machine(at, "halt").vm
    with Machine(vm, console=at / "console.log", saved=Saved(at / "state", ())) as it:
        it.start()


@trigger("qemu-failed")
def _(at: Path) -> None:
    ended(test_run_machine.machine(at, "halt", extra=("-device", "no-such-device")))


@trigger("guest-not-started")
def _(at: Path) -> None:
    # It takes a Linux with our init to say so; what is made of what it says is pure.
    assert callable(booted.test_an_application_that_is_not_there_ends_as_in_a_shell)
    failed: dict[str, object] = {
        **{"event": "failed", "job": "app", "step": "execve"},
        **{"path": "/UKL", "errno": 2},
    }
    record = Record(Init.RING3, 0, events=(failed,), shutdown_reason="guest-shutdown")
    raise GuestError(classify(record))


@trigger("guest-panic")
def _(at: Path) -> None:
    ended(test_run_machine.machine(at, "panic"))


@trigger("guest-hang")
def _(at: Path) -> None:
    ended(test_run_machine.machine(at, "halt"), timeout_s=0.5)


@trigger("guest-reset")
def _(at: Path) -> None:
    ended(test_run_machine.machine(at, "triple_fault"))


@trigger("guest-no-status")
def _(at: Path) -> None:
    ended(test_run_machine.machine(at, "power_off"))


@trigger("guest-stopped")
def _(at: Path) -> None:
    with test_run_machine.machine(at, "halt", init=Init.RING3) as it:
        it.start()
        raise it.error(it.stop(polite_s=0.5))


@trigger("guest-no-answer")
def _(at: Path) -> None:
    with test_run_machine.machine(
        at, "halt", network=test_run_machine.USER, forwards=(Forward(0, 80),)
    ) as it:
        it.start()
        it.ask(80, b"?", b"!", deadline_s=0.5)


@trigger("guest-wrong-answer")
def _(at: Path) -> None:
    text = exited(0)
    wanted = (SmokeRun(expect=("never said",)),)
    folder = Place(at).image("power_off", text, smoke_runs=wanted)
    run("--qemu", str(folder), "--smoke")


# --- Machines -----------------------------------------------------------------------------------


@trigger("machine-unknown")
def _(at: Path) -> None:
    Store(at, at).find("nobody")


@trigger("machine-ambiguous")
def _(at: Path) -> None:
    store = Store(at / "machines", at)
    held = [store.create(described()) for _ in range(2)]
    try:
        store.find("app")
    finally:
        for one in held:
            one.close()


@trigger("machine-exists")
def _(at: Path) -> None:
    store = Store(at / "machines", at)
    store.create(described(), "mine").close()
    store.create(described(), "mine")


@trigger("machine-runs")
def _(at: Path) -> None:
    held = Store.default().create(described())
    server = control.Server(Path(held.record.socket))
    try:
        command("wait", "--timeout", "0.1", held.record.name)
    finally:
        server.close()
        held.close()


@trigger("machine-silent")
def _(at: Path) -> None:
    control.Client(at / "app-1.sock")


@trigger("machine-refused")
def _(at: Path) -> None:
    at.chmod(0o700)
    server = control.Server(at / "app-1.sock")
    try:
        control.Client(server.path).ask("nonsense")
    finally:
        server.close()


@trigger("record-invalid")
def _(at: Path) -> None:
    store = Store(at / "machines", at)
    store.create(described()).close()
    (store.folder / "app-1" / "machine.json").write_text("{}")
    store.find("app-1")


@trigger("runtime-unsafe")
def _(at: Path) -> None:
    at.chmod(0o755)
    control.Server(at / "app-1.sock")


@trigger("exec-unsupported")
def _(at: Path) -> None:
    with test_run_machine.machine(at, "halt") as it:
        it.start()
        it.can_execute()


@trigger("exec-busy")
def _(at: Path) -> None:
    # Of a guest with our init: this test has one.
    assert callable(booted_exec.test_there_is_a_limit_of_programs)
    raise busy("app")


@trigger("exec-failed")
def _(at: Path) -> None:
    with test_run_execute.channel(test_run_execute.over(2, errno.ENOENT, "exec")) as one:
        execute.run(one, ["/nowhere"], stdin=False, terminal=False)


@trigger("exec-lost")
def _(at: Path) -> None:
    with test_run_execute.channel() as one:
        execute.run(one, ["/bin/sh"], stdin=False, terminal=False)


def run(*words: str) -> None:
    """Run ukl-run, whose errors come through."""
    options = cli.parser().parse_args(words)
    options.argv = words
    session.run(options)


def command(*words: str) -> None:
    """Run a command of ukl, whose errors come through."""
    options = parser().parse_args(words)
    options.command.run(options)


# --- Measuring ----------------------------------------------------------------------------------


@trigger("measure-failed")
def _(at: Path) -> None:
    counts.parse(b"no counts")


@trigger("measure-differs")
def _(at: Path) -> None:
    runs = [test_measure.workload("GET", [number]) for number in (100, 101)]
    bars = (test_measure.bar("ukl", *runs),)
    measure_cli.check(report.Result(app="x", qemu="7", bars=bars))


# --- The tests ----------------------------------------------------------------------------------

SENTENCES = re.compile(r"[a-z)]\. [A-Z]")
"""Where one sentence ends and another begins."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Have the other tests know nothing of a stop, and the user's state folder nothing of these."""
    monkeypatch.setattr(proc, "_stopped", threading.Event())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "runtime").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))


def test_there_is_a_trigger_for_every_code() -> None:
    assert TRIGGERS.keys() == CODES.keys(), "write a function here that provokes the error"


@pytest.mark.parametrize("code", CODES)
def test_the_error_says_what_happened_and_what_to_do(code: str, tmp_path: Path) -> None:
    with pytest.raises(UklError) as caught:
        TRIGGERS[code](tmp_path)
    error = caught.value
    assert error.code == code, str(error)
    assert (error.fault, error.meaning) == CODES[code]
    for text in (error.message, error.hint):
        assert text and "\n" not in text
        assert not text.endswith((".", ":", " ")), text
        assert not SENTENCES.search(text), f"two sentences: {text}"
    assert error.hint != error.message
    shown = str(error).splitlines()
    assert shown[0] == f"error[{code}]: {error.message}"
    assert shown[-1] == f"hint: {error.hint}"
    assert all(line.startswith("  | ") for line in shown[1:-1])
