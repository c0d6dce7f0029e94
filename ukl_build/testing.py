# SPDX-License-Identifier: Apache-2.0
r"""A pytest plugin: tests get unikernels that run, as they are when the application is ready.

::

    @pytest.mark.ukl("redis", "-m", "512")
    def test_a_new_server_is_empty(unikernel: Unikernel) -> None:
        with socket.create_connection(unikernel.address) as client:
            client.sendall(b"DBSIZE\r\n")
            assert client.recv(100) == b":0\r\n"

Each test has a machine of its own.  It goes on from a snapshot (:mod:`ukl_build.run.warm`), which
the first test makes that needs it, and which later runs of pytest find; one that cannot be saved
boots.  Of a test that fails, what is known of its machines is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPError

from ukl_build import files, proc
from ukl_build.cache import Cache
from ukl_build.errors import UklError
from ukl_build.image import IMAGE_FILE, Protocol, load
from ukl_build.run import attach, attend, cli, network, prepare, session, warm
from ukl_build.run.crash import report as crash
from ukl_build.run.machine import Event, Machine, Saved
from ukl_build.run.outcome import Outcome
from ukl_build.run.vm import LOCALHOST, Forward, Vm

ARTIFACTS = "ukl-artifacts"
"""Where it is kept what is known of failures, in pytest's root folder."""

START_S = 60.0
"""Seconds for the application to be started, of an image that has no question to ask."""

REPORT_FILE = "report.txt"
"""What is kept of a crash."""

CONSOLE_LINES = 40
"""Of a test that failed, shown among what it has printed."""

FOREIGN = (
    *("detach", "smoke", "snapshot", "restore", "gdb", "dry_run", "json", "log_file"),
    *("quiet", "verbose", "name", "rm", "timeout", "no_color"),
)
"""Options of ukl-run that make no sense for the machine of a test."""


class Unikernel:
    """A unikernel that runs for a test."""

    def __init__(self, plan: session.Plan, vm: Vm, folder: Path, saved: Saved | None) -> None:
        """Prepare one; nothing runs yet.

        :param folder: for the console log.
        :param saved: what it goes on from; None boots.
        """
        self.plan = plan
        self.warm = saved is not None
        """Whether it goes on from a snapshot."""
        self.machine = Machine(vm, console=folder / "console.log", saved=saved)
        """All that can be done with it."""
        self._end_known = False

    @property
    def name(self) -> str:
        """Of its image."""
        return self.plan.image.label

    @property
    def port(self) -> int:
        """Port of this machine that leads to the application's first TCP port."""
        tcp = [one for one in self.machine.vm.forwards if one.proto is Protocol.TCP]
        if not tcp:
            raise UklError(
                "run-invalid",
                f"the recipe of {self.name} names no TCP port",
                hint="give the test's mark a port of the guest: -p 0:PORT",
            )
        return self.machine.host_port(tcp[0].guest)

    def port_of(self, guest: int, proto: str = "tcp") -> int:
        """Return the port of this machine that leads to one of the guest.

        :param proto: ``tcp`` or ``udp``.
        """
        return self.machine.host_port(guest, Protocol(proto))

    @property
    def address(self) -> tuple[str, int]:
        """Of the first TCP port, as sockets take it."""
        return LOCALHOST, self.port

    @property
    def console(self) -> str:
        """All that the guest has said, also before it was saved."""
        text = self.machine.console.read_text(encoding="utf-8", errors="backslashreplace")
        return text.replace("\r\n", "\n")

    def wait_console(self, pattern: str, timeout_s: float = 30) -> re.Match[str]:
        """Wait until the console has something.

        :param pattern: regular expression; ``^`` and ``$`` are a line's.
        :raise AssertionError: if it does not come, or cannot come any more.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            over = self.machine.outcome is not None or time.monotonic() > deadline
            found = re.search(pattern, self.console, re.MULTILINE)
            if found is not None:
                return found
            assert not over, f"the console of {self.name} has no {pattern!r}"
            self.machine.wait(0.02)

    def qmp(self, command: str, **arguments: object) -> Any:
        """Execute a QMP command, and return what QEMU answers.

        :param arguments: their names with ``_`` for ``-``.
        :raise qemu.qmp.ExecuteError: if QEMU refuses it.
        """
        return self.machine.qmp(command, **arguments)

    @property
    def events(self) -> tuple[Event, ...]:
        """What the guest's init has reported, also before it was saved."""
        return self.machine.events

    def stop(self) -> Outcome:
        """End it as its power button does, and return how it ended."""
        self._end_known = True
        return self.machine.stop()

    def wait(self, timeout_s: float) -> Outcome:
        """Wait for its end, and return how it ended.

        :raise AssertionError: if it still runs then.
        """
        found = self.machine.wait(timeout_s)
        assert found is not None, f"{self.name} still runs after {timeout_s:g} s"
        self._end_known = True
        return found

    @property
    def died(self) -> Outcome | None:
        """How it ended, if nobody has ended it or waited for that."""
        return None if self._end_known else self.machine.outcome

    def close(self) -> None:
        """End it: at once, unless there is a disk or a folder that outlives it."""
        vm = self.machine.vm
        if not self.warm and (vm.folders or vm.drives) and self.machine.outcome is None:
            self.machine.stop()
        self.machine.close()

    def keep(self, folder: Path) -> None:
        """Write down what is known of it.

        :param folder: is made.
        :raise OSError: if it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        machine = self.machine
        outcome = machine.outcome
        if machine.console.exists():
            shutil.copyfile(machine.console, folder / "console.log")
        registers = machine.registers
        if outcome is None and machine.qemu_status is None:
            with contextlib.suppress(QMPError):
                registers = machine.monitor("info registers -a")
        if registers:
            files.write(folder / "registers.txt", registers)
        if outcome is not None:
            self._keep_report(folder, outcome)
        told = {
            "image": str(self.plan.folder),
            "warm": self.warm,
            "outcome": None if outcome is None else str(outcome),
            "events": machine.events,
            "qemu": network.by_hand(replace(machine.vm, incoming=False), folder),
        }
        files.write(folder / "machine.json", json.dumps(told, indent=2) + "\n")

    def _keep_report(self, folder: Path, outcome: Outcome) -> None:
        plan = self.plan
        try:
            found = crash.examined(plan.image, plan.folder, self.machine.console, outcome)
        except (OSError, UklError) as error:
            files.write(folder / REPORT_FILE, f"there is no report of the crash: {error}\n")
            return
        if found is not None:
            files.write(folder / REPORT_FILE, crash.text(found))


def _options(words: tuple[str, ...]) -> argparse.Namespace:
    """Return what words of ukl-run's command line ask for.

    :param words: the image, then options.
    :raise UklError: ``run-invalid``.
    """
    said = io.StringIO()
    made = cli.parser()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            found = made.parse_args(["--qemu", *words])
    except SystemExit:
        why = said.getvalue().strip().rpartition("\n")[2]
        raise UklError(
            "run-invalid", why or "wrong options", hint="they are those of ukl-run: ukl-run --help"
        ) from None
    foreign = [name for name in FOREIGN if getattr(found, name) != made.get_default(name)]
    if foreign:
        option = foreign[0].replace("_", "-")
        raise UklError(
            "run-invalid",
            f"--{option} is not for the machine of a test",
            hint="leave it out",
        )
    return found


def _planned(options: argparse.Namespace, folder: Path) -> tuple[session.Plan, Vm]:
    """Return what is to be run, and its machine, with all that they need in a folder."""
    plan = session.planned(options, folder / "disks")

    def place(data: bytes) -> Path:
        path = folder / "run.cpio"
        path.write_bytes(data)
        return path

    return plan, plan.machine(0, place)


Words = tuple[str, ...]
Warm = tuple[session.Plan, Vm, Saved]


@dataclass
class Starter:
    """What starts the unikernels of all tests."""

    build: Path
    """Folder in which images are found by their application's name."""
    cold: bool
    """Whether all boot."""
    found: dict[Words, Warm | UklError] = field(default_factory=dict)
    """By the words that ask for them: what goes on, or why it cannot be saved."""

    def start(self, words: Words, *, warm: bool, mine: Mine) -> Unikernel:
        """Start a unikernel, and wait until its application is ready.

        :param words: the image, then options of ukl-run.
        :param warm: whether it may go on from a snapshot.
        :param mine: of the test that wants it.
        :raise UklError: for all that goes wrong.
        :raise OSError: if something cannot be read or written.
        """
        options = _options(words)
        options.qemu = str(prepare.find_image(options.qemu, self.build))
        image = load(Path(options.qemu) / IMAGE_FILE)
        given = {(one.guest, one.proto) for one in options.forwards}
        options.forwards = [
            *options.forwards,
            *(
                Forward(0, one.guest, one.proto)
                for one in image.ports
                if (one.guest, one.proto) not in given
            ),
        ]
        options.restore = warm and not self.cold
        if not options.restore or session.no_warm_start(options, image) is not None:
            options.restore = False
            return self._boot(options, mine)
        if words not in self.found:
            try:
                self.found[words] = self._saved(options, mine)
            except UklError as error:
                # The next test would wait as long for the same.
                self.found[words] = error
        found = self.found[words]
        if isinstance(found, UklError):
            raise found
        plan, vm, saved = found
        one = mine.add(Unikernel(plan, vm, mine.new_folder(), saved))
        one.machine.start()
        return one

    def _boot(self, options: argparse.Namespace, mine: Mine) -> Unikernel:
        folder = mine.new_folder()
        plan, vm = _planned(options, folder)
        attach.prepare(plan.found, attend.talk.debug)
        one = mine.add(Unikernel(plan, vm, folder, None))
        one.machine.start()
        asked = plan.image.smoke
        if asked is not None and attend.is_forwarded(vm.forwards, asked):
            attend.first_answer(one.machine, asked)
        else:
            one.machine.wait_event(START_S, job="app")
        return one

    def _saved(self, options: argparse.Namespace, mine: Mine) -> Warm:
        folder = mine.new_folder()
        plan, vm = _planned(options, folder)
        # By the digest of all that it has; asked once, for it reads the kernel.
        snapshot = warm.place_of(vm)
        root = Cache.default().root
        root.mkdir(parents=True, exist_ok=True)
        # Others who run the same tests would make the same snapshot.
        with (root / "snapshots.lock").open("w") as file:
            proc.lock(file, lambda: attend.talk.info("waiting for somebody else's snapshot"))
            if not warm.is_there(snapshot):
                attach.prepare(plan.found, attend.talk.debug)
                one = mine.add(Unikernel(plan, vm, folder, None))
                one.machine.start()
                warm.make(one.machine, plan.image, plan.folder, snapshot)
                one.machine.close()
                mine.all.remove(one)
        return plan, *warm.find(vm, snapshot, plan.image.label)


@dataclass
class Mine:
    """The unikernels of one test."""

    new_folder: Callable[[], Path]
    """Makes a folder for what a machine leaves."""
    all: list[Unikernel] = field(default_factory=list)
    failed: bool = False
    """The test has, and what is known of them is kept."""

    def add(self, one: Unikernel) -> Unikernel:
        """Take one that is to be ended with the test."""
        self.all.append(one)
        return one

    def close(self) -> None:
        """End all."""
        with contextlib.ExitStack() as ends:
            for one in self.all:
                ends.callback(one.close)

    def keep(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Write down what is known of them, and yield what is to be shown: headings and texts.

        :raise OSError: if it cannot be written.
        """
        self.failed = True
        shutil.rmtree(folder, ignore_errors=True)
        for number, one in enumerate(self.all):
            place = folder / f"{number + 1}-{one.name.replace('/', '-')}"
            one.keep(place)
            report = place / REPORT_FILE
            if report.exists():
                yield f"crash of {one.name}", report.read_text(encoding="utf-8")
            lines = one.console.splitlines()[-CONSOLE_LINES:]
            yield f"end of the console of {one.name}; all is in {place}", "\n".join(lines)


STARTER = pytest.StashKey[Starter]()
MINE = pytest.StashKey[Mine]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options to pytest."""
    group = parser.getgroup("ukl", "unikernels")
    group.addoption(
        "--ukl-artifacts",
        metavar="DIR",
        help=f"where what is known of a failure is kept, by default {ARTIFACTS}/",
    )
    group.addoption(
        "--ukl-cold", action="store_true", help="boot all unikernels, rather than from snapshots"
    )
    parser.addini(
        "ukl", "the unikernel of tests without a mark of their own: NAME [OPTION]...", type="args"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin a session."""
    config.addinivalue_line(
        "markers",
        "ukl(image, *options, warm=True): the unikernel that a test gets, and options of ukl-run;"
        " warm=False boots it",
    )
    config.stash[STARTER] = Starter(
        config.invocation_params.dir / prepare.BUILD, config.getoption("ukl_cold")
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep what is known of the machines of a test that fails, while they still run."""
    report = yield
    mine = item.stash.get(MINE, None)
    if report.failed and mine is not None and mine.all and not mine.failed:
        config = item.config
        folder = config.rootpath / (config.getoption("ukl_artifacts") or ARTIFACTS)
        name = re.sub(r"[^\w.,=-]+", "-", item.nodeid).strip("-")
        try:
            report.sections.extend(mine.keep(folder / name))
        except OSError as error:
            report.sections.append(("what is known of unikernels cannot be kept", str(error)))
    return report


@pytest.fixture
def start_unikernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Unikernel]]:
    """Return a function that starts unikernels: of the test's mark, or those that it is told.

    All are ended after the test; one that has ended by itself, unseen, fails it.
    """
    config, node = request.config, request.node
    mine = node.stash[MINE] = Mine(lambda: tmp_path_factory.mktemp("ukl"))
    mark = node.get_closest_marker("ukl")

    def start(*words: str, warm: bool = True) -> Unikernel:
        if mark is not None:
            words = words or mark.args
            warm = warm and mark.kwargs.get("warm", True)
        words = words or tuple(config.getini("ukl"))
        try:
            if not words:
                raise UklError(
                    "run-invalid",
                    "nothing says which unikernel the test is to have",
                    hint='give it a mark, @pytest.mark.ukl("NAME"), or pytest.ini: ukl = NAME',
                )
            return config.stash[STARTER].start(tuple(map(str, words)), warm=warm, mine=mine)
        except UklError as error:
            pytest.fail(str(error), pytrace=False)

    try:
        yield start
        died = [f"{one.name} has ended: {one.died}" for one in mine.all if one.died is not None]
        if died and not mine.failed:
            pytest.fail("\n".join(died), pytrace=False)
    finally:
        mine.close()


@pytest.fixture
def unikernel(start_unikernel: Callable[..., Unikernel]) -> Unikernel:
    """Return the unikernel of the test's mark, whose application is ready."""
    return start_unikernel()
