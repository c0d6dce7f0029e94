# SPDX-License-Identifier: Apache-2.0
"""memcached under load: what it answers is what the same objects answer as an ordinary process."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.boot.conftest import application
from tests.boot.memcached_load import (
    ADD,
    ANSWER_S,
    APPEND,
    DELETE,
    GET,
    HEADER,
    INCREMENT,
    NOOP,
    SET,
    Client,
    Where,
    binary,
    connect,
)
from tests.boot.test_ring0 import complaints
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.testing import Unikernel

pytestmark = pytest.mark.boot

CONNECTIONS = 500
WORDS = ("-u", "root", "-m", "64", "-t", "4", "-I", "2m")
ROOMY = ("-u", "root", "-m", "400", "-t", "4", "-I", "2m", "-o", "slab_automove=0")
"""Nothing is evicted: there is room for all, and who moves pages may throw items away."""
CLIENTS = 8
SEED = 20261122
COMMANDS = 2500
"""Of each client."""
NOTHING = "mn\r\n"
METADUMP = "lru_crawler metadump all"
ADMIN = (
    "stats",
    "stats items",
    "stats slabs",
    "stats sizes",
    "stats settings",
    "stats conns",
    "lru_crawler crawl all",
    METADUMP,
    "lru tune 10 25 0.1 2.0",
    "lru mode flat",
    "lru mode segmented",
    "cache_memlimit 380",
    "cache_memlimit 400",
    "verbosity 0",
    "version",
)
"""What is asked while clients are at work, over and over.  Without `stats sizes_disable`, after
which memcached's threads write to memory that was freed."""
REFUSALS = (b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")

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
NO_SUCH = 0x7E
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
    binary(NO_SUCH),
    binary(NOOP),
)


def until(connection: socket.socket, *ends: bytes) -> bytes:
    """Read until one of these has come."""
    said = b""
    while not any(end in said for end in ends):
        part = connection.recv(1 << 16)
        assert part, said
        said += part
    return said


def text_answers(where: Where) -> list[bytes]:
    """Ask all that is in TEXT, each followed by a question whose answer is known."""
    answers = []
    for command in TEXT:
        # An error may close the connection, so each has its own.
        with connect(where) as connection:
            connection.sendall(command.encode() + b"mn\r\n")
            answers.append(until(connection, b"MN\r\n"))
    return answers


def binary_answers(where: Where) -> list[tuple[object, bytes]]:
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


def forget(where: Where, asked: bytes = b"") -> None:
    """Have a server forget what the recipe asks it, which is before its state is saved.

    :param asked: that, if nobody has asked it yet.
    """
    with connect(where) as connection:
        connection.sendall(asked + b"delete k\r\n")
        until(connection, b"DELETED\r\n")


@pytest.fixture
def memcached(start_unikernel: Callable[..., Unikernel], folder: Path) -> Unikernel:
    one = start_unikernel(folder, "--", *WORDS)
    forget(one.address)
    return one


@pytest.fixture
def roomy(start_unikernel: Callable[..., Unikernel], folder: Path) -> Unikernel:
    """Return one that has to evict nothing."""
    one = start_unikernel(folder, "-m", "512", "--", *ROOMY)
    forget(one.address)
    return one


@pytest.fixture
def where(memcached: Unikernel) -> tuple[str, int]:
    return memcached.address


def stats_of(where: Where) -> dict[str, str]:
    """Return the statistics of a server."""
    with connect(where) as connection:
        connection.sendall(b"stats\r\n")
        said = until(connection, b"END\r\n").decode().splitlines()
    return {line.split()[1]: line.split()[2] for line in said if line.startswith("STAT")}


@contextmanager
def at_work(*threads: threading.Thread) -> Iterator[None]:
    """Have threads run; all are done at the end."""
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()


def test_every_answer_is_right_whatever_else_is_asked(roomy: Unikernel) -> None:
    """Both protocols and the meta commands, while all is looked through."""
    where = roomy.address
    wrong: list[str] = []

    def work(one: Client) -> None:
        try:
            one.work(COMMANDS)
            one.check_all()
        except Exception as error:
            wrong.append(f"seed {SEED}: {error!r}")

    clients = [
        Client(f"client{number}", where, random.Random(f"{SEED}:{number}"))
        for number in range(CLIENTS)
    ]
    threads = [threading.Thread(target=work, args=(one,)) for one in clients]
    rounds = 0
    with at_work(*threads), connect(where) as connection:
        while any(thread.is_alive() for thread in threads):
            for command in ADMIN:
                # A question whose answer is known ends each but this one, after whose end memcached
                # may leave what has come meanwhile in its buffer, in either ring.
                dump = command == METADUMP
                connection.sendall(f"{command}\r\n{'' if dump else NOTHING}".encode())
                said = until(connection, *((b"END\r\n", b"BUSY") if dump else (b"MN\r\n",)))
                assert not said.startswith(REFUSALS), (command, said)
            rounds += 1
    assert wrong == []
    assert rounds > 1
    stats = stats_of(where)
    assert stats["evictions"] == "0"
    assert int(stats["curr_items"]) >= sum(len(one.items) + len(one.numbers) for one in clients)
    assert roomy.stop() == Outcome(Kind.EXITED, 0)
    assert complaints(roomy.console.splitlines()) == []


@pytest.mark.long
def test_pages_are_moved_under_load(roomy: Unikernel) -> None:
    """What is found is right; what is not was thrown away, as memcached says itself."""
    where = roomy.address
    wrong: list[str] = []
    missed = [0] * CLIENTS

    def work(number: int) -> None:
        chance = random.Random(f"{SEED}:{number}")
        there: set[str] = set()
        with connect(where) as connection, connection.makefile("rb") as stream:
            for _ in range(COMMANDS):
                key = f"{number}:{chance.randrange(500)}"
                value = value_of(key)
                if key not in there:
                    head = f"set {key} 0 0 {len(value)}\r\n".encode()
                    connection.sendall(head + value + b"\r\n")
                    if stream.readline() != b"STORED\r\n":
                        wrong.append(f"{key} was not stored")
                    there.add(key)
                    continue
                if chance.random() < 0.2:
                    connection.sendall(f"delete {key}\r\n".encode())
                    missed[number] += stream.readline() == b"NOT_FOUND\r\n"
                    there.discard(key)
                    continue
                connection.sendall(f"get {key}\r\n".encode())
                head = stream.readline()
                if head == b"END\r\n":
                    missed[number] += 1
                    there.discard(key)
                elif stream.read(len(value) + 7) != value + b"\r\nEND\r\n":
                    wrong.append(f"{key} is another's")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    chance = random.Random(SEED)
    with at_work(*threads), connect(where) as connection:
        while any(thread.is_alive() for thread in threads):
            connection.sendall(f"slabs reassign -1 {chance.randrange(1, 30)}\r\n".encode())
            until(connection, b"\r\n")
    assert wrong == [], f"seed {SEED}"
    stats = stats_of(where)
    thrown = ("slab_reassign_evictions_nomem", "slab_reassign_busy_deletes")
    assert sum(missed) <= sum(int(stats[name]) for name in thrown)
    assert int(stats["slabs_moved"]) > 100
    assert int(stats["slab_reassign_rescues"]) > 0
    assert roomy.stop() == Outcome(Kind.EXITED, 0)
    assert complaints(roomy.console.splitlines()) == []


@pytest.mark.long
def test_a_flush_under_load_takes_what_was_there_and_nothing_else(roomy: Unikernel) -> None:
    where = roomy.address
    begun = ended = 0
    stop = threading.Event()
    wrong: list[str] = []
    seen = {"there": 0, "gone": 0}

    def work(number: int) -> None:
        chance = random.Random(f"{SEED}:{number}")
        # The value, and how many flushes had begun when it was sent and ended when it was stored.
        kept: dict[str, tuple[str, int, int]] = {}
        count = 0
        with connect(where) as connection:
            while not stop.is_set():
                key = f"{number}:{chance.randrange(50)}"
                if key in kept and chance.random() < 0.5:
                    value, begun_before, begun_after = kept[key]
                    ended_since = ended
                    connection.sendall(f"get {key}\r\n".encode())
                    said = until(connection, b"END\r\n")
                    there = said == f"VALUE {key} 0 {len(value)}\r\n{value}\r\nEND\r\n".encode()
                    seen["there" if there else "gone"] += 1
                    if not there and said != b"END\r\n":
                        wrong.append(f"{key} is {said!r}")
                    elif there and ended_since > begun_after:
                        wrong.append(f"{key} was stored before a flush")
                    elif not there and begun == begun_before:
                        wrong.append(f"{key} was flushed by nobody")
                    continue
                count += 1
                value, before = f"{key}:{count}", begun
                quiet = ended == before
                connection.sendall(f"set {key} 0 0 {len(value)}\r\n{value}\r\n".encode())
                assert until(connection, b"\r\n") == b"STORED\r\n"
                kept[key] = value, before if quiet else -1, begun

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    with at_work(*threads), connect(where) as connection:
        for _ in range(20):
            time.sleep(0.3)
            begun += 1
            connection.sendall(b"flush_all\r\n")
            assert until(connection, b"\r\n") == b"OK\r\n"
            ended += 1
        stop.set()
    assert wrong == [], f"seed {SEED}"
    assert min(seen.values()) > 100, seen
    assert roomy.stop() == Outcome(Kind.EXITED, 0)


@pytest.mark.long
def test_what_expires_is_gone_and_what_is_touched_is_not(roomy: Unikernel) -> None:
    where = roomy.address
    count = 400
    touches = {"touch {} 1000": b"TOUCHED", "gat 1000 {}": b"VALUE", "mg {} T1000": b"HD"}
    with connect(where) as connection:

        def ask(text: str) -> bytes:
            connection.sendall(f"{text}\r\nmn\r\n".encode())
            return until(connection, b"MN\r\n").removesuffix(b"MN\r\n")

        for number in range(count):
            assert ask(f"set soon:{number} 0 20 1\r\nx") == b"STORED\r\n"
            for touch, said in list(touches.items())[number % 4 : number % 4 + 1]:
                assert ask(touch.format(f"soon:{number}")).split()[0] == said
        deadline = time.monotonic() + ANSWER_S
        # Nobody asks for them: it looks itself.
        while int(stats_of(where)["curr_items"]) > count * 3 // 4:
            assert time.monotonic() < deadline
            ask("lru_crawler crawl all")
            time.sleep(0.5)
        for number in range(count):
            assert ask(f"get soon:{number}").startswith(b"VALUE") == (number % 4 < 3)


@pytest.mark.long
def test_both_protocols_are_answered_as_by_an_ordinary_process(
    where: tuple[str, int], folder: Path, tmp_path: Path
) -> None:
    with ordinary(folder, tmp_path) as other:
        # An answer counts what was changed before.
        forget(other, b"set k 0 0 5\r\nhello\r\n")
        expected = text_answers(other)
        assert text_answers(where) == expected
        assert binary_answers(where) == binary_answers(other)
    assert b"VALUE k 7 5\r\nhello\r\nEND\r\n" in expected[1]


@pytest.mark.long
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


@pytest.mark.long
def test_four_threads_serve_many_and_what_is_old_is_evicted(
    where: tuple[str, int], memcached: Unikernel
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
    stats = stats_of(where)
    assert stats["threads"] == "4"
    assert int(stats["evictions"]) > 1000
    assert int(stats["bytes"]) <= 64 << 20
    assert memcached.stop() == Outcome(Kind.EXITED, 0)


@pytest.mark.long
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
