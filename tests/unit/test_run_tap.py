# SPDX-License-Identifier: Apache-2.0
"""A guest's network card as a tap device, which root makes here."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from tests.networks import NEEDS_TAP
from tests.unit.guests import assemble
from ukl_build.errors import UklError
from ukl_build.image import Init, Protocol
from ukl_build.run import cli, network, tap
from ukl_build.run.machine import Machine
from ukl_build.run.vm import Forward, Network, Tap, Vm

MADE = Tap("ukl7", IPv4Interface("10.213.0.29/30"))

# As the kernel writes it (net/ipv4/fib_trie.c: fib_route_seq_show()).
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\tFE0200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
ukl0\t0000D50A\t00000000\t0001\t0\t0\t0\tFCFFFFFF\t0\t0\t0
"""


def test_two_addresses_are_the_network_of_one() -> None:
    assert MADE.guest == IPv4Interface("10.213.0.30/30")
    assert MADE.lease == "ukl.ip=10.213.0.30/30,10.213.0.29"
    assert (Tap("mine").guest, Tap("mine").lease) == (None, "")


def test_the_default_route_is_in_nobodys_way() -> None:
    assert tap._routed(ROUTES) == [IPv4Network("192.0.2.0/24"), IPv4Network("10.213.0.0/30")]


def test_what_is_in_use_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = tmp_path / "route"
    routes.write_text(ROUTES)
    (tmp_path / "ukl1").mkdir()
    monkeypatch.setattr(tap, "ROUTES", routes)
    monkeypatch.setattr(tap, "INTERFACES", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert tap.free() == Tap("ukl2", IPv4Interface("10.213.0.9/30"))
    everything = ROUTES.splitlines()[-1].replace("FCFFFFFF", "0000FFFF")
    routes.write_text(f"header\n{everything}\n")
    with pytest.raises(UklError, match="all networks"):
        tap.free()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UklError, match="only root"):
        tap.free()


def test_one_that_is_not_there_is_not_made() -> None:
    with pytest.raises(UklError, match="no tap device none0") as caught:
        network.here("tap:none0")
    assert "ip tuntap add none0" in caught.value.hint
    with pytest.raises(UklError, match="no tap device lo"):
        network.here("tap:lo")


def test_ports_that_cannot_be_forwarded_are_refused() -> None:
    tap.refuse(MADE, [Forward(0, 80)])
    tap.refuse(Tap("mine"), [])
    with pytest.raises(UklError, match="UDP") as caught:
        tap.refuse(MADE, [Forward(0, 53, Protocol.UDP)])
    assert "10.213.0.30" in caught.value.hint
    with pytest.raises(UklError, match="mine, which is yours"):
        tap.refuse(Tap("mine"), [Forward(0, 80)])


@pytest.mark.parametrize(
    "text", ["", "auto", "slirp", "tap:", "tap:a/b", "tap:sixteen-letters-x", "user:x"]
)
def test_nonsense_is_no_network(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is none of passt, user, tap, none"):
        cli.network_option(text)


def test_a_network_is_taken_as_it_is_written() -> None:
    for text in ("passt", "user", "none", "tap", "tap:br0.7"):
        assert cli.network_option(text) == text


def test_what_is_started_by_hand_makes_it_before(tmp_path: Path) -> None:
    line = network.by_hand(Vm("x", network=Network.TAP, tap=MADE), tmp_path)
    assert line.startswith(
        "ip tuntap add ukl7 mode tap && ip address add 10.213.0.29/30 dev ukl7"
        " && ip link set ukl7 up && qemu-system-x86_64 "
    )
    own = network.by_hand(Vm("x", network=Network.TAP, tap=Tap("mine")), tmp_path)
    assert own.startswith("qemu-system-x86_64 ")
    assert " tap,id=net,ifname=mine,script=no,downscript=no " in own


Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _relayed(talk: Callable[[Pair, Pair], Awaitable[None]]) -> None:
    """Have both ends of a relayed connection talk, the client's and the guest's."""

    async def both() -> None:
        accepted: asyncio.Queue[Pair] = asyncio.Queue()
        guest = await asyncio.start_server(
            lambda reader, writer: accepted.put_nowait((reader, writer)), "127.0.0.2"
        )
        forward = Forward(0, guest.sockets[0].getsockname()[1])
        server = await tap.relay(forward, IPv4Address("127.0.0.2"))
        async with guest, server, asyncio.timeout(20):
            port = server.sockets[0].getsockname()[1]
            client = await asyncio.open_connection("127.0.0.1", port)
            await talk(client, await accepted.get())

    asyncio.run(both())


def test_what_is_relayed_arrives_also_after_one_side_has_ended() -> None:
    much = bytes(range(256)) * 40_000

    async def talk(client: Pair, guest: Pair) -> None:
        client[1].write(much)
        client[1].write_eof()
        assert await guest[0].read(-1) == much
        guest[1].write(much)
        guest[1].close()
        assert await client[0].read(-1) == much

    _relayed(talk)


@pytest.mark.parametrize("first", [0, 1], ids=["client", "guest"])
def test_a_reset_reaches_the_other_side(first: int) -> None:
    async def talk(*pairs: Pair) -> None:
        gone, other = pairs[first], pairs[1 - first]
        linger = struct.pack("ii", 1, 0)  # no FIN, a RST
        gone[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        gone[1].close()
        with pytest.raises(ConnectionResetError):
            await other[0].read(-1)

    _relayed(talk)


def test_who_is_relayed_to_a_port_that_nobody_has_is_told() -> None:
    async def ask() -> bytes:
        with socket.socket() as probe:
            probe.bind(("127.0.0.2", 0))
            server = await tap.relay(Forward(0, probe.getsockname()[1]), IPv4Address("127.0.0.2"))
            async with server, asyncio.timeout(20):
                port = server.sockets[0].getsockname()[1]
                client, _ = await asyncio.open_connection("127.0.0.1", port)
                return await client.read(-1)

    assert asyncio.run(ask()) == b""


@NEEDS_TAP
def test_it_is_there_as_long_as_the_machine(tmp_path: Path) -> None:
    device = tap.free()
    assert device.host is not None
    vm = Vm(
        "guest",
        kernel=assemble(tmp_path / "guest", "halt"),
        memory_mib=32,
        init=Init.DIRECT,
        network=Network.TAP,
        tap=device,
        forwards=(Forward(0, 80),),
    )
    with Machine(vm, console=tmp_path / "console.log") as machine:
        machine.start()
        port = machine.host_port(80)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Only what is on an interface that is up is an address of this machine's.
            probe.bind((str(device.host.ip), 0))
        assert (tap.INTERFACES / device.name).exists()
        with pytest.raises(UklError, match="another machine has it") as caught:
            os.close(tap.open_device(device))
        assert caught.value.code == "network-failed"
        assert tap.free().name != device.name
    assert not (tap.INTERFACES / device.name).exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


@NEEDS_TAP
def test_one_that_is_there_is_taken_as_it_is() -> None:
    made = Tap("ukltest0", IPv4Interface("10.213.255.253/30"))
    descriptor = tap.open_device(made)
    try:
        verdict = network.here("tap:ukltest0")
        assert (verdict.network, verdict.tap) == (Network.TAP, Tap("ukltest0"))
        with pytest.raises(UklError, match="cannot be had"):
            tap.open_device(Tap("ukltest0"))
    finally:
        os.close(descriptor)
