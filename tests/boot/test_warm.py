# SPDX-License-Identifier: Apache-2.0
"""Warm starts: machines that go on from where their application first answered."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot.conftest import Start, console, image_folder
from tests.boot.test_init import conf
from tests.project import ROOT
from tests.unit.test_run_lifecycle import MOUNT, NEEDS_MOUNT
from tests.waiting import wait_for
from ukl_build import files
from ukl_build.image import Port, Smoke
from ukl_build.run.machine import Machine, Saved
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Forward, Vm

pytestmark = pytest.mark.boot

ENOUGH_S = 120.0
PORT = 5555


@dataclass(frozen=True)
class Place:
    """Where snapshots and machines of a test are."""

    root: Path
    image: Path

    @property
    def snapshots(self) -> list[Path]:
        """The folders of all snapshots."""
        return list((self.root / "cache" / "ukl-build" / "snapshots").glob("*"))

    @property
    def env(self) -> dict[str, str]:
        """All of the environment that ukl sees."""
        return {
            **{"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(self.root / "cache")},
            **{"XDG_STATE_HOME": str(self.root / "state")},
        }

    def ukl(self, *words: str | Path) -> tuple[int, str, str]:
        """Run ``ukl`` to its end; return exit status, standard output and standard error."""
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / "ukl", *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=ENOUGH_S,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def restore(self, port: int) -> tuple[str, int]:
        """Go on in the background; return the machine's name and the host's port."""
        words = ("--detach", "--json", "-p", f"0:{port}")
        status, out, err = self.ukl("restore", self.image, *words)
        assert status == 0, err
        record = json.loads(out)
        return record["name"], record["ports"][0]["host"]


def asked(port: int, question: bytes, ends: bytes = b"\n") -> bytes:
    """Ask a guest a question, and return its answer."""
    with socket.create_connection(("127.0.0.1", port), ENOUGH_S) as client:
        client.sendall(question)
        answer = b""
        while not answer.endswith(ends):
            data = client.recv(4096)
            assert data, answer
            answer += data
        return answer


@contextmanager
def ending(place: Place) -> Iterator[Place]:
    """End all machines of a place afterwards."""
    try:
        yield place
    finally:
        if left := place.ukl("ps", "-q")[1].split():
            place.ukl("kill", *left)


def made(root: Path, built: Path, expect: str) -> Place:
    """Make the image of an echo server that is expected to answer to hello."""
    image = image_folder(
        root,
        built / "tcp_server.bzImage",
        cmdline=("console=ttyS0", "panic=-1"),
        ports=(Port(guest=PORT),),
        smoke=Smoke(port=PORT, send="hello\n", expect=expect, deadline_s=20),
    )
    return Place(root, image)


@pytest.fixture(scope="module")
def echo(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Return an echo server of which there is a snapshot."""
    root = tmp_path_factory.mktemp("warm")
    with ending(made(root, built, "hello\n")) as place:
        status, out, err = place.ukl("snapshot", place.image)
        assert status == 0, err
        assert "app answered after " in err
        (folder,) = place.snapshots
        assert out == f"{folder}\n"
        # It has all of the guest's memory.
        assert folder.stat().st_mode & 0o777 == 0o700
        yield place
    assert place.snapshots == [folder]


def test_two_go_on_with_the_right_time(echo: Place, helper: Path) -> None:
    time.sleep(2)  # so much is the clock that was saved behind
    with ThreadPoolExecutor() as pool:
        machines = list(pool.map(echo.restore, [PORT, PORT]))
    for name, port in machines:
        assert asked(port, b"a line\n") == b"a line\n"
        before = time.time()
        status, out, err = echo.ukl("exec", "--put", f"{helper}:/helper", name, "/helper", "time")
        after = time.time()
        assert status == 0, err
        assert before - 0.5 < float(out) < after + 0.5
        # All that was said before is there.
        said = echo.ukl("logs", name)[1]
        assert "Run /init as init process" in said
        # The kernel has seen by itself, once, that it is another machine now.
        assert said.count("random: crng reseeded due to virtual machine fork") == 1
    names = [name for name, _ in machines]
    assert echo.ukl("stop", *names)[0] == 0
    for name in names:
        assert echo.ukl("wait", name)[0] == 0


def test_it_passes_the_smoke_test(echo: Place) -> None:
    status, out, err = echo.ukl("restore", echo.image, "--smoke")
    assert (status, out) == (0, "sent:     'hello\\n'\nreceived: 'hello\\n'\n"), err


def test_another_machine_has_none(echo: Place) -> None:
    status, _, err = echo.ukl("restore", echo.image, "-m", "300")
    assert (status, "error[snapshot-missing]" in err) == (2, True), err


def test_one_that_was_cut_is_refused_with_qemus_words(echo: Place, tmp_path: Path) -> None:
    (folder,) = echo.snapshots
    state = folder / "state"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    try:
        status, _, err = echo.ukl("restore", echo.image)
    finally:
        state.write_bytes(whole)
    assert status == 3
    assert "error[snapshot-failed]: QEMU cannot go on from the state of app" in err
    assert "load of migration failed" in err


def test_a_wrong_answer_leaves_none(built: Path, tmp_path: Path) -> None:
    place = made(tmp_path, built, "goodbye\n")
    status, _, err = place.ukl("snapshot", place.image)
    assert (status, "error[guest-wrong-answer]" in err) == (4, True), err
    assert place.snapshots == []


def test_each_draws_random_numbers_of_its_own(start: Start, tmp_path: Path) -> None:
    """From when it was told that it goes on; what it draws before it is told may be the same."""

    def drawn(machine: Machine) -> list[str]:
        return [line for line in console(machine) if line.startswith("drew ")]

    first = start(entries=conf(argv=("h", "draw")))
    wait_for(lambda: len(drawn(first)) > 10, "some numbers", ENOUGH_S)
    first.save(tmp_path / "state")
    saved = Saved(tmp_path / "state", first.events)
    found = []
    for number in range(2):
        log = tmp_path / f"console-{number}.log"
        with Machine(first.vm, console=log, saved=saved) as machine:
            machine.start()
            wait_for(lambda: len(drawn(machine)) > 60, "more numbers", ENOUGH_S)
            found.append(drawn(machine)[20:60])
    assert not set(found[0]) & set(found[1])


@NEEDS_MOUNT
def test_a_full_disk_is_named_and_nothing_is_left(built: Path, tmp_path: Path) -> None:
    place = made(tmp_path, built, "hello\n")
    (tmp_path / "cache").mkdir()
    words = ("-m", "ukl_build.ukl", "snapshot", str(place.image))
    done = subprocess.run(
        [
            *(*MOUNT, "sh", "-c"),
            # As much as the kernel alone takes of the guest's memory.
            f"mount -t tmpfs -o size=6m tmpfs cache && {{ {shlex.join([sys.executable, *words])};"
            " echo status $?; find cache -type f; }",
        ],
        cwd=tmp_path,
        env=place.env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=ENOUGH_S,
        check=False,
    )
    assert done.stdout == "status 3\ncache/ukl-build/lock\n", done.stderr
    assert "No space left on device" in done.stderr
    assert f"hint: is there room for it in {tmp_path}/cache/ukl-build/" in done.stderr


@pytest.mark.parametrize("still_open", [False, True])
def test_connections_that_lead_nowhere_are_counted(
    start: Start, tmp_path: Path, still_open: bool
) -> None:
    """Those that are being closed are waited for."""
    vm = Vm("app", forwards=(Forward(0, PORT),))
    machine: Machine = start(vm=vm)
    assert machine.ask(PORT, b"hello\n", b"hello\n", deadline_s=ENOUGH_S)
    with socket.create_connection(("127.0.0.1", machine.host_port(PORT)), ENOUGH_S) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"hello\n"
        closing = threading.Timer(0.5, client.close)
        if not still_open:
            closing.start()
        assert machine.save(tmp_path / "state") == still_open
    saved = Saved(tmp_path / "state", machine.events, machine.console.read_bytes())
    with Machine(machine.vm, console=tmp_path / "console.log", saved=saved) as other:
        other.start()
        assert other.ask(PORT, b"again\n", b"again\n", deadline_s=ENOUGH_S)
        assert other.stop() in (Outcome(Kind.EXITED, 0), Outcome(Kind.SIGNALED, 15))


def test_what_it_writes_to_its_disk_is_gone_with_the_machine(
    redis_image: Path, tmp_path: Path
) -> None:
    place = Place(tmp_path, redis_image)
    status, _, err = place.ukl("snapshot", redis_image)
    assert status == 0, err
    (folder,) = place.snapshots
    disk = files.sha256(folder / "disks" / "0")
    with ending(place):
        for _ in range(2):
            name, port = place.restore(6379)
            assert asked(port, b"GET k\r\n") == b"$-1\r\n"
            assert asked(port, b"SET k v\r\n") == b"+OK\r\n"
            assert asked(port, b"SAVE\r\n") == b"+OK\r\n"
            assert place.ukl("stop", name)[0] == 0
    assert files.sha256(folder / "disks" / "0") == disk
    # Nor was there one of somebody's.
    assert not (tmp_path / "state" / "ukl-build" / "disks").exists()
