# SPDX-License-Identifier: Apache-2.0
"""The compiler, and the one home of the flags that all code of an application needs.

The kernel build has its own flags; these are for what is linked into it.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ukl_build import proc
from ukl_build.errors import UklError

CC = "gcc"
CXX = "g++"
LD = "ld"

CODE_FLAGS: Mapping[str, str] = {
    "-mcmodel=kernel": "it is linked at the top 2 GiB, where addresses are sign-extended 32 bits",
    "-mno-red-zone": "the call into the kernel writes its return address below rsp; interrupts do "
    "not need it, they leave the application's stack alone",
    "-fno-pic": "one link at a known address: no GOT and no PLT that somebody must fill",
    "-fno-pie": "as -fno-pic, which Debian's compiler overrides by its default",
    "-fno-stack-protector": "with -mcmodel=kernel the canary is at %gs:0x28, which is the kernel's",
    "-fcf-protection=none": "the kernel is built without IBT, so endbr64 would only cost space",
    "-fasynchronous-unwind-tables": "C++ exceptions, thread cancellation and backtraces need them",
}
"""Flags that every object of an application is compiled with, and why."""

DEFAULT_FLAGS: Mapping[str, str] = {
    "-O2": "as distributions build",
    "-g": "backtraces and gdb; it stays out of the image's memory",
}
"""Flags that a recipe may override, since they come first."""

SOURCES = "/usr/src"
"""Where debugging information says that sources are, wherever they were compiled."""


def mapped(folder: Path | str, place: str) -> str:
    """Return the flag with which the compiler names a folder in its output by another name.

    Otherwise the same sources would not give the same bytes in two places: debugging information
    is no part of the image, but part of the kernel's build id.  Of several that fit a path, gcc
    takes the last.

    :param folder: as the compiler gets it.
    """
    return f"-ffile-prefix-map={folder}={place}"


REPRODUCIBLE: Mapping[str, str] = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "ukl",
    "KBUILD_BUILD_HOST": "ukl",
    "KBUILD_BUILD_VERSION": "1",
}
"""What the kernel would otherwise take from the clock, the user, the machine and its last build."""


class CacheLog:
    """What the compiler cache has had of what was compiled, while that goes on.

    From the log that ccache writes: for each call a comment with the file's name, and a line for
    each of its counters that the call has raised (``ccache --print-stats`` lists them).
    """

    _HIT = frozenset({"direct_cache_hit", "preprocessed_cache_hit"})
    _MISS = "cache_miss"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def __str__(self) -> str:
        return f"{self.hits} of {self.hits + self.misses} cached"

    def read(self) -> bool:
        """Read what has come since the last time; return whether anything was compiled so far."""
        with self._lock, contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._at)
            # A line that is half written comes whole the next time.
            whole = file.read().rpartition(b"\n")[0]
            self._at += len(whole) + 1 if whole else 0
            words = whole.decode("ascii", "replace").splitlines()
            self.hits += sum(word in self._HIT for word in words)
            self.misses += words.count(self._MISS)
        return self.hits + self.misses > 0


@dataclass(frozen=True)
class Compiler:
    """How compilers are called."""

    before: tuple[str, ...]
    """Words before the compiler's name, such as ``ccache``."""
    env: Mapping[str, str]
    """The whole environment."""

    def counted(self, log: Path) -> tuple[Compiler, CacheLog | None]:
        """Return the same, telling a file what the compiler cache had; None without a cache.

        :param log: emptied.
        """
        if "ccache" not in self.before:
            return self, None
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        return replace(self, env={**self.env, "CCACHE_STATSLOG": str(log)}), CacheLog(log)

    @property
    def command(self) -> str:
        """How C is compiled, as one string, as make's CC wants it."""
        return " ".join((*self.before, CC))

    @property
    def cxx_command(self) -> str:
        """How C++ is compiled."""
        return " ".join((*self.before, CXX))


def compiler(
    ccache: Path,
    base: Mapping[str, str] = proc.BASE_ENV,
    *,
    cached: bool | None = None,
    distcc: Mapping[str, str] | None = None,
) -> Compiler:
    """Return gcc and g++.

    :param ccache: folder for ccache's files; named, so that ccache needs no HOME.
    :param cached: whether they are called through ccache; None if that is installed.
    :param distcc: what distcc is told, if it is to compile.
    :raise UklError: ``tool-missing`` if ccache is to be there, and is not.
    """
    env = {**base, **(distcc or {})}
    if cached:
        proc.which("ccache", hint="install it, or leave ccache=1 out", env=base)
    if cached is False or shutil.which("ccache", path=base["PATH"]) is None:
        return Compiler(("distcc",) if distcc else (), env)
    # It calls distcc for what it has not, so that the command is the same with and without it.
    prefix = {"CCACHE_PREFIX": "distcc"} if distcc else {}
    return Compiler(("ccache",), {**env, **prefix, "CCACHE_DIR": str(ccache)})


def version_line(cc: str = CC) -> str:
    """Return the first line of ``cc --version``, as the kernel's Makefile makes it.

    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    return proc.run([cc, "--version"]).stdout.splitlines()[0].replace("#", "")


def file(name: str, compiler: str = CC) -> Path:
    """Return one of a compiler's own files, such as ``libgcc.a`` (``gcc -print-file-name``).

    :raise UklError: ``tool-missing`` if it has none of that name, or there is no compiler.
    """
    found = Path(proc.run([compiler, f"-print-file-name={name}"]).stdout.strip())
    if not found.is_absolute():
        raise UklError("tool-missing", f"{compiler} has no {name}", hint="./bootstrap installs it")
    return found


def library_folders() -> list[Path]:
    """Return the folders where the compiler looks for libraries, each once, in its order.

    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    for line in proc.run([CC, "-print-search-dirs"]).stdout.splitlines():
        if line.startswith("libraries: ="):
            folders = [Path(name) for name in line.removeprefix("libraries: =").split(":")]
            return list(dict.fromkeys(one.resolve() for one in folders if one.is_dir()))
    return []
