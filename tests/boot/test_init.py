# SPDX-License-Identifier: Apache-2.0
"""The guest's init on the real kernel, with an ordinary program standing in for the application."""

from __future__ import annotations

import contextlib
import socket
import time
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from tests.boot.conftest import HELPER, Start, console
from tests.networks import NEEDS_PASST
from tests.waiting import wait_for
from ukl_build import cpio
from ukl_build.image import Protocol
from ukl_build.initconf import INIT_CONF, InitConf, Job, Mode, Mount, Static, render
from ukl_build.run import cli
from ukl_build.run.machine import Machine
from ukl_build.run.network import LEASE
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Forward, Network, Vm

pytestmark = pytest.mark.boot

BOOT_S = 60.0
"""Far more than a boot under TCG takes (1 s); a guest that needs it has hung."""


def end(machine: Machine) -> Outcome:
    """Wait for a machine's end."""
    outcome = machine.wait(BOOT_S)
    assert outcome is not None, machine.console.read_text()
    return outcome


def conf(**changes: object) -> tuple[cpio.Entry, ...]:
    """Return an init.conf for the helper as the application."""
    given = InitConf(**({"app": HELPER, "stop_wait_s": 2} | changes))  # type: ignore[arg-type]
    return (cpio.file(INIT_CONF, render(given)),)


def helper(*words: str, mode: Mode = Mode.BEFORE, **options: object) -> Job:
    """Return a job that runs the helper."""
    return Job((HELPER, *words), mode, **options)  # type: ignore[arg-type]


def said(machine: Machine) -> list[str]:
    """Return what helpers said, in order."""
    return [line.removeprefix("said ") for line in console(machine) if line.startswith("said ")]


def test_the_application_finds_the_guest_set_up(start: Start) -> None:
    machine = start(
        entries=conf(
            argv=("name", "state", "a b", "", "new\nline"),
            env={"A": "1 2", "B": ""},
            cwd="/tmp",
            uid=1000,
            gid=100,
            groups=(7, 8),
            hostname="a-guest",
            limits={"nofile": (100, 200), "core": (0, None)},
            sysctls={"net.core.somaxconn": "1234"},
        )
    )
    assert end(machine) == Outcome(Kind.EXITED, 0)
    lines = console(machine)
    assert [line for line in lines if line.startswith("arg")] == [
        *("arg 0: <name>", "arg 1: <state>", "arg 2: <a b>", "arg 3: <>", "arg 4: <new"),
    ]
    assert [line for line in lines if line.startswith("env")] == ["env: <A=1 2>", "env: <B=>"]
    assert "ids: 1000 1000 100 100" in lines
    assert [line for line in lines if line.startswith("group")] == ["group: 7", "group: 8"]
    assert "cwd: /tmp" in lines
    assert "hostname: a-guest" in lines
    assert "nofile: 100 200" in lines
    assert "core: 0 -1" in lines
    assert "session: 1" in lines
    assert "/proc/sys/net/core/somaxconn: 1234" in lines
    assert "/etc/resolv.conf: nameserver 10.0.2.3" in lines
    assert [line for line in lines if line.startswith(("fd:", "blocked:"))] == [
        *("fd: 0", "fd: 1", "fd: 2"),
    ]
    mounts = {line.split()[2]: line.split()[3] for line in lines if "/proc/mounts: " in line}
    assert (
        mounts.items()
        >= {
            "/proc": "proc",
            "/sys": "sysfs",
            "/dev": "devtmpfs",
            "/dev/pts": "devpts",
            "/dev/shm": "tmpfs",
            "/run": "tmpfs",
            "/tmp": "tmpfs",
        }.items()
    )
    assert "eth0\t00000000\t0202000A" in "\n".join(lines)  # the default route


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Network.USER, ()),
        # It answers to the address that it gives.
        pytest.param(Network.PASST, (LEASE,), marks=NEEDS_PASST),
        # One that is not what DHCP gives is not kept.
        (Network.USER, ("ukl.lease=10.0.2.77/16",)),
    ],
)
def test_an_address_comes_by_dhcp(start: Start, network: Network, words: tuple[str, ...]) -> None:
    vm = Vm("guest", network=network, cmdline=words)
    machine = start(entries=conf(argv=("h", "interfaces")), vm=vm)
    assert end(machine) == Outcome(Kind.EXITED, 0)
    lines = console(machine)
    assert {"lo: up 1", "lo: address 127.0.0.1", "eth0: up 1"} <= set(lines)
    assert {"eth0: address 10.0.2.15", "eth0: mask 255.255.255.0"} <= set(lines)
    event = machine.wait_event(0, event="network")
    assert event is not None
    assert (event["address"], event["how"]) == ("10.0.2.15/24", "dhcp")


def test_a_static_address_needs_no_server(start: Start) -> None:
    static = Static(IPv4Interface("10.0.2.77/16"), IPv4Address("10.0.2.2"))
    machine = start(
        entries=conf(
            argv=("h", "interfaces"),
            address=static,
            dns=(IPv4Address("9.9.9.9"),),
            jobs=(helper("file", "/etc/resolv.conf"),),
        )
    )
    assert end(machine) == Outcome(Kind.EXITED, 0)
    lines = set(console(machine))
    assert {"eth0: address 10.0.2.77", "eth0: mask 255.255.0.0"} <= lines
    assert "/etc/resolv.conf: nameserver 9.9.9.9" in lines


def test_the_command_line_overrides_the_image(start: Start) -> None:
    vm = Vm("guest", cmdline=("ukl.ip=10.0.2.99/24", 'ukl.env="X=a b"', "ukl.arg=state"))
    machine = start(entries=conf(argv=("h",)), vm=vm)
    assert end(machine) == Outcome(Kind.EXITED, 0)
    assert "env: <X=a b>" in console(machine)
    event = machine.wait_event(0, event="network")
    assert event is not None
    assert event["address"] == "10.0.2.99/24"


@pytest.mark.parametrize("network", [True, False])
def test_the_application_starts_without_an_address(start: Start, network: bool) -> None:
    # With a network, but nobody in it who answers.
    extra = ("-netdev", "hubport,id=h,hubid=0", "-device", "virtio-net-pci,netdev=h,romfile=")
    vm = Vm("guest", network=Network.NONE, extra=extra if network else ())
    machine = start(entries=conf(argv=("h", "exit", "3"), dhcp_wait_s=1), vm=vm)
    assert end(machine) == Outcome(Kind.EXITED, 3)
    what = "dhcp" if network else "interface"
    assert machine.wait_event(0, event="warning", what=what) is not None


@pytest.mark.parametrize(
    ("network", "words"),
    [(Network.USER, ()), pytest.param(Network.PASST, (LEASE,), marks=NEEDS_PASST)],
)
def test_datagrams_come_and_go_by_a_forwarded_port(
    start: Start, network: Network, words: tuple[str, ...]
) -> None:
    forward = Forward(0, 5555, Protocol.UDP)
    vm = Vm("guest", network=network, cmdline=words, forwards=(forward,))
    machine = start(entries=conf(argv=("h", "serve-udp", "5555")), vm=vm)
    assert machine.wait_event(BOOT_S, event="started", job="app") is not None
    with contextlib.ExitStack() as clients:
        made = []
        for number in range(3):
            client = clients.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            client.connect(("127.0.0.1", machine.host_port(5555, Protocol.UDP)))
            client.settimeout(0.5)
            made.append((client, b"%d" % number * 1000))

        def answered() -> bool:
            # One that came before it was listened for is lost.
            for client, text in made:
                client.send(text)
            with contextlib.suppress(OSError):
                return [client.recv(2000) for client, _ in made] == [text for _, text in made]
            return False

        wait_for(answered, "each one's own datagram")
        made[0][0].send(b"")
    assert end(machine) == Outcome(Kind.EXITED, 0)


def test_a_server_may_speak_first(start: Start) -> None:
    """By the network that a guest has by default; see docs/ukl-run.md for others."""
    assert cli.parser().parse_args([]).network == Vm("guest").network
    vm = Vm("guest", forwards=(Forward(0, 5555),))
    machine = start(entries=conf(argv=("h", "greet", "5555")), vm=vm)
    assert machine.ask(5555, b"", b"hello\n", deadline_s=BOOT_S) == b"hello\n"


def test_a_watchdog_ends_a_guest_that_hangs_and_no_other(
    start: Start, built_for_tests: Path
) -> None:
    debugfs = "/sys/kernel/debug"
    machine = start(
        kernel=built_for_tests / "tcp_server.bzImage",
        entries=conf(
            argv=("h", "append", f"{debugfs}/provoke-crash/DIRECT", "HARDLOCKUP"),
            mounts=(Mount("debugfs", debugfs, "debugfs"),),
            # Longer than the watchdog waits.
            jobs=(helper("sleep", "15"), helper("say", "fed")),
        ),
        vm=Vm("guest", watchdog=True, cmdline=("ukl.watchdog=10",)),
    )
    assert end(machine) == Outcome(Kind.HANG, why="its watchdog is not fed any more")
    assert said(machine) == ["fed"]
    assert "RIP=" in machine.registers


def test_a_watchdog_that_is_not_there_is_a_warning(start: Start) -> None:
    machine = start(
        entries=conf(argv=("h", "exit", "3")), vm=Vm("guest", cmdline=("ukl.watchdog=10",))
    )
    assert end(machine) == Outcome(Kind.EXITED, 3)
    warning = machine.wait_event(0, event="warning", what="watchdog")
    assert warning is not None
    assert warning["errno"] == 2


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_reaches_the_host(start: Start, code: int) -> None:
    machine = start(entries=conf(argv=("h", "exit", str(code))))
    assert end(machine) == Outcome(Kind.EXITED, code)


@pytest.mark.parametrize("number", [6, 9, 11, 15])
def test_a_fatal_signal_reaches_the_host(start: Start, number: int) -> None:
    machine = start(entries=conf(argv=("h", "signal", str(number))))
    assert end(machine) == Outcome(Kind.SIGNALED, number)


def test_a_missing_application_is_reported(start: Start) -> None:
    machine = start(entries=conf(app="/no/such"))
    outcome = end(machine)
    assert (outcome.kind, outcome.code, outcome.exit_status) == (Kind.NOT_STARTED, 2, 127)
    assert "init: cannot start /no/such: exec failed (errno 2)" in console(machine)


def test_a_report_stays_whole_however_long_a_path_is(start: Start) -> None:
    # Each byte becomes six of JSON; a line that is cut in the middle is none for the host.
    outcome = end(start(entries=conf(app="/\xfc" * 300)))
    assert (outcome.kind, outcome.code, outcome.exit_status) == (Kind.NOT_STARTED, 2, 127)


def test_only_who_may_execute_the_file_starts_it(start: Start, helper: Path) -> None:
    private = cpio.file("/private", helper.read_bytes(), mode=0o700)
    machine = start(entries=(*conf(app="/private", uid=1000), private))
    outcome = end(machine)
    assert (outcome.kind, outcome.code, outcome.exit_status) == (Kind.NOT_STARTED, 13, 126)


def test_a_mistake_in_the_configuration_is_reported_with_its_line(start: Start) -> None:
    machine = start(entries=(cpio.file(INIT_CONF, "app=/helper\nlimit=1\n"),))
    outcome = end(machine)
    assert outcome.kind is Kind.NOT_STARTED
    assert f"{INIT_CONF} line 2: cannot use 'limit=1'" in outcome.why


def test_a_driver_that_cannot_be_loaded_keeps_the_application_from_starting(start: Start) -> None:
    machine = start(entries=conf(modules=("/none.ko",), argv=("h", "say", "started")))
    outcome = end(machine)
    assert outcome.kind is Kind.NOT_STARTED
    assert "module cannot load the module /none.ko (errno 2)" in outcome.why
    assert said(machine) == []


def test_the_application_answers_and_ends_by_the_power_button(start: Start) -> None:
    vm = Vm("guest", forwards=(Forward(0, 5555),))
    machine = start(entries=conf(argv=("h", "serve", "5555")), vm=vm)
    assert machine.ask(5555, b"hello\n", b"hello\n", deadline_s=BOOT_S) == b"hello\n"
    assert machine.stop() == Outcome(Kind.EXITED, 0)
    assert "asked to end" in console(machine)
    assert machine.wait_event(0, event="stopping", why="power button") is not None


def test_an_application_without_a_handler_dies_of_sigterm(start: Start) -> None:
    machine = start(entries=conf(argv=("h", "sleep", "1000")))
    assert machine.wait_event(BOOT_S, event="started", job="app") is not None
    assert machine.stop() == Outcome(Kind.SIGNALED, 15)


def test_a_stubborn_application_is_killed_in_time(start: Start) -> None:
    machine = start(entries=conf(argv=("h", "stubborn"), stop_wait_s=1))
    assert machine.wait_event(BOOT_S, event="started", job="app") is not None
    while not said(machine):
        assert machine.wait(0.05) is None
    assert machine.stop() == Outcome(Kind.SIGNALED, 9)
    assert "init: app did not end in 1 s after SIGTERM" in console(machine)


def test_sigterm_to_the_init_stops_the_machine(start: Start) -> None:
    jobs = (helper("kill", "1", "15", mode=Mode.BESIDE),)
    machine = start(entries=conf(argv=("h", "sleep", "1000"), jobs=jobs))
    assert end(machine) == Outcome(Kind.SIGNALED, 15)
    assert machine.wait_event(0, event="stopping", why="SIGTERM") is not None


def test_jobs_run_in_order_around_the_application(start: Start) -> None:
    jobs = (
        helper("say", "first"),
        helper("say", "last", mode=Mode.AFTER),
        helper("sleep", "1000", mode=Mode.BESIDE),
        helper("say", "second"),
        helper("say", "very last", mode=Mode.AFTER),
    )
    machine = start(entries=conf(argv=("h", "say", "application"), jobs=jobs))
    assert end(machine) == Outcome(Kind.EXITED, 0)
    assert said(machine) == ["first", "second", "application", "last", "very last"]
    # The one beside was told to end, after all the others.
    assert machine.events[-2]["job"] == "job2"
    assert machine.events[-2]["signal"] == 15


def test_the_machine_can_run_for_its_jobs_alone(start: Start) -> None:
    jobs = (
        helper("say", "one"),
        helper("say", "two", mode=Mode.BESIDE),
        helper("state", uid=7, gid=8),
    )
    machine = start(app="", jobs=jobs)
    assert end(machine) == Outcome(Kind.EXITED, 0)
    assert set(said(machine)) == {"one", "two"}
    assert "ids: 7 7 8 8" in console(machine)


def test_a_job_that_fails_keeps_the_application_from_starting(start: Start) -> None:
    jobs = (helper("exit", "1", name="setup"), helper("say", "never"))
    machine = start(entries=conf(argv=("h", "say", "never"), jobs=jobs))
    assert end(machine) == Outcome(Kind.NOT_STARTED, 0, "a job failed")
    assert said(machine) == []
    assert machine.wait_event(0, event="exited", job="setup", code=1) is not None


def test_a_job_may_fail_if_that_was_said(start: Start) -> None:
    jobs = (
        helper("exit", "1", any_end=True),
        helper("signal", "11", any_end=True),
        Job(("/no/such",), any_end=True),
    )
    machine = start(entries=conf(argv=("h", "say", "application"), jobs=jobs))
    assert end(machine) == Outcome(Kind.EXITED, 0)
    assert said(machine) == ["application"]


def test_a_job_that_takes_too_long_is_killed(start: Start) -> None:
    jobs = (helper("stubborn", timeout_s=1, any_end=True, name="slow"),)
    machine = start(entries=conf(argv=("h", "exit", "4"), jobs=jobs))
    assert end(machine) == Outcome(Kind.EXITED, 4)
    assert machine.wait_event(0, event="timeout", job="slow") is not None
    assert machine.wait_event(0, event="exited", job="slow", signal=9) is not None


def test_orphans_are_reaped(start: Start) -> None:
    jobs = (helper("orphans", "200"), helper("zombies"))
    machine = start(app="", jobs=jobs)
    assert end(machine) == Outcome(Kind.EXITED, 0)
    assert "zombies: 0" in console(machine)


def test_everything_that_still_runs_is_ended(start: Start) -> None:
    jobs = tuple(helper("stubborn", mode=Mode.BESIDE, any_end=True) for _ in range(20))
    machine = start(entries=conf(argv=("h", "sleep", "1000"), jobs=jobs, stop_wait_s=1))
    # Before it says so, one of these would end by SIGTERM.
    deadline = time.monotonic() + BOOT_S
    while said(machine) != ["stubborn"] * 20:
        assert time.monotonic() < deadline, console(machine)
        assert machine.wait(0.05) is None
    assert machine.stop() == Outcome(Kind.SIGNALED, 15)
    killed = [event for event in machine.events if event.get("signal") == 9]
    assert len(killed) == 20


def test_five_hundred_jobs_are_reported_one_by_one(start: Start) -> None:
    jobs = tuple(helper("exit", str(number % 256), any_end=True) for number in range(500))
    machine = start(app="", jobs=jobs)
    assert end(machine) == Outcome(Kind.EXITED, 0)
    codes = [event["code"] for event in machine.events if event["event"] == "exited"]
    assert codes == [number % 256 for number in range(500)]


def test_a_kernel_without_an_init_panics(start: Start) -> None:
    machine = start(vm=Vm("guest", cmdline=("rdinit=/no/such", "init=/no/such")))
    outcome = end(machine)
    assert outcome.kind is Kind.PANIC
    assert outcome.exit_status == 240


def test_a_panic_before_any_driver_is_a_panic(start: Start) -> None:
    # The first of Linux's own sockets dies in an initcall: it is over before pvpanic.
    machine = start(vm=Vm("guest", cmdline=("initcall_blacklist=sock_init",)))
    assert end(machine).kind is Kind.PANIC
    assert machine.qemu_status == 0, "it came by pvpanic; an earlier one is wanted"


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("parameters", [(), ("pti=on",)])
def test_the_init_runs_on_every_kind_of_machine(
    start: Start, cpus: int, parameters: tuple[str, ...]
) -> None:
    machine = start(
        entries=conf(argv=("h", "exit", "5")), vm=Vm("guest", cpus=cpus, cmdline=parameters)
    )
    assert end(machine) == Outcome(Kind.EXITED, 5)


def test_a_file_system_is_mounted_as_it_was_asked(start: Start) -> None:
    machine = start(
        entries=conf(
            argv=("h", "file", "/proc/mounts"),
            mounts=(Mount("none", "/data", "tmpfs", "ro,size=4096"),),
        )
    )
    assert end(machine) == Outcome(Kind.EXITED, 0)
    assert "/proc/mounts: none /data tmpfs ro,nosuid,nodev,relatime,size=4k 0 0" in console(machine)


NO_RNG = ("random.trust_cpu=off", "random.trust_bootloader=off")


def test_random_numbers_come_from_the_host(start: Start) -> None:
    vm = Vm("guest", cpu="max,-rdrand,-rdseed", cmdline=NO_RNG)
    machine = start(entries=conf(argv=("h", "exit", "6")), vm=vm)
    assert end(machine) == Outcome(Kind.EXITED, 6)
    assert machine.wait_event(0, event="warning") is None
    started = machine.wait_event(0, event="started", job="app")
    network = machine.wait_event(0, event="network")
    assert started is not None
    assert network is not None
    waited = int(str(started["uptime_ms"])) - int(str(network["uptime_ms"]))
    assert waited < 2000


def test_the_application_starts_without_random_numbers(start: Start) -> None:
    no_driver = "initcall_blacklist=virtio_rng_driver_init"
    vm = Vm("guest", cpu="max,-rdrand,-rdseed", cmdline=(*NO_RNG, no_driver))
    machine = start(entries=conf(argv=("h", "exit", "6"), entropy_wait_s=1), vm=vm)
    assert end(machine) == Outcome(Kind.EXITED, 6)
    assert machine.wait_event(0, event="warning", what="entropy") is not None


def test_a_host_without_entropy_keeps_nobody_waiting(start: Start) -> None:
    # One byte an hour: the device is there, and a read of it never returns.
    starved = ("virtio-rng-device.max-bytes=1", "virtio-rng-device.period=3600000")
    extra = tuple(word for value in starved for word in ("-global", value))
    vm = Vm("guest", cpu="max,-rdrand,-rdseed", cmdline=NO_RNG, extra=extra)
    machine = start(entries=conf(argv=("h", "exit", "6"), entropy_wait_s=1), vm=vm)
    assert end(machine) == Outcome(Kind.EXITED, 6)
    assert machine.wait_event(0, event="warning", what="entropy") is not None


def test_a_file_system_that_cannot_be_mounted_keeps_the_application_from_starting(
    start: Start,
) -> None:
    machine = start(entries=conf(mounts=(Mount("none", "/data", "no-such-type"),)))
    outcome = end(machine)
    assert outcome.kind is Kind.NOT_STARTED
    assert "cannot mount none on /data as no-such-type (errno 19)" in outcome.why
