# SPDX-License-Identifier: Apache-2.0
"""Redis in a guest, with a disk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import redis
from redis.connection import ConnectionInterface
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

from ukl_build import image
from ukl_build.run.machine import Machine
from ukl_build.run.qemu import VIRTIO
from ukl_build.run.vm import LOCALHOST, Drive, Forward, from_image

PORT = 6379
ANSWER_S = 90.0
"""Until it answers, a long log read."""
SOCKET = "socket"
"""Where an ordinary process listens, in its folder."""
NOT_YET = (RedisConnectionError, BusyLoadingError)
"""What a client gets of a server that starts."""


@dataclass
class Redis:
    """The image with a disk of the test's own."""

    start: Callable[..., Machine]
    folder: Path
    data: Path

    def run(
        self,
        *words: str,
        first: Sequence[str] = (),
        log: Path | None = None,
        beside: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Machine:
        """Start it, and wait until it has read what it has.

        :param words: more arguments.
        :param first: arguments before those of the image, such as a configuration file.
        :param log: takes all that is written to the disk, in its order.
        :param beside: what else is in the guest, see :func:`ukl_build.run.guest.start_guest`.
        :param changes: of the machine.
        """
        described = image.load(self.folder / "image.json")
        vm = replace(from_image(described, self.folder), forwards=(Forward(0, PORT),), **changes)
        if log is None:
            vm = replace(vm, drives=(Drive(self.data),))
        else:
            log.touch()
            disk_file = f"file.driver=raw,file.file.driver=file,file.file.filename={self.data}"
            drive = f"driver=blklogwrites,if=none,id=logged,{disk_file}"
            log_file = f"log.driver=file,log.filename={log}"
            device = f"virtio-blk-pci,drive=logged,{VIRTIO}"
            vm = replace(vm, extra=("-drive", f"{drive},{log_file}", "-device", device))
        kernel = self.folder / described.kernel
        argv = (described.app.argv[0], *first, *described.app.argv[1:], *words)
        machine = self.start(kernel=kernel, base=None, vm=vm, argv=argv, **(beside or {}))
        server = client(machine)
        deadline = time.monotonic() + ANSWER_S
        while True:
            try:
                server.ping()
                return machine
            except NOT_YET:
                # Nobody listens yet, or the log is being read.
                assert machine.wait(0.1) is None, machine.console.read_text()
                assert time.monotonic() < deadline, machine.console.read_text()


def client(machine: Machine) -> redis.Redis:
    """Return a client of a server."""
    return redis.Redis(LOCALHOST, machine.host_port(PORT), socket_timeout=ANSWER_S)


def connection(machine: Machine) -> ConnectionInterface:
    """Return a connection to a server, by RESP2."""
    return redis.Connection(LOCALHOST, machine.host_port(PORT), protocol=2, socket_timeout=ANSWER_S)


def ordinary_connection(folder: Path) -> ConnectionInterface:
    """Return a connection to a server that :func:`ordinary` runs in a folder, by RESP2."""
    path = str(folder / SOCKET)
    one = redis.Redis(unix_socket_path=path, protocol=2, socket_timeout=ANSWER_S)
    return one.connection_pool.make_connection()


@contextmanager
def ordinary(
    image_folder: Path, folder: Path, *words: str | Path, first: Sequence[str | Path] = ()
) -> Iterator[redis.Redis]:
    """Run the same objects as an ordinary process, wait until it answers, and return its client.

    :param image_folder: where the image is.
    :param folder: takes its files, and may have those of another.
    :param words: more arguments.
    :param first: arguments before all others.
    """
    socket, log = folder / SOCKET, folder / "log"
    argv: list[str | Path] = [image_folder / "redis.static", *first]
    argv += ["--port", "0", "--unixsocket", socket]
    argv += ["--dir", folder, "--save", "", *words]
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out) as process:
        try:
            found = redis.Redis(unix_socket_path=str(socket), socket_timeout=ANSWER_S)
            while True:
                with suppress(*NOT_YET):
                    found.ping()
                    break
                assert process.poll() is None, log.read_text()
                time.sleep(0.01)
            yield found
        finally:
            process.kill()
