# SPDX-License-Identifier: Apache-2.0
"""Load on memcached whose every answer is known: clients that keep, beside it, what it must have.

The text and the binary protocol and the meta commands are mixed, on two connections of each client
(the first byte says which protocol one speaks).  Nobody else has a client's keys, and memory is
enough, so what is missing or different is wrong.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

ANSWER_S = 90.0
HEADER = struct.Struct(">BBHBBHIIQ")
"""Of the binary protocol (memcached's doc/protocol-binary.xml): magic, operation, bytes of the key,
bytes of the extras, type, status or bucket, bytes of the body, what is sent back as it is, cas."""
GET, SET, ADD, REPLACE, DELETE, INCREMENT, DECREMENT, NOOP = 0, 1, 2, 3, 4, 5, 6, 10
GETKQ, APPEND, PREPEND, SETQ, TOUCH, GAT = 13, 14, 15, 17, 28, 29
DONE, NOT_FOUND, EXISTS, NOT_STORED, NOT_A_NUMBER = 0, 1, 2, 5, 6
"""Statuses."""
OPAQUE = 0x12345678

SIZES = {1: 20, 10: 20, 100: 25, 1000: 20, 10_000: 10, 100_000: 3, 1_000_000: 0.5}
"""Bytes of a value, and how often."""
KEYS = 60
NUMBERS = 10
"""Keys of each client: of any value, and of numbers."""
LONGEST = 32
"""Commands that are sent in one go, at most."""
FAR = 100_000
"""Seconds, longer than any test."""
PAST = -1
WORD = 1 << 64
LARGE = 1 << 62
"""Of numbers.  With 2**63 and more memcached 1.6.18 looks for a minus sign behind the item's end as
well, finds one there now and then, and says that it is no number.
"""

Where = tuple[str, int] | str
Check = Callable[[BinaryIO], None]


def connect(where: Where) -> socket.socket:
    """Connect to a server that listens."""
    family = socket.AF_UNIX if isinstance(where, str) else socket.AF_INET
    found = socket.socket(family)
    found.settimeout(ANSWER_S)
    found.connect(where)
    return found


def binary(
    operation: int, key: bytes = b"", extras: bytes = b"", value: bytes = b"", cas: int = 0
) -> bytes:
    """Return a request of the binary protocol."""
    body = extras + key + value
    head = HEADER.pack(0x80, operation, len(key), len(extras), 0, 0, len(body), OPAQUE, cas)
    return head + body


@dataclass
class Item:
    """What memcached must have under a key."""

    value: bytes
    flags: int
    cas: int | None = None
    """As it was told, if nothing has changed the item since."""


@dataclass
class Client:
    """One client, and the items that only it changes."""

    name: str
    where: Where
    chance: random.Random
    items: dict[bytes, Item] = field(default_factory=dict)
    numbers: dict[bytes, int] = field(default_factory=dict)

    def work(self, count: int) -> None:
        """Do some commands, drawn by chance.

        :param count: of commands, about.
        :raise AssertionError: for the first answer that is wrong.
        """
        with connect(self.where) as text, connect(self.where) as bare:
            streams = [(text, text.makefile("rb"), False), (bare, bare.makefile("rb"), True)]
            while count > 0:
                connection, stream, is_binary = self.chance.choice(streams)
                drawn = [self._draw(is_binary) for _ in range(self.chance.randint(1, LONGEST))]
                connection.sendall(b"".join(request for request, _ in drawn))
                for request, check in drawn:
                    try:
                        check(stream)
                    except AssertionError as error:
                        raise AssertionError(f"{self.name}: {request[:100]!r}: {error}") from error
                count -= len(drawn)
            for _, stream, _ in streams:
                stream.close()

    def check_all(self) -> None:
        """See that all items are there, and nothing that was deleted."""
        with connect(self.where) as text, text.makefile("rb") as stream:
            names = [b"%s:%d" % (self.name.encode(), number) for number in range(KEYS)]
            for key in names:
                request, check = self._get(key)
                text.sendall(request)
                check(stream)

    def _draw(self, is_binary: bool) -> tuple[bytes, Check]:
        if self.chance.random() < 0.15:
            key = b"%s:n%d" % (self.name.encode(), self.chance.randrange(NUMBERS))
            return (self._binary_number if is_binary else self._number)(key)
        key = b"%s:%d" % (self.name.encode(), self.chance.randrange(KEYS))
        if is_binary:
            return self._binary(key)
        return self.chance.choice((self._get, self._get, self._store, self._store, self._other))(
            key
        )

    def _value(self) -> bytes:
        (size,) = self.chance.choices(list(SIZES), list(SIZES.values()))
        size = self.chance.randint(size, size + size // 20)
        return (self.chance.randbytes(16) * (size // 16 + 1))[:size]

    def _put(self, how: str, key: bytes, value: bytes, flags: int) -> bool:
        """Change what must be there as a way of storing does; return whether it stores."""
        old = self.items.get(key)
        if {"add": old is not None}.get(how, how != "set" and old is None):
            return False
        match how:
            case "append" if old is not None:
                value, flags = old.value + value, old.flags
            case "prepend" if old is not None:
                value, flags = value + old.value, old.flags
        self.items[key] = Item(value, flags)
        return True

    def _learn(self, key: bytes, item: Item, cas: int) -> None:
        """Keep a cas, unless the item was changed behind the question."""
        if self.items.get(key) is item:
            item.cas = cas

    # The text protocol.

    def _get(self, key: bytes) -> tuple[bytes, Check]:
        item = self.items.get(key)
        value = None if item is None else item.value
        verb = self.chance.choice((b"get %s", b"gets %s", b"gat 100000 %s", b"gats 100000 %s"))
        verb = self.chance.choice((verb, b"mg %s f v c", b"mg %s f c v T100000"))
        request = verb % key

        def check(stream: BinaryIO) -> None:
            meta, cas = request.startswith(b"mg"), request.startswith((b"gets", b"gats"))
            head = stream.readline().split()
            if item is None or value is None:
                assert head == ([b"EN"] if meta else [b"END"]), head
                return
            if meta:
                expected = [b"VA", b"%d" % len(value), b"f%d" % item.flags]
                assert head[:3] == expected and head[3][:1] == b"c", head
                told = head[3][1:]
            else:
                expected = [b"VALUE", key, b"%d" % item.flags, b"%d" % len(value)]
                assert head[:4] == expected and len(head) == 4 + cas, head
                told = head[-1] if cas else b""
            assert stream.read(len(value)) == value
            assert stream.readline() == b"\r\n"
            if not meta:
                assert stream.readline() == b"END\r\n"
            if told:
                self._learn(key, item, int(told))

        return request + b"\r\n", check

    def _store(self, key: bytes) -> tuple[bytes, Check]:
        value, flags = self._value(), self.chance.randrange(1 << 32)
        how = self.chance.choice(("set", "set", "add", "replace", "append", "prepend"))
        item = self.items.get(key)
        if self._is_large(how, item, value):
            how = "set"
        meta = self.chance.random() < 0.4
        extra = b""
        good, bad = (b"HD\r\n", b"NS\r\n") if meta else (b"STORED\r\n", b"NOT_STORED\r\n")
        if item is not None and item.cas is not None and self.chance.random() < 0.5:
            # Its own cas stores, another one does not.
            right = self.chance.random() < 0.7
            cas = item.cas if right else item.cas + WORD // 2
            how, extra = "cas", b"C%d" % cas if meta else b"%d" % cas
            if right:
                self.items[key] = Item(value, flags)
            wanted = good if right else b"EX\r\n" if meta else b"EXISTS\r\n"
        else:
            wanted = good if self._put(how, key, value, flags) else bad
        if meta:
            mode = {"add": b"ME", "append": b"MA", "prepend": b"MP", "replace": b"MR"}
            words = [b"ms", key, b"%d" % len(value), b"F%d" % flags, b"T100000"]
            words += [mode[how]] if how in mode else []
        else:
            words = [how.encode(), key, b"%d" % flags, b"100000", b"%d" % len(value)]
        request = b" ".join([*words, *([extra] if extra else [])])
        return request + b"\r\n" + value + b"\r\n", _line(wanted)

    @staticmethod
    def _is_large(how: str, item: Item | None, value: bytes) -> bool:
        """Tell whether an item would become larger than memcached takes."""
        return how in ("append", "prepend") and item is not None and len(item.value + value) > 1.8e6

    def _other(self, key: bytes) -> tuple[bytes, Check]:
        there = key in self.items
        match self.chance.randrange(9):
            case 0:
                self.items.pop(key, None)
                return b"delete %s\r\n" % key, _line(b"DELETED\r\n" if there else b"NOT_FOUND\r\n")
            case 1:
                self.items.pop(key, None)
                return b"md %s\r\n" % key, _line(b"HD\r\n" if there else b"NF\r\n")
            case 2:
                touched = b"TOUCHED\r\n" if there else b"NOT_FOUND\r\n"
                return b"touch %s %d\r\n" % (key, FAR), _line(touched)
            case 3:
                # Gone at once.
                self.items.pop(key, None)
                touched = b"TOUCHED\r\n" if there else b"NOT_FOUND\r\n"
                return b"touch %s %d\r\n" % (key, PAST), _line(touched)
            case 4:
                self.items.pop(key, None)
                return b"set %s 0 %d 1\r\nx\r\n" % (key, PAST), _line(b"STORED\r\n")
            case 5:
                # Only what is not answered by the one is seen by the other.
                return b"mg %s s q\r\nmn\r\n" % key, _lines(
                    [b"HD s%d\r\n" % len(self.items[key].value)] if there else [], b"MN\r\n"
                )
            case 6:
                value = self._value()
                self._put("set", key, value, 5)
                head = b"set %s 5 %d %d noreply\r\n" % (key, FAR, len(value))
                return head + value + b"\r\nmn\r\n", _line(b"MN\r\n")
            case 7:
                wrong = b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"
                if there and not self.items[key].value[:21].strip().isdigit():
                    return b"incr %s 1\r\n" % key, _line(wrong)
                return b"ma %s:nobody\r\n" % key, _line(b"NF\r\n")
            case _:
                names = [
                    b"%s:%d" % (self.name.encode(), n) for n in self.chance.sample(range(KEYS), 5)
                ]
                found = [(name, self.items[name]) for name in names if name in self.items]
                parts = [
                    b"VALUE %s %d %d\r\n%s\r\n" % (name, one.flags, len(one.value), one.value)
                    for name, one in found
                ]
                return b"get %s\r\n" % b" ".join(names), _bytes(b"".join([*parts, b"END\r\n"]))

    def _number(self, key: bytes) -> tuple[bytes, Check]:
        old = self.numbers.get(key)
        delta = self.chance.choice((1, 7, 1000))
        up = self.chance.random() < 0.6
        match self.chance.randrange(4):
            case 0:
                self.numbers[key] = new = self.chance.randrange(LARGE)
                text = b"%d" % new
                return b"set %s 0 0 %d\r\n%s\r\n" % (key, len(text), text), _line(b"STORED\r\n")
            case 1:
                # What has become shorter may be kept with blanks behind it.
                return b"mg %s v\r\n" % key, _number(old)
            case 2:
                verb = b"incr" if up else b"decr"
                if old is None:
                    return b"%s %s %d\r\n" % (verb, key, delta), _line(b"NOT_FOUND\r\n")
                self.numbers[key] = new = _counted(old, delta, up)
                return b"%s %s %d\r\n" % (verb, key, delta), _line(b"%d\r\n" % new)
            case _:
                mode = b"MI" if up else b"MD"
                new = 50 if old is None else _counted(old, delta, up)
                self.numbers[key] = new
                # N makes it, with J as its first value.
                request = b"ma %s %s D%d N0 J50 v\r\n" % (key, mode, delta)
                return request, _number(new)

    # The binary protocol.

    def _binary(self, key: bytes) -> tuple[bytes, Check]:
        item = self.items.get(key)
        value, flags = self._value(), self.chance.randrange(1 << 32)
        stored = struct.pack(">II", flags, FAR)
        match self.chance.randrange(9):
            case 0 | 1:
                return binary(GET, key), self._got(key, item)
            case 2:
                return binary(GAT, key, struct.pack(">I", FAR)), self._got(key, item)
            case 3:
                self._put("set", key, value, flags)
                return binary(SETQ, key, stored, value) + binary(NOOP), _status(NOOP, DONE)
            case 4:
                operation, how = self.chance.choice(
                    ((SET, "set"), (ADD, "add"), (REPLACE, "replace"))
                )
                there = EXISTS if how == "add" else NOT_FOUND
                status = DONE if self._put(how, key, value, flags) else there
                return binary(operation, key, stored, value), _status(operation, status)
            case 5:
                operation, how = self.chance.choice(((APPEND, "append"), (PREPEND, "prepend")))
                if self._is_large(how, item, value):
                    return binary(NOOP), _status(NOOP, DONE)
                status = DONE if self._put(how, key, value, flags) else NOT_STORED
                return binary(operation, key, b"", value), _status(operation, status)
            case 6:
                self.items.pop(key, None)
                status = NOT_FOUND if item is None else DONE
                return binary(DELETE, key), _status(DELETE, status)
            case 7:
                if item is None or item.cas is None:
                    # Nothing is said of what is not there.
                    request = binary(GETKQ, key + b":nobody") + binary(NOOP)
                    return request, _status(NOOP, DONE)
                right = self.chance.random() < 0.7
                cas = item.cas if right else item.cas + 1
                if right:
                    self.items[key] = Item(value, flags)
                status = DONE if right else EXISTS
                return binary(SET, key, stored, value, cas), _status(SET, status)
            case _:
                status = NOT_FOUND if item is None else DONE
                return binary(TOUCH, key, struct.pack(">I", FAR)), _status(TOUCH, status)

    def _got(self, key: bytes, item: Item | None) -> Check:
        value = None if item is None else item.value

        def check(stream: BinaryIO) -> None:
            _, status, cas, body = _response(stream)
            if item is None or value is None:
                assert status == NOT_FOUND, status
                return
            assert (status, body[:4]) == (DONE, struct.pack(">I", item.flags)), (status, body[:4])
            assert body[4:] == value
            self._learn(key, item, cas)

        return check

    def _binary_number(self, key: bytes) -> tuple[bytes, Check]:
        old = self.numbers.get(key)
        delta = self.chance.choice((1, 7, 1000))
        operation = self.chance.choice((INCREMENT, DECREMENT))
        new = 40 if old is None else _counted(old, delta, operation == INCREMENT)
        self.numbers[key] = new

        def check(stream: BinaryIO) -> None:
            _, status, _, body = _response(stream)
            assert (status, body) == (DONE, struct.pack(">Q", new)), (status, body[:40])

        return binary(operation, key, struct.pack(">QQI", delta, 40, 0)), check


def _counted(old: int, delta: int, up: bool) -> int:
    """Return what a number becomes: it goes around above, and stops below."""
    return (old + delta) % WORD if up else max(old - delta, 0)


def _response(stream: BinaryIO) -> tuple[int, int, int, bytes]:
    """Read an answer of the binary protocol: operation, status, cas, and body without a key."""
    magic, operation, key, _, _, status, size, opaque, cas = HEADER.unpack(stream.read(HEADER.size))
    assert (magic, key, opaque) == (0x81, 0, OPAQUE), (magic, key, opaque)
    return operation, status, cas, stream.read(size)


def _status(operation: int, status: int) -> Check:
    def check(stream: BinaryIO) -> None:
        answered, found, _, _ = _response(stream)
        assert (answered, found) == (operation, status), (answered, found, status)

    return check


def _bytes(wanted: bytes) -> Check:
    def check(stream: BinaryIO) -> None:
        found = stream.read(len(wanted))
        assert found == wanted, (found[:200], wanted[:200])

    return check


def _line(wanted: bytes) -> Check:
    def check(stream: BinaryIO) -> None:
        found = stream.readline()
        assert found == wanted, (found[:200], wanted)

    return check


def _lines(wanted: list[bytes], last: bytes) -> Check:
    def check(stream: BinaryIO) -> None:
        for line in (*wanted, last):
            _line(line)(stream)

    return check


def _number(wanted: int | None) -> Check:
    def check(stream: BinaryIO) -> None:
        head = stream.readline()
        if wanted is None:
            assert head == b"EN\r\n", head
            return
        word, size = head.split()
        assert word == b"VA", head
        found = stream.read(int(size))
        assert int(found) == wanted, (found, wanted)
        assert stream.readline() == b"\r\n"

    return check
