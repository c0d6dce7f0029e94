# SPDX-License-Identifier: Apache-2.0
"""Whether a port of this machine is free, and who has it if it is not.

From /proc alone: the kernel's table of sockets has a socket's number and its user, and the process
that has it open is the one whose /proc/PID/fd names that number.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ukl_build.image import Protocol
from ukl_build.run.vm import LOCALHOST

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LISTENING = 0x0A
"""TCP_LISTEN of the kernel's include/net/tcp_states.h."""


@dataclass(frozen=True)
class Holder:
    """Who has a port."""

    user: str
    """Name of the socket's user, or the number if it has no name here."""
    pid: int | None = None
    """None if the process cannot be seen from here: another user's, or a container's host's."""
    name: str = ""

    def __str__(self) -> str:
        if self.pid is None:
            return f"a process of the user {self.user} that cannot be seen from here"
        return f"process {self.pid} ({self.name})"


@dataclass(frozen=True)
class _Socket:
    """A line of the kernel's table of sockets."""

    address: Address
    port: int
    listens: bool
    uid: int
    inode: int


def refusal(port: int, proto: Protocol = Protocol.TCP, address: str = LOCALHOST) -> str | None:
    """Return why a port cannot be listened on, with its holder; None if it can.

    :param port: 0 is any free one.
    :param address: IPv4 address to listen on.
    """
    kind = socket.SOCK_STREAM if proto is Protocol.TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if proto is Protocol.TCP:
            # As QEMU does: connections of an earlier run may still be in TIME_WAIT.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            if proto is Protocol.TCP:
                probe.listen()
        except OSError as error:
            who = holder(port, proto, address)
            return f"{error.strerror}, {who} has it" if who else str(error.strerror)
    return None


def holder(port: int, proto: Protocol = Protocol.TCP, address: str = LOCALHOST) -> Holder | None:
    """Return who has a port of this machine, None if nobody does or it cannot be told.

    Of several processes that share it, such as a server and its workers, it is the one with the
    lowest number.

    :param address: IPv4 address that somebody else wants to listen on.
    """
    wanted = ipaddress.IPv4Address(address)
    found = [one for one in _sockets(proto) if one.port == port and _clash(one.address, wanted)]
    if not found:
        return None
    # A connection from that port keeps others off it as well; but who listens is who is meant.
    chosen = max(found, key=lambda one: one.listens)
    try:
        user = pwd.getpwuid(chosen.uid).pw_name
    except KeyError:
        user = str(chosen.uid)
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if _has(process, chosen.inode):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                return Holder(user, int(process.name), name)
    return Holder(user)


def _has(process: Path, inode: int) -> bool:
    link = f"socket:[{inode}]"
    with os.scandir(process / "fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.readlink(entry.path) == link:  # noqa: PTH115 - many, and no path
                    return True
    return False


def _clash(held: Address, wanted: ipaddress.IPv4Address) -> bool:
    """Tell whether a socket keeps another one from an address.

    One of IPv6 for all addresses is for those of IPv4 as well, unless it says otherwise; the table
    does not show that.
    """
    if isinstance(held, ipaddress.IPv6Address):
        if held.ipv4_mapped is None:
            return held.is_unspecified
        held = held.ipv4_mapped
    return held == wanted or held.is_unspecified or wanted.is_unspecified


def _sockets(proto: Protocol) -> Iterator[_Socket]:
    """Read the kernel's tables, as its Documentation/networking/proc_net_tcp.rst describes them."""
    for table in (proto.value, f"{proto.value}6"):
        try:
            lines = (Path("/proc/net") / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for line in lines:
            words = line.split()
            local, _, port = words[1].partition(":")
            inode = int(words[9])
            if inode:  # 0: its process has closed it
                listens = int(words[3], 16) == _LISTENING
                yield _Socket(_address(local), int(port, 16), listens, int(words[7]), inode)


def _address(text: str) -> Address:
    """Read an address: words of 32 bits, each written as a number of this machine's."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    return ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
