# SPDX-License-Identifier: Apache-2.0
"""How many connections may wait until QEMU's own network accepts them.

libslirp listens with a backlog of one (src/socket.c: tcpx_listen()), so that of hundreds that come
at once most are dropped and tried again, ever more slowly.  QEMU is our child: its listening
sockets can be had by pidfd_getfd(2), and listen(2) on one that listens changes its backlog.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Collection
from pathlib import Path

BACKLOG = 512
"""Of those that wait, all are handed to the guest at once, where applications let as many wait."""

_PIDFD_GETFD = 438
"""<asm/unistd_64.h>; Linux 5.6."""


def _take(pidfd: int, descriptor: int) -> socket.socket:
    """Return a socket of another process, as an own one.

    :raise OSError: if this process may not, or it is no socket.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    taken = libc.syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
    if taken < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    try:
        return socket.socket(fileno=taken)
    except OSError:
        os.close(taken)
        raise


def widen(pid: int, ports: Collection[int]) -> None:
    """Let more connections wait on ports that a process listens on.

    :param pid: of the process, a child of this one.
    :param ports: TCP ports of this machine.
    :raise OSError: if the process cannot be looked into.
    """
    pidfd = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with _take(pidfd, int(entry.name)) as one:
                listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if listens and one.family == socket.AF_INET and one.getsockname()[1] in ports:
                    one.listen(BACKLOG)
    finally:
        os.close(pidfd)


def refusal() -> str | None:
    """Return why that is not possible here, or None."""
    ours, other = socket.socketpair()
    with ours, other, contextlib.closing(os.fdopen(os.pidfd_open(os.getpid()), "rb")) as pidfd:
        try:
            _take(pidfd.fileno(), ours.fileno()).close()
        except OSError as error:
            return f"pidfd_getfd: {error.strerror}"
    return None
