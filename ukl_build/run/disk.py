# SPDX-License-Identifier: Apache-2.0
"""Disk images: raw, sparse files with an ext4 file system.

They hold what people want to keep, so a file that is there is looked at and never written to by
the host: not formatted, not grown, not repaired.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ukl_build import files, proc
from ukl_build.errors import UklError
from ukl_build.image import Disk

MIB = 1 << 20

FORMAT = (
    *("mke2fs", "-q", "-F", "-t", "ext4"),
    # Not by the size of the disk: small ones would get blocks of 1 KiB, and more of them to write.
    *("-b", "4096", "-I", "256"),
    # Blocks that only root may use are for systems that must still start when their disk is full.
    *("-m", "0"),
)
FORMAT_S = 120.0

INSTALL = "install it; on Debian it is in the package e2fsprogs"

_SUPERBLOCK = 1024
_MAGIC = 0xEF53
_64BIT = 0x80
"""Of s_feature_incompat."""

_QEMU_LOCKS = (100, 200)
"""First byte and number of those that QEMU locks in an image: block/file-posix.c has 100 and on for
what it does with it, 200 and on for what it lets nobody else do."""


def make(path: Path, disk: Disk) -> bool:
    """Make a disk that is not there; the file appears whole or not at all.

    :return: whether it was made; False if another process was faster.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    :raise OSError: if the file cannot be written.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        os.ftruncate(descriptor, disk.size_mib * MIB)
        mke2fs = proc.which(FORMAT[0], hint=INSTALL)
        # The journal need not be zeroed: a hole in the file is.
        extended = f"root_owner={disk.uid}:{disk.gid},lazy_journal_init=1"
        proc.run([mke2fs, *FORMAT[1:], "-E", extended, name], timeout=FORMAT_S)
        debugfs = proc.which("debugfs", hint=INSTALL)
        mode = f"set_inode_field <2> mode 0{0o040000 | disk.mode:o}"
        proc.run([debugfs, "-w", "-R", mode, name], timeout=FORMAT_S)
        os.fsync(descriptor)
        try:
            # Not a rename: it would replace a file that appeared meanwhile.
            os.link(name, path)
        except FileExistsError:
            return False
        files.sync_folder(path.parent)
        return True
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def check(path: Path) -> int:
    """Look whether a file can be a disk, and whether it is free.

    :return: its size in bytes.
    :raise UklError: ``disk-invalid`` or ``disk-busy``.
    :raise OSError: if it cannot be opened for reading and writing.
    """
    if path.is_dir():
        raise UklError(
            "disk-invalid",
            f"{path} is a folder, no disk image",
            hint="a folder is shared with -v HOST:GUEST",
        )
    with path.open("r+b") as file:
        # Before anything is read: what another machine is writing is not whole.
        if _is_locked(file.fileno()):
            raise busy(path)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(_SUPERBLOCK + 1024)
    if head[:4] == b"QFI\xfb":
        raise UklError(
            "disk-invalid",
            f"{path} is in QEMU's format qcow2, and disks are raw",
            hint=f"qemu-img convert -O raw {path} NEW",
        )
    needed = _ext4_bytes(head)
    if needed is None:
        raise UklError(
            "disk-invalid",
            f"{path} has no ext4 file system",
            hint="name another file, or one that does not exist: it is made and formatted",
        )
    if needed > size:
        raise UklError(
            "disk-invalid",
            f"{path} has {size} bytes, its file system {needed}: the end of it is missing",
            hint="copy it again from where it came, with cp --sparse=always: this copy was cut off",
        )
    return size


def _ext4_bytes(head: bytes) -> int | None:
    """Return how many bytes a file system says it has, None if there is none.

    Fields are those of the kernel's Documentation/filesystems/ext4/super.rst.
    """
    block = head[_SUPERBLOCK:]
    if len(block) < 1024 or struct.unpack_from("<H", block, 0x38)[0] != _MAGIC:
        return None
    (low,) = struct.unpack_from("<I", block, 0x4)
    (log_size,) = struct.unpack_from("<I", block, 0x18)
    (incompatible,) = struct.unpack_from("<I", block, 0x60)
    (high,) = struct.unpack_from("<I", block, 0x150) if incompatible & _64BIT else (0,)
    # Blocks of more than 64 KiB are none that ext4 has.
    return int(low | high << 32) << (10 + log_size) if log_size <= 6 else None


def _is_locked(descriptor: int) -> bool:
    """Tell whether a QEMU has an image open."""
    # struct flock: l_type, l_whence, l_start, l_len, l_pid.
    layout = struct.Struct("@hhqqi0q")
    asked = layout.pack(fcntl.F_WRLCK, os.SEEK_SET, *_QEMU_LOCKS, 0)
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked)
    return bool(layout.unpack(answer)[0] != fcntl.F_UNLCK)


def busy(path: Path) -> UklError:
    """Return the error of a disk that another machine has."""
    who = ", ".join(_holders(path)) or "a process that cannot be seen from here"
    return UklError(
        "disk-busy",
        f"{path} is the disk of another running machine: {who}",
        hint="stop that one first, or give this one a disk of its own: --disk FILE:GUEST",
    )


def _holders(path: Path) -> Iterator[str]:
    """Name the processes that hold locks on a file, as far as this one may look."""
    wanted = path.stat()
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            for info in (process / "fdinfo").iterdir():
                # The kernel knows no process of such a lock, only the open file.
                if "\nlock:" not in info.read_text():
                    continue
                if os.path.samestat((process / "fd" / info.name).stat(), wanted):
                    yield f"process {process.name} ({(process / 'comm').read_text().strip()})"
                    break
