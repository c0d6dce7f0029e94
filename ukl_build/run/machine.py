# SPDX-License-Identifier: Apache-2.0
r"""A running virtual machine: QEMU started, watched over QMP, asked, stopped.

The only place that starts QEMU.  Inside, everything is asyncio in a thread of its own; outside,
:class:`Machine` is synchronous::

    with Machine(vm, console=Path("console.log")) as machine:
        machine.start()
        answer = machine.ask(5555, b"hello\n", b"hello", deadline_s=60)
        outcome = machine.stop()

However the block is left, QEMU is gone afterwards; and if this process is killed, QEMU is killed
with it (see :mod:`ukl_build.run.lifeline`).

Nothing has a name in the file system: QMP and the status port are socket pairs, so there is no
stale socket, no permission to get wrong, and two machines cannot meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError, Runstate

from ukl_build import proc
from ukl_build.errors import UklError
from ukl_build.image import Init, Protocol
from ukl_build.run import backlog, lifeline, network, ports, qemu, tap
from ukl_build.run.execute import SESSIONS, Relay
from ukl_build.run.outcome import GuestError, Kind, Outcome, Record, classify
from ukl_build.run.vm import Forward, Network, Tap, Vm

T = TypeVar("T")
Event = dict[str, object]

STATE_S = 120.0
"""Seconds for QEMU to write or read a machine's state: some GiB on a slow disk."""

SAVING_INIT = 2
"""First version of the guest's init (its report ``init``) that can be saved and go on."""

PASSING = ("settled", "resumed")
"""Its reports that are of one saving or going on."""

SETTLE_S = 10.0
"""Seconds for the guest to say that its state can be saved; it waits half as long at most."""

CONNECT_S = 30.0
"""Seconds for QEMU to come up: to read its arguments and greet."""

POLITE_S = 20.0
"""Seconds that a guest is given to end after its power button was pressed: twice what its init
gives the application between SIGTERM and SIGKILL."""

FIRM_S = 5.0
"""Seconds for each of quit, SIGTERM and SIGKILL to end QEMU."""

ATTEMPT_S = (1.0, 8.0)
"""Seconds, first and longest, that one attempt to get an answer takes."""

CONSOLE_POLL_S = 0.05
SHOWN_S = 2.0
"""Seconds that whoever reads the console has to take the rest of it: somebody may page it."""

CONSOLE_TAIL = 64 * 1024
"""Bytes of the console that a panic is looked for in."""

MAX_LINE = 400
MAX_WORDS = 64 * 1024
MAX_EVENTS = 100_000
"""A guest is not trusted: it cannot make us hold more than this."""


def _usernet(listed: str) -> network.HostPorts:
    """Return which ports QEMU has bound, of what ``info usernet`` lists."""
    pattern = r"^\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)\s"
    found = re.findall(pattern, listed, re.MULTILINE)
    return {
        (Protocol(proto.lower()), int(guest)): int(host) for proto, host, guest in reversed(found)
    }


def _unsaved(message: str, hint: str, detail: str = "") -> UklError:
    return UklError("snapshot-failed", message, hint=hint, detail=detail)


async def _migrated(changes: EventListener) -> bool:
    """Wait for the end of a migration; return whether it went well."""
    async for message in changes:
        data = message.get("data")
        status = data.get("status") if isinstance(data, dict) else None
        if status in ("completed", "failed"):
            return bool(status == "completed")
    return False


def _monitor(line: str) -> tuple[str, dict[str, object]]:
    return "human-monitor-command", {"command-line": line}


@dataclass(frozen=True)
class Saved:
    """What a machine goes on from."""

    state: Path
    """QEMU's migration stream."""
    events: tuple[Event, ...]
    """What the guest's init had reported."""
    console: bytes = b""
    """What the guest had said."""


class _Session:
    """The asyncio side; every method runs in the loop's thread."""

    def __init__(self, vm: Vm, console: Path, program: Path, saved: Saved | None) -> None:
        self.vm = vm if saved is None else replace(vm, incoming=True)
        self.saved = saved
        self.console = console
        self.program = program
        self.process: asyncio.subprocess.Process | None = None
        self.client = QMPClient("ukl-run")
        self.listener = EventListener()
        self.watchdog = EventListener("WATCHDOG")
        self.registers = ""
        """The processors', of a guest that hung."""
        self.negotiated = asyncio.Event()
        """Set when connect() is over, whether :attr:`connected` or not."""
        self.connected = False
        self.gave_up = False
        self.words = bytearray()
        before = () if saved is None else saved.events
        self.events = [one for one in before if one.get("event") not in PASSING]
        self.changed = asyncio.Condition()
        self.outcome: Outcome | None = None
        self.host_ports: network.HostPorts = {}
        self.forwarders: list[asyncio.Server] = []
        self.relay: Relay | None = None
        self.tasks: list[asyncio.Task[None]] = []
        self.starting: asyncio.Task[None] | None = None
        self.end: asyncio.Task[Outcome] | None = None
        self.follower: asyncio.Task[None] | None = None
        self.guard: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.starting = asyncio.current_task()
        with contextlib.ExitStack() as ends:
            qmp, qmp_end = socket.socketpair()
            ends.enter_context(qmp_end)
            status, status_end = socket.socketpair()
            ends.enter_context(status_end)
            # Ours before QEMU opens it: private, and there even if QEMU never gets that far.
            log = os.open(self.console, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(log, "wb") as file:
                file.write(b"" if self.saved is None else self.saved.console)
            execute, execute_end = socket.socketpair()
            ends.enter_context(execute_end)
            inherited = [qmp_end.fileno(), status_end.fileno(), execute_end.fileno()]
            wiring = qemu.Wiring.inherited(inherited, self.console)
            state = -1
            if self.saved is not None:
                state = os.open(self.saved.state, os.O_RDONLY | os.O_CLOEXEC)
                ends.callback(os.close, state)
                inherited.append(state)
            if self.vm.network is Network.PASST:
                card, passt_end = socket.socketpair()
                ends.enter_context(card)
                ends.enter_context(passt_end)
                self.host_ports = await asyncio.to_thread(
                    network.start_passt, self.vm.forwards, passt_end
                )
                inherited.append(card.fileno())
                wiring = replace(wiring, card=f"addr.type=fd,addr.str={card.fileno()}")
            if self.vm.tap is not None:
                device = tap.open_device(self.vm.tap)
                ends.callback(os.close, device)
                await self._relay_to(self.vm.tap)
                inherited.append(device)
                wiring = replace(wiring, card=f"fd={device}")
            # -S: the guest runs from `cont` on, when events can be heard.  One that resets at once
            # would be over before the greeting.
            argv = [*qemu.argv(self.vm, wiring, program=str(self.program)), "-S"]
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", lifeline.__file__, str(os.getpid()), *argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=dict(proc.BASE_ENV),
                pass_fds=inherited,
                # Ctrl-C on the terminal is for us; we end QEMU in order.
                start_new_session=True,
            )
        assert self.process.stderr is not None  # PIPE
        self.tasks.append(asyncio.create_task(self._read_words(self.process.stderr)))
        reader, writer = await asyncio.open_connection(sock=status)
        self.tasks.append(asyncio.create_task(self._read_status(reader, writer)))
        self.relay = Relay(*await asyncio.open_connection(sock=execute))
        self.tasks.append(asyncio.create_task(self.relay.run()))
        self.end = asyncio.create_task(self._watch())
        self.client.register_listener(self.listener)
        self.client.register_listener(self.watchdog)
        self.guard = asyncio.create_task(self._heed_watchdog())
        try:
            try:
                await asyncio.wait_for(self.client.connect(qmp), CONNECT_S)
                self.connected = True
            finally:
                self.negotiated.set()
            if self.vm.forwards and self.vm.network is Network.USER:
                # While the guest stands still, so that it cannot end before the answer.
                self.host_ports = _usernet(str(await self.execute(*_monitor("info usernet"))))
                listening = [port for (proto, _), port in self.host_ports.items() if proto == "tcp"]
                # Where a container forbids it, hundreds of connections at once are slow.
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(backlog.widen, self.process.pid, listening)
            if self.saved is not None:
                await self._load(state)
            if self.vm.gdb is None:
                await self.client.execute("cont")
            if self.saved is not None:
                await self._resumed()
        except (QMPError, TimeoutError, OSError) as error:
            if self.connected:
                return  # the guest was so quick that `cont` was not answered any more
            self._signal(signal.SIGKILL)
            outcome = await self.end
            raise GuestError(outcome, detail=self._said() or str(error)) from error

    async def _migrate(self, command: str, uri: str, hint: str) -> None:
        """Have QEMU write or read the machine's state (docs/devel/migration.rst).

        :param hint: of the error.
        :raise UklError: ``snapshot-failed``.
        """
        assert self.end is not None
        wanted = {"capability": "events", "state": True}
        what = "save" if command == "migrate" else "go on from"
        why = ""
        with self.client.listener("MIGRATION") as changes:
            over = asyncio.create_task(_migrated(changes))
            try:
                await self.client.execute("migrate-set-capabilities", {"capabilities": [wanted]})
                await self.client.execute(command, {"uri": uri})
                # What it cannot read is QEMU's end.
                first = {over, self.end}
                await asyncio.wait(first, timeout=STATE_S, return_when=asyncio.FIRST_COMPLETED)
                if over.done() and over.result():
                    return
                why = str(await self.client.execute("query-migrate"))
            except QMPError as error:
                why = str(error)
            finally:
                over.cancel()
        raise _unsaved(
            f"QEMU cannot {what} the state of {self.vm.name}",
            hint,
            detail=self._said() or why,
        )

    async def _load(self, state: int) -> None:
        assert self.relay is not None
        await self._migrate("migrate-incoming", f"fd:{state}", "make it again: ukl snapshot")
        self.relay.go_on()

    async def _resumed(self) -> None:
        """Wait until the guest goes on, with the right time and other random numbers."""
        event = await self.wait_event(lambda it: it.get("event") == "resumed", SETTLE_S)
        if self.outcome is not None:
            return  # which says more
        if event is None or event.get("errno"):
            why = "does not go on" if event is None else "cannot set its clock or random numbers"
            raise _unsaved(
                f"{self.vm.name} {why} from the state that was saved",
                f"look at the console log {self.console}",
            )

    async def save(self, path: Path) -> int:
        assert self.relay is not None
        init = await self.wait_event(lambda it: it.get("event") == "init", 0)
        version = init.get("version") if init else 0
        if not isinstance(version, int) or version < SAVING_INIT:
            raise _unsaved(
                f"the init of {self.vm.name} does not know how to be saved",
                "build the image again",
            )
        self.relay.settle()
        settled = await self.wait_event(lambda it: it.get("event") == "settled", SETTLE_S)
        if settled is None:
            raise _unsaved(
                f"the init of {self.vm.name} does not say that its state can be saved",
                f"look at the console log {self.console}",
            )
        await self.client.execute("stop")
        # Nothing else uses the disk meanwhile; by itself it writes 128 MiB a second.
        await self.client.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        with path.open("wb") as file:
            self.client.send_fd_scm(file.fileno())
            await self.client.execute("getfd", {"fdname": "state"})
        await self._migrate("migrate", "fd:state", f"is there room for it in {path.parent}?")
        left = settled.get("connections")
        return left if isinstance(left, int) else 0

    async def _relay_to(self, to: Tap) -> None:
        for forward in self.vm.forwards:
            assert to.guest is not None  # tap.refuse() has been asked
            server = await tap.relay(forward, to.guest.ip)
            self.forwarders.append(server)
            port = server.sockets[0].getsockname()[1]
            self.host_ports.setdefault((forward.proto, forward.guest), port)

    async def _heed_watchdog(self) -> None:
        """End a guest whose watchdog was not fed; it stands still already."""
        await self.watchdog.get()
        await self.look()
        await self.firm()

    async def _read_words(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(4096):
            self.words += data
            del self.words[:-MAX_WORDS]

    async def _read_status(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:  # longer than the stream's limit
                    continue
                if not line:
                    return
                await self._take_status(line)
        except ConnectionError:
            pass  # QEMU was killed
        finally:
            writer.close()

    async def _take_status(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):  # the latter for brackets within brackets
            return
        if isinstance(event, dict) and len(self.events) < MAX_EVENTS:
            async with self.changed:
                self.events.append(event)
                self.changed.notify_all()

    async def _watch(self) -> Outcome:
        """Wait for QEMU's end, gather what it left behind and say what it means."""
        assert self.process is not None
        status = await self.process.wait()
        # All that was written before the end is still in the sockets.
        await asyncio.wait(self.tasks, timeout=FIRM_S)
        # QEMU may die while connect() is at it; the library asserts that nobody disconnects then.
        await self.negotiated.wait()
        if self.connected:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FIRM_S):
                    while self.client.runstate == Runstate.RUNNING:
                        await self.client.runstate_changed()
        with contextlib.suppress(QMPError, EOFError, OSError):
            await self.client.disconnect()
        shutdown_reason: str | None = None
        panicked = starved = False
        for message in self.listener.clear():
            data = message.get("data")
            if message["event"] == "SHUTDOWN" and isinstance(data, dict):
                shutdown_reason = str(data.get("reason"))
            panicked |= message["event"] == "GUEST_PANICKED"
            starved |= message["event"] == "WATCHDOG"
        self.outcome = classify(
            Record(
                init=self.vm.init,
                qemu_status=status,
                qemu_words=self._said(),
                connected=self.connected,
                events=tuple(self.events),
                shutdown_reason=shutdown_reason,
                panicked=panicked,
                gave_up=self.gave_up,
                starved=starved,
                console=self._console_tail(),
            )
        )
        async with self.changed:
            self.changed.notify_all()
        return self.outcome

    def _said(self) -> str:
        return self.words.decode("utf-8", "backslashreplace")

    def _console_tail(self) -> str:
        try:
            with self.console.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - CONSOLE_TAIL))
                return file.read().decode("utf-8", "backslashreplace")
        except FileNotFoundError:  # somebody has removed it meanwhile
            return ""

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def wait(self, timeout_s: float | None) -> Outcome | None:
        assert self.end is not None
        done, _ = await asyncio.wait([self.end], timeout=timeout_s)
        return self.end.result() if done else None

    async def execute(self, command: str, arguments: dict[str, object]) -> object:
        return await self.client.execute(command, arguments or None)

    async def firm(self) -> Outcome:
        """End QEMU: quit, terminate, kill."""
        with contextlib.suppress(QMPError, TimeoutError, OSError):
            async with asyncio.timeout(FIRM_S):
                await self.client.execute("quit")
        for number in (signal.SIGTERM, signal.SIGKILL):
            if (outcome := await self.wait(FIRM_S)) is not None:
                return outcome
            self._signal(number)
        assert self.end is not None
        return await self.end

    async def stop(self, polite_s: float) -> Outcome:
        if self.starting is not None:
            # A signal may have come in the middle of it.
            await asyncio.wait([self.starting])
        if self.end is None:
            return Outcome(Kind.STOPPED)
        # The power button is not written down, only what QEMU is told.
        if self.vm.init is Init.RING3 and polite_s > 0 and self.vm.recording is None:
            with contextlib.suppress(QMPError, TimeoutError, OSError):
                async with asyncio.timeout(FIRM_S):
                    await self.client.execute("system_powerdown")
                if (outcome := await self.wait(polite_s)) is not None:
                    return outcome
        return await self.firm()

    async def look(self) -> None:
        """Keep where the processors are."""
        with contextlib.suppress(QMPError, TimeoutError, OSError):
            async with asyncio.timeout(FIRM_S):
                self.registers = str(await self.execute(*_monitor("info registers -a")))

    async def give_up(self) -> Outcome:
        """End a machine whose time is over, and keep where its processors were."""
        await self.look()
        assert self.end is not None
        # A guest that ended meanwhile has not hung.
        self.gave_up = not self.end.done() and self.process is not None
        return await self.firm()

    async def wait_event(
        self, wanted: Callable[[Event], bool], timeout_s: float | None
    ) -> Event | None:
        seen = 0
        try:
            async with asyncio.timeout(timeout_s), self.changed:
                while True:
                    for event in self.events[seen:]:
                        if wanted(event):
                            return event
                    seen = len(self.events)
                    if self.outcome is not None:
                        return None
                    await self.changed.wait()
        except TimeoutError:
            return None

    async def follow(self, write: Callable[[bytes], object]) -> None:
        """Pass on what appears on the console until the machine has ended."""
        with self.console.open("rb") as file:
            while True:
                over = self.outcome is not None
                while data := file.read(65536):
                    # In another thread: a slow reader (| less) must not keep this one from QMP.
                    await asyncio.to_thread(write, data)
                if over:
                    return
                await asyncio.sleep(CONSOLE_POLL_S)

    async def shown(self) -> None:
        if self.follower is not None:
            await asyncio.wait([self.follower], timeout=SHOWN_S)


def busy(name: str) -> UklError:
    """Return the error of a machine that takes no further program."""
    return UklError(
        "exec-busy",
        f"{name} runs {SESSIONS} programs that were started from outside",
        hint="wait for one to end",
    )


class Machine:
    """A virtual machine, from its start to its end."""

    def __init__(self, vm: Vm, *, console: Path, saved: Saved | None = None) -> None:
        """Prepare a machine; nothing runs yet.

        :param console: file that takes the serial console, overwritten.
        :param saved: what it goes on from, saved of a machine with the same devices.
        :raise UklError: ``tool-missing`` if there is no QEMU.
        """
        self.vm = vm
        self.console = console
        self._saved = saved
        program = proc.which(qemu.PROGRAM, hint=qemu.INSTALL)
        self._loop = asyncio.new_event_loop()
        # A daemon, so that an exception on its way out of the main thread is not held up; QEMU's
        # life hangs on this thread's.
        self._thread = threading.Thread(target=self._loop.run_forever, name="qemu", daemon=True)
        self._thread.start()
        self._session = self._call(self._make(program))
        self._closed = False

    async def _make(self, program: Path) -> _Session:
        return _Session(self.vm, self.console, program, self._saved)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *, on_console: Callable[[bytes], object] | None = None) -> None:
        """Start the machine.

        :param on_console: called, in another thread, with what appears on the console; closing
            the machine waits until it has had everything.
        :raise UklError: ``port-taken``, ``network-failed``.
        :raise GuestError: if QEMU does not start, with its own words.
        :raise OSError: if the console's file cannot be written.
        """
        self._check_ports()
        self._call(self._session.start())
        if on_console is not None:
            self._call(self._follow(on_console))

    async def _follow(self, write: Callable[[bytes], object]) -> None:
        self._session.follower = asyncio.create_task(self._session.follow(write))

    def _check_ports(self) -> None:
        """Look for taken ports first; QEMU would only say that it could not set up a rule."""
        gdb = () if self.vm.gdb is None else (Forward(self.vm.gdb, 0),)
        for forward in (*self.vm.forwards, *gdb):
            why = ports.refusal(forward.host, forward.proto, forward.address)
            if why is not None:
                where = f"{forward.address}:{forward.host}/{forward.proto}"
                raise UklError(
                    "port-taken",
                    f"the host's port {where} cannot be listened on: {why}",
                    hint="choose another one, or 0 for any free one",
                )

    def save(self, path: Path) -> int:
        """Write the machine's state into a file; the machine stands still afterwards.

        :return: connections of the guest to other machines that are open in that state.
        :raise UklError: ``snapshot-failed``.
        :raise OSError: if the file cannot be written.
        """
        return self._call(self._session.save(path))

    @property
    def pid(self) -> int:
        """Process id of QEMU."""
        assert self._session.process is not None
        return self._session.process.pid

    @property
    def qemu_status(self) -> int | None:
        """QEMU's own exit status, negated signal if one killed it; None while it runs."""
        return None if self._session.process is None else self._session.process.returncode

    @property
    def outcome(self) -> Outcome | None:
        """How the machine ended; None while it runs."""
        return self._session.outcome

    @property
    def events(self) -> tuple[Event, ...]:
        """What the guest's init has reported so far."""
        return tuple(self._session.events)

    def wait(self, timeout_s: float | None = None) -> Outcome | None:
        """Wait for the machine's end.

        :return: None if it still runs after ``timeout_s`` seconds.
        """
        return self._call(self._session.wait(timeout_s))

    def wait_event(self, timeout_s: float | None = None, **wanted: object) -> Event | None:
        """Wait for a report of the guest's init that has these keys and values.

        :return: the first such report, also if it came before; None if the time is over or the
            machine ended without it.
        """

        def fits(event: Event) -> bool:
            return all(event.get(key) == value for key, value in wanted.items())

        return self._call(self._session.wait_event(fits, timeout_s))

    def qmp(self, command: str, **arguments: object) -> object:
        """Execute a QMP command; dashes in names of arguments are written as underscores.

        :raise qemu.qmp.ExecuteError: if QEMU refuses it.
        :raise qemu.qmp.QMPError: if the machine has ended.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self._call(self._session.execute(command, named))

    def monitor(self, line: str) -> str:
        """Execute a line of QEMU's human monitor, such as ``info tlb``, and return its output."""
        command, arguments = _monitor(line)
        return str(self._call(self._session.execute(command, arguments)))

    def _relay(self) -> Relay:
        """Return the way to the guest's init.

        :raise UklError: ``exec-unsupported``.
        """
        init = self.wait_event(0, event="init")
        relay = self._session.relay
        if relay is None or init is None or init.get("exec") is not True:
            raise UklError(
                "exec-unsupported",
                f"{self.vm.name} has no init that starts programs"
                + ("" if init or self.vm.init is Init.DIRECT else " yet"),
                hint="build it again, with init=ring3",
            )
        return relay

    def execute(self, connection: socket.socket) -> None:
        """Let a client start a program in the guest; returns when that has ended.

        :param connection: on which it speaks the frames of :mod:`ukl_build.run.execute`.
        """
        relay = self._session.relay
        assert relay is not None  # can_execute() has been asked
        self._call(relay.serve(connection))

    def can_execute(self) -> None:
        """Make sure that :meth:`execute` can be called.

        :raise UklError: ``exec-unsupported``, ``exec-busy``.
        """
        if not self._relay().free():
            raise busy(self.vm.name)

    def signal(self, number: int) -> None:
        """Send a signal to the application, if it runs.

        :raise UklError: ``exec-unsupported``.
        """
        relay = self._relay()
        self._loop.call_soon_threadsafe(relay.signal, number)

    def host_port(self, guest: int, proto: Protocol = Protocol.TCP) -> int:
        """Return the host's port that leads to one of the guest.

        Of a free one, whoever has bound it has the word: what we had looked for could be taken by
        somebody else before.

        :raise UklError: ``internal`` if the port is not forwarded.
        """
        found = self._session.host_ports.get((proto, guest))
        if found is None:
            raise UklError(
                "internal", f"port {guest}/{proto} of the guest is not forwarded", hint="report it"
            )
        return found

    def gdb_port(self) -> int:
        """Return the host's port on which the machine waits for gdb; asked as in :meth:`host_port`.

        :raise UklError: ``internal`` if it does not wait.
        """
        found = re.search(r"^gdb: filename=\S*:(\d+)", self.monitor("info chardev"), re.MULTILINE)
        if found is None:
            raise UklError("internal", "the machine does not wait for gdb", hint="report it")
        return int(found.group(1))

    def ask(self, guest_port: int, send: bytes, expect: bytes, *, deadline_s: float) -> bytes:
        """Ask a question over a forwarded TCP port until it is answered.

        A connection proves nothing, since QEMU's network accepts it before the guest listens: only
        the answer counts.

        :param expect: what the answer must begin with.
        :param deadline_s: seconds from now.
        :return: what came.
        :raise UklError: ``guest-no-answer`` or ``guest-wrong-answer``.
        :raise GuestError: if the machine ends meanwhile.
        """
        port = self.host_port(guest_port)
        return self._call(self._ask(port, send, expect, deadline_s))

    async def _ask(self, port: int, send: bytes, expect: bytes, deadline_s: float) -> bytes:
        session = self._session
        last = b""
        try:
            async with asyncio.timeout(deadline_s):
                if self.vm.init is Init.RING3:
                    # A connection that waits in QEMU for the guest's network to come up is retried
                    # only after seconds.
                    await session.wait_event(
                        lambda event: event.get("job") == "app" or event.get("event") == "stopping",
                        None,
                    )
                attempt_s = ATTEMPT_S[0]
                while session.outcome is None:
                    answer = await _attempt(port, send, expect, attempt_s)
                    if answer.startswith(expect):
                        return answer
                    last = answer or last
                    attempt_s = min(attempt_s * 1.5, ATTEMPT_S[1])
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pass
        if session.outcome is not None:
            if session.outcome.by_itself:
                raise UklError(
                    "guest-no-answer",
                    f"{session.outcome} before it answered",
                    hint=f"read the console log {self.console}",
                    detail=self.console_end(),
                )
            raise self.error(session.outcome)
        if last:
            raise UklError(
                "guest-wrong-answer",
                f"the guest answered {last[:200]!r} where {expect!r} was expected",
                hint="compare the application's answer with smoke.expect of its recipe",
            )
        raise UklError(
            "guest-no-answer",
            f"the guest did not answer within {deadline_s:g} s",
            hint=f"look at the console log {self.console}, or give it more time with --timeout",
            detail=self.console_end(),
        )

    def error(self, outcome: Outcome) -> GuestError:
        """Return the error of a failed outcome, with its evidence."""
        if outcome.kind is Kind.QEMU_FAILED:
            return GuestError(outcome, detail=self._session._said())
        return GuestError(outcome, detail=f"{self.console_end()}\nconsole log: {self.console}")

    def console_end(self) -> str:
        """Return the console's last lines, none longer than a few of a terminal's."""
        lines = proc.tail(self.console).splitlines()
        return "\n".join(line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}…" for line in lines)

    def stop(self, *, polite_s: float = POLITE_S) -> Outcome:
        """End the machine: power button, then quit, SIGTERM, SIGKILL.

        :param polite_s: seconds for the guest to end by itself; 0 does not ask it.
        """
        return self._call(self._session.stop(polite_s))

    @property
    def registers(self) -> str:
        """Where the processors of a guest were that hung (``info registers -a``)."""
        return self._session.registers

    def give_up(self) -> Outcome:
        """End a machine whose time is over, and keep its :attr:`registers`."""
        return self._call(self._session.give_up())

    def shown(self) -> None:
        """Wait, of a machine that has ended, until all that it said was passed on; not for ever."""
        self._call(self._session.shown())

    def close(self) -> None:
        """End QEMU if it still runs, at once, and give everything back; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        session = self._session
        if session.end is not None:
            if not session.end.done():
                session._signal(signal.SIGKILL)
            await session.end
        if session.guard is not None:
            session.guard.cancel()
        for server in session.forwarders:
            server.close()
        if session.follower is not None:
            await session.follower
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.wait(rest, timeout=1) if rest else None
        for task in rest:
            task.cancel()


async def _attempt(port: int, send: bytes, expect: bytes, timeout_s: float) -> bytes:
    """Connect, send, and read until the answer is there or cannot come any more."""
    answer = b""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(send)
            await writer.drain()
            while len(answer) < len(expect) and (data := await reader.read(4096)):
                answer += data
    except (TimeoutError, OSError):
        pass
    finally:
        if writer is not None:
            writer.close()
    return answer


__all__ = ["Event", "ExecuteError", "Machine"]
