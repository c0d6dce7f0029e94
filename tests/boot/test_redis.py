# SPDX-License-Identifier: Apache-2.0
"""Redis keeps what it has acknowledged: QEMU is killed in mid-write, and its disk replayed."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.boot import log_writes
from tests.boot.redis_guest import ANSWER_S, PORT, Redis, client, ordinary
from tests.boot.test_disk import is_clean
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind
from ukl_build.run.vm import LOCALHOST

pytestmark = [pytest.mark.boot, pytest.mark.long]

KILLS = 50
WRITERS = 4
ENOUGH = 200
"""Writes that are acknowledged before a single kill."""
BATCH = 500
AT_ONCE = ("--appendfsync", "always")
LATER = ("--appendfsync", "no")
SEED = 20261121


def value_of(key: bytes) -> bytes:
    """Return the value that a key is written with: up to 2 KiB that only this key has."""
    digest = hashlib.sha256(key).digest()
    return digest * (digest[0] % 64 + 1)


@dataclass
class Writer(threading.Thread):
    """A client that writes keys of its own until its server is gone."""

    port: int
    name_of_keys: str
    place: Path | None = None
    """A file that grows with each write of the disk."""
    acknowledged: list[tuple[bytes, int]] = field(default_factory=list)
    """Keys, and how large that file was when each was acknowledged."""

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    # Threads are compared by who they are.
    __hash__ = threading.Thread.__hash__
    __eq__ = threading.Thread.__eq__

    def run(self) -> None:
        server = redis.Redis(LOCALHOST, self.port, socket_timeout=ANSWER_S)
        try:
            for number in itertools.count():
                key = f"{self.name_of_keys}:{number}".encode()
                assert server.set(key, value_of(key))
                size = self.place.stat().st_size if self.place is not None else 0
                self.acknowledged.append((key, size))
        except RedisConnectionError:
            pass
        finally:
            server.close()


@contextmanager
def writing(port: int, name: str, place: Path | None = None) -> Iterator[list[Writer]]:
    """Have writers at work; the server must be gone at the end."""
    writers = [Writer(port, f"{name}:{number}", place) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    yield writers
    for writer in writers:
        writer.join(ANSWER_S)
        assert not writer.is_alive()


def written(writers: Sequence[Writer], count: int) -> None:
    """Wait until some more writes are acknowledged."""

    def now() -> int:
        return sum(len(writer.acknowledged) for writer in writers)

    wanted = now() + count
    deadline = time.monotonic() + ANSWER_S
    while now() < wanted:
        assert time.monotonic() < deadline, f"{now()} of {wanted}"
        time.sleep(0.001)


def kill(machine: Machine) -> None:
    """End QEMU in the middle of whatever it does."""
    os.kill(machine.pid, signal.SIGKILL)
    outcome = machine.wait(ANSWER_S)
    assert outcome is not None
    assert outcome.kind is Kind.QEMU_FAILED
    machine.close()


def lost(server: redis.Redis, keys: Sequence[bytes]) -> list[bytes]:
    """Return the keys that are not there; each that is there must have its value."""
    missing = []
    for first in range(0, len(keys), BATCH):
        some = keys[first : first + BATCH]
        for key, value in zip(some, server.mget(some), strict=True):
            if value is None:
                missing.append(key)
            else:
                assert value == value_of(key), key
    return missing


def all_keys(server: redis.Redis) -> set[bytes]:
    """Return every key."""
    return set(server.scan_iter(count=BATCH))


def recovered(data: Path, out: Path) -> Path:
    """Copy a disk, replay its journal, and see that its file system is whole."""
    subprocess.run(["cp", "--sparse=always", data, out], check=True)
    # 1: something was done, which is the journal.
    done = subprocess.run(["/sbin/e2fsck", "-p", out], check=False, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert is_clean(out)
    return out


def files_of(data: Path, out: Path) -> Path:
    """Copy the files of a disk into a folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    words = ["/sbin/debugfs", "-R", f"rdump / {out}", str(data)]
    subprocess.run(words, check=True, capture_output=True)
    return out


def test_what_is_acknowledged_survives_fifty_kills(
    server: Redis, check_rdb: Path, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    acknowledged: list[bytes] = []
    snapshots = 0
    for number in range(KILLS):
        machine = server.run(*AT_ONCE)
        connection = client(machine)
        assert lost(connection, acknowledged) == []
        there = all_keys(connection)
        # Each writer may have had one under way that nobody heard of.
        assert len(there - set(acknowledged)) <= number * WRITERS
        assert lost(connection, sorted(there)) == []
        with writing(machine.host_port(PORT), str(number)) as writers:
            written(writers, chance.randrange(20, 200))
            # Both fork, and write beside the writers.
            (connection.bgsave if number % 2 else connection.bgrewriteaof)()
            written(writers, chance.randrange(200))
            kill(machine)
        connection.close()
        acknowledged += [key for writer in writers for key, _ in writer.acknowledged]
        dump = files_of(recovered(server.data, tmp_path / "copy.img"), tmp_path / "files") / (
            "dump.rdb"
        )
        if dump.exists():
            snapshots += 1
            done = subprocess.run([check_rdb, dump], check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
    machine = server.run(*AT_ONCE)
    assert lost(client(machine), acknowledged) == []
    print(f"{len(acknowledged)} writes acknowledged, {snapshots} snapshots looked at")
    assert snapshots > KILLS // 2


def test_without_flushes_the_same_test_sees_losses(server: Redis) -> None:
    machine = server.run(*LATER)
    with writing(machine.host_port(PORT), "control") as writers:
        written(writers, ENOUGH)
        kill(machine)
    acknowledged = [key for writer in writers for key, _ in writer.acknowledged]
    assert lost(client(server.run(*LATER)), acknowledged)


@pytest.mark.parametrize("words", [AT_ONCE, LATER], ids=["always", "no"])
def test_at_each_flush_the_disk_has_what_was_acknowledged(
    server: Redis, words: tuple[str, ...], tmp_path: Path
) -> None:
    """A killed QEMU leaves the host's page cache; this is what a power failure leaves."""
    log, before = tmp_path / "log", tmp_path / "before.img"
    subprocess.run(["cp", "--sparse=always", server.data, before], check=True)
    machine = server.run(*words, log=log)
    with writing(machine.host_port(PORT), "flushed", log) as writers:
        written(writers, ENOUGH)
        kill(machine)
    acknowledged = sorted(
        ((size, key) for writer in writers for key, size in writer.acknowledged), reverse=True
    )
    missing: list[bytes] = []
    flushes = 0
    required: list[bytes] = []
    ends = [one.end for one in log_writes.read(log) if one.flags & log_writes.FLUSH]
    with log.open("rb") as source, before.open("r+b") as target:
        for request in log_writes.read(log):
            log_writes.apply(source, request, target)
            if not request.flags & log_writes.FLUSH:
                continue
            flushes += 1
            following = ends[flushes] if flushes < len(ends) else math.inf
            # The flush that an acknowledged write waited for was noted before it was acknowledged.
            while acknowledged and acknowledged[-1][0] < following:
                required.append(acknowledged.pop()[1])
            target.flush()
            replayed = recovered(before, tmp_path / "replayed.img")
            folder = files_of(replayed, tmp_path / "files")
            # The same Redis, as an ordinary process, on what is left.
            with ordinary(server.folder, folder, "--appendonly", "yes") as one:
                missing += lost(one, required)
    assert len(required) >= ENOUGH
    assert flushes >= (ENOUGH // WRITERS if words == AT_ONCE else 1)
    assert bool(missing) == (words == LATER), missing
