# SPDX-License-Identifier: Apache-2.0
"""Both ends of ``ukl exec`` on the host, with a guest that is not to be trusted."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from ukl_build.errors import UklError
from ukl_build.run import execute
from ukl_build.run.execute import PAYLOAD, Channel, ExecError, Relay, Type, frame


def over(how: int, number: int, step: str = "") -> bytes:
    """Return the frame that ends a session."""
    return frame(Type.OVER, struct.pack("<Bi", how, number) + step.encode())


@contextmanager
def channel(*sent: bytes) -> Iterator[Channel]:
    """Return a channel on which a guest has sent something, and nothing more comes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for one in sent:
            theirs.sendall(one)
        theirs.shutdown(socket.SHUT_WR)
        yield Channel(ours)


@pytest.mark.parametrize(("how", "number", "status"), [(0, 3, 3), (1, 9, 137)])
def test_the_end_of_a_program_is_ours(how: int, number: int, status: int) -> None:
    with channel(over(how, number)) as one:
        assert execute.run(one, ["x"], stdin=False, terminal=False) == status


def test_output_goes_where_it_belongs(capfd: pytest.CaptureFixture[str]) -> None:
    with channel(frame(Type.OUT, b"a"), frame(Type.ERR, b"b"), over(0, 0)) as one:
        execute.run(one, ["x"], stdin=False, terminal=False)
    assert capfd.readouterr() == ("a", "b")


def test_a_frame_may_come_in_pieces() -> None:
    data = over(0, 7)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        one = Channel(ours)
        for byte in data[:-1]:
            theirs.sendall(bytes([byte]))
            assert list(one.receive()) == []
        theirs.sendall(data[-1:])
        assert [kind for kind, _ in one.receive()] == [Type.OVER]


@pytest.mark.parametrize(("number", "status"), [(2, 127), (13, 126)])
def test_what_could_not_be_started_ends_as_in_a_shell(number: int, status: int) -> None:
    with channel(over(2, number, "exec")) as one, pytest.raises(ExecError) as caught:
        execute.run(one, ["/x"], stdin=False, terminal=False)
    assert (caught.value.code, caught.value.exit_status) == ("exec-failed", status)


@pytest.mark.parametrize("sent", [b"", b"X", frame(Type.OUT, b"a"), b"?\0\0\0"])
def test_a_machine_that_ends_meanwhile_is_said(sent: bytes) -> None:
    with channel(sent) as one, pytest.raises(UklError) as caught:
        execute.run(one, ["x"], stdin=False, terminal=False)
    assert caught.value.code == "exec-lost"


def test_an_end_that_is_cut_is_an_end() -> None:
    with channel(frame(Type.OVER)) as one:
        assert execute.run(one, ["x"], stdin=False, terminal=False) == 0


def test_a_frame_has_a_limit() -> None:
    assert len(frame(Type.DATA, b"x" * PAYLOAD)) == PAYLOAD + 4
    with pytest.raises(ValueError, match="4097 bytes are more"):
        frame(Type.DATA, b"x" * (PAYLOAD + 1))


class Both:
    """A relay, its guest, and clients."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Both:
        host, guest = socket.socketpair()
        self.reader, self.writer = await asyncio.open_connection(sock=guest)
        self.relay = Relay(*await asyncio.open_connection(sock=host))
        self.tasks.append(asyncio.create_task(self.relay.run()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        for task in self.tasks:
            with suppress(asyncio.CancelledError, OSError):
                await asyncio.wait_for(task, 5)

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a client's end."""
        ours, theirs = socket.socketpair()
        self.tasks.append(asyncio.create_task(self.relay.serve(theirs)))
        return await asyncio.open_connection(sock=ours)

    async def guest_gets(self) -> tuple[bytes, int, bytes]:
        """Return the next frame that the guest gets."""
        head = await asyncio.wait_for(self.reader.readexactly(4), 5)
        kind, session, length = struct.unpack("<cBH", head)
        return kind, session, await self.reader.readexactly(length)


def test_each_client_has_a_session() -> None:
    async def work() -> None:
        async with Both() as both:
            clients = [await both.client() for _ in range(3)]
            for number, (_, writer) in enumerate(clients):
                writer.write(frame(Type.RUN, b"x\0"))
                assert await both.guest_gets() == (b"R", number, b"x\0")
            both.writer.write(frame(Type.OUT, b"two", 2) + frame(Type.OUT, b"one", 1))
            assert await clients[1][0].readexactly(7) == frame(Type.OUT, b"one")
            assert await clients[2][0].readexactly(7) == frame(Type.OUT, b"two")

    asyncio.run(work())


def test_a_client_that_goes_hangs_up_and_its_output_is_taken() -> None:
    async def work() -> None:
        async with Both() as both:
            _, writer = await both.client()
            writer.write(frame(Type.RUN, b"x\0"))
            await both.guest_gets()
            writer.close()
            assert await both.guest_gets() == (b"D", 0, b"")
            assert await both.guest_gets() == (b"K", 0, b"\1")
            both.writer.write(frame(Type.OUT, b"late"))
            assert await both.guest_gets() == (b"A", 0, b"")
            # Its session is used again when it is over, not before.
            _, second = await both.client()
            second.write(frame(Type.RUN, b"y\0"))
            assert await both.guest_gets() == (b"R", 1, b"y\0")
            both.writer.write(over(0, 0))
            while not both.relay.free() or 0 in both.relay._clients:
                await asyncio.sleep(0.01)
            _, third = await both.client()
            third.write(frame(Type.RUN, b"z\0"))
            assert await both.guest_gets() == (b"R", 0, b"z\0")

    asyncio.run(work())


def test_a_client_that_starts_nothing_leaves_nothing() -> None:
    async def work() -> None:
        async with Both() as both:
            _, writer = await both.client()
            writer.close()
            _, nonsense = await both.client()
            nonsense.write(frame(Type.KILL, b"\x09"))
            for task in both.tasks[1:]:
                await asyncio.wait_for(task, 5)
            _, other = await both.client()
            other.write(frame(Type.RUN, b"x\0"))
            assert await both.guest_gets() == (b"R", 0, b"x\0")

    asyncio.run(work())


def test_clients_hear_of_the_machines_end() -> None:
    async def work() -> None:
        async with Both() as both:
            reader, writer = await both.client()
            writer.write(frame(Type.RUN, b"x\0"))
            await both.guest_gets()
            both.writer.close()
            assert await asyncio.wait_for(reader.read(), 5) == b""

    asyncio.run(work())
