# SPDX-License-Identifier: Apache-2.0
"""The only place that runs host programs.

A program gets an argument list (never a shell line), a complete environment (nothing is
inherited), no standard input, and a log file.  A failure carries the last lines of that log and a
line that can be pasted into a shell to repeat it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ukl_build.errors import UklError

TAIL_LINES = 25
"""Lines of a failed program's log that are shown with the error."""

LOCK_POLL_S = 0.1

BASE_ENV: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # Tools must speak one language, sort one way and date nothing by the user's clock zone:
    # their output is parsed and ends up in images.
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
"""What every program sees; callers add to it by name."""


@dataclass(frozen=True)
class Completed:
    """A program that ended with status 0."""

    argv: tuple[str, ...]
    stdout: str
    """What it wrote to its standard output; empty if that went to a log."""


def pasteable(argv: Sequence[str], *, cwd: Path | None, env: Mapping[str, str]) -> str:
    """Return a shell line that repeats the call, environment and folder included."""
    assignments = [f"{key}={value}" for key, value in sorted(env.items())]
    line = shlex.join(["env", "-i", *assignments, *argv])
    return f"cd {shlex.quote(str(cwd))} && {line}" if cwd else line


def which(name: str, *, hint: str, env: Mapping[str, str] = BASE_ENV) -> Path:
    """Return the absolute path of a host program.

    :raise UklError: ``tool-missing`` if it is not on the path of ``env``.
    """
    found = shutil.which(name, path=env.get("PATH", BASE_ENV["PATH"]))
    if found is None:
        raise UklError("tool-missing", f"the program {name!r} is not installed", hint=hint)
    return Path(found)


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines of a text file; bytes that are no UTF-8 are shown escaped."""
    window = 64 * 1024
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - window))
        text = file.read().decode("utf-8", "backslashreplace")
    return "\n".join(text.splitlines()[-lines:])


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] = BASE_ENV,
    log: Path | None = None,
    timeout: float | None = None,
    keep: Sequence[int] = (),
    hint: str = "read the log above; the line after 'repeat' runs it again",
) -> Completed:
    """Run a program to its end.

    :param env: the whole environment of the program.
    :param log: file that takes standard output and standard error; without it standard output is
        returned and standard error is kept for the message of a failure.
    :param timeout: seconds; afterwards the program and all its children are killed.
    :param keep: file descriptors that the program inherits, such as one that holds a lock.
    :raise UklError: ``tool-missing``, ``tool-failed``, ``tool-timeout``, or ``stopped`` after
        :func:`terminate_all`.
    """
    check_stop()
    words = tuple(str(word) for word in argv)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    out = log.open("wb") if log is not None else None
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out or subprocess.PIPE,
            stderr=subprocess.STDOUT if out else subprocess.PIPE,
            pass_fds=keep,
            # A session of its own, so that a time-out or Ctrl-C ends make's children as well.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise UklError(
                "internal",
                f"the folder {cwd} to run {words[0]} in does not exist",
                hint="report it",
            ) from error
        raise UklError(
            "tool-missing",
            f"the program {words[0]!r} is not installed",
            hint="install it; ./bootstrap installs all that the build needs",
        ) from error
    finally:
        if out is not None:
            out.close()  # the child has its own descriptor
    with _registry:
        _running.add(process)
        if _stopped.is_set():  # since check_stop()
            _terminate(process)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        _end(process)
        raise UklError(
            "tool-timeout",
            f"{words[0]} did not end within {timeout:g} s",
            hint=hint,
            detail=_evidence(words, cwd, env, log, b""),
        ) from error
    except BaseException:
        _end(process)
        raise
    finally:
        with _registry:
            _running.discard(process)
    if process.returncode != 0:
        status = process.returncode
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        raise UklError(
            "tool-failed",
            f"{Path(words[0]).name} ended with {how}",
            hint=hint,
            detail=_evidence(words, cwd, env, log, (stdout or b"") + (stderr or b"")),
        )
    return Completed(words, (stdout or b"").decode("utf-8", "backslashreplace"))


def attach(argv: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> int:
    """Run a program that talks to the person at the terminal, and return its exit status.

    It stays in our process group, so that Ctrl-C reaches it as well.

    :raise UklError: ``tool-missing``.
    """
    words = [str(word) for word in argv]
    try:
        return subprocess.run(words, cwd=cwd, env=dict(env), check=False).returncode
    except FileNotFoundError as error:
        raise UklError(
            "tool-missing",
            f"the program {words[0]!r} is not installed",
            hint="install it; ./bootstrap installs all that the build needs",
        ) from error


def lock(file: IO[Any], waiting: Callable[[], object]) -> None:
    """Lock a file for this process and whoever inherits the descriptor, until it is closed.

    :param waiting: called once if somebody else holds it.
    :raise UklError: ``stopped`` after :func:`terminate_all`.
    """
    said = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not said:
                waiting()
            said = True
        # Not flock() that waits: nothing wakes it in a thread.
        if _stopped.wait(LOCK_POLL_S):
            check_stop()


def check_stop() -> None:
    """Go on only if nobody asked to stop.

    :raise UklError: ``stopped`` after :func:`terminate_all`.
    """
    if _stopped.is_set():
        raise UklError(
            "stopped",
            "the build was told to stop",
            hint="repeat the command, and it goes on from there",
        )


def terminate_all() -> None:
    """Ask all programs that :func:`run` waits for to end, and start none any more.

    For whoever is told to stop while other threads run programs: those sit in sessions of their
    own and do not see the terminal's Ctrl-C.  make, asked like this, removes half-written files.
    """
    _stopped.set()
    with _registry:
        for process in _running:
            _terminate(process)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


_registry = threading.Lock()
_running: set[subprocess.Popen[bytes]] = set()
_stopped = threading.Event()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and its children and wait until it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _evidence(
    argv: tuple[str, ...], cwd: Path | None, env: Mapping[str, str], log: Path | None, output: bytes
) -> str:
    if log is not None:
        said, where = tail(log), f"\nlog: {log}"
    else:
        text = output.decode("utf-8", "backslashreplace")
        said, where = "\n".join(text.splitlines()[-TAIL_LINES:]), ""
    return f"{said}{where}\nrepeat: {pasteable(argv, cwd=cwd, env=env)}"
