# SPDX-License-Identifier: Apache-2.0
"""memcached under load: what it answers is what the same objects answer as an ordinary process."""

from __future__ import annotations

import hashlib
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.boot.conftest import Start, application
from ukl_build import image
from ukl_build.run.cli import IMAGE_FILE
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import LOCALHOST, Forward, from_image

pytestmark = [pytest.mark.boot, pytest.mark.long]

PORT = 11211
ANSWER_S = 90.0
CONNECTIONS = 500
WORDS = ("-u", "root", "-m", "64", "-t", "4", "-I", "2m")

TEXT = (
    "set k 7 0 5\r\nhello\r\n",
    "get k\r\n",
    "gets k nobody\r\n",
    "add k 0 0 1\r\nx\r\n",
    "add new 0 0 1\r\nx\r\n",
    "replace nobody 0 0 1\r\nx\r\n",
    "append k 0 0 3\r\n...\r\n",
    "prepend k 0 0 3\r\n---\r\n",
    "get k new\r\n",
    "cas k 0 0 1 999999\r\nx\r\n",
    "set n 0 0 2\r\n41\r\n",
    "incr n 1\r\n",
    "decr n 100\r\n",
    "incr n 18446744073709551615\r\n",
    "incr k 1\r\n",
    "touch n 100\r\n",
    "gat 100 n\r\n",
    "set gone 0 -1 1\r\nx\r\n",
    "get gone\r\n",
    "delete n\r\n",
    "delete n\r\n",
    "mg k t f v\r\n",
    "ms meta S2 T0\r\nhi\r\n",
    "ma n\r\n",
    "md meta\r\n",
    "set k 0 0 1\r\ntoo long\r\n",
    "set bad\r\n",
    f"get {'k' * 251}\r\n",
    "nosuch\r\n",
    "verbosity 0\r\n",
    "flush_all\r\n",
    "get k\r\n",
    "version\r\n",
)
HEADER = struct.Struct(">BBHBBHIIQ")
"""Of the binary protocol (memcached's doc/protocol-binary.xml): magic, operation, bytes of the key,
bytes of the extras, type, status or bucket, bytes of the body, what is sent back as it is, cas."""
GET, SET, ADD, DELETE, INCREMENT, NOOP, APPEND = 0x00, 0x01, 0x02, 0x04, 0x05, 0x0A, 0x0E


def binary(operation: int, key: bytes = b"", extras: bytes = b"", value: bytes = b"") -> bytes:
    """Return a request of the binary protocol."""
    body = extras + key + value
    head = HEADER.pack(0x80, operation, len(key), len(extras), 0, 0, len(body), 0x12345678, 0)
    return head + body


FLAGS = struct.pack(">II", 0xDEADBEEF, 0)
COUNT = struct.pack(">QQI", 5, 40, 0)
BINARY = (
    binary(SET, b"b", FLAGS, b"value"),
    binary(GET, b"b"),
    binary(ADD, b"b", FLAGS, b"other"),
    binary(APPEND, b"b", b"", b"more"),
    binary(GET, b"b"),
    binary(INCREMENT, b"number", COUNT),
    binary(INCREMENT, b"number", COUNT),
    binary(DELETE, b"nobody"),
    binary(0x7E),
    binary(NOOP),
)


def connect(where: tuple[str, int] | str) -> socket.socket:
    """Connect to a server that listens."""
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
    found = socket.socket(family)
    found.settimeout(ANSWER_S)
    found.connect(where)
    return found


def until(connection: socket.socket, end: bytes) -> bytes:
    """Read until something has come."""
    said = b""
    while end not in said:
        part = connection.recv(1 << 16)
        assert part, said
        said += part
    return said


def text_answers(where: tuple[str, int] | str) -> list[bytes]:
    """Ask all that is in TEXT, each followed by a question whose answer is known."""
    answers = []
    for command in TEXT:
        # An error may close the connection, so each has its own.
        with connect(where) as connection:
            connection.sendall(command.encode() + b"mn\r\n")
            answers.append(until(connection, b"MN\r\n"))
    return answers


def binary_answers(where: tuple[str, int] | str) -> list[tuple[object, bytes]]:
    """Ask all that is in BINARY on one connection; cas is a number that counts all changes."""
    answers: list[tuple[object, bytes]] = []
    with connect(where) as connection, connection.makefile("rb") as stream:
        for request in BINARY:
            connection.sendall(request)
            head = HEADER.unpack(stream.read(HEADER.size))
            answers.append((head[:-1], stream.read(head[6])))
    return answers


def value_of(key: str) -> bytes:
    """Return a value that only this key has, of up to 16 KiB."""
    digest = hashlib.sha256(key.encode()).digest()
    return digest * (1 + digest[0] * 2)


@pytest.fixture(scope="module")
def folder(built: Path) -> Path:
    return application("memcached", built)


@contextmanager
def ordinary(folder: Path, scratch: Path) -> Iterator[str]:
    """Run the same objects as an ordinary process, and return its socket."""
    path = scratch / "socket"
    with subprocess.Popen([folder / "memcached.static", *WORDS, "-s", path]) as process:
        try:
            while True:
                with suppress(OSError):  # not there, or nobody listens yet
                    connect(str(path)).close()
                    break
                assert process.poll() is None
                time.sleep(0.01)
            yield str(path)
        finally:
            process.kill()


@pytest.fixture
def machine(start: Start, folder: Path) -> Machine:
    described = image.load(folder / IMAGE_FILE)
    vm = replace(from_image(described, folder), forwards=(Forward(0, PORT),))
    argv = (described.app.argv[0], *WORDS)
    made = start(kernel=folder / described.kernel, base=None, vm=vm, argv=argv)
    made.ask(PORT, b"mn\r\n", b"MN\r\n", deadline_s=ANSWER_S)
    return made


@pytest.fixture
def where(machine: Machine) -> tuple[str, int]:
    return LOCALHOST, machine.host_port(PORT)


def test_both_protocols_are_answered_as_by_an_ordinary_process(
    where: tuple[str, int], folder: Path, tmp_path: Path
) -> None:
    with ordinary(folder, tmp_path) as other:
        expected = text_answers(other)
        assert text_answers(where) == expected
        assert binary_answers(where) == binary_answers(other)
    assert b"VALUE k 7 5\r\nhello\r\nEND\r\n" in expected[1]


def test_large_items_come_back_and_too_large_ones_are_refused(where: tuple[str, int]) -> None:
    large = hashlib.sha256(b"large").digest() * (1 << 15)
    with connect(where) as connection, connection.makefile("rb") as stream:
        for number in range(8):
            connection.sendall(b"set big%d 0 0 %d\r\n%s\r\n" % (number, len(large), large))
            assert stream.readline() == b"STORED\r\n"
        for number in range(8):
            connection.sendall(b"get big%d\r\n" % number)
            assert stream.readline() == b"VALUE big%d 0 %d\r\n" % (number, len(large))
            assert stream.read(len(large)) == large
            assert stream.readline() + stream.readline() == b"\r\nEND\r\n"
        size = 3 << 20
        connection.sendall(b"set huge 0 0 %d\r\n%s\r\n" % (size, bytes(size)))
        assert stream.readline() == b"SERVER_ERROR object too large for cache\r\n"


def test_four_threads_serve_many_and_what_is_old_is_evicted(
    where: tuple[str, int], machine: Machine
) -> None:
    """Whatever is found is right, and memory stays within its bounds."""
    wrong: list[str] = []
    found = 0

    def work(client: int) -> None:
        nonlocal found
        with connect(where) as connection, connection.makefile("rb") as stream:
            for number in range(3000):
                key = f"{client}:{number}"
                value = value_of(key)
                head = f"set {key} 0 0 {len(value)} noreply\r\n".encode()
                # One that was set a while ago, by somebody else.
                asked = f"{(client + 1) % 8}:{number // 2}"
                connection.sendall(head + value + f"\r\nget {asked}\r\n".encode())
                line = stream.readline()
                if line == b"END\r\n":
                    continue
                size = int(line.split()[3])
                if stream.read(size) != value_of(asked):
                    wrong.append(asked)
                assert stream.readline() + stream.readline() == b"\r\nEND\r\n"
                found += 1

    threads = [threading.Thread(target=work, args=(client,)) for client in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert found > 1000
    with connect(where) as connection:
        connection.sendall(b"stats\r\n")
        said = until(connection, b"END\r\n").decode().splitlines()
    stats = {line.split()[1]: line.split()[2] for line in said if line.startswith("STAT")}
    assert stats["threads"] == "4"
    assert int(stats["evictions"]) > 1000
    assert int(stats["bytes"]) <= 64 << 20
    assert machine.stop() == Outcome(Kind.EXITED, 0)


def test_many_connections_at_once(where: tuple[str, int]) -> None:
    connections = []
    for _ in range(CONNECTIONS):
        connections.append(connect(where))
        # QEMU has room for one that it has not taken yet; another waits for a second.
        connections[-1].sendall(b"mn\r\n")
        assert until(connections[-1], b"\r\n") == b"MN\r\n"
    for number, connection in enumerate(connections):
        connection.sendall(b"set c%d 0 0 4\r\nhere\r\n" % number)
    for connection in connections:
        assert until(connection, b"\r\n") == b"STORED\r\n"
    for number, connection in enumerate(connections):
        connection.sendall(b"get c%d\r\n" % (CONNECTIONS - 1 - number))
    for connection in connections:
        assert b"\r\nhere\r\nEND\r\n" in until(connection, b"END\r\n")
        connection.close()
