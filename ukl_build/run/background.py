# SPDX-License-Identifier: Apache-2.0
"""A run that goes on when the command that asked for it has ended (``--detach``)."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable

from ukl_build.errors import Fault
from ukl_build.run import records
from ukl_build.run.session import Ready


def in_background(work: Callable[[Ready], int]) -> tuple[int, str]:
    """Do something in a process of its own, until it is ready.

    :return: exit status, and the record of what runs, as JSON; empty if it did not come so far.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    # No thread runs yet, and the work is Python's own: a new interpreter would only be slower.
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_child(work, writing))
    os.close(writing)
    with os.fdopen(reading) as pipe:
        while True:
            try:
                said = pipe.read()
                break
            except KeyboardInterrupt:
                # It has a session of its own, and the terminal does not reach it.
                os.kill(child, signal.SIGINT)
    if said:
        return 0, said
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) % 256, ""


def _child(work: Callable[[Ready], int], writing: int) -> int:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    def ready(held: records.Held) -> None:
        # From here on nobody reads what it says to its terminal.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        log = os.open(held.folder / records.TALK_FILE, flags, 0o600)
        os.dup2(log, 2)
        os.close(log)
        os.write(writing, records.as_json(held.record, None).encode())
        os.close(writing)

    status = int(Fault.BUG)
    try:
        status = work(ready)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
    return status
