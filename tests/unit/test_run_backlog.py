# SPDX-License-Identifier: Apache-2.0
"""How many connections wait for a process that listens, and is slow to accept."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.networks import NEEDS_BACKLOG
from ukl_build.run import backlog

LISTENS = """
import socket, sys
with socket.create_server(("127.0.0.1", 0), backlog=1) as one:
    other = socket.create_server(("127.0.0.1", 0), backlog=1)
    print(one.getsockname()[1], other.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def slow() -> Iterator[tuple[int, int, int]]:
    """Return a process that never accepts, and two ports on which it listens."""
    argv = [sys.executable, "-c", LISTENS]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        one, other = map(int, process.stdout.readline().split())
        yield process.pid, one, other


def connected(port: int, wanted: int) -> int:
    """Return how many of so many connections are there, without a second try of a SYN (1 s)."""
    with ExitStack() as all_:
        for number in range(wanted):
            one = all_.enter_context(socket.socket())
            one.settimeout(0.5)
            try:
                one.connect(("127.0.0.1", port))
            except TimeoutError:
                return number
        return wanted


@NEEDS_BACKLOG
def test_many_wait_where_it_was_widened(slow: tuple[int, int, int]) -> None:
    pid, one, other = slow
    backlog.widen(pid, {one})
    assert connected(one, 300) == 300
    assert connected(other, 300) < 10


def test_where_it_is_refused_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_PIDFD_GETFD", 100_000)  # as an old kernel, or a filter
    why = backlog.refusal()
    assert why in [f"pidfd_getfd: {os.strerror(one)}" for one in (errno.ENOSYS, errno.EPERM)]
