# SPDX-License-Identifier: Apache-2.0
"""Real QEMU, real guests, and every way in which a machine can end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.guests import assemble
from ukl_build.errors import UklError
from ukl_build.image import Init, Protocol
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import GuestError, Kind, Outcome
from ukl_build.run.vm import Forward, Network, Vm

ENOUGH_S = 30.0
"""Far more than these guests need on a busy machine; a test that waits so long fails."""


USER, NONE = Network.USER, Network.NONE


def machine(folder: Path, end: str, text: str = "", **changes: object) -> Machine:
    """Return a machine with a guest that ends in the given way."""
    vm = Vm(
        name=end,
        kernel=assemble(folder / "guest", end, text),
        memory_mib=32,
        network=NONE,
        init=Init.DIRECT,
    )
    return Machine(replace(vm, **changes), console=folder / "console.log")  # type: ignore[arg-type]


def exists(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


EARLY = "Kernel panic - not syncing: VFS: Unable to mount\n"


@pytest.mark.parametrize(
    ("end", "text", "expected"),
    [
        ("power_off", "", Outcome(Kind.NO_STATUS)),
        ("power_off", "ukl: application exited with status 0\n", Outcome(Kind.EXITED, 0)),
        ("power_off", "[1.0] ukl: application exited with status 7\n", Outcome(Kind.EXITED, 7)),
        ("power_off", "ukl: application killed by signal 11\n", Outcome(Kind.SIGNALED, 11)),
        ("reset", "", Outcome(Kind.RESET)),
        ("reset", "ukl: application exited with status 0\n", Outcome(Kind.RESET)),
        ("triple_fault", "", Outcome(Kind.RESET)),
        ("panic", "", Outcome(Kind.PANIC)),
        ("panic", "ukl: application exited with status 0\n", Outcome(Kind.PANIC)),
        ("reset", EARLY, Outcome(Kind.PANIC, why="VFS: Unable to mount")),
    ],
)
def test_each_end_is_told_apart(tmp_path: Path, end: str, text: str, expected: Outcome) -> None:
    with machine(tmp_path, end, text) as it:
        it.start()
        assert it.wait(ENOUGH_S) == expected
        assert it.outcome == expected
        assert not exists(it.pid)
    assert text.strip() in (tmp_path / "console.log").read_text()


@pytest.mark.parametrize("end", ["halt", "spin"])
def test_a_hang_ends_at_its_deadline_with_the_registers(tmp_path: Path, end: str) -> None:
    with machine(tmp_path, end, "ukl: application exited with status 0\n") as it:
        it.start()
        assert it.wait(1.0) is None
        assert it.give_up() == Outcome(Kind.HANG)
        assert "EIP=" in it.registers
        assert not exists(it.pid)


def test_a_watchdog_that_is_not_fed_ends_a_hang(tmp_path: Path) -> None:
    with machine(tmp_path, "starve", extra=("-device", "ib700")) as it:
        it.start()
        outcome = it.wait(ENOUGH_S)
        assert outcome == Outcome(Kind.HANG, why="its watchdog is not fed any more")
        assert "EIP=" in it.registers
        assert not exists(it.pid)
        with pytest.raises(GuestError, match="the guest hangs: its watchdog") as caught:
            raise it.error(outcome)
        assert caught.value.exit_status == 241


def test_a_guest_that_cannot_be_asked_is_stopped(tmp_path: Path) -> None:
    with machine(tmp_path, "halt") as it:
        it.start()
        start = time.monotonic()
        assert it.stop() == Outcome(Kind.STOPPED)
        assert time.monotonic() - start < 10, "it waited for a power button that nobody hears"


def test_a_guest_that_ignores_its_power_button_is_stopped(tmp_path: Path) -> None:
    with machine(tmp_path, "halt", init=Init.RING3) as it:
        it.start()
        start = time.monotonic()
        assert it.stop(polite_s=1.0) == Outcome(Kind.STOPPED)
        assert time.monotonic() - start >= 1.0


def test_a_stopped_qemu_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It answers neither QMP nor SIGTERM.
    monkeypatch.setattr("ukl_build.run.machine.FIRM_S", 0.5)
    with machine(tmp_path, "spin") as it:
        it.start()
        os.kill(it.pid, signal.SIGSTOP)
        outcome = it.stop()
        assert outcome.kind is Kind.QEMU_FAILED
        assert "SIGKILL" in outcome.why
        assert not exists(it.pid)


def test_a_stopped_qemu_is_killed_also_where_the_guest_could_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ukl_build.run.machine.FIRM_S", 0.5)
    with machine(tmp_path, "spin", init=Init.RING3) as it:
        it.start()
        os.kill(it.pid, signal.SIGSTOP)
        # Should it wait for ever, this ends QEMU and with it the wait.
        timer = threading.Timer(15, os.kill, (it.pid, signal.SIGCONT))
        timer.start()
        start = time.monotonic()
        it.stop(polite_s=1.0)
        timer.cancel()
        assert time.monotonic() - start < 10
        assert not exists(it.pid)


@pytest.mark.parametrize("begun", [False, True])
def test_a_machine_can_be_stopped_before_its_start_is_over(tmp_path: Path, begun: bool) -> None:
    with machine(tmp_path, "spin") as it:
        starting = None
        if begun:
            starting = asyncio.run_coroutine_threadsafe(it._session.start(), it._loop)
        assert it.stop() == Outcome(Kind.STOPPED)
        if starting is not None:
            starting.result(ENOUGH_S)
            assert not exists(it.pid)


def test_a_qemu_that_somebody_kills_is_no_success(tmp_path: Path) -> None:
    with machine(tmp_path, "spin", "ukl: application exited with status 0\n") as it:
        it.start()
        os.kill(it.pid, signal.SIGKILL)
        assert it.wait(ENOUGH_S) == Outcome(Kind.QEMU_FAILED, why="SIGKILL killed it")


def test_a_bad_flag_comes_with_qemus_own_words(tmp_path: Path) -> None:
    with (
        machine(tmp_path, "halt", extra=("-device", "no-such-device")) as it,
        pytest.raises(GuestError) as caught,
    ):
        it.start()
    assert caught.value.code == "qemu-failed"
    assert caught.value.exit_status == 244
    assert "'no-such-device' is not a valid device model name" in str(caught.value)
    assert caught.value.outcome.kind is Kind.QEMU_FAILED


def test_a_kernel_that_is_none_comes_with_qemus_own_words(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"no kernel" * 1000)
    with (
        machine(tmp_path, "halt", kernel=tmp_path / "junk") as it,
        pytest.raises(GuestError, match="invalid kernel header"),
    ):
        it.start()


def test_leaving_the_block_ends_qemu(tmp_path: Path) -> None:
    with machine(tmp_path, "spin") as it:
        it.start()
        pid = it.pid
        assert exists(pid)
    assert not exists(pid)
    it.close()


def test_an_exception_in_the_block_ends_qemu(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), machine(tmp_path, "spin") as it:
        it.start()
        pid = it.pid
        raise RuntimeError
    assert not exists(pid)


@pytest.mark.parametrize("end", ["power_off", "halt"])
def test_nothing_is_waited_for_in_vain_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    left: list[object] = []
    wait = asyncio.wait

    async def seen(tasks: Any, **how: Any) -> object:
        found = await wait(tasks, **how)
        left.extend(found[1])
        return found

    with machine(tmp_path, end) as it:
        it.start()
        it.wait(ENOUGH_S if end == "power_off" else 0.1)
        monkeypatch.setattr(asyncio, "wait", seen)
    assert left == []


def test_a_machine_that_was_never_started_can_be_closed(tmp_path: Path) -> None:
    with machine(tmp_path, "spin"):
        pass


def test_the_console_is_followed_and_private(tmp_path: Path) -> None:
    said = bytearray()
    with machine(tmp_path, "power_off", "line one\nline two\n") as it:
        it.start(on_console=said.extend)
        it.wait(ENOUGH_S)
    assert said.decode() == (tmp_path / "console.log").read_text() == "line one\nline two\n"
    assert (tmp_path / "console.log").stat().st_mode & 0o777 == 0o600


def test_a_name_with_commas_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "a,b=c,,d"
    folder.mkdir()
    with machine(folder, "power_off", "x", name="n,process=y") as it:
        it.start()
        assert it.wait(ENOUGH_S) == Outcome(Kind.NO_STATUS)
        assert (folder / "console.log").read_text() == "x"


def test_qemu_says_which_free_ports_it_took(tmp_path: Path) -> None:
    forwards = (Forward(0, 5555), Forward(0, 555), Forward(0, 53, Protocol.UDP))
    with machine(tmp_path, "halt", network=USER, forwards=forwards) as it:
        it.start()
        ports = [it.host_port(port.guest, port.proto) for port in forwards]
        assert len(set(ports)) == 3
        assert all(port > 1023 for port in ports)
        with pytest.raises(UklError, match="not forwarded"):
            it.host_port(5556)


def test_a_taken_port_is_said_before_qemu_starts(tmp_path: Path) -> None:
    with machine(tmp_path, "halt", network=USER, forwards=(Forward(0, 5555),)) as first:
        first.start()
        port = first.host_port(5555)
        with (
            machine(tmp_path, "halt", network=USER, forwards=(Forward(port, 5555),)) as second,
            pytest.raises(UklError, match=f"127.0.0.1:{port}/tcp") as caught,
        ):
            second.start()
        assert caught.value.code == "port-taken"


def test_a_connection_is_no_answer(tmp_path: Path) -> None:
    # QEMU's network accepts it although the guest has no network at all.
    with machine(tmp_path, "halt", network=USER, forwards=(Forward(0, 5555),)) as it:
        it.start()
        with pytest.raises(UklError) as caught:
            it.ask(5555, b"hello\n", b"hello\n", deadline_s=2.0)
        assert caught.value.code == "guest-no-answer"
        assert it.outcome is None


def test_a_guest_that_dies_while_asked_is_reported_at_once(tmp_path: Path) -> None:
    with machine(tmp_path, "triple_fault", network=USER, forwards=(Forward(0, 5555),)) as it:
        it.start()
        assert it.wait(ENOUGH_S) == Outcome(Kind.RESET)
        start = time.monotonic()
        with pytest.raises(GuestError) as caught:
            it.ask(5555, b"x", b"x", deadline_s=60)
        assert caught.value.outcome == Outcome(Kind.RESET)
        assert time.monotonic() - start < 5


def test_the_monitor_looks_into_a_running_guest(tmp_path: Path) -> None:
    with machine(tmp_path, "halt", "up") as it:
        it.start()
        while (tmp_path / "console.log").read_text() != "up":
            assert it.wait(0.05) is None
        assert "CR0=" in it.monitor("info registers")
        assert it.qmp("query-status") == {"status": "running", "singlestep": False, "running": True}


ORPHAN = """
    import sys, time
    from pathlib import Path
    from ukl_build.image import Init
    from ukl_build.run.machine import Machine
    from ukl_build.run.vm import Vm

    vm = Vm("orphan", kernel=Path(sys.argv[1]), memory_mib=32, init=Init.DIRECT)
    machine = Machine(vm, console=Path(sys.argv[2]))
    machine.start()
    print(machine.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_qemu_dies_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    guest = assemble(tmp_path / "guest", "spin")
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ORPHAN), guest, tmp_path / "console.log"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert exists(pid)
        parent.send_signal(how)
        parent.wait()
    end = time.monotonic() + ENOUGH_S
    while exists(pid):
        assert time.monotonic() < end, "QEMU outlived its parent"
        time.sleep(0.01)


def test_a_program_whose_parent_is_gone_already_is_not_started(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "ukl_build/run/lifeline.py"),
            *("1", "/usr/bin/touch", tmp_path / "started"),
        ],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"parent of /usr/bin/touch is gone" in done.stderr
    assert not (tmp_path / "started").exists()
