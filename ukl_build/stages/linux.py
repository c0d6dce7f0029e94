# SPDX-License-Identifier: Apache-2.0
"""Builds the kernel around the application.

make itself decides what is out of date: the archive and the initramfs are prerequisites in the
kernel's own makefiles, so a changed application is relinked and nothing else is compiled.  But make
goes by times, and these two can be older than what was linked of others: see
:func:`_forget_what_was_linked_of_others`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ukl_build import dotconfig, files, proc, toolchain
from ukl_build.cache import Say
from ukl_build.errors import UklError

RUNNING = ".ukl-running"
"""File in the output folder while make runs; its time is when make began."""

_TREE = "source"
"""Link of make's in an output folder to the tree."""

LINKED = ".ukl-linked"
"""File in the output folder with the digests of what is linked that make did not compile."""

SOURCE = f"{toolchain.SOURCES}/linux"
"""Where debugging information says that its sources are."""

LOCK = ".ukl-lock"
"""File in the output folder that is locked while it is in use."""


def _named(tree: Path, out: Path, wanted: str) -> list[str]:
    """Return what has the compiler name sources as they would be elsewhere.

    Only where there is debugging information, whose bytes are part of the kernel's build id; the
    kernel's own flags see to all else, and without these the compiler cache has more.

    :param wanted: the configuration.
    """
    if dotconfig.read_settings(wanted).get("DEBUG_INFO") != "y":
        return []
    # Of two that fit gcc takes the last: the output may be inside of the tree.
    names = (toolchain.mapped(tree, SOURCE), toolchain.mapped(out, f"{SOURCE}/build"))
    return [f"{flags}={' '.join(names)}" for flags in ("KCFLAGS", "KAFLAGS")]


def make_line(tree: Path, out: Path, compiler: toolchain.Compiler, *targets: str) -> list[str]:
    """Return the make command line for some targets of a tree."""
    return [
        "make",
        "-C",
        str(tree),
        f"O={out}",
        "ARCH=x86",
        f"CC={compiler.command}",
        f"HOSTCC={compiler.command}",
        *(f"{key}={value}" for key, value in toolchain.REPRODUCIBLE.items()),
        *targets,
    ]


def tree_of(out: Path) -> Path | None:
    """Return the tree that an output folder was built from; None if it is not there any more."""
    tree = (out / _TREE).resolve()
    return tree if tree.is_dir() else None


def begin_as(old: Path, new: Path) -> None:
    """Let make's output folder begin as a copy of another kernel's.

    What the two have in common is not compiled again.  One that is there stays, unless it is of
    another tree, of which nothing could be used.  The copy appears whole.
    """
    old, new = old.resolve(), new.resolve()
    if new.exists():
        if (new / _TREE).resolve() == (old / _TREE).resolve() or not (old / _TREE).exists():
            return
        shutil.rmtree(new)
    copying = new.with_name(f"{new.name}.copying")
    shutil.rmtree(copying, ignore_errors=True)
    shutil.copytree(old, copying, symlinks=True)
    # objtool's makefiles alone remember where they were, and would make it and all objects again.
    for path in (copying / "tools").rglob(".*.cmd"):
        text = path.read_text()
        if str(old) in text:
            time = path.stat().st_mtime_ns
            path.write_text(text.replace(str(old), str(new)))
            os.utime(path, ns=(time, time))
    copying.rename(new)


def build(
    tree: Path,
    config: Path,
    out: Path,
    *,
    bzimage: Path,
    vmlinux: Path,
    jobs: int,
    compiler: toolchain.Compiler,
    logs: Path,
    say: Say,
    check: Callable[[Path], object] | None = None,
) -> None:
    """Build a bzImage in a folder of its own.

    :param out: make's output folder; what is in it is kept and reused.
    :param bzimage: where the bootable file goes.
    :param vmlinux: where the same kernel goes with its symbols.
    :param jobs: how many compilers may run at once.
    :param check: looks at vmlinux and raises what is wrong with it, before anybody can start it.
    :raise UklError: ``config-differs`` if the kernel's own Kconfig does not agree with the
        configuration, ``tool-failed`` if make fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    wanted = config.read_text(encoding="utf-8")
    with _alone(out, say) as lock:
        _forget_torn_files(out, say)
        _forget_what_was_linked_of_others(wanted, out)
        _make(tree, wanted, out, lock, jobs=jobs, compiler=compiler, logs=logs)
        if check is not None:
            check(out / "vmlinux")
        files.copy(out / "vmlinux", vmlinux)
        files.copy(out / "arch" / "x86" / "boot" / "bzImage", bzimage)


def _make(
    tree: Path,
    wanted: str,
    out: Path,
    lock: int,
    *,
    jobs: int,
    compiler: toolchain.Compiler,
    logs: Path,
) -> None:
    place, running = out / ".config", out / RUNNING
    # An unchanged file keeps its time, or make would look at every option again.  conf has put a
    # header before it, so the text itself is never the same.
    if not place.is_file() or differences(wanted, place.read_text(encoding="utf-8")):
        files.write(place, wanted)
    running.touch()
    try:
        proc.run(
            make_line(tree, out, compiler, "olddefconfig"),
            env=compiler.env,
            log=logs / "olddefconfig.log",
            keep=[lock],
        )
        differing = differences(wanted, place.read_text(encoding="utf-8"))
        if differing:
            place.unlink()
            raise UklError(
                "config-differs",
                f"make olddefconfig changed {len(differing)} setting(s)",
                detail="\n".join(differing),
                hint="report it: kconfiglib and the kernel's conf disagree",
            )
        proc.run(
            make_line(tree, out, compiler, *_named(tree, out, wanted), f"-j{jobs}", "bzImage"),
            env=compiler.env,
            log=logs / "make.log",
            keep=[lock],
            hint="the first 'error' in the log is the cause",
        )
    except UklError:
        # make has ended by itself and removed what it had half written.  Whatever else ends this,
        # an outright kill above all, leaves the mark.
        running.unlink()
        raise
    running.unlink()


@contextmanager
def _alone(out: Path, say: Say) -> Iterator[int]:
    """Hold an output folder for this process and the programs it runs.

    A make that outlives a killed build holds the lock as well, so that no second one starts there.
    """
    with (out / LOCK).open("w") as file:
        message = f"waiting for another build, or what is left of a killed one, in {out}"
        proc.lock(file, lambda: say(message))
        yield file.fileno()


def _forget_torn_files(out: Path, say: Say) -> None:
    """Remove what a build wrote that was killed outright: the last files may be incomplete.

    make would take them for finished, as they are newer than their sources.  Three kinds stay: the
    lock, which we hold; the mark, for this may be killed as well; and Kconfig's markers, empty
    files whose time alone says that an option has changed.  Objects of the configuration before
    would pass for new ones without the marker of an option that is now off.
    """
    running = out / RUNNING
    if not running.is_file():
        return
    since = running.stat().st_mtime_ns
    markers = out / "include" / "config"
    torn = [
        path
        for path in out.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and path.stat().st_mtime_ns >= since
        and path not in (running, out / LOCK)
        and not (path.parent == markers and path.stat().st_size == 0)
    ]
    say(f"{out.name}: the last build was killed; {len(torn)} files of it are made again")
    for path in torn:
        path.unlink()


def _forget_what_was_linked_of_others(wanted: str, out: Path) -> None:
    """Have the archive and the initramfs linked again if they are not those of the last time.

    make would not where they are older than what is there: a folder that began as a copy of another
    kernel's has that one's, and SCons gives a file that it takes from its cache the time it had.
    """
    settings = dotconfig.read_settings(wanted)
    named = (settings.get(name, "") for name in ("UKL_ARCHIVE_PATH", "INITRAMFS_SOURCE"))
    found = [f"{files.sha256(out / name)} {name}\n" for name in named if name]
    record, text = out / LINKED, "".join(found)
    if not found or (record.is_file() and record.read_text(encoding="utf-8") == text):
        return
    for made in ("usr/initramfs_inc_data", "vmlinux"):
        (out / made).unlink(missing_ok=True)
    files.write(record, text)


def differences(wanted: str, got: str) -> list[str]:
    """Return a line for each setting in which two configurations differ."""
    one, other = dotconfig.read_settings(wanted), dotconfig.read_settings(got)
    return [
        f"CONFIG_{name}: {one.get(name, 'n')!r} became {other.get(name, 'n')!r}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name, "n") != other.get(name, "n")
    ]
