# SPDX-License-Identifier: Apache-2.0
"""samples/tcp_server as a program of the host: as its Makefile links it, and out of the archive."""

from __future__ import annotations

import asyncio
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.elf.conftest import SAMPLE, run, tool
from tests.elf.minikernel import HIGH, LOW, link, slide
from tests.waiting import wait_for
from ukl_build.stages.archive import link_application, make_archive

ENOUGH_S = 30
"""Far more than anything here takes, the server's own five seconds included."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    port: int

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=ENOUGH_S)

    def end(self) -> tuple[int, str]:
        """Send SIGTERM; return the exit status and what was printed to standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=ENOUGH_S)
        return self.process.returncode, errors

    def descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sample with its own Makefile."""
    folder = tmp_path_factory.mktemp("sample") / "tcp_server"
    shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("*.o", "tcp_server"))
    tool("make", "-s", "-C", folder)
    return folder


@pytest.fixture(scope="module", params=["Makefile", "archive", "archive, slid"])
def program(request: pytest.FixtureRequest, objects: Path) -> Path:
    """Return the server in each of the ways it is linked."""
    if request.param == "Makefile":
        return objects / "tcp_server"
    link_application([objects / "start.o", objects / "tcp_server.o"], objects / "app.o")
    made = make_archive(objects / "app.o", objects / "UKL.a")
    assert made.undefined == ("ukl_syscall_fde",)
    link(made.path, objects / "low", base=LOW)
    delta = 0x5600000 if "slid" in request.param else 0
    slide(objects / "low", objects / f"server-{delta:x}", delta)
    return objects / f"server-{delta:x}"


@contextmanager
def running(program: Path, *, files: int | None = None, port: int = 0) -> Iterator[Server]:
    """Run a server, on a port of its own unless one is given."""

    def limit() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    process = subprocess.Popen(
        [program, str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=limit,  # noqa: PLW1509
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("tcp_server: listening on port "), line
        yield Server(process, int(line.split()[-1]))
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def server(program: Path) -> Iterator[Server]:
    """Return a running server, and require that it still runs at the end."""
    with running(program) as one:
        yield one


def exchange(connection: socket.socket, message: bytes) -> None:
    """Send a message and require it back."""
    connection.sendall(message)
    received = b""
    while len(received) < len(message):
        part = connection.recv(65536)
        assert part, "the server closed the connection"
        received += part
    assert received == message


def fill(connection: socket.socket, block: bytes) -> int:
    """Send, and read nothing, until the buffers of both sides and the server's are full.

    :param block: 251 numbers over and over, so that every part of what comes back is known.
    :return: bytes sent.
    """
    connection.setblocking(False)
    sent = quiet = 0
    while quiet < 20:
        try:
            sent += connection.send(block[sent % 251 :][:60000])
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)
        assert sent < 256 << 20, "the server goes on reading from a client that does not read"
    return sent


def test_many_clients_lose_nothing(server: Server) -> None:
    """200 clients at once, 50 messages each, of many lengths."""

    async def client(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        done = 0
        for count in range(50):
            message = f"{number}:{count}:".encode() + b"x" * (number * count % 3000)
            writer.write(message)
            assert await reader.readexactly(len(message)) == message
            done += 1
        writer.close()
        return done

    async def everyone() -> int:
        return sum(await asyncio.gather(*(client(number) for number in range(200))))

    assert asyncio.run(asyncio.wait_for(everyone(), 30)) == 10_000
    wait_for(lambda: server.descriptors() == 5, "the end of all connections", ENOUGH_S)
    assert server.end() == (0, "")


def test_thousands_of_clients(server: Server) -> None:
    """More than select() could hold, all alive at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(3000, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        with ExitStack() as stack:
            connections = [stack.enter_context(server.connect()) for _ in range(wanted)]
            for number, one in enumerate(connections):
                one.sendall(b"%d\n" % number)
            for number, one in enumerate(connections):
                assert one.recv(100) == b"%d\n" % number
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: server.descriptors() == 5, "the end of all connections", ENOUGH_S)


def test_a_half_closed_peer_gets_everything(server: Server) -> None:
    """What was sent before shutdown(SHUT_WR) comes back, then end of file."""
    data = bytes(range(256)) * 4096
    with server.connect() as one:
        one.settimeout(ENOUGH_S)

        async def both() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(data)
            writer.write_eof()
            return await reader.read()

        assert asyncio.run(asyncio.wait_for(both(), 20)) == data
        one.sendall(b"last words")
        one.shutdown(socket.SHUT_WR)
        assert one.recv(100) == b"last words"
        assert one.recv(100) == b""


def test_a_slow_reader_delays_nobody_and_loses_nothing(server: Server) -> None:
    """The server stops reading from a client that does not read, and serves the others."""
    block = bytes(range(251)) * 261
    with server.connect() as slow, server.connect() as other:
        sent = fill(slow, block)
        exchange(other, b"not delayed")
        slow.settimeout(ENOUGH_S)
        received = bytearray()
        while len(received) < sent:
            part = slow.recv(1 << 20)
            assert part, f"{len(received)} of {sent} bytes came back"
            received += part
        assert received == (block * (sent // len(block) + 1))[:sent]
        exchange(slow, b"alive again")
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    assert int(status.split("VmRSS:")[1].split()[0]) < 2048, "kB of memory"


def test_killed_clients_leave_nothing(server: Server) -> None:
    """Connections that are reset, with and without data on the way, cost only themselves."""
    with server.connect() as witness:
        for round_ in range(200):
            one = server.connect()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if round_ % 2:
                one.sendall(b"y" * 100_000)
            one.close()  # SO_LINGER 0: a reset
        exchange(witness, b"still here")
        wait_for(lambda: server.descriptors() == 6, "the end of all but one", ENOUGH_S)
    assert server.end() == (0, "")


def test_running_out_of_descriptors_keeps_the_rest_waiting(program: Path) -> None:
    """EMFILE: the connected are served, the others wait in the backlog, the CPU is not burnt."""
    with running(program, files=20) as server, ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(30)]
        for one in connections:
            one.sendall(b"hello")
        served = connections[:15]  # 20 less standard streams, listener and epoll
        for one in served:
            assert one.recv(100) == b"hello"
        connections[20].settimeout(0.2)
        with pytest.raises(TimeoutError):
            connections[20].recv(100)
        before = cpu_ticks(server)
        time.sleep(0.3)
        assert cpu_ticks(server) - before <= 3
        for one in served:
            exchange(one, b"still served")
            one.close()
        for one in connections[15:]:
            one.settimeout(ENOUGH_S)
            assert one.recv(100) == b"hello"
        assert server.end() == (0, "")


def cpu_ticks(server: Server) -> int:
    """Return the processor time a server has used, in hundredths of a second."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_sigterm_answers_what_was_received(server: Server) -> None:
    """New connections are refused, a client that is owed data gets it, then exit 0."""
    with server.connect() as idle, server.connect() as owed:
        exchange(idle, b"before")
        sent = fill(owed, b"z" * 65511)
        server.process.send_signal(signal.SIGTERM)
        idle.settimeout(ENOUGH_S)
        assert idle.recv(100) == b""
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        owed.settimeout(ENOUGH_S)
        received = 0
        while part := owed.recv(1 << 20):
            assert not part.strip(b"z")
            received += len(part)
        assert received == sent
    assert server.process.wait(ENOUGH_S) == 0


def test_a_client_that_goes_on_sending_still_gets_its_answers(server: Server) -> None:
    """After the end (FIN) the socket is kept until all is acknowledged: closed, it would reset."""
    with server.connect() as one:
        sent = fill(one, b"z" * 65511)
        server.process.send_signal(signal.SIGTERM)
        one.settimeout(ENOUGH_S)
        received = 0
        while received < sent * 3 // 4:
            received += len(one.recv(4096))
        time.sleep(0.5)
        one.sendall(b"too late")
        while part := one.recv(1 << 20):
            received += len(part)
        assert received >= sent
    assert server.process.wait(ENOUGH_S) == 0


def test_sigterm_does_not_wait_for_ever(objects: Path) -> None:
    """A client that never reads is cut off after five seconds, and that is said."""
    with running(objects / "tcp_server") as server, server.connect() as one:
        fill(one, b"z" * 65511)
        begin = time.monotonic()
        assert server.end() == (0, "tcp_server: clients cut off: 1\n")
        assert time.monotonic() - begin > 4.5


def test_a_restart_finds_its_port_free(program: Path) -> None:
    """Connections that the server ended are in TIME_WAIT, and do not keep the next one out."""
    with running(program) as server:
        one = server.connect()
        exchange(one, b"first")
        server.process.send_signal(signal.SIGTERM)
        assert one.recv(100) == b""
        one.close()
        assert server.process.wait(ENOUGH_S) == 0
        with running(program, port=server.port) as again, again.connect() as other:
            exchange(other, b"second")


def test_what_cannot_be_started_says_why(program: Path, server: Server) -> None:
    """A taken port is status 1, a wrong argument status 2, each with a line that says so."""
    taken = run(program, str(server.port))
    assert (taken.returncode, taken.stderr) == (1, "tcp_server: bind: error 98\n")
    for argument in ("", "x", "65536", "-1", "123456", "5 5"):
        wrong = run(program, argument)
        assert (wrong.returncode, wrong.stderr) == (2, "usage: tcp_server [PORT 0-65535]\n")
    assert run(program, "1", "2").returncode == 2


def test_interruptions_are_not_errors(server: Server) -> None:
    """Stopping and continuing interrupts epoll_pwait (EINTR), and nothing else happens."""

    def is_in(state: str) -> Callable[[], bool]:
        stat = Path(f"/proc/{server.process.pid}/stat")
        return lambda: stat.read_text().rpartition(")")[2].split()[0] == state

    with server.connect() as one:
        for _ in range(5):
            # A SIGCONT before it has stopped would undo the SIGSTOP, and nothing be interrupted.
            wait_for(is_in("S"), "its sleep", ENOUGH_S)
            server.process.send_signal(signal.SIGSTOP)
            wait_for(is_in("T"), "its stop", ENOUGH_S)
            server.process.send_signal(signal.SIGCONT)
        exchange(one, b"unimpressed")


def test_the_archive_links_in_the_kernel_half(objects: Path, tmp_path: Path) -> None:
    """With the kernel's options, and every relocation can be slid."""
    link_application([objects / "start.o", objects / "tcp_server.o"], tmp_path / "app.o")
    make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    link(tmp_path / "UKL.a", tmp_path / "vmlinux", base=HIGH)
    assert slide(tmp_path / "vmlinux", tmp_path / "slid", 0x3000000)["R_X86_64_32S"] > 10
