# SPDX-License-Identifier: Apache-2.0
"""Small real guests for the tests of running: no Linux, a third of a second each."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "guest.S"


def assemble(out: Path, end: str, text: str = "", *flags: str) -> Path:
    """Assemble a guest that says ``text`` on its console and ends in a way of guest.S.

    :param flags: further ones of the assembler.
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    object_file = out.with_suffix(".o")
    subprocess.run(
        [
            *("gcc", "-m32", "-c", f"-DEND={end}", f'-DTEXT="{escaped}"', *flags),
            *("-o", object_file, SOURCE),
        ],
        check=True,
    )
    subprocess.run(
        ["ld", "-m", "elf_i386", "-n", "-Ttext", "0x100000", "-o", out, object_file], check=True
    )
    return out
