# SPDX-License-Identifier: Apache-2.0
"""ukl-run and ukl as a person uses them, in a place of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.guests import assemble
from ukl_build import image
from ukl_build.image import App, Image, Init

PROJECT = Path(__file__).resolve().parents[2]
ENOUGH_S = 60.0


@dataclass(frozen=True)
class Place:
    """A folder with a build/ in it, and a home of its own."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        """All of the environment that ukl-run sees."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT),
            "XDG_STATE_HOME": str(self.root / "state"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "XDG_RUNTIME_DIR": str(self.root / "runtime"),
            "TMPDIR": str(self.root / "tmp"),
        }

    def image(self, end: str, text: str = "", *, name: str = "app", **changes: Any) -> Path:
        """Make an image of a guest that ends in the given way."""
        folder = self.root / "build" / name
        folder.mkdir(parents=True)
        assemble(folder / "app.bzImage", end, text)
        given: dict[str, Any] = {
            **{"name": name, "kernel": "app.bzImage", "cmdline": ("console=ttyS0",)},
            **{"memory_mib": 32, "cpus": 1, "init": Init.DIRECT, "app": App(argv=("/UKL",))},
        }
        image.store(Image(**(given | changes)), folder / "image.json")
        return folder

    @property
    def machines(self) -> Path:
        """The folder of all records."""
        return self.root / "state" / "ukl-build" / "machines"

    def start(self, *words: str, module: str = "ukl_build.run.cli") -> subprocess.Popen[str]:
        """Start ukl-run, or another program of ours."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        """Run ukl-run to its end; return exit status, standard output and standard error."""
        with self.start(*words) as process:
            out, err = process.communicate(timeout=ENOUGH_S)
        if "--detach" not in words:
            assert list((self.root / "tmp").iterdir()) == [], "it left something behind"
        return process.returncode, out, err

    def ukl(self, *words: str) -> tuple[int, str, str]:
        """Run ukl to its end, as :meth:`run`; a machine may go on beside it."""
        with self.start(*words, module="ukl_build.ukl") as process:
            out, err = process.communicate(timeout=ENOUGH_S)
        return process.returncode, out, err


def exited(status: int) -> str:
    """Return what the kernel says when an application that is process 1 ends."""
    return f"hello\nukl: application exited with status {status}\n"


def running(process: subprocess.Popen[str]) -> int:
    """Wait until the guest runs; return QEMU's process id."""
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile
            name, _, rest = (folder / "stat").read_text().rpartition(")")
            if int(rest.split()[1]) == process.pid and "qemu" in name:
                pids.append(int(folder.name))
    assert len(pids) == 1
    return pids[0]


def gone(pid: int) -> bool:
    """Wait until a process is gone."""
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
