# SPDX-License-Identifier: Apache-2.0
"""For gdb: move a unikernel's symbols to where KASLR has put it, with its core or process at hand.

    gdb build/NAME/NAME.vmlinux CORE -x tools/gdb-ukl.py
    gdb build/NAME/NAME.vmlinux -ex 'target remote HOST:PORT' -x tools/gdb-ukl.py

docs/debugging.md tells more.
"""

from __future__ import annotations

import re

import gdb


def address(symbol: str) -> int:
    """Return where gdb takes a symbol to be."""
    return int(gdb.parse_and_eval(f"(unsigned long)&'{symbol}'"))


def main() -> None:
    """Compare the entry point that the kernel told the process with the one in the file."""
    vmlinux = gdb.current_progspace().filename
    if vmlinux is None:
        raise gdb.GdbError("no vmlinux: name it as gdb's first argument")
    found = re.search(r"AT_ENTRY\b.* (0x[0-9a-f]+)", gdb.execute("info auxv", to_string=True))
    if found is None:
        raise gdb.GdbError("there is neither a core nor a process of the application")
    gdb.execute("set confirm off")
    # Once more without an offset, should this be the second time.
    gdb.execute(f'symbol-file "{vmlinux}"', to_string=True)
    offset = int(found[1], 16) - address("ukl._start")
    gdb.execute(f'symbol-file -o {offset:#x} "{vmlinux}"', to_string=True)
    # Text cannot take breakpoints: where gdb knows that, it uses those of the processor.
    start, end = address("__ukl_text_start"), address("__ukl_text_end")
    gdb.execute("delete mem")
    gdb.execute(f"mem {start:#x} {end:#x} ro")
    gdb.execute("set mem inaccessible-by-default off")
    print(f"the kernel has moved by {offset:#x}")


main()
