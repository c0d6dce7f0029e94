# SPDX-License-Identifier: Apache-2.0
"""A guest's network card as an interface of this machine: a tap device.

Nothing copies packets but the kernel.  One that is there already, made by root for a user
(``ip tuntap add mode tap user NAME``) and perhaps part of a bridge, is taken as it is.  Otherwise
root makes one that lives as long as the machine, with a network of two addresses; the ports that
are to be forwarded are relayed by this process then.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from ukl_build.errors import UklError
from ukl_build.image import Protocol
from ukl_build.run.vm import Forward, Tap

DEVICE = Path("/dev/net/tun")
INTERFACES = Path("/sys/class/net")
ROUTES = Path("/proc/net/route")

NETWORKS = IPv4Network("10.213.0.0/16")
"""Cut into networks of two addresses, one for each machine."""
MOST = 256
"""Machines at once."""

# <linux/if_tun.h>, <linux/sockios.h> and <linux/if.h>.
_TUNSETIFF = 0x400454CA
_TAP, _NO_PACKET_INFORMATION, _VNET_HEADER, _EXCLUSIVE = 0x0002, 0x1000, 0x4000, 0x8000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8913, 0x8914, 0x8916, 0x891C
_UP = 0x1

CHUNK = 1 << 16


def _failed(message: str, hint: str) -> UklError:
    return UklError("network-failed", message, hint=hint)


def existing(name: str) -> Tap:
    """Return an interface that is there.

    :raise UklError: ``network-failed`` if it is no tap device.
    """
    if not (INTERFACES / name / "tun_flags").is_file():
        raise _failed(
            f"there is no tap device {name}", f"make one: ip tuntap add {name} mode tap user $USER"
        )
    return Tap(name)


def _routed(text: str) -> list[IPv4Network]:
    """Return all networks that this machine has a route to, but for the default one.

    :param text: content of /proc/net/route.
    """
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        # In network order, read as a number of this machine's.
        destination, mask = (struct.pack("<I", int(words[column], 16)) for column in (1, 7))
        if any(mask):
            network = f"{IPv4Address(destination)}/{IPv4Address(mask)}"
            found.append(IPv4Network(network, strict=False))
    return found


def free() -> Tap:
    """Return one that can be made: neither its name nor its network is in use.

    :raise UklError: ``network-failed`` if there is none.
    """
    if os.geteuid() != 0:
        raise _failed(
            "only root can make a tap device",
            "name one that root has made for you, --network tap:NAME, or leave --network out",
        )
    routed = _routed(ROUTES.read_text(encoding="ascii"))
    for number, network in zip(range(MOST), NETWORKS.subnets(new_prefix=30), strict=False):
        name = f"ukl{number}"
        if not (INTERFACES / name).exists() and not any(map(network.overlaps, routed)):
            return Tap(name, IPv4Interface(f"{network[1]}/{network.prefixlen}"))
    raise _failed(f"all networks of {NETWORKS} are in use here", "end other machines")


def _request(name: str, content: bytes) -> bytes:
    """Return a struct ifreq."""
    return struct.pack("16s24s", name.encode(), content)


def _address(address: IPv4Address) -> bytes:
    """Return a struct sockaddr_in."""
    return struct.pack("=HH4s", socket.AF_INET, 0, address.packed)


def open_device(tap: Tap) -> int:
    """Open a tap device, make it if it is not there, and return the descriptor for QEMU.

    What was made goes with the last descriptor.

    :raise UklError: ``network-failed``.
    """
    flags = _TAP | _NO_PACKET_INFORMATION | _VNET_HEADER | (_EXCLUSIVE if tap.host else 0)
    with contextlib.ExitStack() as undo:
        try:
            descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            undo.callback(os.close, descriptor)
            fcntl.ioctl(descriptor, _TUNSETIFF, _request(tap.name, struct.pack("=H", flags)))
            if tap.host is not None:
                _configure(tap.name, tap.host)
        except OSError as error:
            hint = {
                errno.EBUSY: "another machine has it: repeat, or name another one",
                errno.ENOENT: "load its driver: modprobe tun",
                errno.EPERM: "only root, and who it was made for, can have it",
            }
            raise _failed(
                f"the tap device {tap.name} cannot be had: {error.strerror}",
                hint.get(error.errno or 0, "see `ip tuntap`, or leave --network out"),
            ) from error
        undo.pop_all()
    return descriptor


def _configure(name: str, host: IPv4Interface) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFADDR, _request(name, _address(host.ip)))
        fcntl.ioctl(control, _SIOCSIFNETMASK, _request(name, _address(host.netmask)))
        found = fcntl.ioctl(control, _SIOCGIFFLAGS, _request(name, b""))
        (flags,) = struct.unpack_from("=H", found, 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, _request(name, struct.pack("=H", flags | _UP)))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:  # a reset, not an end: the other side is to see one as well
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


async def relay(forward: Forward, guest: IPv4Address) -> asyncio.Server:
    """Accept connections for a guest in the running loop, until the server is closed.

    :raise OSError: if the port cannot be listened on.
    """

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there = await asyncio.open_connection(str(guest), forward.guest)
            with contextlib.closing(there[1]):
                await asyncio.gather(_pass_on(reader, there[1]), _pass_on(there[0], writer))

    return await asyncio.start_server(accept, forward.address, forward.host, backlog=1024)


def refuse(tap: Tap, forwards: Iterable[Forward]) -> None:
    """Refuse ports that cannot be forwarded.

    :raise UklError: ``run-invalid``.
    """
    wanted = list(forwards)
    if tap.guest is None and wanted:
        raise UklError(
            "run-invalid",
            f"ports are not forwarded to the tap device {tap.name}, which is yours",
            hint="connect to the address that the guest has there",
        )
    if any(forward.proto is Protocol.UDP for forward in wanted):
        raise UklError(
            "run-invalid",
            "ports of UDP are not forwarded to a tap device",
            hint=f"send to {tap.guest.ip if tap.guest else 'its address'}, or leave --network out",
        )
