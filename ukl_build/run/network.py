# SPDX-License-Identifier: Apache-2.0
"""What leads from a guest's network card to the host: QEMU itself, passt, or a tap device.

The first two need no root, and a guest sees the same addresses by both.  passt, a process beside
QEMU, is taken where it is asked for: that of Debian 12 answers a guest's SYN,ACK only with data, so
who waits for a greeting of the guest's waits for ever.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from ukl_build import proc
from ukl_build.errors import UklError
from ukl_build.image import Protocol
from ukl_build.run import ports, qemu, tap
from ukl_build.run.vm import Forward, Network, Tap, Vm

PROGRAM = "passt"

ADDRESS = IPv4Interface("10.0.2.15/24")
ROUTER = IPv4Address("10.0.2.2")
"""Also the host itself, as the guest sees it."""
DNS = IPv4Address("10.0.2.3")
ROUTER_MAC = "52:55:0a:00:02:02"
"""Those of QEMU's own user network (net/slirp.c), for passt as well."""

LEASE = f"ukl.lease={ADDRESS.with_prefixlen}"
"""For the guest's init: passt answers DHCP to this address, not by broadcast."""

START_S = 10.0
"""Seconds for passt to be ready, or QEMU to list what it has; each takes a few hundredths."""
ATTEMPTS = 5
"""How often another free port is tried if somebody takes it in the meantime."""

HostPorts = dict[tuple[Protocol, int], int]
"""Of the host, by those of the guest that they lead to."""


@dataclass(frozen=True)
class Verdict:
    """What a guest's network card leads to."""

    network: Network
    tap: Tap | None = None


def passt_argv(forwards: Sequence[Forward], *connection: str) -> list[str]:
    """Return the command line of passt, which goes to the background when it is ready.

    It ends when QEMU has closed the connection.

    :param forwards: each with a port of the host, not 0.
    :param connection: options that say how it speaks with QEMU.
    """
    words = [PROGRAM, "--quiet", *connection, "--ipv4-only", "--mac-addr", ROUTER_MAC]
    words += ["--address", str(ADDRESS.ip), "--netmask", str(ADDRESS.netmask)]
    words += ["--gateway", str(ROUTER), "--dns", str(DNS), "--dns-forward", str(DNS)]
    for proto, option in ((Protocol.TCP, "--tcp-ports"), (Protocol.UDP, "--udp-ports")):
        specs = [
            f"{forward.address}/{forward.host}:{forward.guest}"
            for forward in forwards
            if forward.proto is proto
        ]
        for spec in specs or ["none"]:
            words += [option, spec]
    return words


def by_hand(vm: Vm, folder: Path) -> str:
    """Return the shell's line that starts a machine on a terminal, and passt before it.

    :param folder: where there can be a socket between the two.
    """
    if vm.tap is not None:
        return _by_hand_with(vm.tap, vm)
    if vm.network is not Network.PASST:
        return shlex.join(qemu.argv(vm, qemu.TERMINAL))
    path = folder / f"{vm.name}.passt"
    wiring = replace(qemu.TERMINAL, card=f"addr.type=unix,addr.path={qemu.escape(path)}")
    given = [_free(forward) for forward in vm.forwards]
    # Otherwise it becomes nobody, who cannot make the socket in a private folder of root's.
    root = () if os.geteuid() else ("--runas", "0")
    passt = passt_argv(given, "--socket", str(path), "--one-off", *root)
    return f"{shlex.join(passt)} && {shlex.join(qemu.argv(vm, wiring))}"


def _by_hand_with(device: Tap, vm: Vm) -> str:
    wiring = replace(qemu.TERMINAL, card=f"ifname={device.name},script=no,downscript=no")
    lines = [shlex.join(qemu.argv(vm, wiring))]
    if device.host is not None:
        lines[:0] = [
            f"ip tuntap add {device.name} mode tap",
            f"ip address add {device.host} dev {device.name}",
            f"ip link set {device.name} up",
        ]
    return " && ".join(lines)


def _free(forward: Forward) -> Forward:
    """Return it with a port of the host that is free now, if any free one is asked for."""
    if forward.host:
        return forward
    kind = socket.SOCK_STREAM if forward.proto is Protocol.TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((forward.address, 0))
        port = probe.getsockname()[1]
    return Forward(port, forward.guest, forward.proto, forward.address)


def _start(forwards: Sequence[Forward], end: socket.socket) -> str | None:
    """Start passt; return what it says if it does not, and None when it is ready."""
    argv = passt_argv(forwards, "--fd", str(end.fileno()))
    try:
        # Not proc.run(): that it does not start is no error where there is another network.
        done = subprocess.run(
            argv,
            env=dict(proc.BASE_ENV),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(end.fileno(),),
            timeout=START_S,
            check=False,
        )
    except FileNotFoundError:
        return "it is not installed"
    except subprocess.TimeoutExpired:
        return f"it was not ready within {START_S:g} s"
    if done.returncode == 0:
        return None
    lines = done.stdout.decode("utf-8", "backslashreplace").splitlines()
    # It speaks to the system's log as well, and of that.
    said = [line for line in lines if "syslog" not in line]
    return said[-1] if said else f"it ended with status {done.returncode}"


def start_passt(forwards: Sequence[Forward], end: socket.socket) -> HostPorts:
    """Start passt, and return when it listens.

    Its life hangs on the other end of the connection.

    :param end: its end of a pair of sockets; QEMU has the other one (``-netdev stream``).
    :raise UklError: ``network-failed`` with passt's own words.
    """
    for attempt in range(1, ATTEMPTS + 1):
        given = [_free(forward) for forward in forwards]
        why = _start(given, end)
        if why is None:
            return {(one.proto, one.guest): one.host for one in reversed(given)}
        chosen = [one for one, asked in zip(given, forwards, strict=True) if not asked.host]
        taken = any(ports.refusal(one.host, one.proto, one.address) for one in chosen)
        if attempt == ATTEMPTS or not taken:
            break
    raise UklError(
        "network-failed",
        f"passt, which the guest's network leads to, does not start: {why}",
        hint="ukl-run --network user takes QEMU's own",
    )


def unusable() -> str | None:
    """Return why passt cannot be used here, or None."""
    ours, end = socket.socketpair()
    with ours, end:
        why = _start((), end)
    if why is not None:
        return f"passt: {why}"
    program = proc.which(qemu.PROGRAM, hint=qemu.INSTALL)
    listed = proc.run([program, "-netdev", "help"], timeout=START_S).stdout
    if "stream" not in listed.split():
        return "QEMU is older than 7.2, and has no -netdev stream"
    return None


def here(asked: str) -> Verdict:
    """Return what a guest's network card leads to on this machine.

    :param asked: a :class:`ukl_build.run.vm.Network`, or ``tap:NAME``.
    :raise UklError: ``network-failed`` if what was asked for does not work.
    """
    kind, _, name = asked.partition(":")
    if kind == Network.TAP:
        return Verdict(Network.TAP, tap.existing(name) if name else tap.free())
    if asked == Network.PASST and (why := unusable()) is not None:
        raise UklError(
            "network-failed",
            f"passt cannot be used here: {why}",
            hint="ukl-run --network user takes QEMU's own user network",
        )
    return Verdict(Network(asked))
