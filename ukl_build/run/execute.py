# SPDX-License-Identifier: Apache-2.0
"""Programs that are started in a guest from outside (``ukl exec``).

Frames to and from the guest's init, as guest/init/exec.h describes them.  Each client has a
connection to the ukl-run of the machine, and speaks the same frames there; :class:`Relay` gives
each a session of its own.  Credits go from end to end: the relay keeps nothing but what is on its
way, and a client that does not read holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import selectors
import signal
import socket
import struct
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from pathlib import Path
from types import FrameType

from ukl_build.errors import UklError

SESSIONS = 8
"""Programs at once: SESSIONS of guest/init/exec.h, as the others here."""
PAYLOAD = 4096
MACHINE = 255
"""No session: the application, or the machine itself."""
SEED = 32

_HEAD = struct.Struct("<cBH")
_SIZE = struct.Struct("<HH")
_END = struct.Struct("<Bi")

NOT_FOUND = 127
NOT_STARTED = 126
"""Exit statuses, as those of a shell."""


Handler = Callable[[int, FrameType | None], None]


class Type(bytes, Enum):
    """What a frame is."""

    RUN = b"R"
    TERMINAL = b"T"
    FILE = b"F"
    DATA = b"D"
    TAKEN = b"A"
    KILL = b"K"
    RESIZE = b"W"
    SETTLE = b"S"
    GO_ON = b"C"
    OUT = b"O"
    ERR = b"E"
    OVER = b"X"


class How(IntEnum):
    """How a session ended."""

    EXITED = 0
    SIGNALLED = 1
    IMPOSSIBLE = 2


_BEGIN = (Type.RUN.value, Type.TERMINAL.value, Type.FILE.value)


def frame(kind: Type, payload: bytes = b"", session: int = 0) -> bytes:
    """Return a frame.

    :raise ValueError: if the payload is too long.
    """
    if len(payload) > PAYLOAD:
        raise ValueError(f"{len(payload)} bytes are more than a frame has ({PAYLOAD})")
    return _HEAD.pack(kind.value, session, len(payload)) + payload


class Relay:
    """The host's end of a guest's port; everything runs in one event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._clients: dict[int, asyncio.StreamWriter | None] = {}
        """By session; None for one whose client has gone before its end."""

    async def run(self) -> None:
        """Pass on what the guest says, until the machine's end."""
        try:
            while True:
                kind, session, length = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
                payload = await self._reader.readexactly(length)
                client = self._clients.get(session)
                if kind == Type.OVER.value:
                    self._clients.pop(session, None)
                if client is not None:
                    client.write(_HEAD.pack(kind, 0, length) + payload)
                elif kind in (Type.OUT.value, Type.ERR.value):
                    # Nobody wants it, and it must not wait for somebody.
                    self._writer.write(frame(Type.TAKEN, session=session))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            for client in self._clients.values():
                if client is not None:
                    client.close()
            self._writer.close()

    def signal(self, number: int) -> None:
        """Send a signal to the application."""
        self._writer.write(frame(Type.KILL, bytes([number]), MACHINE))

    def settle(self) -> None:
        """Ask the guest to say when its state can be saved."""
        self._writer.write(frame(Type.SETTLE, session=MACHINE))

    def go_on(self) -> None:
        """Tell a guest that goes on from a saved state the time of day, and give it a seed."""
        payload = struct.pack("<q", time.time_ns()) + os.urandom(SEED)
        self._writer.write(frame(Type.GO_ON, payload, MACHINE))

    def free(self) -> bool:
        """Return whether one more program can be started."""
        return len(self._clients) < SESSIONS

    async def serve(self, connection: socket.socket) -> None:
        """Give a client a session, until it is over or the client goes."""
        reader, writer = await asyncio.open_connection(sock=connection)
        session = next(number for number in range(SESSIONS) if number not in self._clients)
        self._clients[session] = writer
        begun = False
        try:
            while True:
                kind, _, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
                payload = await reader.readexactly(length)
                if not begun and kind not in _BEGIN:
                    break
                begun = True
                if self._clients.get(session) is not writer:
                    break  # over, and what came behind is for nobody
                self._writer.write(_HEAD.pack(kind, session, length) + payload)
                await self._writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            if not begun:
                del self._clients[session]  # the guest knows nothing of it
            elif self._clients.get(session) is writer:
                # As a terminal that is closed; and the end of its input or file.
                self._clients[session] = None
                for one in (frame(Type.DATA, session=session), _hang_up(session)):
                    self._writer.write(one)
            writer.close()


def _hang_up(session: int) -> bytes:
    return frame(Type.KILL, bytes([signal.SIGHUP]), session)


class ExecError(UklError):
    """A program that could not be started in a guest."""

    def __init__(self, what: str, step: str, number: int) -> None:
        """Make the error of a failed step.

        :param number: errno.
        """
        hint = "look at the path and its permissions in the guest"
        if number == errno.ENOENT:
            hint = (
                "a guest has the programs that its image has; add one that is linked statically:"
                " ukl exec --put /bin/busybox:/bin/busybox NAME /bin/busybox sh"
            )
        super().__init__(
            "exec-failed", f"{what}: {step} failed in the guest: {os.strerror(number)}", hint=hint
        )
        self._status = NOT_FOUND if number == errno.ENOENT else NOT_STARTED

    @property
    def exit_status(self) -> int:
        """As a shell's."""
        return self._status


@dataclass
class _Over(Exception):  # noqa: N818 - the end, no error
    how: int
    number: int
    step: str


class Channel:
    """A client's connection, once it is one for frames."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        self._socket = connection
        self._data = b""

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self, kind: Type, payload: bytes = b"") -> None:
        """Send a frame.

        :raise OSError: if nobody takes it.
        """
        self._socket.sendall(frame(kind, payload))

    def receive(self) -> Iterator[tuple[Type, bytes]]:
        """Yield the frames that have come whole; waits for something to come.

        :raise UklError: ``exec-lost`` if nothing comes any more.
        """
        try:
            data = self._socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise UklError(
                "exec-lost",
                "the machine ended before the program did",
                hint="`ukl ps -a` tells how it ended",
            )
        self._data += data
        while len(self._data) >= _HEAD.size:
            kind, _, length = _HEAD.unpack_from(self._data)
            if len(self._data) < _HEAD.size + length:
                return
            payload = self._data[_HEAD.size : _HEAD.size + length]
            self._data = self._data[_HEAD.size + length :]
            # A guest is not trusted.
            with contextlib.suppress(ValueError):
                yield Type(kind), payload


def _raise_over(payload: bytes) -> None:
    how, number = _END.unpack_from(payload.ljust(_END.size, b"\0"))
    raise _Over(how, number, payload[_END.size :].decode("utf-8", "backslashreplace"))


def put(channel: Channel, source: Path, target: str) -> None:
    """Write a copy of a file into a guest, with its permissions.

    :raise ExecError: if the guest cannot.
    :raise UklError: ``exec-lost``.
    :raise OSError: if the file cannot be read.
    """
    with source.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o7777
        try:
            channel.send(Type.FILE, struct.pack("<H", mode) + target.encode())
            while True:
                data = file.read(PAYLOAD)
                channel.send(Type.DATA, data)
                for kind, payload in channel.receive():
                    if kind is Type.OVER:
                        _raise_over(payload)
        except _Over as over:
            if over.how == How.IMPOSSIBLE:
                raise ExecError(target, over.step, over.number) from None


def _window() -> bytes:
    size = os.get_terminal_size(0)
    return _SIZE.pack(size.lines, size.columns)


@contextlib.contextmanager
def _raw_terminal(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _passed_on(channel: Channel, terminal: bool) -> Iterator[None]:
    """Pass signals on to the program, and the size of the terminal when it changes."""

    def kill(number: int, _: FrameType | None) -> None:
        channel.send(Type.KILL, bytes([number]))

    def resize(*_: object) -> None:
        channel.send(Type.RESIZE, _window())

    passed = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
    handlers: dict[signal.Signals, Handler] = dict.fromkeys(passed, kill)
    if terminal:
        handlers[signal.SIGWINCH] = resize
    before = {one: signal.signal(one, handler) for one, handler in handlers.items()}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def run(channel: Channel, argv: Sequence[str], *, stdin: bool, terminal: bool) -> int:
    """Run a program in a guest, its output being ours.

    :param stdin: whether it reads our standard input; otherwise there is none.
    :param terminal: whether it gets a terminal; ours must be one then.
    :return: its exit status, 128+N if signal N killed it.
    :raise ExecError: if it cannot be started.
    :raise UklError: ``exec-lost``; ``run-invalid`` if the arguments are too long.
    """
    words = b"".join(os.fsencode(word) + b"\0" for word in argv)
    start = _window() + words if terminal else words
    if len(start) > PAYLOAD:
        raise UklError(
            "run-invalid",
            f"the arguments have {len(words)} bytes, more than {PAYLOAD - _SIZE.size}",
            hint="put them into a file: ukl exec --put",
        )
    channel.send(Type.TERMINAL if terminal else Type.RUN, start)
    if not stdin:
        channel.send(Type.DATA)
    with (
        # Not epoll, which takes no regular file for standard input.
        selectors.SelectSelector() as waiting,
        _raw_terminal(terminal),
        _passed_on(channel, terminal),
    ):
        waiting.register(channel, selectors.EVENT_READ)
        if stdin:
            waiting.register(0, selectors.EVENT_READ)
        try:
            while True:
                for key, _ in waiting.select():
                    if key.fd == 0:
                        # One frame, until the guest has taken it.
                        waiting.unregister(0)
                        channel.send(Type.DATA, os.read(0, PAYLOAD))
                    else:
                        _take(channel, waiting, stdin)
        except _Over as over:
            if over.how == How.IMPOSSIBLE:
                raise ExecError(argv[0], over.step, over.number) from None
            return over.number if over.how == How.EXITED else 128 + over.number


def _take(channel: Channel, waiting: selectors.BaseSelector, stdin: bool) -> None:
    for kind, payload in channel.receive():
        match kind:
            case Type.OUT | Type.ERR:
                data, target = payload, 1 if kind is Type.OUT else 2
                while data:
                    data = data[os.write(target, data) :]
                channel.send(Type.TAKEN)
            case Type.TAKEN if stdin:
                with contextlib.suppress(KeyError):
                    waiting.register(0, selectors.EVENT_READ)
            case Type.OVER:
                _raise_over(payload)
            case _:
                pass
