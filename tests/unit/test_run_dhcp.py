# SPDX-License-Identifier: Apache-2.0
"""The init's DHCP client against a server, a network and a clock that the test makes.

The C code runs as it is; only its system calls are answered here.
"""

from __future__ import annotations

import ctypes
import mmap
import random
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ukl_build.stages import userspace

HERE = Path(__file__).parent
MAC = bytes.fromhex("525400123456")
COOKIE = bytes.fromhex("63825363")
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK = range(1, 7)
NOTHING, BOUND, LOST = range(3)
INFINITE = 0xFFFFFFFF
SERVER = IPv4Address("10.0.2.2")
CLIENT = IPv4Address("10.0.2.15")
BROADCAST = IPv4Address("255.255.255.255")
EAGAIN = 11

# System call numbers of x86-64.
READ, NANOSLEEP, SOCKET, SENDTO, BIND, SETSOCKOPT, CLOCK_GETTIME, GETRANDOM = (
    *(0, 35, 41, 44, 49, 54, 228, 318),
)


class Interface(ctypes.Structure):
    """struct interface of net.h."""

    _fields_ = (
        ("name", ctypes.c_char * 16),
        ("index", ctypes.c_int),
        ("ethernet", ctypes.c_bool),
        ("carrier", ctypes.c_bool),
        ("mac", ctypes.c_uint8 * 6),
    )


class Lease(ctypes.Structure):
    """struct lease of dhcp.h."""

    _fields_ = (
        ("addr", ctypes.c_uint32),
        ("mask", ctypes.c_uint32),
        ("router", ctypes.c_uint32),
        ("server", ctypes.c_uint32),
        ("dns", ctypes.c_uint32 * 3),
        ("n_dns", ctypes.c_size_t),
        ("seconds", ctypes.c_uint32),
        ("t1", ctypes.c_uint32),
        ("t2", ctypes.c_uint32),
    )


class Dhcp(ctypes.Structure):
    """struct dhcp of dhcp.h."""

    _fields_ = (
        ("state", ctypes.c_int),
        ("fd", ctypes.c_int),
        ("wake", ctypes.c_int64),
        ("lease", Lease),
        ("interface", Interface),
        ("offer", Lease),
        ("xid", ctypes.c_uint32),
        ("tries", ctypes.c_uint32),
        ("bound_at", ctypes.c_int64),
        ("asked_at", ctypes.c_int64),
    )


def ip(value: int) -> IPv4Address:
    """Read an address as the C code keeps it: its bytes in memory are in network order."""
    return IPv4Address(value.to_bytes(4, "little"))


@dataclass(frozen=True)
class Sent:
    """One message of the client."""

    at_ms: int
    to: IPv4Address
    type: int
    xid: bytes
    secs: int
    broadcast: bool
    ciaddr: IPv4Address
    options: dict[int, bytes]


def options_of(data: bytes) -> dict[int, bytes]:
    """Decode options, independently of the C code."""
    found: dict[int, bytes] = {}
    while data and data[0] != 255:
        if data[0] == 0:
            data = data[1:]
            continue
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found


def message(
    kind: int,
    xid: bytes,
    *,
    options: dict[int, bytes] | None = None,
    yiaddr: IPv4Address = CLIENT,
    mac: bytes = MAC,
    raw: bytes | None = None,
    file: bytes = b"",
    sname: bytes = b"",
) -> bytes:
    """Build a server's message."""
    given: dict[int, bytes] = {54: SERVER.packed, 51: struct.pack(">I", 1000)}
    given |= {1: IPv4Address("255.255.255.0").packed, 3: SERVER.packed, 6: SERVER.packed}
    given |= options or {}
    body = b"".join(bytes([code, len(value)]) + value for code, value in given.items() if value)
    head = struct.pack(
        ">BBBB4sHH4s4s4s4s16s64s128s4s",
        *(2, 1, 6, 0, xid, 0, 0, b"", yiaddr.packed, b"", b"", mac, sname, file, COOKIE),
    )
    return head + (raw if raw is not None else bytes([53, 1, kind]) + body + b"\xff")


HOOK = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_long] * 7)
Answer = Callable[[Sent], list[bytes]]


@dataclass
class World:
    """The client, and everything that it sees."""

    library: ctypes.CDLL
    dhcp: Dhcp = field(default_factory=Dhcp)
    now_ms: int = 0
    answer: Answer = lambda _: []
    sent: list[Sent] = field(default_factory=list)
    inbox: list[bytes] = field(default_factory=list)
    random: random.Random = field(default_factory=lambda: random.Random(7))

    def __post_init__(self) -> None:
        self.hook = HOOK(self.call)
        ctypes.c_void_p.in_dll(self.library, "hook").value = ctypes.cast(
            self.hook, ctypes.c_void_p
        ).value

    def call(self, number: int, *args: int) -> int:
        """Be the kernel."""
        a, b, c, _, e, f = args
        if number == CLOCK_GETTIME:
            ctypes.memmove(
                b, struct.pack("<qq", self.now_ms // 1000, self.now_ms % 1000 * 10**6), 16
            )
            return 0
        if number == GETRANDOM:
            ctypes.memmove(a, self.random.randbytes(b), b)
            return b
        if number == SOCKET:
            return 9
        if number in (SETSOCKOPT, BIND):
            return 0
        if number == READ:
            if not self.inbox:
                return -EAGAIN
            data = self.inbox.pop(0)[:c]
            ctypes.memmove(b, data, len(data))
            return len(data)
        assert number == SENDTO, number
        self.take(ctypes.string_at(b, c), ctypes.string_at(e, f))
        return c

    def take(self, data: bytes, to: bytes) -> None:
        """Look at a message of the client, and let the server answer."""
        assert len(data) >= 300  # a BOOTP relay may drop smaller ones
        fields = struct.unpack(">BBBB4sHH4s4s4s4s16s64s128s4s", data[:240])
        assert fields[:4] == (1, 1, 6, 0)
        assert fields[11][:6] == MAC
        assert fields[14] == COOKIE
        assert to[2:4] == b"\0C"  # port 67
        options = options_of(data[240:])
        sent = Sent(
            at_ms=self.now_ms,
            to=IPv4Address(to[4:8]),
            type=options[53][0],
            xid=fields[4],
            secs=fields[5],
            broadcast=bool(fields[6] & 0x8000),
            ciaddr=IPv4Address(fields[7]),
            options=options,
        )
        self.sent.append(sent)
        self.inbox += self.answer(sent)

    def start(self) -> None:
        """Start the client on an interface."""
        interface = Interface(b"eth0", 2, True, True, (ctypes.c_uint8 * 6)(*MAC))
        assert self.library.dhcp_start(ctypes.byref(self.dhcp), ctypes.byref(interface)) == 0

    def run(self, until_ms: int) -> list[tuple[int, int]]:
        """Let time pass; return what happened and when, leaving out nothing."""
        happened = []
        while True:
            news = self.library.dhcp_step(ctypes.byref(self.dhcp))
            if news != NOTHING:
                happened.append((self.now_ms, news))
            elif not self.inbox:
                if self.dhcp.wake > until_ms:
                    self.now_ms = until_ms
                    return happened
                assert self.dhcp.wake > self.now_ms, "it would spin"
                self.now_ms = self.dhcp.wake


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Compile the client as a library whose system calls come here."""
    out = tmp_path_factory.mktemp("dhcp") / "dhcp.so"
    source = userspace.INIT_SOURCE
    subprocess.run(
        [
            *("gcc", "-std=gnu11", "-O1", "-g", "-shared", "-fPIC", "-ffreestanding", "-nostdlib"),
            *("-DUKL_SIMULATED", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"),
            *("-I", source, "-o", out, HERE / "simulated.c"),
            *(source / name for name in ("dhcp.c", "lib.c")),
        ],
        check=True,
    )
    return ctypes.CDLL(str(out))


@pytest.fixture
def world(library: ctypes.CDLL) -> Iterator[World]:
    """Return a client without a server."""
    yield World(library)


def serve(sent: Sent) -> list[bytes]:
    """Be a server that agrees to everything, for 1000 s."""
    return [message(OFFER if sent.type == DISCOVER else ACK, sent.xid)]


def test_offers_are_taken_and_acknowledged(world: World) -> None:
    world.answer = serve
    world.start()
    assert world.run(100) == [(0, BOUND)]
    discover, request = world.sent
    assert (discover.type, discover.to, discover.broadcast) == (DISCOVER, BROADCAST, True)
    assert (request.type, request.to, request.broadcast) == (REQUEST, BROADCAST, True)
    assert request.options[50] == CLIENT.packed
    assert request.options[54] == SERVER.packed
    assert request.xid == discover.xid
    assert request.ciaddr == IPv4Address(0)
    lease = world.dhcp.lease
    assert (ip(lease.addr), ip(lease.router), ip(lease.server)) == (CLIENT, SERVER, SERVER)
    assert (lease.seconds, lease.t1, lease.t2) == (1000, 500, 875)


def test_silence_is_asked_again_ever_more_slowly(world: World) -> None:
    world.start()
    assert world.run(10 * 60 * 1000) == []
    assert {sent.type for sent in world.sent} == {DISCOVER}
    gaps = [b.at_ms - a.at_ms for a, b in zip(world.sent, world.sent[1:], strict=False)]
    for number, gap in enumerate(gaps):
        wait = 250 << min(number, 8)
        assert wait <= gap < wait * 1.25
    assert len(set(gaps[8:])) > 1, "no chance in it: clients would stay in step"


def test_a_lost_acknowledgement_is_asked_for_again_then_all_is(world: World) -> None:
    world.answer = lambda sent: serve(sent) if sent.type == DISCOVER else []
    world.start()
    world.run(60_000)
    kinds = [sent.type for sent in world.sent]
    assert kinds[:6] == [DISCOVER, REQUEST, REQUEST, REQUEST, REQUEST, DISCOVER]
    assert world.sent[5].xid != world.sent[0].xid
    world.answer = serve
    assert [news for _, news in world.run(world.now_ms + 60_000)] == [BOUND]


def test_a_lease_is_renewed_with_its_server_at_half_time(world: World) -> None:
    world.answer = serve
    world.start()
    assert world.run(2_000_000) == [
        (at, BOUND) for at in (0, 500_000, 1_000_000, 1_500_000, 2_000_000)
    ]
    renewal = world.sent[2]
    assert (renewal.to, renewal.ciaddr, renewal.broadcast) == (SERVER, CLIENT, False)
    assert 50 not in renewal.options
    assert 54 not in renewal.options


def test_a_silent_server_is_replaced_by_any_other(world: World) -> None:
    world.answer = serve
    world.start()
    world.run(100)
    world.answer = lambda sent: serve(sent) if sent.to == BROADCAST else []
    assert world.run(1_000_000)[0] == (875_000, BOUND)
    renewals = [sent for sent in world.sent if sent.to == SERVER]
    assert [sent.at_ms for sent in renewals] == [500_000, 687_500, 781_250, 841_250]
    assert world.sent[-1].ciaddr == CLIENT


def test_an_address_is_given_up_when_its_lease_is_over(world: World) -> None:
    world.answer = serve
    world.start()
    world.run(100)
    world.answer = lambda _: []
    assert world.run(1_100_000) == [(1_000_000, LOST)]
    assert world.sent[-1].type == DISCOVER
    world.answer = serve
    assert [news for _, news in world.run(1_200_000)] == [BOUND]


def test_a_server_that_refuses_its_own_offers_is_not_asked_in_a_loop(world: World) -> None:
    world.answer = lambda sent: [message(OFFER if sent.type == DISCOVER else NAK, sent.xid)]
    world.start()
    assert world.run(60_000) == []
    assert 10 <= len(world.sent) <= 30


def test_a_refusal_gives_the_address_up_at_once(world: World) -> None:
    world.answer = serve
    world.start()
    world.run(100)
    world.answer = lambda sent: (
        serve(sent) if sent.type == DISCOVER else [message(NAK, sent.xid, yiaddr=IPv4Address(0))]
    )
    assert world.run(500_000) == [(500_000, LOST)]


def test_an_endless_lease_is_never_asked_for_again(world: World) -> None:
    forever = {51: struct.pack(">I", INFINITE)}
    world.answer = lambda sent: [
        message(OFFER if sent.type == DISCOVER else ACK, sent.xid, options=forever)
    ]
    world.start()
    assert world.run(10**12) == [(0, BOUND)]
    assert len(world.sent) == 2


@pytest.mark.parametrize("seconds", [1, 2, 3])
def test_a_very_short_lease_is_no_loop(world: World, seconds: int) -> None:
    short = {51: struct.pack(">I", seconds)}

    def answer(sent: Sent) -> list[bytes]:
        if len(world.sent) > 100:
            return []  # or the test would loop as well
        return [message(OFFER if sent.type == DISCOVER else ACK, sent.xid, options=short)]

    world.answer = answer
    world.start()
    assert {news for _, news in world.run(20_000)} == {BOUND}
    assert len(world.sent) <= 2 + 20


def test_a_stray_acknowledgement_changes_nothing(world: World) -> None:
    world.answer = serve
    world.start()
    world.run(100)
    stray = message(ACK, world.sent[-1].xid, yiaddr=IPv4Address("6.6.6.6"))
    world.inbox.append(stray)
    assert world.run(200) == []
    assert ip(world.dhcp.lease.addr) == CLIENT


XID = b"\x01\x02\x03\x04"


PAGE = mmap.PAGESIZE
PROT_NONE = 0


class Edge:
    """Memory behind which there is none: reading one byte too far is a SIGSEGV."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 2 * PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.end = start + PAGE
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(self.end), PAGE, PROT_NONE) == 0

    def place(self, data: bytes) -> ctypes.c_void_p:
        """Put data right before the edge."""
        ctypes.memmove(self.end - len(data), data, len(data))
        return ctypes.c_void_p(self.end - len(data))


EDGE = Edge()


def parse(library: ctypes.CDLL, packet: bytes, lease: Lease | None = None) -> int:
    """Call the C parser with a packet behind whose end there is no memory."""
    buffer = EDGE.place(packet)
    xid = ctypes.c_uint32(int.from_bytes(XID, "little"))
    mac = (ctypes.c_uint8 * 6)(*MAC)
    size = ctypes.c_size_t(len(packet))
    return int(library.dhcp_parse(buffer, size, xid, mac, ctypes.byref(lease or Lease())))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        message(OFFER, XID)[:239],
        message(OFFER, b"\0\0\0\0"),
        message(OFFER, XID, mac=bytes(6)),
        message(OFFER, XID, yiaddr=IPv4Address(0)),
        message(OFFER, XID, options={54: b""}),
        message(OFFER, XID, options={51: b""}),
        message(OFFER, XID, options={51: bytes(4)}),
        message(OFFER, XID, options={1: IPv4Address("255.0.255.0").packed}),
        message(DISCOVER, XID),
        message(OFFER, XID, raw=b"\x35"),
        message(OFFER, XID, raw=b"\x35\x01"),
        message(OFFER, XID, raw=b"\x35\x01\x02\x33\x40\x00"),
        b"\x01" + message(OFFER, XID)[1:],
        message(OFFER, XID)[:236] + b"\0\0\0\0" + message(OFFER, XID)[240:],
    ],
)
def test_what_is_no_answer_for_us_is_ignored(library: ctypes.CDLL, packet: bytes) -> None:
    assert parse(library, packet) == 0


def test_a_good_answer_is_no_such_thing(library: ctypes.CDLL) -> None:
    # The counterpart of the test above: what it varies is accepted when left alone.
    assert parse(library, message(OFFER, XID)) == OFFER
    assert parse(library, message(NAK, XID, yiaddr=IPv4Address(0))) == NAK


def test_options_go_on_in_the_overloaded_fields(library: ctypes.CDLL) -> None:
    lease = Lease()
    packet = message(
        ACK,
        XID,
        raw=bytes([53, 1, ACK, 52, 1, 3]) + b"\x36\x04" + SERVER.packed + b"\xff",
        file=b"\x33\x04" + struct.pack(">I", 600) + b"\xff",
        sname=b"\x03\x04" + SERVER.packed + b"\xff",
    )
    assert parse(library, packet, lease) == ACK
    assert (lease.seconds, ip(lease.router)) == (600, SERVER)
    assert ip(lease.mask) == IPv4Address("255.0.0.0")  # of its class: none was given


def test_odd_times_of_a_server_are_put_in_order(library: ctypes.CDLL) -> None:
    for t1, t2 in ((900, 950), (2000, 3000), (700, 600), (0, 0)):
        lease = Lease()
        options = {58: struct.pack(">I", t1), 59: struct.pack(">I", t2)}
        assert parse(library, message(ACK, XID, options=options), lease) == ACK
        assert 0 < lease.t1 <= lease.t2 <= lease.seconds == 1000


def test_no_packet_makes_it_read_outside(library: ctypes.CDLL) -> None:
    # Both that and what the undefined-behaviour sanitizer traps would end the test by a signal.
    source = random.Random(3)
    good = bytearray(message(ACK, XID))
    for _ in range(20_000):
        packet = bytearray(good)
        for _ in range(source.randrange(1, 5)):
            packet[source.randrange(240, len(packet))] = source.randrange(256)
        cut = bytes(packet[: source.randrange(200, len(packet) + 1)])
        assert parse(library, cut) in (0, OFFER, ACK, NAK)
