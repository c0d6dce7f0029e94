# SPDX-License-Identifier: Apache-2.0
"""One run of ukl-run: from its command line to a machine, its record, and its end."""

from __future__ import annotations

import argparse
import errno
import hashlib
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from platformdirs import user_state_path

from ukl_build import files
from ukl_build.errors import UklError, refused
from ukl_build.image import IMAGE_FILE, Feature, Image, Init, load
from ukl_build.run import (
    accel,
    attach,
    attend,
    network,
    prepare,
    recording,
    records,
    tap,
    warm,
)
from ukl_build.run.attend import Asked, talk
from ukl_build.run.control import Server
from ukl_build.run.crash.report import Report, explained
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Outcome
from ukl_build.run.vm import (
    GUARD_PARAMETERS,
    REPORT_PARAMETERS,
    Accel,
    Forward,
    Network,
    Vm,
    from_image,
)

Ready = Callable[[records.Held], None]


def _check(options: argparse.Namespace, image: Image) -> None:
    """Refuse what does not fit together.

    :raise UklError: ``run-invalid``.
    """

    def refuse(message: str, hint: str) -> None:
        raise UklError("run-invalid", message, hint=hint)

    if options.smoke and options.gdb is not None:
        refuse("a smoke test does not wait for gdb", "leave one of the two out")
    if options.smoke and options.detach:
        refuse("a smoke test is waited for", "leave --detach out")
    if options.smoke and image.smoke is None and not image.smoke_runs:
        refuse(f"{image.name} has no smoke test", "add one to its recipe")
    if options.smoke and options.args and image.smoke_runs:
        refuse(
            f"the smoke test of {image.name} has arguments of its own",
            "leave --smoke out, or the arguments",
        )
    if options.network == Network.NONE and options.forwards:
        refuse("-p forwards ports to a network card, and there is none", "leave --network none out")
    if options.network == Network.NONE and options.smoke and image.smoke:
        refuse("the smoke test asks over the network", "leave --network none out")
    if options.watchdog and image.init is Init.DIRECT:
        refuse("nobody would feed the watchdog", "build it with init=ring3, whose init does")
    if options.watchdog:
        attach.check_features(image, [Feature.WATCHDOG])
    if options.record:
        unfit = no_recording(options, image)
        if unfit is not None:
            raise unfit
    if options.snapshot or options.restore:
        cold = no_warm_start(options, image)
        if cold is not None:
            raise cold
    if options.quiet and options.verbose:
        refuse("-q and --verbose ask for opposite things", "leave one of the two out")


def _unfit(option: str, *reasons: tuple[object, str, str]) -> UklError | None:
    """Return the error of the first reason against an option that holds.

    :param reasons: whether it holds, what is said of it before the option, and a hint.
    """
    for holds, what, hint in reasons:
        if holds:
            return UklError("run-invalid", f"{what} {option}", hint=hint)
    return None


def no_warm_start(options: argparse.Namespace, image: Image) -> UklError | None:
    """Return why a machine cannot be saved, or cannot go on from what was; None if it can.

    :return: ``run-invalid``.
    """
    name = "--snapshot" if options.snapshot else "--restore"
    return _unfit(
        name,
        (options.snapshot and options.restore, "--restore goes on from", "leave one of them out"),
        (options.gdb is not None, "--gdb waits before", "leave one of them out"),
        (options.dry_run, "--dry-run has no machine for", "leave one of them out"),
        (options.snapshot and options.smoke, "--smoke stops", "leave --smoke out, it is asked"),
        (options.snapshot and options.detach, "--detach does not wait for", "leave it out"),
        (
            options.disks or options.shares or image.shares,
            "what is on this machine's disks and in its folders goes on without",
            "only disks of the recipe, which are empty in a snapshot, can be part of it",
        ),
        (
            options.network == Network.NONE or options.network.startswith(Network.TAP),
            f"--network {options.network} does not fit:",
            "by passt and user a guest has the same address whenever it goes on",
        ),
        (
            image.smoke is None,
            f"{image.name} has no question that is answered when it is ready, for",
            "add smoke to its recipe",
        ),
        (
            image.init is Init.DIRECT,
            "without our init nobody sets the clock after",
            f"build it with our init: {image.command} init=ring3",
        ),
    )


def no_recording(options: argparse.Namespace, image: Image) -> UklError | None:
    """Return why a run cannot be recorded; None if it can.

    :return: ``run-invalid``.
    """
    return _unfit(
        "--record",
        (options.snapshot or options.restore, "a saved state is not part of", "leave one out"),
        (options.gdb is not None, "--gdb is for the replay, not for", "leave --gdb out"),
        (options.dry_run, "--dry-run makes none of the files of", "leave one of them out"),
        (options.accel == Accel.KVM, "QEMU writes down what TCG does, and so", "leave kvm out"),
        (
            options.smoke and image.smoke_runs,
            "a smoke test of several runs is more than",
            "record one of them: give its arguments behind --",
        ),
        (
            options.shares or image.shares,
            "what is in a shared folder is not part of",
            "put it on a disk, or take --file",
        ),
        (
            options.network not in (Network.USER, Network.NONE),
            f"--network {options.network} does not fit:",
            "by user, or none, a guest's network is written down",
        ),
    )


BESIDE_REPLAY = frozenset(
    {
        *("replay", "gdb", "name", "detach", "rm", "timeout", "json", "log_file"),
        *("quiet", "verbose", "no_color"),
    }
)
"""Options that say nothing of the machine."""


@dataclass(frozen=True)
class Plan:
    """All that is to be run, before anything is made for it."""

    image: Image
    folder: Path
    found: attach.Attached
    verdict: accel.Verdict
    net: network.Verdict
    env: Mapping[str, str]
    boots: tuple[tuple[Vm, Sequence[str]], ...]
    """Machine after machine, with the application's arguments; several of a smoke test's runs."""

    def machine(self, number: int, place: Callable[[bytes], Path]) -> Vm:
        """Return a machine with all that it is given, see :func:`prepare.with_overlay`."""
        vm, args = self.boots[number]
        return prepare.with_overlay(vm, self.image, args, self.env, self.found, place=place)


def _addresses(net: network.Verdict, image: Image, forwards: Sequence[Forward]) -> str:
    """Return what the guest's init is told of its network.

    :raise UklError: ``run-invalid``.
    """
    if net.tap is not None:
        tap.refuse(net.tap, forwards)
        if net.tap.lease and image.init is Init.DIRECT:
            raise UklError(
                "run-invalid",
                "there is no DHCP on a tap device that ukl-run makes",
                hint="build it with init=ring3, whose init is told its address",
            )
        return net.tap.lease
    ring3 = net.network is Network.PASST and image.init is Init.RING3
    return network.LEASE if ring3 else ""


def _is_asked(options: argparse.Namespace) -> bool:
    """Return whether a machine is asked what its recipe asks, or goes on from where it was."""
    return bool(options.smoke or options.snapshot or options.restore)


def planned(options: argparse.Namespace, disks: Path | None = None) -> Plan:
    """Return what a command line asks for.

    :param options: of :func:`ukl_build.run.cli.parser`.
    :param disks: where the recipe's disks are; None is where they outlive their machines.
    :raise UklError: ``image-missing``, ``image-invalid``, ``run-invalid`` and what a machine lacks.
    :raise OSError: if something cannot be read.
    """
    folder = prepare.find_image(options.qemu)
    image = load(folder / IMAGE_FILE)
    _check(options, image)
    prepare.check_files(image, folder, symbols=options.gdb is not None)
    forwards: list[Forward] = options.forwards
    if _is_asked(options) and image.smoke and not attend.is_forwarded(forwards, image.smoke):
        forwards = [*forwards, Forward(0, image.smoke.port)]
    vm = from_image(image, folder.resolve(), GUARD_PARAMETERS | REPORT_PARAMETERS)
    state = user_state_path("ukl-build") / "disks" / image.label if disks is None else disks
    found = attach.attached(
        *(image, options.disks, options.shares, options.files),
        state=state,
    )
    vm = found.to(replace(vm, memory_mib=options.memory or vm.memory_mib))
    verdict = accel.here(Accel.TCG if options.record else options.accel)
    net = network.here(options.network)
    vm = replace(
        vm,
        network=net.network,
        tap=net.tap,
        cpus=options.cpus or vm.cpus,
        accel=verdict.accel,
        forwards=tuple(forwards),
        watchdog=options.watchdog is not None,
        gdb=options.gdb,
    )
    if image.init is Init.DIRECT:
        vm = prepare.with_env(vm, dict(options.env))
    # What gdb reads of vmlinux is where the kernel was linked, not where KASLR would put it.
    vm = prepare.with_parameters(vm, "nokaslr" if options.gdb is not None or options.record else "")
    vm = prepare.with_parameters(vm, _addresses(net, image, forwards))
    if options.watchdog:
        vm = prepare.with_parameters(vm, f"ukl.watchdog={options.watchdog}")
    vm = prepare.with_parameters(vm, options.append)
    runs = image.smoke_runs if options.smoke else ()
    argvs: list[Sequence[str]] = [one.args for one in runs] or [options.args]
    boots = [
        (prepare.with_args(vm, args) if args and image.init is Init.DIRECT else vm, args)
        for args in argvs
    ]
    return Plan(image, folder, found, verdict, net, dict(options.env), tuple(boots))


def replayed(options: argparse.Namespace) -> Plan:
    """Return what a recording has.

    :raise UklError: ``recording-invalid``, or ``run-invalid`` with what would make it another one.
    :raise OSError: if something cannot be read.
    """
    other = [name for name in options.given if name not in BESIDE_REPLAY]
    if other:
        raise UklError(
            "run-invalid",
            f"a replay does what was recorded, whatever {' and '.join(sorted(other))} would say",
            hint="leave that out, or record it",
        )
    image, vm = recording.find(options.replay)
    prepare.check_files(image, options.replay, symbols=options.gdb is not None)
    return Plan(
        image,
        options.replay,
        attach.Attached(),
        accel.Verdict(Accel.TCG, "as it was recorded"),
        network.Verdict(vm.network),
        {},
        ((replace(vm, gdb=options.gdb), ()),),
    )


def _dry_run(plan: Plan) -> int:
    """Print QEMU's command line, and make nothing but what that reads."""
    folder = records.runtime_folder() / "dry-run"
    records.private(folder.parent)
    folder.mkdir(exist_ok=True)

    def place(data: bytes) -> Path:
        path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.cpio"
        files.write(path, data)
        return path

    for disk in plan.found.disks:
        if not disk.path.exists():
            talk.warning("warning: %s is not there; a run makes it", disk.path)
    for number in range(len(plan.boots)):
        print(network.by_hand(plan.machine(number, place), folder))
    return 0


def _described(plan: Plan, options: argparse.Namespace) -> records.Record:
    vm = plan.boots[0][0]
    return records.Record(
        label=plan.image.label,
        image=str(plan.folder.resolve()),
        command=shlex.join(["ukl-run", *options.argv]),
        pid=os.getpid(),
        started_s=time.time(),
        memory_mib=vm.memory_mib,
        cpus=vm.cpus,
        accel=vm.accel,
        console=str(options.log_file.resolve()) if options.log_file else "",
        detached=options.detach,
        remove=options.rm,
    )


def run(options: argparse.Namespace, ready: Ready = lambda _: None) -> int:
    """Do what the command line asks for.

    :param ready: called when the (first) machine runs.
    :return: the exit status.
    :raise UklError: for everything that goes wrong.
    :raise OSError: if something cannot be read or written.
    :raise Asked: if a signal came before anything ran.
    """
    with tempfile.TemporaryDirectory(prefix="ukl-run-") as scratch, attend.stop_requests():
        session = _Session(options, Path(scratch), ready)
        try:
            status = session.run()
            session.end(status)
        except (UklError, OSError) as error:
            known = error if isinstance(error, UklError) else refused(error)
            session.end(known.exit_status, known)
            raise
        finally:
            session.close()
        return status


class _Session:
    """What there is of a run so far."""

    def __init__(self, options: argparse.Namespace, scratch: Path, ready: Ready) -> None:
        self.options = options
        self.scratch = scratch
        self.ready = ready
        self.held: records.Held | None = None
        self.server: Server | None = None
        self.outcome: Outcome | None = None
        """How the last machine ended; None before there was one."""
        self.crash: Report | None = None

    def run(self) -> int:
        """Run all boots; return the exit status of the last."""
        # A smoke test starts with empty disks, as what is saved does, and leaves alone what others
        # have written.
        own = self.scratch / "disks" if _is_asked(self.options) else None
        plan = replayed(self.options) if self.options.replay else planned(self.options, own)
        if self.options.dry_run:
            return _dry_run(plan)
        self.held = held = records.Store.default().create(
            _described(plan, self.options), self.options.name
        )
        self.server = server = Server(Path(held.record.socket))
        # Last, so that a mistake elsewhere makes no disk.
        if not self.options.restore:  # its disks are in the snapshot
            attach.prepare(plan.found, talk.info)
        status = 0
        for number in range(len(plan.boots)):
            status = self._boot(plan, number, held, server)
            if server.stopped_by:
                break
        return status

    def _boot(self, plan: Plan, number: int, held: records.Held, server: Server) -> int:
        options = self.options
        vm = plan.machine(number, self._place)
        console = Path(held.record.console)
        if number:
            console = console.with_stem(f"{console.stem}-{number + 1}")
        how = "KVM" if vm.accel is Accel.KVM else "TCG (emulation)"
        talk.info(
            f"starting {held.record.name} under {how}, {plan.verdict.why}; console log: {console}"
        )
        if vm.tap is not None and vm.tap.guest is not None:
            talk.info(f"the guest's address is {vm.tap.guest.ip}, by the interface {vm.tap.name}")
        if talk.isEnabledFor(logging.DEBUG):  # it looks for free ports
            talk.debug("command line: %s", network.by_hand(vm, records.runtime_folder()))
        place = warm.place_of(vm) if options.snapshot or options.restore else None
        saved = None
        if place is not None and options.restore:
            vm, saved = warm.find(vm, place, plan.image.label)
        if options.record:
            vm = recording.begin(vm, plan.image, options.record, talk.info)
        machine = Machine(vm, console=console, saved=saved)
        with explained(machine, plan.image, plan.folder, self._crashed), machine:
            output = attend.Output()
            run = attend.Run(machine, plan.image, options.timeout, server, output)
            try:
                hidden = options.smoke or options.snapshot or options.detach or options.json
                machine.start(on_console=None if hidden else output.write)
                server.machine = machine
                ports = attend.forwarded(machine)
                held.update(ports=ports, qemu_pid=machine.pid)
                attend.announce(ports)
                if options.gdb is not None:
                    sources = prepare.sources(plan.folder, plan.image.variant)
                    attend.explain_gdb(run, prepare.vmlinux(plan.image, plan.folder), sources)
                if not number:
                    self.ready(held)
                if place is not None and options.snapshot:
                    warm.make(machine, plan.image, plan.folder, place, options.timeout)
                    print(place)
                    machine.stop(polite_s=0)
                    return 0
                if options.smoke and plan.image.smoke_runs:
                    attend.smoke_run(run, plan.image.smoke_runs[number])
                    return 0
                if options.smoke and plan.image.smoke:
                    return attend.smoke(run, plan.image.smoke)
                return attend.attend(run)
            except Asked as asked:
                return attend.stop(run, str(asked))
            finally:
                self.outcome = machine.outcome

    def _crashed(self, report: Report) -> None:
        self.crash = report

    def _place(self, data: bytes) -> Path:
        path = self.scratch / "run.cpio"
        path.write_bytes(data)
        return path

    def end(self, status: int, error: UklError | None = None) -> None:
        """Keep how it ended, if anything ran, and tell it to scripts."""
        how = records.ended(status, self.outcome, error, self.crash)
        record = None
        if self.held is not None:
            record = self.held.record
            if record.qemu_pid is None:
                self.held.drop()
            else:
                try:
                    self.held.end(how)
                except OSError as refusal:
                    # A full disk does not change how it ended.
                    talk.warning("warning: how it ended cannot be kept: %s", refusal)
                    if refusal.errno == errno.ENOSPC:
                        talk.warning("warning: the end of the console log may be missing as well")
        if self.server is not None:
            self.server.over(status)
        if self.options.json and not self.options.detach and not self.options.dry_run:
            print(records.as_json(record, how), flush=True)

    def close(self) -> None:
        """Give everything back."""
        if self.server is not None:
            self.server.close()
        if self.held is not None:
            self.held.close()
