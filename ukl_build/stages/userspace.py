# SPDX-License-Identifier: Apache-2.0
"""The guest's userspace: our init, the application's file and a few files of /etc, as a cpio.

Reads ``guest/init/`` and what it is given; writes ``initramfs.cpio``, uncompressed: the kernel
packs it together with itself.
"""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from ukl_build import cpio, files, proc
from ukl_build.errors import UklError
from ukl_build.initconf import INIT_CONF, PRIVATE_FOLDERS, InitConf, render

INIT_SOURCE = Path(__file__).resolve().parents[2] / "guest" / "init"
"""Folder of the init's C files."""

CFLAGS = (
    *("-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror"),
    # No libc: see guest/init/lib.h.  The canary of the stack protector and PIE's relocations are
    # both set up by one.
    *("-ffreestanding", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector"),
    # Nothing unwinds, and one page less is read at boot.
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
    # The host's paths and the linker's random identity do not belong in an image.
    *("-Wl,--build-id=none", "-Wl,-z,noseparate-code", "-Wl,-z,noexecstack", "-s"),
)

MAGIC = b"\x7fELF\2\1\1\0\0UKL app"
"""What the application's file begins with (UKL_MAGIC of Linux's <linux/ukl.h>): a filter, the
kernel knows the file by its identity."""

APP_FILE = MAGIC + struct.pack("<HHIQQQIHHHHHH", 0, 62, 1, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0)
"""Content of the application's file: an Elf64_Ehdr (gABI, chapter 4) of type ET_NONE for EM_X86_64,
without anything behind it.  gdbserver takes a process for one of 32 bits if its file is no such."""


@dataclass(frozen=True)
class ExtraFile:
    """A file of the host that the guest gets."""

    source: Path
    """Regular file on the host."""
    path: str
    """Absolute path in the guest."""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True)
class Userspace:
    """What the guest's first root holds."""

    conf: InitConf = field(default_factory=InitConf)
    app_mode: int = 0o700
    """Permissions of the application's file, which is root's; they say who may start it."""
    app_file: Path | None = None
    """An ordinary program to put at ``conf.app`` instead of the file that stands for the linked-in
    application: the same objects as a ring-3 twin, or a test."""
    files: tuple[ExtraFile, ...] = ()
    folders: tuple[str, ...] = ()
    """Paths of folders besides those that every guest has."""


def build_init(out: Path, *, log: Path | None = None) -> None:
    """Compile the init.

    :param out: the static program, replaced atomically.
    :param log: takes the compiler's words; without it they come with the error.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    sources = sorted(INIT_SOURCE.glob("*.c"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".init-", dir=out.parent) as scratch:
        program = Path(scratch) / "init"
        proc.run(
            ["gcc", *CFLAGS, "-o", program, *[source.name for source in sources]],
            cwd=INIT_SOURCE,
            log=log,
            timeout=120,
        )
        files.write(out, program.read_bytes(), mode=0o755)


def entries(spec: Userspace, init: bytes) -> list[cpio.Entry]:
    """Return what the archive holds; pure but for reading ``app_file`` and ``files``.

    :param init: the compiled init.
    :raise UklError: ``userspace-invalid`` if the parts do not fit together.
    :raise OSError: if a file of the host cannot be read.
    """
    conf = spec.conf
    own = {extra.path for extra in spec.files}
    try:
        found = [
            # The kernel opens it for process 1 before anything is mounted on /dev.
            cpio.char_device("/dev/console", 5, 1),
            cpio.file("/init", init, mode=0o755),
            cpio.file(INIT_CONF, render(conf)),
            *(cpio.folder(path) for path in ("/proc", "/run", "/sys")),
            *(cpio.folder(path, mode=mode) for path, mode in PRIVATE_FOLDERS.items()),
            cpio.folder("/tmp", mode=0o1777),
            *map(cpio.folder, spec.folders),
            # Only these may be replaced by a recipe; another file twice is a mistake.
            *(entry for entry in _etc(conf) if entry.path not in own),
            *(_read(extra) for extra in spec.files),
        ]
        if conf.app:
            _check_app(conf, spec.app_mode)
            content = APP_FILE if spec.app_file is None else spec.app_file.read_bytes()
            found.append(cpio.file(conf.app, content, mode=spec.app_mode))
    except ValueError as error:
        raise _invalid(error) from error
    return found


def _invalid(error: ValueError) -> UklError:
    return UklError(
        "userspace-invalid",
        f"the guest's userspace cannot be made: {error}",
        hint="correct what the recipe says about the guest",
    )


def _read(extra: ExtraFile) -> cpio.Entry:
    content = extra.source.read_bytes()
    return cpio.file(extra.path, content, mode=extra.mode, uid=extra.uid, gid=extra.gid)


def _check_app(conf: InitConf, mode: int) -> None:
    """Refuse an application that its user could not start: the file is root's.

    :raise ValueError: if the file's permissions do not let it.
    """
    if conf.uid == 0:
        needed = 0o111
    elif conf.gid == 0 or 0 in conf.groups:
        needed = 0o010
    else:
        needed = 0o001
    if not mode & needed:
        raise ValueError(f"user {conf.uid} may not execute {conf.app}, whose mode is {mode:04o}")
    if mode & 0o022:
        raise ValueError(f"{conf.app} would be writable by others than root (mode {mode:04o})")


def _etc(conf: InitConf) -> list[cpio.Entry]:
    """Return the files without which a C library's look-ups fail or ask a server."""
    hostname = conf.hostname or "localhost"
    names = "localhost" if hostname == "localhost" else f"localhost {hostname}"
    users = [("root", 0, 0, "/root"), ("nobody", 65534, 65534, "/")]
    if conf.uid not in {uid for _, uid, _, _ in users}:
        users.append(("app", conf.uid, conf.gid, "/"))
    groups = {"root": 0, "tty": 5, "nogroup": 65534}
    if conf.gid not in groups.values():
        groups["app"] = conf.gid
    return [
        cpio.file(
            "/etc/passwd",
            "".join(f"{name}:x:{uid}:{gid}::{home}:/bin/false\n" for name, uid, gid, home in users),
        ),
        cpio.file("/etc/group", "".join(f"{name}:x:{gid}:\n" for name, gid in groups.items())),
        cpio.file("/etc/hosts", f"127.0.0.1 {names}\n::1 {names}\n"),
        # Files first and no more modules than a static C library has built in.
        cpio.file(
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
            "services: files\nprotocols: files\n",
        ),
        cpio.file("/etc/resolv.conf", "".join(f"nameserver {server}\n" for server in conf.dns)),
    ]


def build_initramfs(spec: Userspace, out: Path, *, log: Path | None = None) -> None:
    """Write the guest's userspace.

    :param out: the cpio archive, replaced atomically; the same input gives the same bytes.
    :param log: takes the compiler's words.
    :raise UklError: ``userspace-invalid``, ``tool-missing`` or ``tool-failed``.
    :raise OSError: if a file cannot be read or written.
    """
    with tempfile.TemporaryDirectory(prefix="ukl-init-") as scratch:
        init = Path(scratch) / "init"
        build_init(init, log=log)
        content = entries(spec, init.read_bytes())
    try:
        data = cpio.archive(content)
    except ValueError as error:
        raise _invalid(error) from error
    files.write(out, data)
