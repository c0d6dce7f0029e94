# SPDX-License-Identifier: Apache-2.0
"""Load on Redis whose every answer is known: many clients at once, each with keys of its own.

What one client does is drawn from all commands of :mod:`tests.boot.redis_commands` that have keys,
as the server itself names them.  Since nobody else has these keys, the answers do not depend on
what happens meanwhile: the same clients get the same from any other Redis.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest

from redis.connection import ConnectionInterface
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.boot.redis_commands import ALONE, By, Command, commands, masked

SIZES = {1: 20, 16: 30, 100: 20, 1000: 15, 10_000: 10, 100_000: 4, 3_000_000: 0.2}
"""Bytes of a value, and how often."""
KEYS = 6
"""Sets of keys that each client has."""
LONGEST = 48
"""Commands that are sent in one go, at most."""
SHOWN = 120
"""Characters of an answer that a failure shows."""
NOT_DRAWN = frozenset({b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"SPUBLISH", b"WATCH"})
"""Channels are everybody's; a transaction that is watched is a test of its own."""

Connect = Callable[[], ConnectionInterface]


def answered(connection: ConnectionInterface) -> object:
    """Return the next answer as it comes, an error as its exception.

    :raise redis.exceptions.ConnectionError: when the connection is gone.
    """
    try:
        return connection.read_response()
    except AuthenticationError as error:  # which is a kind of ConnectionError there
        return error
    except RedisConnectionError:
        raise
    except RedisError as error:
        return error


def asked(connection: ConnectionInterface, *words: object) -> object:
    """Send a command and return its answer, see :func:`answered`."""
    connection.send_command(*words)
    return answered(connection)


@dataclass(frozen=True)
class Template:
    """A command some words of which are keys."""

    command: Command
    keys: frozenset[int]
    """Their places."""


def templates(connection: ConnectionInterface) -> list[Template]:
    """Return the commands that have keys, as a server says, and answers that are known."""
    found = []
    for command in commands(ALONE):
        if command.by in (By.SHAPE, By.UNTIL) or command.words[0] in NOT_DRAWN:
            continue
        keys = asked(connection, "COMMAND", "GETKEYS", *command.words)
        if isinstance(keys, list):
            places = [n for n, word in enumerate(command.words) if n and word in keys]
            if places:
                found.append(Template(command, frozenset(places)))
    return found


@dataclass(frozen=True)
class Batch:
    """Commands that are sent in one go."""

    commands: tuple[Command, ...]
    transaction: bool


def stream(known: Sequence[Template], seed: str, client: int, count: int) -> Iterator[Batch]:
    """Draw what one client does.

    :param count: of commands, about.
    """
    chance = random.Random(f"{seed}:{client}")
    sizes, often = list(SIZES), list(SIZES.values())

    def word(one: bytes, is_key: bool, suffix: str) -> bytes:
        if is_key:
            return f"{client}:{suffix}:".encode() + one
        if one == b"value":
            (size,) = chance.choices(sizes, often)
            return (chance.randbytes(8) * (size // 8 + 1))[:size]
        return one

    while count > 0:
        drawn = []
        for template in chance.choices(known, k=chance.randint(1, LONGEST)):
            suffix = str(chance.randrange(KEYS))
            words = tuple(
                word(one, number in template.keys, suffix)
                for number, one in enumerate(template.command.words)
            )
            drawn.append(Command(words, template.command.by))
        yield Batch(tuple(drawn), transaction=chance.random() < 0.2)
        count -= len(drawn)


def _noted(answer: object, by: By) -> str:
    text = repr(masked(answer, by))
    return f"{text[:SHOWN]} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _played(connection: ConnectionInterface, batch: Batch) -> list[str]:
    """Send commands, and return what is compared of each answer."""
    words = [command.words for command in batch.commands]
    marks = [command.by for command in batch.commands]
    if batch.transaction:
        connection.send_packed_command(
            connection.pack_commands([(b"MULTI",), *words, (b"EXEC",)]), check_health=False
        )
        queued = [repr(answered(connection)) for _ in range(len(words) + 1)]
        done = answered(connection)
        if not isinstance(done, list):
            return [*queued, repr(done)]
        return [*queued, *map(_noted, done, marks)]
    connection.send_packed_command(connection.pack_commands(words), check_health=False)
    return [_noted(answered(connection), by) for by in marks]


@dataclass
class Clients:
    """Clients at work."""

    seed: str
    threads: list[threading.Thread] = field(default_factory=list)
    answers: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    """By client and batch."""

    @property
    def working(self) -> bool:
        """Whether somebody has something left to do."""
        return any(thread.is_alive() for thread in self.threads)

    def join(self) -> None:
        """Wait until all is done."""
        for thread in self.threads:
            thread.join()


@contextmanager
def clients(
    connect: Connect, known: Sequence[Template], seed: str, number: int, count: int
) -> Iterator[Clients]:
    """Have clients at work; all is done at the end.

    :param connect: makes a connection; RESP2.
    :param number: of clients.
    :param count: of commands of each, about.
    """
    made = Clients(seed)

    def work(client: int) -> None:
        connection = connect()
        try:
            for place, batch in enumerate(stream(known, seed, client, count)):
                made.answers[client, place] = _played(connection, batch)
        finally:
            connection.disconnect()

    made.threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(number)]
    for thread in made.threads:
        thread.start()
    yield made
    made.join()


def differences(
    one: Clients, other: Clients, known: Sequence[Template], count: int
) -> list[tuple[str, object, str, str]]:
    """Return what was answered differently, the first answer of each client: where, what, answers.

    :param count: as for :func:`clients`.
    """
    found: list[tuple[str, object, str, str]] = []
    for client in range(len(one.threads)):
        for place, batch in enumerate(stream(known, one.seed, client, count)):
            here, there = (each.answers.get((client, place), []) for each in (one, other))
            if here != there or not here:
                pairs = enumerate(zip_longest(here, there, fillvalue="nothing"))
                first, (mine, its) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
                # The answers of a transaction are behind those to MULTI and to what was queued.
                number = first - len(batch.commands) - 1 if batch.transaction else first
                words = [word[:SHOWN] for word in batch.commands[max(number, 0)].words]
                where = f"seed {one.seed}, client {client}, batch {place}, answer {first}"
                found.append((where, words, mine, its))
                break
    return found
