# SPDX-License-Identifier: Apache-2.0
"""What a running ukl-run can be asked by others of the same user, over a Unix socket.

One line of JSON each way, ``{"do": "stop", "wait_s": 20}`` and ``{"ok": ...}`` or
``{"error": "..."}``; the connection stays for further ones, and closes when ukl-run ends: who waits
for that need not look again and again.  The socket is in a folder that only its owner can enter.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qemu.qmp import QMPError

from ukl_build.errors import CODES, UklError
from ukl_build.run.execute import Channel
from ukl_build.run.machine import FIRM_S, POLITE_S, ExecuteError, Machine
from ukl_build.run.records import private

FRAMES = "frames"
"""The answer after which a connection is one for :mod:`ukl_build.run.execute`."""

WAIT = b'{"do": "wait"}\n'
"""Answered when the machine has ended, and how that is kept: with its exit status."""

MAX_REQUEST = 1 << 20
"""Bytes of a line."""

ANSWER_S = 10.0
"""Seconds for an answer to what takes no time."""

STOP_S = 4 * FIRM_S
"""Seconds that ending QEMU takes at most, once the guest had its time: see :meth:`Machine.stop`."""


class Server:
    """Answers for one ukl-run; each connection has a thread of its own."""

    def __init__(self, path: Path) -> None:
        """Listen on a socket, in place of one that a killed ukl-run has left.

        :raise UklError: ``runtime-unsafe``.
        :raise OSError: if it cannot be made.
        """
        private(path.parent)
        path.unlink(missing_ok=True)
        self.path = path
        self.machine: Machine | None = None
        """What is talked about; may be replaced by the next one."""
        self.stopped_by = ""
        """What has asked to stop; empty if nobody has."""
        self._waiting: list[socket.socket] = []
        """Who wants to be told how it ends."""
        self._status: int | None = None
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        before = os.umask(0o177)
        try:
            with _address(path) as address:
                self._socket.bind(address)
        finally:
            os.umask(before)
        self._socket.listen()
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def over(self, status: int) -> None:
        """Tell who waits for it that this is the exit status.

        By the thread that ends the process: another might not come to it any more.
        """
        with self._lock:
            self._status = status
            self._tell()

    def _tell(self) -> None:
        for connection in self._waiting:
            with connection, contextlib.suppress(OSError):
                connection.sendall(json.dumps({"ok": self._status}).encode() + b"\n")
        self._waiting.clear()

    def close(self) -> None:
        """Stop listening, and take the name away."""
        self.path.unlink(missing_ok=True)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # it is closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # Whoever asked may be gone.
        with connection, connection.makefile("rwb") as stream, contextlib.suppress(OSError):
            while line := stream.readline(MAX_REQUEST):
                if line == WAIT:
                    with self._lock:
                        self._waiting.append(connection.dup())
                        if self._status is not None:
                            self._tell()
                    return
                answer = self._answer(line)
                stream.write(json.dumps(answer).encode() + b"\n")
                stream.flush()
                if answer.get("ok") == FRAMES and self.machine is not None:
                    self.machine.execute(connection.dup())
                    return

    def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = json.loads(line)
            work = self._WORK[request["do"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            return {"error": f"not understood: {line[:100]!r}"}
        machine = self.machine
        if machine is None:
            return {"error": "it is not started yet"}
        try:
            return {"ok": work(self, machine, request)}
        except UklError as error:
            return {"error": error.message, "code": error.code, "hint": error.hint}
        except (ExecuteError, QMPError, OSError, ValueError, TypeError) as error:
            return {"error": str(error)}

    def _stop(self, machine: Machine, request: dict[str, Any]) -> object:
        self.stopped_by = str(request["by"])
        polite_s = float(request.get("wait_s", POLITE_S))
        # How it ends is for the one who waits for the machine to say.
        threading.Thread(target=machine.stop, kwargs={"polite_s": polite_s}, daemon=True).start()
        return None

    def _qmp(self, machine: Machine, request: dict[str, Any]) -> object:
        return machine.qmp(str(request["command"]), **request.get("arguments", {}))

    def _exec(self, machine: Machine, _: dict[str, Any]) -> object:
        machine.can_execute()
        return FRAMES

    def _signal(self, machine: Machine, request: dict[str, Any]) -> object:
        machine.signal(int(request["number"]))
        return None

    def _events(self, machine: Machine, _: dict[str, Any]) -> object:
        return list(machine.events)

    _WORK: dict[str, Callable[[Server, Machine, dict[str, Any]], object]] = {  # noqa: RUF012
        "stop": _stop,
        "qmp": _qmp,
        "events": _events,
        "exec": _exec,
        "signal": _signal,
    }


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """Give a socket's path in a form that is short enough for the kernel, however long it is."""
    folder = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Client:
    """A connection to a running ukl-run."""

    def __init__(self, path: Path, answer_s: float = ANSWER_S) -> None:
        """Connect.

        :param answer_s: seconds for each answer.
        :raise UklError: ``machine-silent``.
        """
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(answer_s)
        try:
            with _address(path) as address:
                self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise self._silent(error) from error
        self._stream = self._socket.makefile("rwb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        # The other end may be gone with something of ours unread.
        with contextlib.suppress(OSError):
            self._stream.close()
        self._socket.close()

    def _silent(self, why: object) -> UklError:
        name = self.path.stem
        return UklError(
            "machine-silent",
            f"{name} does not answer: {why}",
            hint=f"is it about to end? `ukl ps` tells; `ukl kill {name}` ends it at once",
        )

    def ask(self, do: str, **more: object) -> Any:
        """Ask, and return the answer.

        :raise UklError: ``machine-silent`` if there is none, ``machine-refused`` if it will not,
            or what was raised there.
        """
        try:
            self._stream.write(json.dumps({"do": do, **more}).encode() + b"\n")
            self._stream.flush()
            answer = json.loads(self._stream.readline())
        except (OSError, ValueError) as error:
            raise self._silent(error) from error
        if answer.get("code") in CODES:
            raise UklError(answer["code"], answer["error"], hint=answer["hint"])
        if "error" in answer:
            raise UklError(
                "machine-refused",
                f"{self.path.stem}: {answer['error']}",
                hint=f"look at what it is: `ukl inspect {self.path.stem}`",
            )
        return answer["ok"]

    def channel(self) -> Channel:
        """Start a program in the guest, which this connection is for from now on.

        :raise UklError: as :meth:`ask`.
        """
        self.ask("exec")
        return Channel(self._socket)

    def status(self, timeout_s: float | None) -> int | None:
        """Wait for the machine's end, and return the exit status; None if ukl-run was killed.

        :raise TimeoutError: if it still runs.
        """
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(WAIT)
            line = self._stream.readline()
        except TimeoutError:
            raise
        except OSError:
            line = b""
        return int(json.loads(line)["ok"]) if line else None

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until ukl-run has ended, all that it keeps being kept.

        :return: whether it has.
        """
        self._socket.settimeout(timeout_s)
        try:
            return not self._socket.recv(1)
        except TimeoutError:
            return False
        except OSError:  # reset: it was killed
            return True


def kill(pid: int, alive: Callable[[], bool]) -> None:
    """Kill the ukl-run of a machine, with which QEMU dies.

    :param alive: whether the process is still that ukl-run: asked when its number cannot become
        another's any more.
    :raise OSError: if it is somebody else's.
    """
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if alive():
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
