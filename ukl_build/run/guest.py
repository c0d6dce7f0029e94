# SPDX-License-Identifier: Apache-2.0
"""Start a kernel with other programs than its image has: what tests and experiments need.

A small archive is laid over the image's own root: files, and an ``/etc/ukl/run.conf`` that replaces
the application's arguments or the list of jobs.  The kernel itself stays as it was built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ukl_build import cpio
from ukl_build.initconf import RUN_CONF, Job, Mount, render_overlay
from ukl_build.run.machine import Machine
from ukl_build.run.vm import Vm, guarded

PROGRAM_MODE = 0o755


def overlay(
    *,
    programs: Mapping[str, Path] | None = None,
    entries: Sequence[cpio.Entry] = (),
    argv: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    jobs: Sequence[Job] | None = None,
    app: str | None = None,
    mounts: Sequence[Mount] | None = None,
) -> bytes:
    """Return an archive to lay over an image's root.

    :param programs: path in the guest to a program of the host.
    :param entries: any other files.
    :param argv: see :func:`ukl_build.initconf.render_overlay`; so are the rest.
    :raise ValueError: for what the init could not read.
    :raise OSError: if a program cannot be read.
    """
    conf = render_overlay(argv=argv, env=env, jobs=jobs, app=app, mounts=mounts)
    found = [cpio.file(RUN_CONF, conf), *entries]
    for path, source in (programs or {}).items():
        found.append(cpio.file(path, source.read_bytes(), mode=PROGRAM_MODE))
    return cpio.archive(found)


def start_guest(
    kernel: Path,
    folder: Path,
    *,
    base: Path | None = None,
    vm: Vm | None = None,
    programs: Mapping[str, Path] | None = None,
    entries: Sequence[cpio.Entry] = (),
    argv: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    jobs: Sequence[Job] | None = None,
    app: str | None = None,
    mounts: Sequence[Mount] | None = None,
    on_console: Callable[[bytes], object] | None = None,
) -> Machine:
    """Start a kernel with an overlay; the caller closes the machine, best by ``with``.

    :param folder: takes ``console.log`` and ``overlay.cpio``.
    :param base: an initramfs to use instead of the one inside the kernel.
    :param vm: memory, processors, command line and so on; its kernel and initrd are replaced.
    :param programs: see :func:`overlay`; so are the rest.
    :raise UklError: as :meth:`Machine.start`.
    """
    over = overlay(
        programs=programs,
        entries=entries,
        argv=argv,
        env=env,
        jobs=jobs,
        app=app,
        mounts=mounts,
    )
    initrd = folder / "overlay.cpio"
    # The kernel unpacks archives that follow each other in turn, a later file replaces an earlier.
    initrd.write_bytes((base.read_bytes() if base is not None else b"") + over)
    what = vm or Vm(name="guest")
    what = replace(what, kernel=kernel, initrd=initrd, cmdline=guarded(what.cmdline))
    machine = Machine(what, console=folder / "console.log")
    try:
        machine.start(on_console=on_console)
    except BaseException:
        machine.close()
        raise
    return machine
