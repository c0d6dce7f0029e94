# SPDX-License-Identifier: Apache-2.0
"""A port that is taken comes with who has it."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import ROOT
from ukl_build.image import Protocol
from ukl_build.run import ports
from ukl_build.run.ports import Holder

ME = pwd.getpwuid(os.getuid()).pw_name


def name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def listening(family: socket.AddressFamily, address: str) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.bind((address, 0))
    made.listen()
    return made


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::"),
        (socket.AF_INET6, "::ffff:127.0.0.1"),
    ],
)
def test_who_listens_is_named(family: socket.AddressFamily, address: str) -> None:
    with listening(family, address) as server:
        port = server.getsockname()[1]
        assert ports.holder(port) == Holder(ME, os.getpid(), name(os.getpid()))
        why = ports.refusal(port)
        assert why == f"Address already in use, process {os.getpid()} ({name(os.getpid())}) has it"
    assert ports.holder(port) is None
    assert ports.refusal(port) is None


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1")]
)
def test_who_listens_elsewhere_is_not_in_the_way(
    family: socket.AddressFamily, address: str
) -> None:
    with listening(family, address) as server:
        port = server.getsockname()[1]
        assert ports.refusal(port) is None
        assert ports.holder(port) is None
        everywhere = ports.holder(port, address="0.0.0.0")
        assert (everywhere is None) == (family is socket.AF_INET6)


def test_udp_is_not_tcp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert ports.holder(port, Protocol.UDP) == Holder(ME, os.getpid(), name(os.getpid()))
        assert "Address already in use" in str(ports.refusal(port, Protocol.UDP))
        assert ports.holder(port, Protocol.TCP) is None


def test_who_listens_is_named_before_who_is_connected() -> None:
    # The server's end of a connection has the same port.
    with (
        listening(socket.AF_INET, "127.0.0.1") as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        port = server.getsockname()[1]
        with other("import sys, time; print(flush=True); time.sleep(60)", accepted) as process:
            accepted.close()
            assert ports.holder(port) == Holder(ME, os.getpid(), name(os.getpid()))
            own = client.getsockname()[1]
            assert ports.holder(own) == Holder(ME, os.getpid(), name(os.getpid()))
            server.close()
            assert ports.holder(port) == Holder(ME, process.pid, name(process.pid))


@contextlib.contextmanager
def other(program: str, given: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that has inherited a socket and writes a line when it is ready."""
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=[given.fileno()]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


ASK = """
import os, sys
sys.path.insert(0, {root!r})
from ukl_build.run import ports
ports.holder({port})
os.setuid(65534)
print(ports.holder({port}))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_users_process_is_told_by_its_user() -> None:
    with listening(socket.AF_INET, "127.0.0.1") as server:
        # It asks twice: once as root, which reads all modules while their folders may be entered.
        program = ASK.format(root=str(ROOT), port=server.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
    said = f"a process of the user {ME} that cannot be seen from here\n"
    assert (done.stdout, done.stderr) == (said, "")
