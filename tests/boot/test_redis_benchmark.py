# SPDX-License-Identifier: Apache-2.0
"""Debian's own redis-benchmark beside Redis in ring 0, over the loopback: is all of it answered.

It runs in the guest as the ordinary dynamic program that it is: QEMU's user network has room for
one connection that nobody has taken yet, and is slow.  Nothing here is about speed.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tests.boot.conftest import HELPER, console
from tests.boot.redis_guest import PORT, Redis, client
from tests.boot.test_ring0 import complaints
from ukl_build.initconf import Job, Mode
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.stages import stock

pytestmark = [pytest.mark.boot, pytest.mark.long]

BENCHMARK = "/usr/bin/redis-benchmark"
END_S = 900.0
"""Several times what the slowest of them takes."""
REQUESTS = 3200
"""Of each test; a multiple of the longest pipeline."""
HEAD = "test"
"""Begins the first row of its table."""

TESTS = {
    "PING_INLINE": "ping",
    "PING_MBULK": "ping",
    "SET": "set",
    "GET": "get",
    "INCR": "incr",
    "LPUSH": "lpush",
    "RPUSH": "rpush",
    "LPOP": "lpop",
    "RPOP": "rpop",
    "SADD": "sadd",
    "HSET": "hset",
    "SPOP": "spop",
    "ZADD": "zadd",
    "ZPOPMIN": "zpopmin",
    "LPUSH (needed to benchmark LRANGE)": "lpush",
    "LRANGE_100 (first 100 elements)": "lrange",
    "LRANGE_300 (first 300 elements)": "lrange",
    "LRANGE_500 (first 500 elements)": "lrange",
    "LRANGE_600 (first 600 elements)": "lrange",
    "MSET (10 keys)": "mset",
}
"""What it does by default, by the rows of its table, and the command that each sends."""

SINGLE_KEYS = {b"key:__rand_int__", b"counter:__rand_int__", b"myhash", b"mylist"}
"""What is left without random keys: all that was put into the sets is popped again."""


@dataclass(frozen=True)
class Load:
    """How it is called."""

    words: tuple[str, ...]
    connections: int = 50
    random_keys: int | None = None


LOADS = {
    "default": Load(()),
    "pipelines": Load(("-P", "16", "-r", "500"), random_keys=500),
    "large": Load(("-d", "256", "-r", "100"), random_keys=100),
    "threads": Load(("--threads", "2", "-r", "500"), random_keys=500),
    "many": Load(("-r", "500"), connections=1000, random_keys=500),
    "many in threads": Load(("--threads", "2", "-P", "16"), connections=1000),
    "resp3": Load(("-3", "-r", "500"), random_keys=500),
    "reconnecting": Load(("-k", "0")),
}


@pytest.fixture(scope="session")
def benchmark(redis_stock: Path) -> Mapping[str, Path]:
    """Return the program and its libraries, by their paths in the guest."""
    packages = sorted((redis_stock / "packages").iterdir())
    return stock.loaded(packages, BENCHMARK)


def begun(server: Redis, files: Mapping[str, Path], words: tuple[str, ...], *own: str) -> Machine:
    """Start Redis, and redis-benchmark once it listens.

    :param words: arguments of the benchmark.
    :param own: of Redis.
    """
    argv = (HELPER, "when", str(PORT), BENCHMARK, "--csv", "-n", str(REQUESTS), *words)
    job = Job(argv, Mode.BESIDE, name="benchmark", any_end=True)
    # The guest's files are in its memory.
    return server.run(*own, beside={"programs": files, "jobs": (job,)}, memory_mib=512)


def table(machine: Machine) -> list[str]:
    """Wait for the benchmark's end, and return the names in its table; it must be content."""
    event = machine.wait_event(END_S, event="exited", job="benchmark")
    lines = console(machine)
    assert event is not None and event["code"] == 0, "\n".join(lines[-40:])
    rows = [row for row in csv.reader(lines) if len(row) == 8]
    names = [row[0] for row in rows]
    assert names[:1] == [HEAD], lines
    # A test whose answers had not come would have no rate.
    assert all(float(row[1]) > 0 for row in rows[1:]), rows
    return names[1:]


def calls(one: redis.Redis) -> dict[str, int]:
    """Return how many times each command was carried out; none may have been refused or failed."""
    found = {}
    for name, counts in one.info("commandstats").items():
        command = name.removeprefix("cmdstat_")
        found[command] = counts["calls"]
        # The client of this test introduces itself, in words that are younger than this Redis.
        if not command.startswith("client"):
            assert (counts["rejected_calls"], counts["failed_calls"]) == (0, 0), name
    return found


def ended_in_order(machine: Machine) -> None:
    """End Redis, and see that the kernel had nothing to say."""
    assert machine.stop() == Outcome(Kind.EXITED, 0)
    assert complaints(console(machine)) == []


def total(one: redis.Redis, pattern: str) -> int:
    """Return the sum of all counters of a pattern."""
    names = list(one.scan_iter(pattern, count=1000))
    return sum(int(value or 0) for value in one.mget(names))


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_all_that_is_sent_is_done(server: Redis, benchmark: Mapping[str, Path], load: Load) -> None:
    machine = begun(server, benchmark, ("-c", str(load.connections), *load.words))
    assert table(machine) == list(TESTS)
    commands = list(TESTS.values())
    expected = {name: commands.count(name) * REQUESTS for name in commands}
    with client(machine) as one:
        found = calls(one)
        # Everybody who waited for Redis has sent a PING as well.
        assert found.pop("ping") >= expected.pop("ping")
        assert {name: found.get(name) for name in expected} == expected
        # One test after the other has its own connections.
        assert one.info("stats")["total_connections_received"] >= load.connections * len(TESTS)
        assert one.info("stats")["rejected_connections"] == 0
        # What was pushed on either end, but for what was popped, and then once more.
        assert one.llen("mylist") == REQUESTS
        assert total(one, "counter:*") == REQUESTS
        names = list(one.scan_iter(count=1000))
        assert one.dbsize() == len(names) == len(set(names))
        if load.random_keys is None:
            assert set(names) == SINGLE_KEYS
        else:
            # With so many requests each of the keys has its turn, but for a few.
            assert load.random_keys * 0.9 < len(one.keys("counter:*")) <= load.random_keys
    ended_in_order(machine)


def test_streams_are_filled(server: Redis, benchmark: Mapping[str, Path]) -> None:
    """XADD is none of its default tests; it sends whatever it is given."""
    words = ("XADD", "stream:__rand_int__", "*", "field", "__rand_int__")
    machine = begun(server, benchmark, ("-P", "16", "-r", "50", "--threads", "2", *words))
    assert table(machine) == [" ".join(words)]
    with client(machine) as one:
        assert calls(one)["xadd"] == REQUESTS
        names = list(one.scan_iter("stream:*"))
        assert len(names) == one.dbsize() == 50
        assert sum(map(one.xlen, names)) == REQUESTS
    ended_in_order(machine)


def test_an_error_is_noticed(server: Redis, benchmark: Mapping[str, Path]) -> None:
    """The control: a benchmark that Redis refuses to serve does not end well."""
    machine = begun(server, benchmark, ("-t", "set"), "--maxmemory", "1")
    event = machine.wait_event(END_S, event="exited", job="benchmark")
    assert event is not None and event["code"] == 1
    assert any("Error from server: OOM" in line for line in console(machine))
