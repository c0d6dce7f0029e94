# SPDX-License-Identifier: Apache-2.0
"""Every command that Redis knows: answered in ring 0 as by an ordinary process; and its ends."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis
from redis.connection import ConnectionInterface

from tests.boot.conftest import Warm, console, ended
from tests.boot.redis_commands import (
    ALONE,
    CLUSTER,
    ELSEWHERE,
    By,
    Command,
    commands,
    masked,
    names,
)
from tests.boot.redis_guest import (
    ANSWER_S,
    Redis,
    client,
    connection,
    ordinary,
    ordinary_connection,
)
from tests.boot.redis_load import asked
from tests.boot.test_redis import files_of, recovered
from tests.boot.test_ring0 import complaints
from tests.ports import free_port
from ukl_build import cpio
from ukl_build.run.outcome import Kind, Outcome

pytestmark = pytest.mark.boot

CONF = "redis.conf"
USERS = "users.acl"
FILES = {CONF: "", USERS: "user default on nopass sanitize-payload ~* &* +@all\n"}
ALLOWED = ("--enable-debug-command", "yes", "--enable-module-command", "yes")
KEYS = 500
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "alone": (ALONE, ()),
    "cluster": (CLUSTER, ("--cluster-enabled", "yes")),
}


def answer(one: ConnectionInterface, command: Command) -> object:
    """Return the answer of a command, see :data:`By.UNTIL`."""
    if command.by is not By.UNTIL:
        return asked(one, *command.words)
    deadline = time.monotonic() + ANSWER_S
    *words, wanted = command.words
    while True:
        found = asked(one, *words)
        assert isinstance(found, bytes), found
        if wanted in found:
            return None
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def known(one: ConnectionInterface) -> set[str]:
    """Return the names of all commands and subcommands of a server, those of DEBUG included."""
    found = set()
    table, debug = asked(one, "COMMAND"), asked(one, "DEBUG", "HELP")
    assert isinstance(table, list)
    assert isinstance(debug, list)
    for row in table:
        found |= {row[0].decode(), *(inner[0].decode() for inner in row[9])}
    # A name, then how it is called; what it does is indented.
    heads = [line.decode().split()[0].lower() for line in debug[1:] if not line.startswith(b" ")]
    return found | {f"debug|{name}" for name in heads}


@pytest.mark.parametrize("which", SETS)
def test_every_command_is_answered_as_by_an_ordinary_process(
    server: Redis, redis_image: Path, tmp_path: Path, which: str
) -> None:
    text, words = SETS[which]
    files = [cpio.file(f"/{name}", content) for name, content in FILES.items()]
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    machine = server.run(
        *("--aclfile", f"/{USERS}", *ALLOWED, *words),
        first=(f"/{CONF}",),
        beside={"entries": files},
    )
    more: tuple[str | Path, ...] = (
        "--appendonly",
        "yes",
        "--aclfile",
        tmp_path / USERS,
        *ALLOWED,
        *words,
    )
    if which == "cluster":
        # Otherwise 10000, which another such test on this machine may have.
        more = (*more, "--cluster-port", str(free_port()))
    wrong = []
    with ordinary(redis_image, tmp_path, *more, first=(tmp_path / CONF,)):
        here, there = connection(machine), ordinary_connection(tmp_path)
        for command in commands(text):
            found, expected = (answer(one, command) for one in (here, there))
            if masked(found, command.by) != masked(expected, command.by):
                wrong.append((command, found, expected))
            elif isinstance(found, Exception) != (command.by is By.ERROR):
                wrong.append((command, found, "valid" if command.by is By.ERROR else "no error"))
    assert wrong == []
    assert complaints(console(machine)) == []


def test_no_command_is_left_out(redis_image: Path, tmp_path: Path) -> None:
    """Of those that the server itself lists."""
    driven: set[str] = set()
    for text, _ in SETS.values():
        for command in commands(text):
            if command.by is not By.ERROR:
                driven |= names(command)
    with ordinary(redis_image, tmp_path, *ALLOWED):
        there = known(ordinary_connection(tmp_path))
    assert len(there) > 400
    assert there - driven == set(ELSEWHERE)


def dying(server: Redis, *command: str, words: Sequence[str] = ()) -> tuple[Outcome, list[str]]:
    """Write something, send a command that ends Redis, and return how it ended.

    :param words: more arguments of Redis.
    """
    # Each write waits for the disk: who dies at once has no second for it.
    always = ("--appendfsync", "always", "--save", "3600 1000000")
    machine = server.run(*ALLOWED, *always, *words)
    with client(machine) as one:
        for number in range(KEYS):
            one.set(f"key:{number}", number)
    last = connection(machine)
    last.send_command(*command)
    with pytest.raises(redis.ConnectionError):
        last.read_response()
    return ended(machine, ANSWER_S)


@pytest.mark.long
@pytest.mark.parametrize("how", ["SAVE", "NOSAVE", "NOW"])
def test_it_shuts_down_in_order(server: Redis, check_rdb: Path, tmp_path: Path, how: str) -> None:
    outcome, lines = dying(server, "SHUTDOWN", how, *(["SAVE"] if how == "NOW" else []))
    assert outcome == Outcome(Kind.EXITED, 0), lines[-20:]
    dump = files_of(recovered(server.data, tmp_path / "copy.img"), tmp_path / "files") / "dump.rdb"
    assert dump.exists() == (how != "NOSAVE")
    if dump.exists():
        argv = [check_rdb, dump]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        assert f"{KEYS} keys read" in done.stdout
    with client(server.run()) as one:
        assert one.dbsize() == KEYS


DEATHS = {
    "SEGFAULT": (signal.SIGSEGV, "crashed by signal: 11"),
    "ASSERT": (signal.SIGABRT, "ASSERTION FAILED"),
    "PANIC": (signal.SIGABRT, "Guru Meditation: DEBUG PANIC called"),
    "OOM": (signal.SIGABRT, "Out Of Memory allocating"),
}
"""What ends Redis, by which signal as an ordinary process, and what it says of it."""


@pytest.mark.long
@pytest.mark.parametrize("which", DEATHS)
def test_it_dies_with_its_report(server: Redis, which: str) -> None:
    """Redis' own report, which walks its stack; and what it acknowledged is there afterwards."""
    number, said = DEATHS[which]
    outcome, lines = dying(server, "DEBUG", which)
    text = "\n".join(lines)
    assert outcome == Outcome(Kind.SIGNALED, number), text[-3000:]
    assert said in text
    assert "REDIS BUG REPORT START" in text
    assert "REDIS BUG REPORT END" in text
    assert complaints(lines) == []
    with client(server.run()) as one:
        assert one.dbsize() == KEYS


@pytest.mark.long
@pytest.mark.xfail(
    strict=True, reason="its static data are anonymous memory in /proc/self/maps, which it rewrites"
)
def test_its_report_tests_the_memory(server: Redis) -> None:
    """As that of an ordinary process, whose static data but for .bss are of a file there."""
    words = ("--crash-memcheck-enabled", "yes")
    outcome, lines = dying(server, "DEBUG", "PANIC", words=words)
    assert outcome == Outcome(Kind.SIGNALED, signal.SIGABRT)
    assert any("Fast memory test PASSED" in line for line in lines)


@pytest.mark.long
@pytest.mark.parametrize("how", ["RESTART", "CRASH-AND-RECOVER"])
def test_it_starts_itself_again(warm_redis: Warm, how: str) -> None:
    """By execve() of its own file, which is the application in the kernel."""
    unikernel = warm_redis(*ALLOWED)
    machine = unikernel.machine
    with client(machine) as one:
        before = one.info("server")["run_id"]
        for number in range(KEYS):
            one.set(f"key:{number}", number)
    last = connection(machine)
    last.send_command("DEBUG", how)
    with pytest.raises(redis.ConnectionError):
        last.read_response()
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            with client(machine) as one:
                assert one.dbsize() == KEYS
                assert one.info("server")["run_id"] != before
                break
        except redis.ConnectionError:
            assert machine.wait(0.1) is None, console(machine)[-30:]
            assert time.monotonic() < deadline
    assert unikernel.stop() == Outcome(Kind.EXITED, 0)
    assert complaints(console(machine)) == []
