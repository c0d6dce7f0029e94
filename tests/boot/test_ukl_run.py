# SPDX-License-Identifier: Apache-2.0
"""ukl-run with a real image: the kernel with tcp_server in it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.boot.conftest import image_folder
from tests.networks import NEEDS_BACKLOG, NEEDS_PASST, NEEDS_TAP
from tests.project import ROOT
from tests.waiting import wait_for
from ukl_build import image
from ukl_build.image import Init, Port, Smoke

pytestmark = pytest.mark.boot

ENOUGH_S = 120.0


@pytest.fixture
def folder(kernel: Path, tmp_path: Path) -> Path:
    """Return an image's folder as the build leaves it."""
    return image_folder(
        tmp_path,
        kernel,
        cmdline=("console=ttyS0", "panic=-1"),
        ports=(Port(guest=5555),),
        smoke=Smoke(port=5555, send="hello\n", expect="hello\n", deadline_s=60),
    )


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of our programs, with a state of the test's own."""
    return {"PATH": os.environ["PATH"], "XDG_STATE_HOME": str(folder.parent / "state")}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start ukl-run on an image."""
    return subprocess.Popen(
        [sys.executable, ROOT / "tools" / "ukl-run", "--qemu", str(folder), *words],
        cwd=ROOT,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    """Run ukl-run to its end; return exit status, standard output and standard error."""
    with start(folder, *words) as process:
        out, err = process.communicate(timeout=ENOUGH_S)
    return process.returncode, out, err


def test_the_smoke_test_shows_the_echo(folder: Path) -> None:
    status, out, err = run(folder, "--smoke")
    assert (status, out) == (0, "sent:     'hello\\n'\nreceived: 'hello\\n'\n"), err
    assert "the application exited with status 0" in err


def test_a_wrong_answer_fails_the_smoke_test(folder: Path) -> None:
    described = image.load(folder / "image.json")
    wrong = Smoke(port=5555, send="hello\n", expect="goodbye\n", deadline_s=20)
    image.store(described.model_copy(update={"smoke": wrong}), folder / "image.json")
    status, out, err = run(folder, "--smoke")
    assert (status, out) == (4, "")
    assert "the guest answered b'hello\\n' where b'goodbye\\n' was expected" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_asked_to_stop(folder: Path, number: signal.Signals) -> None:
    with start(folder, "-p", "0:5555") as process:
        assert process.stderr is not None
        said = ""
        while "answers on port" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        port = re.search(r"127\.0\.0\.1:(\d+) leads to", said)
        assert port is not None
        with socket.create_connection(("127.0.0.1", int(port.group(1))), 10) as client:
            client.sendall(b"a line\n")
            assert client.recv(100) == b"a line\n"
        process.send_signal(number)
        assert process.stdout is not None
        console, err = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0, err
    assert "stopping: power button" in console
    assert "the application exited with status 0" in err


@contextmanager
def descriptors(soft: int) -> Iterator[None]:
    """Let this process, and what it starts, have so many descriptors; 1,024 is what is usual."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.parametrize(
    "network",
    [
        pytest.param("user", marks=NEEDS_BACKLOG),
        pytest.param("passt", marks=NEEDS_PASST),
        pytest.param("tap", marks=NEEDS_TAP),
    ],
)
def test_a_thousand_connections_at_once_are_answered(
    redis_image: Path, tmp_path: Path, network: str
) -> None:
    """All stay open, and all are answered again."""
    folder = tmp_path / "redis"
    folder.symlink_to(redis_image)
    wanted = 1000

    async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"PING\r\n")
        return await reader.readline()

    async def talk(port: int) -> list[bytes]:
        async with asyncio.timeout(ENOUGH_S):
            opened = (asyncio.open_connection("127.0.0.1", port) for _ in range(wanted))
            streams = await asyncio.gather(*opened)
            return [
                answer
                for _ in range(2)
                for answer in await asyncio.gather(*(ping(*pair) for pair in streams))
            ]

    words = ("--network", network, "-p", "0:6379", "-q", "--detach", "--json")
    with descriptors(1024), start(folder, *words) as process:
        out, err = process.communicate(timeout=ENOUGH_S)
        assert process.returncode == 0, err
        record = json.loads(out)
    port = record["ports"][0]["host"]

    def answers() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"PING\r\n")
            return client.recv(100) == b"+PONG\r\n"
        return False

    try:
        wait_for(answers, "the first answer", ENOUGH_S)
        with descriptors(wanted + 100):
            assert asyncio.run(talk(port)) == [b"+PONG\r\n"] * (2 * wanted)
    finally:
        argv = [sys.executable, ROOT / "tools" / "ukl", "stop", record["name"]]
        subprocess.run(argv, env=environment(folder), check=True, timeout=ENOUGH_S)


def test_arguments_reach_the_application(folder: Path) -> None:
    # tcp_server takes a port, and refuses what is none with status 2 and its usage.
    status, out, _ = run(folder, "--", "not a port")
    assert status == 2
    assert "usage: tcp_server [PORT" in out


def test_an_application_that_is_not_there_ends_as_in_a_shell(folder: Path) -> None:
    status, _, err = run(folder, "--append", "ukl.app=/no/such")
    assert status == 127
    assert "error[guest-not-started]" in err


def test_a_panic_fails_with_its_reason(folder: Path) -> None:
    status, _, err = run(folder, "--append", "rdinit=/no/such")
    assert status == 240
    assert "error[guest-panic]: the guest's kernel panicked: " in err


def test_a_server_that_is_given_too_little_time_is_a_hang(folder: Path) -> None:
    status, _, err = run(folder, "--timeout", "5")
    assert status == 241
    assert "error[guest-hang]" in err


@pytest.mark.parametrize(
    ("args", "status", "text"),
    [
        (("not a port",), 2, "usage: tcp_server [PORT"),
        (("1", "2"), 2, "usage: tcp_server [PORT"),
    ],
)
def test_an_application_that_is_process_1_reports_by_the_console(
    folder: Path, args: tuple[str, ...], status: int, text: str
) -> None:
    described = image.load(folder / "image.json")
    changes = {"init": Init.DIRECT, "smoke": None, "cmdline": ("rdinit=/UKL", "--", "replaced")}
    image.store(described.model_copy(update=changes), folder / "image.json")
    code, out, err = run(folder, "--", *args)
    assert code == status, err
    assert text in out
    assert f"ukl: application exited with status {status}" in out
