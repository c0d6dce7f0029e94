# SPDX-License-Identifier: Apache-2.0
"""The program that makes the requests, here as an ordinary one against servers of the tests."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ukl_build.measure.counts import DONE, Announced, announced, ready_at
from ukl_build.measure.guest import BATCHES, build_program, load_argv
from ukl_build.measure.wall import timed
from ukl_build.recipe import Bench, Workload

ENOUGH_S = 60.0

Answer = Callable[[bytes], list[bytes]]
"""From a request to the pieces of its answer."""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the program."""
    return build_program(tmp_path_factory.mktemp("load") / "load", "load.c")


class Server:
    """Answers lines; remembers how many came, by connection."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: Counter[int] = Counter()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()
            number += 1

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as lines:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for line in lines:
                self.asked[number] += 1
                pieces = self.answer(line)
                if not pieces:
                    return
                for piece in pieces:
                    connection.sendall(piece)


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    """Run a server."""
    server = Server(answer)
    try:
        yield server
    finally:
        server.socket.close()


def run(load: Path, port: int, *workloads: Workload) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    _, *words = load_argv(Bench(port=port, workloads=workloads))
    argv = [str(load), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=ENOUGH_S, check=False)


def echo(line: bytes) -> list[bytes]:
    """Return a request as its answer."""
    return [line]


def test_each_connection_has_its_share_of_the_requests(load: Path) -> None:
    one = Workload(name="of one", requests=20, send="a\n", expect="a\n")
    many = Workload(name="of many", connections=8, requests=400, send="b\n", expect="b\n")
    with serving(echo) as server:
        done = run(load, server.port, one, many)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert announced(lines) == (
        Announced("of one", 20, BATCHES),
        Announced("of many", 400, BATCHES),
    )
    assert lines[-1] == DONE
    assert [(one.name, one.requests, len(one.took_ns)) for one in timed(lines)] == [
        *(("of one", 20, BATCHES), ("of many", 400, BATCHES)),
    ]
    assert ready_at(lines) is not None
    # One more is the first, after which the application is ready; a batch more is not counted.
    assert server.asked[0] == 1 + 20 * (BATCHES + 1)
    others = [server.asked[number] for number in range(1, 9)]
    assert sum(others) == 1 + 400 * (BATCHES + 1)
    assert min(others) > 0
    assert len(server.asked) == 9


def test_fewer_requests_than_connections_are_as_many_as_were_asked_for(load: Path) -> None:
    few = Workload(name="few", connections=8, requests=3, send="a\n", expect="a\n")
    with serving(echo) as server:
        assert run(load, server.port, few).returncode == 0
    assert server.asked.total() == 1 + 3 * (BATCHES + 1)


def test_what_is_sent_before_is_sent_once(load: Path) -> None:
    heard: list[bytes] = []

    def answer(line: bytes) -> list[bytes]:
        heard.append(line)
        return [b"done\n"] if line == b"before\n" else [b"value\n"]

    asked = Workload(
        name="x", requests=2, setup="before\n", settled="done\n", send="get\n", expect="value\n"
    )
    with serving(answer) as server:
        assert run(load, server.port, asked).returncode == 0
    assert heard[0] == b"before\n"
    assert set(heard[1:]) == {b"get\n"}


def test_an_answer_may_come_in_pieces_and_have_an_end_that_is_waited_for(load: Path) -> None:
    def answer(line: bytes) -> list[bytes]:
        return [b"HTTP 2", b"00 OK\nDate: now\n", b"<p>text</", b"p>\n"]

    asked = Workload(name="x", requests=5, send="a\n", expect="HTTP 200 OK\n", until="</p>\n")
    with serving(answer) as server:
        done = run(load, server.port, asked)
    assert done.returncode == 0, done.stderr
    assert server.asked.total() == 1 + 5 * (BATCHES + 1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda line: [b"no\n"], "another answer was expected than no"),
        (lambda line: [b"yes and more\n"], "longer than expected"),
        (lambda line: [], "the application has closed the connection"),
    ],
)
def test_a_wrong_answer_ends_it(load: Path, answer: Answer, words: str) -> None:
    with serving(answer) as server:
        done = run(load, server.port, Workload(name="x", send="a\n", expect="yes"))
    assert done.returncode == 1
    assert words in done.stderr
    assert DONE not in done.stdout
