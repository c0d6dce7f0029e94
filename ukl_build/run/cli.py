# SPDX-License-Identifier: Apache-2.0
"""``ukl-run``: start a unikernel, talk to it, stop it.

What the guest says goes to standard output, what ukl-run says to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from platformdirs import user_state_path

from ukl_build import cpio, files
from ukl_build.cmdline import MAX_COMMAND_LINE, quote_args
from ukl_build.elf.names import ENTRY, PREFIX
from ukl_build.errors import Fault, UklError, reported
from ukl_build.image import Image, Init, Protocol, Smoke, SmokeRun, load
from ukl_build.initconf import RUN_CONF, mounts, render_overlay
from ukl_build.model import nearest
from ukl_build.run import accel, attach
from ukl_build.run.crash.report import explained
from ukl_build.run.disk import MIB
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import EXIT_STATUS, Kind, Outcome, said
from ukl_build.run.vm import (
    GUARD_PARAMETERS,
    LOCALHOST,
    REPORT_PARAMETERS,
    Accel,
    Forward,
    Vm,
    from_image,
)

BUILD = Path("build")
IMAGE_FILE = "image.json"

GDB_PORT = 1234
"""QEMU's own choice, and the one in everybody's notes."""


KEPT_LOGS = 20
"""Console logs of one application that are kept."""


_OUR_STATUSES: tuple[tuple[int, str], ...] = (
    (Fault.USER, "what was asked for is wrong"),
    (Fault.MACHINE, "this machine could not do it"),
    (Fault.GUEST, "no answer, or a wrong one"),
    (Fault.BUG, "an error of ukl-run itself"),
    (126, "the application could not be started"),
    (127, "its file was not found"),
    (EXIT_STATUS[Kind.PANIC], "the guest's kernel panicked"),
    (EXIT_STATUS[Kind.HANG], "still running when --timeout was over"),
    (EXIT_STATUS[Kind.RESET], "reset or triple fault"),
    (EXIT_STATUS[Kind.NO_STATUS], "ended without a status"),
    (EXIT_STATUS[Kind.QEMU_FAILED], "QEMU failed"),
    (EXIT_STATUS[Kind.STOPPED], "stopped, without a status"),
)

EXIT_STATUSES = "exit status: the application's own, 128+N if signal N killed it, or\n" + "".join(
    f"  {status:3d}  {meaning}\n" for status, meaning in _OUR_STATUSES
)

EXAMPLES = """\
examples:
  ukl-run --qemu tcp_server -p 5555:5555       run build/tcp_server, Ctrl-C stops it
  ukl-run --qemu tcp_server --smoke            ask it what its recipe asks, and stop it
  ukl-run --qemu build/redis -p 0:6379 --disk other.img -- --save ''
  ukl-run --qemu hello --gdb                   wait for gdb, and say how to start it
"""


def say(text: str) -> None:
    """Write a line for people."""
    print(f"ukl-run: {text}", file=sys.stderr, flush=True)


def forward(text: str) -> Forward:
    """Parse ``HOST:GUEST`` with an optional ``/tcp`` or ``/udp``.

    :raise argparse.ArgumentTypeError: if it is none.
    """
    ports, _, name = text.partition("/")
    host, colon, guest = ports.partition(":")
    try:
        proto = Protocol(name or "tcp")
        numbers = int(host), int(guest)
    except ValueError:
        numbers = (-1, -1)
    if not colon or not (0 <= numbers[0] <= 65535 and 1 <= numbers[1] <= 65535):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:GUEST, such as 8080:80, 0:5555 (any free port) or 53:53/udp"
        )
    return Forward(numbers[0], numbers[1], proto)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _count(low: int, high: int, what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text.isdecimal() and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} between {low} and {high}")

    return parse


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="ukl-run",
        description="Run a unikernel in a virtual machine.",
        epilog=EXAMPLES + "\n" + EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--qemu",
        metavar="APP|DIR",
        required=True,
        help="an application that was built (build/APP), or the folder of an image.json",
    )
    made.add_argument(
        "args", nargs="*", metavar="ARGS", help="after --: the application's arguments"
    )
    made.add_argument(
        "-p",
        dest="forwards",
        metavar="HOST:GUEST",
        type=forward,
        action="append",
        default=[],
        help="forward a port of this machine; HOST 0 takes a free one, /udp after it for UDP",
    )
    made.add_argument(
        "--disk",
        dest="disks",
        metavar="FILE[:GUEST]",
        type=attach.disk_option,
        action="append",
        default=[],
        help="ext4 disk at GUEST, or the recipe's; made if missing",
    )
    made.add_argument(
        "-v",
        dest="shares",
        metavar="HOST:GUEST[:ro]",
        type=attach.share_option,
        action="append",
        default=[],
        help="share a folder of this machine with the guest",
    )
    made.add_argument(
        "--file",
        dest="files",
        metavar="HOST:GUEST",
        type=attach.file_option,
        action="append",
        default=[],
        help="put a copy of a file into the guest",
    )
    made.add_argument(
        "-m", dest="memory", metavar="MIB", type=_count(1, 1 << 20, "MiB"), help="memory"
    )
    made.add_argument("--cpus", metavar="N", type=_count(1, 64, "processors"), help="processors")
    made.add_argument("--accel", choices=["auto", "kvm", "tcg"], default="auto")
    made.add_argument(
        "--timeout", metavar="S", type=_positive, help="seconds until a run counts as hung"
    )
    made.add_argument("--append", metavar="WORDS", default="", help="further kernel parameters")
    made.add_argument(
        "--gdb",
        metavar="PORT",
        nargs="?",
        type=_count(0, 65535, "a port"),
        const=GDB_PORT,
        help=f"wait for gdb on a port of this machine ({GDB_PORT}; 0 takes a free one), and say "
        "how to start it; without KASLR",
    )
    made.add_argument("--log-file", metavar="FILE", type=Path, help="where the console goes")
    made.add_argument(
        "--smoke",
        action="store_true",
        help="ask what the recipe asks, or run what it says, and compare; 0 if all went well",
    )
    return made


def find_image(name: str, build: Path = BUILD) -> Path:
    """Return the folder of an image.

    :param name: an application's name or a folder.
    :raise UklError: ``image-missing``.
    """
    given = Path(name)
    for folder in (build / name, given):
        if (folder / IMAGE_FILE).is_file():
            return folder
    if given.name == IMAGE_FILE and given.is_file():
        return given.parent
    known = sorted(path.parent.name for path in build.glob(f"*/{IMAGE_FILE}"))
    built = f"; built are: {', '.join(known)}" if known else ""
    raise UklError(
        "image-missing",
        f"there is no image of {name!r}: neither {build / name} nor {given} has an {IMAGE_FILE}"
        f"{nearest(name, known)}{built}",
        hint=f"build it: scons app={given.name}",
    )


def with_overlay(
    vm: Vm, image: Image, args: Sequence[str], found: attach.Attached, scratch: Path
) -> Vm:
    """Return the machine with what is laid over its image: files, and what its init is told.

    :param args: the application's other arguments, if any: any character can be in them.
    :raise UklError: ``run-invalid`` if the guest could not take it.
    :raise OSError: if a file cannot be read.
    """
    argv = (image.app.argv[0], *args) if args else None
    other = found.mounts() != mounts(image.disks, image.shares)
    try:
        entries = attach.overlay(found)
        if image.init is Init.RING3 and (argv or other):
            conf = render_overlay(argv=argv, mounts=found.mounts() if other else None)
            entries.append(cpio.file(RUN_CONF, conf))
        data = cpio.archive(entries)
    except ValueError as error:
        raise UklError("run-invalid", str(error), hint="pass less") from error
    if not entries:
        return vm
    # It is in memory twice while it is unpacked, and the guest needs some for itself.
    if len(data) > vm.memory_mib * MIB // 4:
        raise UklError(
            "run-invalid",
            f"the files have {len(data) // MIB} MiB, more than a quarter of the guest's memory"
            f" ({vm.memory_mib} MiB)",
            hint="share their folder with -v, or give the guest more with -m",
        )
    initrd = scratch / "run.cpio"
    # The kernel unpacks archives that follow each other in turn, a later file replaces an earlier.
    initrd.write_bytes((vm.initrd.read_bytes() if vm.initrd is not None else b"") + data)
    return replace(vm, initrd=initrd)


def with_args(vm: Vm, args: Sequence[str]) -> Vm:
    """Return the machine with other arguments for an application that is process 1 itself.

    It gets them from the kernel's command line.

    :raise UklError: ``run-invalid`` if the kernel could not pass them on.
    """
    try:
        words = quote_args(args)
    except ValueError as error:
        hint = "use an image with our init, which passes on everything"
        raise UklError("run-invalid", str(error), hint=hint) from error
    own = vm.cmdline[: vm.cmdline.index("--")] if "--" in vm.cmdline else vm.cmdline
    return replace(vm, cmdline=(*own, "--", *words))


def with_parameters(vm: Vm, text: str) -> Vm:
    """Return the machine with further kernel parameters, before ``--`` if there is one.

    :raise UklError: ``run-invalid`` if the command line becomes too long.
    """
    end = vm.cmdline.index("--") if "--" in vm.cmdline else len(vm.cmdline)
    extra = (text,) if text else ()
    cmdline = (*vm.cmdline[:end], *extra, *vm.cmdline[end:])
    if len(" ".join(cmdline)) > MAX_COMMAND_LINE:
        raise UklError(
            "run-invalid",
            f"the kernel's command line is longer than {MAX_COMMAND_LINE} characters",
            hint="shorten --append or the arguments",
        )
    return replace(vm, cmdline=cmdline)


def _told(vm: Vm, image: Image, args: Sequence[str], options: argparse.Namespace) -> Vm:
    """Return the machine with all that the command line adds to the kernel's."""
    if args and image.init is Init.DIRECT:
        vm = with_args(vm, args)
    # What gdb reads of vmlinux is where the kernel was linked, not where KASLR would put it.
    vm = with_parameters(vm, "nokaslr" if options.gdb is not None else "")
    return with_parameters(vm, options.append)


def console_path(name: str, asked: Path | None, number: int = 0) -> Path:
    """Return where the console goes; prunes old logs of the same application.

    :param number: how many runs of the same smoke test were before.
    :raise OSError: if the folder cannot be made.
    """
    suffix = f"-{number + 1}" if number else ""
    if asked is not None:
        return asked.with_stem(f"{asked.stem}{suffix}")
    folder = user_state_path("ukl-build") / "console"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Not NAME-*: another application's name may begin with this one's.
    digit = "[0-9]"
    for old in sorted(folder.glob(f"{name}-{8 * digit}-{6 * digit}-*.log"))[:-KEPT_LOGS]:
        old.unlink(missing_ok=True)
        registers_path(old).unlink(missing_ok=True)
    return folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}{suffix}.log"


def registers_path(console: Path) -> Path:
    """Return where the registers of a guest that hung go."""
    return console.with_suffix(".registers.txt")


class _Asked(Exception):  # noqa: N818 - a request, no error
    """Somebody asked us to stop, by a signal."""


@contextlib.contextmanager
def _stop_requests() -> Iterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP into :class:`_Asked`."""

    def raise_asked(number: int, _: FrameType | None) -> None:
        raise _Asked(signal.Signals(number).name)

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, raise_asked) for number in wanted]
    try:
        yield
    finally:
        for number, handler in zip(wanted, before, strict=True):
            signal.signal(number, handler)


@dataclass(frozen=True)
class _Run:
    machine: Machine
    image: Image
    timeout: float | None


class _Output:
    """Standard output for the guest's console, whose lines end like those of a terminal."""

    def __init__(self) -> None:
        self._held = b""
        self._open = True

    def write(self, data: bytes) -> None:
        data = self._held + data
        # A line's end may be cut in two.
        self._held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(self._held)].replace(b"\r\n", b"\n")
        while data and self._open:
            try:
                # Not sys.stdout: what it holds back is an error at exit if the reader has gone.
                data = data[os.write(1, data) :]
            except OSError:  # it has (| head); the guest goes on
                self._open = False


def _hang(run: _Run) -> Outcome:
    outcome, registers = run.machine.give_up()
    if outcome.kind is Kind.HANG and registers:
        where = registers_path(run.machine.console)
        files.write(where, registers)
        say(f"the processors' registers are in {where}")
    return outcome


def _smoke(run: _Run, smoke: Smoke) -> int:
    """Ask, compare, stop, and look at how it ended.

    :raise UklError: for each way in which it is not well.
    """
    deadline = run.timeout or float(smoke.deadline_s)
    start = time.monotonic()
    answer = run.machine.ask(
        smoke.port, smoke.send.encode(), smoke.expect.encode(), deadline_s=deadline
    )
    took = time.monotonic() - start
    print(f"sent:     {smoke.send!r}")
    print(f"received: {answer.decode('utf-8', 'backslashreplace')!r}", flush=True)
    say(f"{run.image.label} answered after {took:.1f} s; stopping it")
    outcome = run.machine.stop()
    say(str(outcome))
    # An application with no handler for it dies of the SIGTERM that the power button becomes.  One
    # without our init cannot be asked, and is ended from outside.
    stopped = outcome.kind is Kind.STOPPED and run.image.init is Init.DIRECT
    ended = outcome == Outcome(Kind.EXITED, 0) or outcome == Outcome(Kind.SIGNALED, signal.SIGTERM)
    if stopped or ended:
        return 0
    if outcome.by_itself:
        return outcome.exit_status
    raise run.machine.error(outcome)


def _smoke_run(run: _Run, expected: SmokeRun) -> None:
    """Run to the application's end, and compare.

    :raise UklError: for each way in which it is not well.
    """
    outcome = run.machine.wait(run.timeout or float(expected.deadline_s)) or _hang(run)
    if not outcome.by_itself:
        raise run.machine.error(outcome)
    console = run.machine.console.read_text(encoding="utf-8", errors="backslashreplace")
    found = said(console, expected.expect)
    for line in found:
        print(f"received: {line!r}", flush=True)
    wrong = ""
    if len(found) < len(expected.expect):
        wrong = f"the console lacks {expected.expect[len(found)]!r}, or has it too early"
    elif outcome.exit_status != expected.status:
        wrong = f"{outcome}, where {expected.status} was expected"
    if wrong:
        raise UklError(
            "guest-wrong-answer",
            wrong,
            hint=f"compare {run.machine.console} with smoke_runs of the recipe",
            detail=run.machine.console_end(),
        )
    say(str(outcome))


def _forwarded(forwards: Sequence[Forward], smoke: Smoke) -> bool:
    return any((it.guest, it.proto) == (smoke.port, Protocol.TCP) for it in forwards)


def _announce(run: _Run) -> None:
    for port in run.machine.vm.forwards:
        host = run.machine.host_port(port.guest, port.proto)
        say(f"{port.address}:{host} leads to the guest's {port.proto} port {port.guest}")


def _explain_gdb(run: _Run, vmlinux: Path) -> None:
    """Say how to start gdb.  Until the kernel is unpacked, only a hardware breakpoint stays."""
    # An ordinary process has no name in the kernel.
    place = f"{PREFIX}{ENTRY}" if run.image.variant.ring0 else "start_kernel"
    where = f"target remote {LOCALHOST}:{run.machine.gdb_port()}"
    say("waiting for gdb, without KASLR; in another terminal:")
    say(f"  gdb {shlex.quote(str(vmlinux))} -ex '{where}' -ex 'hbreak {place}' -ex continue")


def _attend(run: _Run) -> int:
    """Run until the application ends, the time is over, or somebody stops us."""
    end = time.monotonic() + run.timeout if run.timeout else None
    smoke = run.image.smoke
    # Under a debugger it answers whenever that lets it.
    if smoke and run.machine.vm.gdb is None and _forwarded(run.machine.vm.forwards, smoke):
        deadline = min(run.timeout or smoke.deadline_s, smoke.deadline_s)
        try:
            run.machine.ask(
                smoke.port, smoke.send.encode(), smoke.expect.encode(), deadline_s=deadline
            )
            say(f"{run.image.label} answers on port {run.machine.host_port(smoke.port)}")
        except UklError as error:
            # Other arguments may have given it another port or another answer; the run goes on.
            if run.machine.outcome is None:
                say(f"warning: {error.message}")
    left = None if end is None else max(0.0, end - time.monotonic())
    outcome = run.machine.wait(left) or _hang(run)
    if outcome.by_itself:
        if outcome != Outcome(Kind.EXITED, 0):
            say(str(outcome))
        return outcome.exit_status
    raise run.machine.error(outcome)


def _stop(run: _Run, why: str) -> int:
    say(f"{why}: stopping {run.image.label}; once more ends it at once")
    try:
        outcome = run.machine.stop()
    except _Asked:
        outcome = run.machine.stop(polite_s=0)
    say(str(outcome))
    return outcome.exit_status


def _check_smoke(options: argparse.Namespace, image: Image) -> None:
    if options.gdb is not None:
        raise UklError(
            "run-invalid", "a smoke test does not wait for gdb", hint="leave one of the two out"
        )
    if image.smoke is None and not image.smoke_runs:
        raise UklError(
            "run-invalid", f"{image.name} has no smoke test", hint="add one to its recipe"
        )
    if options.args and image.smoke_runs:
        raise UklError(
            "run-invalid",
            f"the smoke test of {image.name} has arguments of its own",
            hint="leave --smoke out, or the arguments",
        )


def run(options: argparse.Namespace) -> int:
    """Do what the command line asks for.

    :return: the exit status.
    :raise UklError: for everything that goes wrong.
    """
    folder = find_image(options.qemu)
    image = load(folder / IMAGE_FILE)
    forwards: list[Forward] = options.forwards
    if options.smoke:
        _check_smoke(options, image)
        if image.smoke and not _forwarded(forwards, image.smoke):
            forwards = [*forwards, Forward(0, image.smoke.port)]
    runs = image.smoke_runs if options.smoke else ()
    with tempfile.TemporaryDirectory(prefix="ukl-run-") as scratch, _stop_requests():
        vm = from_image(image, folder.resolve(), GUARD_PARAMETERS | REPORT_PARAMETERS)
        if not (vm.kernel and vm.kernel.is_file()):
            raise UklError(
                "image-missing",
                f"{folder / IMAGE_FILE} names the kernel {image.kernel}, which is not there",
                hint=f"build it: {image.command}",
            )
        if vm.initrd is not None and not vm.initrd.is_file():
            raise UklError(
                "image-missing",
                f"{folder / IMAGE_FILE} names the initramfs {image.initrd}, which is not there",
                hint=f"build it: {image.command}",
            )
        vmlinux = (folder / image.kernel).with_suffix(".vmlinux")
        if options.gdb is not None and not vmlinux.is_file():
            raise UklError(
                "image-missing",
                f"gdb would know no names: {vmlinux} is not there",
                hint=f"build it: {image.command}",
            )
        # A smoke test starts with empty disks, and leaves alone what others have written.
        state = Path(scratch) if options.smoke else user_state_path("ukl-build")
        found = attach.attached(
            image,
            options.disks,
            options.shares,
            options.files,
            state=state / "disks" / image.label,
        )
        vm = found.to(replace(vm, memory_mib=options.memory or vm.memory_mib))
        verdict = accel.here(options.accel)
        vm = replace(
            vm,
            cpus=options.cpus or vm.cpus,
            accel=verdict.accel,
            forwards=tuple(forwards),
            gdb=options.gdb,
        )
        argvs: list[Sequence[str]] = [one.args for one in runs] or [options.args]
        vms = [_told(vm, image, args, options) for args in argvs]
        # Last, so that a mistake elsewhere makes no disk.
        attach.prepare(found, say)
        how = "KVM" if verdict.accel is Accel.KVM else "TCG (emulation)"
        status = 0
        for number, (args, vm) in enumerate(zip(argvs, vms, strict=True)):
            ready = with_overlay(vm, image, args, found, Path(scratch))
            console = console_path(image.label, options.log_file, number)
            say(f"starting {image.label} under {how}, {verdict.why}; console log: {console}")
            machine = Machine(ready, console=console)
            with explained(machine, image, folder), machine:
                this = _Run(machine, image, options.timeout)
                try:
                    machine.start(on_console=None if options.smoke else _Output().write)
                    _announce(this)
                    if options.gdb is not None:
                        _explain_gdb(this, vmlinux)
                    if runs:
                        _smoke_run(this, runs[number])
                    elif options.smoke and image.smoke:
                        status = _smoke(this, image.smoke)
                    else:
                        status = _attend(this)
                except _Asked as asked:
                    return _stop(this, str(asked))
        return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = parser().parse_args(argv)
    try:
        return reported(lambda: run(options))
    except _Asked as asked:
        say(f"{asked}: nothing was running yet")
        return EXIT_STATUS[Kind.STOPPED]


if __name__ == "__main__":
    sys.exit(main())
