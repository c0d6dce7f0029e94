# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: what tests of other people get."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot.test_first_minutes import pattern, steps
from tests.project import ROOT

pytestmark = pytest.mark.boot

ENOUGH_S = 300.0
COMMAND = "python -m pytest -p ukl_build.testing"
IMPORTS = """\
import socket
import pytest
from qemu.qmp import ExecuteError
from ukl_build.run.outcome import Kind, Outcome
"""

Pytest = Callable[..., tuple[int, str]]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Return all of the environment that pytest sees."""
    return {
        **{"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        **{"XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_STATE_HOME": str(tmp_path / "state")},
    }


def command(folder: Path, env: dict[str, str], *words: str) -> tuple[int, str]:
    """Run pytest as is documented; return its exit status and what it says."""
    done = subprocess.run(
        [sys.executable, *COMMAND.split()[1:], *words],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ENOUGH_S,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def run_pytest(env: dict[str, str], built: Path, tmp_path: Path) -> Pytest:
    """Return a function that runs tests; they have the echo server as their image."""
    (tmp_path / "build").symlink_to(built.parent)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nukl = {built.name}\n")

    def run(text: str, *words: str) -> tuple[int, str]:
        (tmp_path / "test_it.py").write_text(IMPORTS + text)
        return command(tmp_path, env, *words)

    return run


def kept(place: Path, test: str) -> list[Path]:
    """Return the folders with what is known of the machines of a test."""
    return sorted((place / f"test_it.py-{test}").iterdir())


@pytest.mark.parametrize("name", ["README.md", "docs/testing.md"])
def test_what_is_documented(
    env: dict[str, str], redis_image: Path, tmp_path: Path, name: str
) -> None:
    text = (ROOT / name).read_text()
    assert f" ./bootstrap {COMMAND} " in text
    (tmp_path / "build").symlink_to(redis_image.parent)
    (tmp_path / "tests").mkdir()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "tests" / "test_kept.py").write_text(IMPORTS + code)
    status, out = command(tmp_path, env, "tests/test_kept.py")
    assert status == 0, out
    for typed, shown in steps(text):
        if COMMAND in typed:
            # The line is as wide as the time in it lets it be.
            said, wanted = (re.sub("=+", "=", one) for one in (out, pattern(shown)))
            assert re.fullmatch(wanted, said), out


def test_a_second_session_finds_the_snapshot(run_pytest: Pytest, tmp_path: Path) -> None:
    test = """
@pytest.mark.parametrize("number", range(2))
def test_it(unikernel, number):
    assert unikernel.warm
    assert unikernel.console.count("Linux version") == 1
    with socket.create_connection(unikernel.address, 30) as client:
        client.sendall(b"hello\\n")
        assert client.recv(100) == b"hello\\n"

def test_two(start_unikernel):
    one, two = start_unikernel(), start_unikernel("tcp_server", "-m", "300")
    assert one.port != two.port == two.port_of(5555)
    assert two.qmp("query-memory-size-summary")["base-memory"] == 300 << 20
    with pytest.raises(ExecuteError):
        one.qmp("no-such-command")
    assert one.stop() == Outcome(Kind.EXITED, 0)
    two.machine.signal(9)
    assert two.wait(30) == Outcome(Kind.SIGNALED, 9)
"""
    places = []
    for _ in range(2):
        status, said = run_pytest(test)
        assert (status, " 3 passed in " in said) == (0, True), said
        found = (tmp_path / "cache" / "ukl-build" / "snapshots").iterdir()
        places.append({path.name: path.stat().st_ino for path in found})
    assert len(places[0]) == 2
    assert places[0] == places[1]
    assert not (tmp_path / "ukl-artifacts").exists()


def test_what_is_known_of_a_failure_is_kept(run_pytest: Pytest, tmp_path: Path) -> None:
    test = """
def test_wrong(unikernel):
    assert False

def test_dies(unikernel):
    unikernel.machine.signal(11)
    assert unikernel.machine.wait(30) is not None

def test_boots(start_unikernel):
    one = start_unikernel("tcp_server", warm=False)
    assert not one.warm
    one.wait_console("no such line", 0.1)
"""
    status, said = run_pytest(test)
    assert (status, " 2 failed, 1 passed, 1 error in " in said) == (1, True), said
    place = tmp_path / "ukl-artifacts"
    (wrong,) = kept(place, "test_wrong")
    assert wrong.name == "1-tcp_server"
    # The instruction pointer of the first processor.
    assert re.search(
        r"^RIP=ffffffff[0-9a-f]{8}|^RIP=[0-9a-f]{16}", (wrong / "registers.txt").read_text(), re.M
    )
    assert "Run /init as init process" in (wrong / "console.log").read_text()
    told = json.loads((wrong / "machine.json").read_text())
    assert (told["warm"], told["outcome"]) == (True, None)
    assert " -incoming " not in told["qemu"]
    assert f"end of the console of tcp_server; all is in {wrong}" in said
    (dies,) = kept(place, "test_dies")
    assert not (dies / "registers.txt").exists()
    assert "tcp_server has ended: the application was killed by SIGSEGV" in said
    assert (dies / "report.txt").read_text().startswith("SIGSEGV")
    assert "crash of tcp_server" in said
    (boots,) = kept(place, "test_boots")
    assert "the console of tcp_server has no 'no such line'" in said
    assert json.loads((boots / "machine.json").read_text())["warm"] is False


def test_all_boot(run_pytest: Pytest, tmp_path: Path) -> None:
    test = """
def test_it(unikernel):
    assert not unikernel.warm

@pytest.mark.ukl("tcp_server", "--append", "rdinit=/nothing")
def test_panics(unikernel):
    pass
"""
    status, said = run_pytest(test, "--ukl-cold", "--ukl-artifacts=kept here")
    assert (status, " 1 passed, 1 error in " in said) == (1, True), said
    assert "error[guest-panic]: the guest's kernel panicked: " in said
    (panics,) = kept(tmp_path / "kept here", "test_panics")
    assert "Kernel panic" in (panics / "console.log").read_text()
    assert not (tmp_path / "cache" / "ukl-build" / "snapshots").exists()


def test_mistakes_are_told(run_pytest: Pytest) -> None:
    test = """
@pytest.mark.ukl("tcp_serve")
def test_no_image(unikernel):
    pass

@pytest.mark.ukl("tcp_server", "--no-such-option")
def test_no_option(unikernel):
    pass

@pytest.mark.ukl("tcp_server", "--detach")
def test_no_background(unikernel):
    pass
"""
    status, said = run_pytest(test)
    assert (status, " 3 errors in " in said) == (1, True), said
    assert "error[image-missing]: there is no image of 'tcp_serve'" in said
    assert "error[run-invalid]: ukl-run: error: unrecognized arguments: --no-such-option" in said
    assert "error[run-invalid]: --detach is not for the machine of a test" in said


def test_without_a_name(run_pytest: Pytest, tmp_path: Path) -> None:
    test = """
def test_it(unikernel):
    pass
"""
    status, said = run_pytest(test, "-o", "ukl=")
    assert (status, " 1 error in " in said) == (1, True), said
    assert "error[run-invalid]: nothing says which unikernel the test is to have" in said
