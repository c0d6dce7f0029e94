# SPDX-License-Identifier: Apache-2.0
"""A run that is recorded is done again, with its network and its disk, and backwards under gdb."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.boot.ukl_run import command, env, run
from tests.project import ROOT
from tests.waiting import wait_for
from ukl_build.elf.contents import addresses

pytestmark = pytest.mark.boot

ENOUGH_S = 300.0


def both(tmp_path: Path, image: Path, *words: str) -> list[tuple[int, str, bytes]]:
    """Record a run, and do it again; return status, words and console of both."""
    place, found = tmp_path / "recording", []
    for name, how in (
        ("first", ["--qemu", str(image), "--record", str(place), *words]),
        ("again", ["--replay", str(place)]),
    ):
        log = tmp_path / f"{name}.log"
        status, said = run(tmp_path / "state", "--log-file", str(log), *how, enough_s=ENOUGH_S)
        found.append((status, said, log.read_bytes()))
    return found


def test_what_came_over_the_network_and_from_a_disk_comes_again(
    redis_image: Path, tmp_path: Path
) -> None:
    """With the time of day; and nobody listens on a port meanwhile."""
    first, again = both(tmp_path, redis_image, "--network", "user", "--smoke")
    assert first[0] == again[0] == 0, first[1] + again[1]
    assert b"Creating AOF base file" in first[2]  # it has a disk, and finds it empty
    assert first[2] == again[2]
    assert "leads to the guest's" in first[1] and "leads to the guest's" not in again[1]
    assert "the recording ends here" in again[1]
    # The disk of everybody else was not touched.
    assert not list((tmp_path / "state").rglob("*.img"))


def test_a_crash_that_was_found_once_can_be_gone_back_from(
    crash_image: Path, tmp_path: Path
) -> None:
    first, again = both(tmp_path, crash_image, "--network", "none", "--", "null")
    assert first[0] == again[0] == 128 + signal.SIGSEGV, first[1]
    assert first[2] == again[2]
    report = re.compile(r"^SIGSEGV in the application: null\+\S+ at \S+$", re.M)
    assert report.findall(first[1]) == report.findall(again[1]) != []

    place = tmp_path / "recording"
    vmlinux = place / "kernel.vmlinux"
    at = addresses(vmlinux, frozenset({"ukl.main", "force_sig_fault"}))
    log = tmp_path / "said"
    with log.open("w") as said:
        process = subprocess.Popen(
            command("--replay", str(place), "--gdb", "0"),
            cwd=ROOT,
            env=env(tmp_path / "state"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
    try:
        wait_for(lambda: "go back there" in log.read_text(), "ukl-run waits for gdb", ENOUGH_S)
        (target,) = re.findall(r"target remote \S+:\d+", log.read_text())
        script = [
            *("set pagination off", "set confirm off", "set remotetimeout 60", target),
            *("hbreak main", "hbreak crash.c:null", "hbreak force_sig_fault"),
            *("continue", "continue", "continue", 'printf "forward %lx\\n", $pc'),
            *("reverse-continue", 'printf "back %lx\\n", $pc'),
            *("stepi", 'printf "steps %lx\\n", $pc'),
            *("reverse-stepi", 'printf "undone %lx\\n", $pc'),
            *("reverse-continue", 'printf "start %lx\\n", $pc'),
        ]
        (tmp_path / "script").write_text("\n".join(script) + "\n")
        done = subprocess.run(
            ["gdb", "-nx", "-batch", "-x", str(tmp_path / "script"), str(vmlinux)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ENOUGH_S,
            check=False,
        )
        places = dict(re.findall(r"^(\w+) ([0-9a-f]+)$", done.stdout, re.M))
        said_all = done.stdout + done.stderr
        assert places["forward"] == f"{at['force_sig_fault']:x}", said_all
        # To where it was before its fault, over that and back again, and from there to main().
        assert f"breakpoint 2 at 0x{places['back']}" in done.stdout, said_all
        assert places["back"] == places["undone"] != places["steps"], said_all
        assert places["start"] == f"{at['ukl.main']:x}", said_all
    finally:
        process.terminate()
        process.wait(timeout=60)
