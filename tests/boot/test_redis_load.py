# SPDX-License-Identifier: Apache-2.0
"""Redis under load: what it answers is what the same objects answer as an ordinary process."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from redis.connection import ConnectionInterface
from redis.exceptions import BusyLoadingError, OutOfMemoryError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.boot.conftest import Warm, console, ended
from tests.boot.redis_guest import (
    ANSWER_S,
    PORT,
    Redis,
    client,
    connection,
    ordinary,
    ordinary_connection,
)
from tests.boot.redis_load import answered, asked, clients, differences, templates
from tests.boot.test_ring0 import complaints
from tests.waiting import wait_for
from ukl_build import cpio
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import LOCALHOST

pytestmark = [pytest.mark.boot, pytest.mark.long]

CONNECTIONS = 1000
CLIENTS = 8
COMMANDS = 2500
"""Of each client."""
KILLS = 30
GATEWAY = "10.0.2.2"
"""This machine's LOCALHOST, as QEMU's network shows it to a guest."""
LIMIT = 32 << 20
MIB = bytes(1 << 20)


Disturbance = tuple[str, ...]
UNTIL_SAVED = ("BGSAVE",), ("INFO", "persistence", "rdb_bgsave_in_progress:0")
UNTIL_REWRITTEN = ("BGREWRITEAOF",), ("INFO", "persistence", "aof_rewrite_in_progress:0")

DISTURBANCES: dict[str, tuple[Disturbance, ...]] = {
    "settings": (
        ("CONFIG", "SET", "maxmemory", "400mb"),
        ("CONFIG", "SET", "hz", "100", "dynamic-hz", "no"),
        ("CONFIG", "SET", "loglevel", "verbose"),
        ("CONFIG", "SET", "maxclients", "500"),
        ("CONFIG", "SET", "save", "1 1"),
        ("CONFIG", "SET", "appendfsync", "always"),
        ("CONFIG", "SET", "lazyfree-lazy-user-del", "yes", "lazyfree-lazy-server-del", "yes"),
        ("CONFIG", "SET", "latency-monitor-threshold", "1", "slowlog-log-slower-than", "0"),
        ("CONFIG", "REWRITE"),
        ("CONFIG", "SET", "appendonly", "no"),
        ("CONFIG", "RESETSTAT"),
        ("CONFIG", "SET", "maxmemory", "0"),
        ("CONFIG", "SET", "hz", "10", "dynamic-hz", "yes"),
        ("CONFIG", "SET", "loglevel", "notice"),
        ("CONFIG", "SET", "maxclients", "10000"),
        ("CONFIG", "SET", "save", ""),
        ("CONFIG", "SET", "appendonly", "yes"),
        ("CONFIG", "SET", "appendfsync", "everysec"),
        ("CONFIG", "REWRITE"),
        ("INFO", "persistence", "aof_rewrite_scheduled:0"),
        ("INFO", "persistence", "aof_rewrite_in_progress:0"),
    ),
    "saving": (*UNTIL_SAVED, *UNTIL_REWRITTEN, ("DEBUG", "CHANGE-REPL-ID")),
    "waiting": (
        ("DEBUG", "SLEEP", "0.5"),
        ("CLIENT", "PAUSE", "300", "ALL"),
        ("INFO", "everything"),
        ("CLIENT", "PAUSE", "10000", "WRITE"),
        ("CLIENT", "LIST"),
        ("CLIENT", "UNPAUSE"),
        ("MEMORY", "PURGE"),
        ("MEMORY", "STATS"),
        ("SLOWLOG", "GET", "128"),
        ("COMMAND", "DOCS"),
        ("SCRIPT", "FLUSH", "ASYNC"),
        ("CLIENT", "NO-EVICT", "ON"),
        ("KEYS", "*"),
    ),
}
"""What is sent while clients are at work, over and over.  A third word of INFO is waited for."""

WORDS = {
    "one thread": (),
    "four threads": ("--io-threads", "4", "--io-threads-do-reads", "yes"),
}
PERSISTENT = ("--appendonly", "yes", "--enable-debug-command", "yes")


def disturb(one: ConnectionInterface, what: Disturbance) -> None:
    """Send one of DISTURBANCES, and wait for what it waits for."""
    wanted = None
    if what[0] == "INFO" and len(what) == 3:
        *words, wanted = what
    else:
        words = list(what)
    while True:
        found = asked(one, *words)
        assert not isinstance(found, Exception), (what, found)
        if wanted is None:
            return
        assert isinstance(found, bytes)
        if wanted.encode() in found:
            return
        time.sleep(0.05)


@pytest.mark.parametrize("threads", WORDS)
@pytest.mark.parametrize("kind", DISTURBANCES)
def test_all_is_answered_and_kept_whatever_else_is_asked(
    server: Redis, redis_image: Path, tmp_path: Path, kind: str, threads: str
) -> None:
    """Each answer is that of an ordinary process that nobody disturbs; so are all data, afterwards
    and once the guest was started again.
    """
    seed = f"{kind} {threads}"
    conf = {"entries": [cpio.file("/redis.conf", "")]}
    machine = server.run(
        *PERSISTENT, *WORDS[threads], first=("/redis.conf",), beside=conf, memory_mib=512
    )
    with ordinary(redis_image, tmp_path, *PERSISTENT):

        def plain() -> ConnectionInterface:
            return ordinary_connection(tmp_path)

        known = templates(plain())
        main = connection(machine)
        with clients(lambda: connection(machine), known, seed, CLIENTS, COMMANDS) as here:
            rounds = 0
            while here.working:
                for what in DISTURBANCES[kind]:
                    disturb(main, what)
                rounds += 1
        print(f"{rounds} rounds")
        # More than the one that was begun with.
        assert rounds > 1
        with clients(plain, known, seed, CLIENTS, COMMANDS) as there:
            pass
        assert differences(here, there, known, COMMANDS) == []
        digest = asked(plain(), "DEBUG", "DIGEST")
    assert asked(main, "DEBUG", "DIGEST") == digest
    assert machine.stop() == Outcome(Kind.EXITED, 0)
    assert complaints(console(machine)) == []
    assert asked(connection(server.run(*PERSISTENT, memory_mib=512)), "DEBUG", "DIGEST") == digest


NOT_NOW = ("BUSY ", "Redis is loading the dataset")
"""Begins the refusals of a server that runs a script, or loads."""


@dataclass
class Writer(threading.Thread):
    """A client that writes until it is told to stop, and connects again when it is thrown out."""

    machine: Machine
    name_of_keys: str
    stop: threading.Event
    acknowledged: int = 0
    """Keys from 0 on, whose value is the number."""
    thrown_out: int = 0
    refused: int = 0
    """Writes that were not done at first, since a script was running or data were loaded."""

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__
    __eq__ = threading.Thread.__eq__

    def run(self) -> None:
        one = connection(self.machine)
        while not self.stop.is_set():
            words = ("SET", f"{self.name_of_keys}:{self.acknowledged}", self.acknowledged)
            try:
                found = asked(one, *words)
            except BusyLoadingError as loading:  # a kind of the next
                found = loading
            except RedisConnectionError:
                self.thrown_out += 1
                one.disconnect()
                continue
            if found == b"OK":
                self.acknowledged += 1
            else:
                assert str(found).startswith(NOT_NOW), found
                self.refused += 1
                time.sleep(0.01)
        one.disconnect()


@contextmanager
def writers(machine: Machine) -> Iterator[list[Writer]]:
    """Have writers at work, and see in the end that all they were told is done is there."""
    stop = threading.Event()
    made = [Writer(machine, f"writer:{number}", stop) for number in range(CLIENTS)]
    for writer in made:
        writer.start()
    try:
        yield made
    finally:
        stop.set()
        for writer in made:
            writer.join(ANSWER_S)
            assert not writer.is_alive()
    with client(machine) as one:
        for writer in made:
            assert writer.acknowledged
            names = [f"{writer.name_of_keys}:{number}" for number in range(writer.acknowledged)]
            assert one.mget(names) == [str(number).encode() for number in range(len(names))]


def test_nothing_is_lost_by_clients_that_are_killed(warm_redis: Warm) -> None:
    unikernel = warm_redis()
    machine = unikernel.machine
    main = connection(machine)
    killed = 0
    with writers(machine) as made:
        for _ in range(KILLS):
            time.sleep(0.1)
            count = asked(main, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert isinstance(count, int)
            killed += count
    assert killed > KILLS
    # One that was killed before its first answer, or between two, notices when it is read from.
    assert 0 < sum(writer.thrown_out for writer in made) <= killed
    assert unikernel.stop() == Outcome(Kind.EXITED, 0)


def test_nothing_is_lost_when_all_is_loaded_again(warm_redis: Warm) -> None:
    unikernel = warm_redis("--enable-debug-command", "yes")
    machine = unikernel.machine
    main = connection(machine)
    with writers(machine) as made:
        # So that it takes a while.
        asked(main, "DEBUG", "POPULATE", "50000", "more", "100")
        for how in ("RELOAD", "LOADAOF", "RELOAD"):
            time.sleep(0.5)
            if how == "LOADAOF":
                # What POPULATE makes is in no log.
                disturb(main, UNTIL_REWRITTEN[0])
                disturb(main, UNTIL_REWRITTEN[1])
            assert asked(main, "DEBUG", how) == b"OK"
    assert asked(main, "EXISTS", "more:0", "more:49999") == 2
    assert asked(main, "DBSIZE") == 50_000 + sum(writer.acknowledged for writer in made)
    assert unikernel.stop() == Outcome(Kind.EXITED, 0)


ENDLESS = "while true do end"
FUNCTION = f"#!lua name=lib\nredis.register_function('endless', function() {ENDLESS} end)"


def wait_until_all_are_served(made: Sequence[Writer]) -> None:
    before = [writer.acknowledged for writer in made]
    wait_for(
        lambda: all(one.acknowledged > had for one, had in zip(made, before, strict=True)),
        "an answer to every writer",
        ANSWER_S,
    )


def wait_until_refused(made: Sequence[Writer], times: int) -> None:
    wait_for(lambda: sum(one.refused for one in made) >= times, f"{times} refusals", ANSWER_S)


@pytest.mark.parametrize("kind", ["SCRIPT", "FUNCTION"])
def test_an_endless_script_is_killed(warm_redis: Warm, kind: str) -> None:
    unikernel = warm_redis("--busy-reply-threshold", "100")
    machine = unikernel.machine
    main, runner = connection(machine), connection(machine)
    asked(main, "FUNCTION", "LOAD", FUNCTION)
    call = ("EVAL", ENDLESS, "0") if kind == "SCRIPT" else ("FCALL", "endless", "0")
    with writers(machine) as made:
        for _ in range(5):
            wait_until_all_are_served(made)
            before = sum(writer.refused for writer in made)
            runner.send_command(*call)
            wait_until_refused(made, before + CLIENTS)
            assert asked(main, kind, "KILL") == b"OK"
            assert "killed by user" in str(answered(runner))
    assert unikernel.stop() == Outcome(Kind.EXITED, 0)


def test_a_script_that_has_written_is_not_killed_but_its_server_ends(server: Redis) -> None:
    machine = server.run("--busy-reply-threshold", "100")
    main, runner = connection(machine), connection(machine)
    runner.send_command("EVAL", f"redis.call('set', KEYS[1], 1) {ENDLESS}", "1", "key")
    wait_for(lambda: "busy" in str(asked(main, "PING")), "a refusal", ANSWER_S)
    assert "UNKILLABLE" in str(asked(main, "SCRIPT", "KILL"))
    main.send_command("SHUTDOWN", "NOSAVE")
    outcome, lines = ended(machine, ANSWER_S)
    assert outcome == Outcome(Kind.EXITED, 0), lines[-20:]
    # What a script writes is done when it is done.
    with client(server.run()) as one:
        assert one.dbsize() == 0


def test_somebody_hears_all_that_is_done(server: Redis, redis_image: Path, tmp_path: Path) -> None:
    """MONITOR, whose output grows while others work."""
    machine = server.run()
    listener, main = connection(machine), connection(machine)
    assert asked(listener, "MONITOR") == b"OK"
    heard: list[bytes] = []

    def listen() -> None:
        while b"the end" not in (line := listener.read_response()):
            heard.append(line)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    with writers(machine) as made:
        time.sleep(3)
    asked(main, "ECHO", "the end")
    thread.join(ANSWER_S)
    assert not thread.is_alive()
    sets = [line.split(b'"')[3].decode() for line in heard if b'"SET"' in line]
    for writer in made:
        own = [name for name in sets if name.startswith(f"{writer.name_of_keys}:")]
        assert own == [f"{writer.name_of_keys}:{n}" for n in range(writer.acknowledged)]


def test_pipelines_transactions_messages_and_expiry(warm_redis: Warm) -> None:
    unikernel = warm_redis()
    machine = unikernel.machine
    with client(machine) as one:
        # In one go, answered in their order.
        pipe = one.pipeline(transaction=False)
        for number in range(20_000):
            pipe.set(f"key:{number}", number).get(f"key:{number - 1}")
        answers = pipe.execute()
        assert answers[::2] == [True] * 20_000
        assert answers[1::2] == [None, *(str(number).encode() for number in range(19_999))]

        # A transaction is done whole, or not at all if what it watched has changed.
        with one.pipeline() as change:
            change.watch("key:1")
            one.set("key:1", "other")
            change.multi()
            change.set("key:2", "lost")
            with pytest.raises(redis.WatchError):
                change.execute()
        assert one.get("key:2") == b"2"

        # Each of several listeners hears all, in order.
        heard: list[list[bytes]] = [[] for _ in range(8)]

        def listen(mine: list[bytes]) -> None:
            with client(machine) as other, other.pubsub() as channel:
                channel.subscribe("news")
                for message in channel.listen():
                    if message["type"] == "message":
                        mine.append(message["data"])
                    if len(mine) == 1000:
                        return

        threads = [threading.Thread(target=listen, args=(mine,)) for mine in heard]
        for thread in threads:
            thread.start()
        while one.pubsub_numsub("news")[0][1] < len(threads):
            time.sleep(0.01)
        for number in range(1000):
            one.publish("news", number)
        for thread in threads:
            thread.join(ANSWER_S)
        assert heard == [[str(number).encode() for number in range(1000)]] * len(threads)

        # Keys that nobody asks for go as well.
        one.flushall()
        for number in range(500):
            one.set(f"short:{number}", number, px=300)
        one.set("long", "there", px=3_600_000)
        wait_for(lambda: one.dbsize() <= 1, "the end of what expires", ANSWER_S)
        assert one.get("long") == b"there"


def test_a_thousand_clients_are_served_and_may_be_killed(warm_redis: Warm) -> None:
    unikernel = warm_redis()
    machine = unikernel.machine
    port = machine.host_port(PORT)
    clients = [
        redis.Connection(LOCALHOST, port, socket_timeout=ANSWER_S) for _ in range(CONNECTIONS)
    ]
    for number, each in enumerate(clients):
        each.connect()
        each.send_command("SET", f"client:{number}", number)
        assert each.read_response() == b"OK"
    # All at once.
    for number, each in enumerate(clients):
        each.send_command("GET", f"client:{number}")
    for number, each in enumerate(clients):
        assert each.read_response() == str(number).encode()
    with client(machine) as one:
        assert one.info("clients")["connected_clients"] == CONNECTIONS + 1
        assert one.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") == (
            CONNECTIONS
        )
        for each in clients:
            with pytest.raises(RedisConnectionError):
                each.send_command("PING")
                each.read_response()
        assert one.info("clients")["connected_clients"] == 1
    assert unikernel.stop() == Outcome(Kind.EXITED, 0)


def test_a_full_store_refuses_or_evicts(warm_redis: Warm) -> None:
    unikernel = warm_redis("--maxmemory", str(LIMIT), "--appendonly", "no")
    machine = unikernel.machine
    with client(machine) as one:
        with pytest.raises(OutOfMemoryError):
            for number in range(100):
                one.set(f"big:{number}", MIB)
        assert one.ping()
        one.config_set("maxmemory-policy", "allkeys-lru")
        for number in range(100):
            one.set(f"more:{number}", MIB)
        assert one.get("more:99") == MIB
        assert one.info("stats")["evicted_keys"] >= 70
        assert one.info("memory")["used_memory"] <= LIMIT + (2 << 20)


def test_memory_that_is_used_up_is_a_clean_death(server: Redis) -> None:
    machine = server.run("--appendonly", "no", "--save", "", memory_mib=96)
    with client(machine) as one, pytest.raises(RedisConnectionError):
        for number in range(1000):
            one.set(f"big:{number}", MIB)
    outcome, lines = ended(machine, ANSWER_S)
    assert outcome == Outcome(Kind.SIGNALED, signal.SIGKILL)
    assert [line for line in lines if "Out of memory: Killed process" in line and "UKL" in line]


def test_a_replica_follows_and_takes_over(server: Redis, redis_image: Path, tmp_path: Path) -> None:
    """One unikernel follows another."""
    first = server.run("--repl-diskless-load", "disabled")
    other = Redis(server.start, redis_image, tmp_path / "other.img")
    subprocess.run(["cp", "--sparse=always", server.data, other.data], check=True)
    with client(first) as one:
        for number in range(1000):
            one.set(f"before:{number}", number)
        assert first.vm.forwards[0].address == LOCALHOST
        second = other.run("--replicaof", GATEWAY, str(first.host_port(PORT)))
        with client(second) as two:
            for number in range(1000):
                one.set(f"after:{number}", number)
            assert one.wait(1, int(ANSWER_S * 1000)) == 1
            assert two.info("replication")["master_link_status"] == "up"
            assert two.dbsize() == 2000
            assert two.get("before:999") == two.get("after:999") == b"999"
            with pytest.raises(redis.ReadOnlyError):
                two.set("x", 1)
            first.close()
            two.replicaof("NO", "ONE")
            assert two.set("x", 1)
            assert two.dbsize() == 2001


def test_roles_are_changed_in_order_and_a_key_moves(
    server: Redis, redis_image: Path, tmp_path: Path
) -> None:
    """FAILOVER waits for the replica, and its server follows then; MIGRATE takes a key along."""
    first = server.run("--repl-diskless-load", "disabled")
    other = Redis(server.start, redis_image, tmp_path / "other.img")
    subprocess.run(["cp", "--sparse=always", server.data, other.data], check=True)
    second = other.run("--replica-announce-ip", GATEWAY)
    ports = first.host_port(PORT), second.host_port(PORT)
    with client(first) as one, client(second) as two:
        two.config_set("replica-announce-port", ports[1])
        two.replicaof(GATEWAY, ports[0])
        for number in range(1000):
            one.set(f"key:{number}", number)
        assert one.wait(1, int(ANSWER_S * 1000)) == 1
        assert one.execute_command("FAILOVER", "TO", GATEWAY, ports[1], "TIMEOUT", "60000")
        deadline = time.monotonic() + ANSWER_S
        while (one.role()[0], two.role()[0]) != (b"slave", b"master"):
            assert time.monotonic() < deadline, (one.role(), two.role())
            time.sleep(0.1)
        assert two.set("after", "failover")
        assert two.wait(1, int(ANSWER_S * 1000)) == 1
        assert (one.dbsize(), one.get("after")) == (1001, b"failover")
        one.replicaof("NO", "ONE")
        one.delete("key:1")
        words = ("MIGRATE", GATEWAY, ports[0], "key:1", 0, int(ANSWER_S * 1000))
        assert two.execute_command(*words) in (b"OK", "OK")
        assert (one.get("key:1"), two.get("key:1")) == (b"1", None)


@pytest.mark.parametrize("words", [("SYNC",), ("PSYNC", "?", "-1")], ids=["SYNC", "PSYNC"])
def test_a_follower_is_sent_all_and_what_comes_then(
    server: Redis, check_rdb: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """A snapshot, made by fork() while others write, and the commands behind it."""
    machine = server.run("--repl-diskless-sync", "no")
    with client(machine) as one:
        for number in range(1000):
            one.set(f"key:{number}", number)
        address = LOCALHOST, machine.host_port(PORT)
        with socket.create_connection(address, ANSWER_S) as wire, wire.makefile("rb") as stream:
            wire.sendall(" ".join(words).encode() + b"\r\n")
            if words[0] == "PSYNC":
                assert stream.readline().startswith(b"+FULLRESYNC ")
            # Empty lines say that it is at work.
            while not (line := stream.readline()).startswith(b"$"):
                assert line == b"\n"
            dump = tmp_path / "dump.rdb"
            dump.write_bytes(stream.read(int(line[1:])))
            argv = [check_rdb, dump]
            done = subprocess.run(argv, check=True, capture_output=True, text=True)
            assert "1000 keys read" in done.stdout
            one.set("after", "all")
            while b"after" not in (line := stream.readline()):
                assert line
            assert [stream.readline() for _ in range(2)] == [b"$3\r\n", b"all\r\n"]
    assert machine.stop() == Outcome(Kind.EXITED, 0)
