# SPDX-License-Identifier: Apache-2.0
"""What a guest's network leads to, passt above all, which is really started here."""

from __future__ import annotations

import re
import shlex
import socket
from pathlib import Path

import pytest

from tests.networks import NEEDS_PASST
from tests.unit.guests import assemble
from tests.waiting import wait_for
from ukl_build.errors import UklError
from ukl_build.image import Init, Protocol
from ukl_build.run import network, ports, qemu
from ukl_build.run.machine import Machine
from ukl_build.run.vm import Forward, Network, Vm


def program(path: Path, text: str) -> str:
    """Write a shell script, and return its path."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@NEEDS_PASST
def test_passt_listens_and_ends_with_the_connection() -> None:
    wanted = (Forward(0, 80), Forward(0, 53, Protocol.UDP), Forward(0, 81))
    ours, end = socket.socketpair()
    with ours:
        with end:
            found = network.start_passt(wanted, end)
        assert set(found) == {(Protocol.TCP, 80), (Protocol.UDP, 53), (Protocol.TCP, 81)}
        for (proto, _), port in found.items():
            assert ports.refusal(port, proto) is not None
    wait_for(
        lambda: not any(ports.refusal(port, proto) for (proto, _), port in found.items()),
        "the end of passt",
    )


@NEEDS_PASST
def test_a_port_that_somebody_took_meanwhile_is_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        real, tries = network._free, []

        def free(forward: Forward) -> Forward:
            tries.append(forward)
            return real(forward) if len(tries) > 1 else Forward(taken, forward.guest)

        monkeypatch.setattr(network, "_free", free)
        ours, end = socket.socketpair()
        with ours, end:
            found = network.start_passt([Forward(0, 80)], end)
        assert found[Protocol.TCP, 80] != taken
        assert len(tries) == 2


@NEEDS_PASST
def test_the_words_of_passt_are_passed_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        ours, end = socket.socketpair()
        with ours, end, pytest.raises(UklError, match=f"bind.*127.0.0.1/{taken}:80") as caught:
            network.start_passt([Forward(taken, 80)], end)
    assert caught.value.code == "network-failed"
    assert "--network user" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "passt: it is not installed"),
        ("echo Failed to send 9 bytes to syslog; echo No routable interface; exit 1", "routable"),
        ("exit 3", "passt: it ended with status 3"),
    ],
)
def test_where_passt_does_not_work_it_is_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, why: str
) -> None:
    name = "/no/such/passt" if text is None else program(tmp_path / "passt", text)
    monkeypatch.setattr(network, "PROGRAM", name)
    with pytest.raises(UklError, match=why) as caught:
        network.here("passt")
    assert caught.value.code == "network-failed"


@NEEDS_PASST
def test_an_old_qemu_has_no_way_to_passt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = program(tmp_path / "qemu", "printf 'socket\\nhubport\\ntap\\nuser\\n'")
    monkeypatch.setattr(qemu, "PROGRAM", old)
    with pytest.raises(UklError, match=re.escape("older than 7.2")):
        network.here("passt")


@NEEDS_PASST
def test_passt_is_taken_where_it_is_asked_for_and_works() -> None:
    assert network.here("passt") == network.Verdict(Network.PASST)
    assert network.here("none") == network.Verdict(Network.NONE)
    assert network.here("user") == network.Verdict(Network.USER)


@NEEDS_PASST
def test_a_machine_has_its_ports_and_nothing_stays(tmp_path: Path) -> None:
    vm = Vm(
        "guest",
        kernel=assemble(tmp_path / "guest", "halt"),
        memory_mib=32,
        init=Init.DIRECT,
        network=Network.PASST,
        forwards=(Forward(0, 5555),),
    )
    with Machine(vm, console=tmp_path / "console.log") as machine:
        machine.start()
        port = machine.host_port(5555)
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(UklError, match="5556"):
            machine.host_port(5556)
    wait_for(lambda: ports.refusal(port) is None, "the end of passt")


def test_what_is_started_by_hand_starts_passt_before(tmp_path: Path) -> None:
    vm = Vm("a b", network=Network.PASST, forwards=(Forward(0, 5555),))
    line = network.by_hand(vm, tmp_path)
    words = shlex.split(line)
    path = str(tmp_path / "a b.passt")
    assert words[:2] == ["passt", "--quiet"]
    assert words[words.index("--socket") + 1] == path
    assert words[words.index("&&") + 1] == qemu.PROGRAM
    assert f"stream,id=net,server=off,addr.type=unix,addr.path={path}" in words
    assert ":5555" in words[words.index("--tcp-ports") + 1]
    assert network.by_hand(Vm("x"), tmp_path).startswith(qemu.PROGRAM)
