# SPDX-License-Identifier: Apache-2.0
"""Run a program that dies with its parent: ``python lifeline.py PARENT_PID PROGRAM [ARG…]``.

A program of its own that imports nothing of ours, since it runs on the way to another program.
Python code between fork and exec (``preexec_fn``) can deadlock in a process with threads, and
``setpriv --pdeathsig`` leaves a moment in which the parent can die unnoticed.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie the life to the parent's and become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    # SIGKILL, for the guest can keep QEMU too busy to heed anything else.  Raw images lose nothing
    # by it: what was written is in the host's page cache.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"cannot tie {program[0]} to its parent: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before the line above
        sys.exit(f"the parent of {program[0]} is gone")
    try:
        os.execv(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
