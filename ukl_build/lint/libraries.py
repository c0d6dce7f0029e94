# SPDX-License-Identifier: Apache-2.0
"""The archives that this machine has: which of them defines a name that is missing."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

from ukl_build import proc, toolchain
from ukl_build.elf import abi
from ukl_build.elf.reader import read_object
from ukl_build.errors import UklError
from ukl_build.lint import inputs

STANDARD = ("libc.a", "libm.a", "libgcc.a", "libgcc_eh.a", "libstdc++.a")
"""Where a name is taken from if there are several: these first, in this order."""
START_FILES = ("crt1.o", "crti.o", "crtbeginS.o", "crtendS.o", "crtn.o")
"""Objects that every program with a C library begins and ends with."""
_LAST = re.compile(r"lib([alt]|hwa|ub)san\b|libmcheck\b|lib.*_p(ic)?\.a|libc_nonshared|libg\.a")
"""Archives that define what others do, for debugging; nobody means them."""


@cache
def package(path: Path) -> str | None:
    """Return the Debian package that a file of this machine is of."""
    with contextlib.suppress(UklError):  # of no package, or this is no Debian
        return proc.run(["dpkg-query", "--search", path]).stdout.partition(":")[0]
    return None


def shown(path: Path) -> str:
    """Return a file's name for messages, with the Debian package that it is of."""
    of = package(path)
    return f"{path.name} of {of}" if of else path.name


class Libraries:
    """Everything in the folders where the compiler looks for libraries.

    Read when it is first asked, and for this run only: what is installed may be another tomorrow.
    """

    def defining(self, name: str) -> list[Path]:
        """Return the files that are the likeliest to be meant by a name."""
        return self._by_name.get(name, [])

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        ranks: dict[str, int] = {}
        for rank, path, names in _files():
            for name in names:
                known = found.setdefault(name, [])
                if ranks.setdefault(name, rank) == rank and path not in known:
                    known.append(path)
        return found


def _files() -> Iterator[tuple[int, Path, set[str]]]:
    """Yield every object and archive, the likeliest first, with the names that it defines.

    In front is a number that is the same for those that are as likely as each other.
    """
    for file in START_FILES:
        with contextlib.suppress(UklError):
            path = toolchain.file(file)
            defined = (one for one in read_object(path).symbols if not one.undefined)
            yield -1, path, {one.name for one in defined if one.st_bind != abi.STB_LOCAL}
    paths: dict[str, Path] = {}
    for folder in toolchain.library_folders():
        for path in sorted(folder.glob("*.a")):
            paths.setdefault(path.name, path)  # the first folder wins, as with ld -l
    scripts: dict[Path, Path] = {}
    for path in paths.values():
        for named in inputs.named_by(path):
            scripts[named] = path

    def rank(path: Path) -> int:
        name = scripts.get(path, path).name
        if name in STANDARD:
            return STANDARD.index(name)
        return len(STANDARD) + bool(_LAST.match(name))

    for path in sorted(paths.values(), key=rank):
        # An archive behind a linker script, such as libm-2.36.a, is asked for by the script's name.
        with contextlib.suppress(OSError):
            yield rank(path), scripts.get(path, path), set(inputs.read_index(path))
