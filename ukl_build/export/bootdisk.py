# SPDX-License-Identifier: Apache-2.0
"""A disk that a machine's firmware starts: GRUB, and an image that it loads.

    sector 0          protective MBR with GRUB's boot.img
    sectors 34-2047   BIOS boot partition: GRUB's core.img for BIOS
    from 2048 on      FAT file system: kernel, initramfs, grub.cfg, and GRUB for UEFI

BIOS and UEFI read the same grub.cfg.  The same image gives the same bytes.  Sources: the GRUB
manual, "BIOS installation"; UEFI specification 2.10, 3.5.1.1 (removable media) and 5.3 (GPT).
"""

from __future__ import annotations

import hashlib
import os
import struct
import uuid
from pathlib import Path

from ukl_build import files, proc
from ukl_build.errors import UklError
from ukl_build.export.subject import INITRD, KERNEL, Subject, refuse
from ukl_build.image import Feature
from ukl_build.run.disk import MIB

SECTOR = 512
FIRST = 34
"""First sector behind the GPT and its 128 entries."""
ALIGNED = MIB // SECTOR
SLACK = MIB
"""Bytes of the FAT file system beside those of files: its tables and folders, and some to edit."""

BIOS_BOOT, EFI_SYSTEM, BASIC_DATA = "ef02", "ef00", "0700"
"""Types of partitions, as sgdisk calls them."""

GRUB = Path("/usr/lib/grub")
MODULES = (
    *("part_gpt", "fat", "search", "search_fs_uuid", "configfile", "normal"),
    *("linux", "boot", "serial", "terminal"),
)
"""All that grub.cfg needs; none is loaded from the disk."""

# In boot.img (GRUB's include/grub/i386/pc/boot.h): sector of core.img, and a jump that skips what
# helps a BIOS that does not say from which disk it started.
KERNEL_SECTOR = 0x5C
DRIVE_CHECK = 0x66
CODE = 440
"""Bytes of the MBR before the disk's identity and the partition table."""
# In the first sector of core.img: where its second one is.
BLOCK_LIST = SECTOR - 12

ENV = {**proc.BASE_ENV, "SOURCE_DATE_EPOCH": "0", "TZ": "UTC"}
INSTALL = {
    "grub-mkimage": "grub-common",
    "sgdisk": "gdisk",
    "mkfs.fat": "dosfstools",
    "mmd": "mtools",
    "mcopy": "mtools",
}
"""Debian's packages of the programs that are used."""


def _run(name: str, *words: str | Path) -> None:
    program = proc.which(name, hint=f"install it; on Debian it is in the package {INSTALL[name]}")
    proc.run([program, *words], env=ENV)


def boots_by_uefi(subject: Subject) -> bool:
    """Return whether UEFI can start it as well."""
    return Feature.EFI in subject.image.features


def make(subject: Subject, path: Path) -> None:
    """Write the disk, raw.

    :param path: a new file in a folder of ours.
    :raise UklError: ``export-invalid``, ``tool-missing`` or ``tool-failed``.
    :raise OSError: if something cannot be read or written.
    """
    scratch = subject.scratch
    if set("\"'\\") & set(subject.cmdline):
        # grub_create_loader_cmdline() puts a backslash before each, and the kernel keeps that.
        raise refuse(
            f"GRUB cannot hand a quotation mark or a backslash to the kernel: {subject.cmdline}",
            "give arguments and variables to an image with our init, which has them from a file",
        )
    digest = hashlib.sha256(subject.cmdline.encode())
    found = subject.boot
    for one in found.values():
        digest.update(bytes.fromhex(files.sha256(one)))
    identity = digest.hexdigest()
    volume = identity[:8]
    config = scratch / "grub.cfg"
    config.write_text(_config(subject), encoding="utf-8")
    found["boot/grub.cfg"] = config
    early = scratch / "early.cfg"
    early.write_text(
        f"search --fs-uuid --set=root {volume[:4].upper()}-{volume[4:].upper()}\n"
        "configfile /boot/grub.cfg\n"
    )
    core = scratch / "core.img"
    _grub("i386-pc", early, core, "biosdisk")
    if boots_by_uefi(subject):
        found["EFI/BOOT/BOOTX64.EFI"] = scratch / "grub.efi"
        _grub("x86_64-efi", early, found["EFI/BOOT/BOOTX64.EFI"])
    size = sum(one.stat().st_size for one in found.values()) + SLACK
    system = scratch / "system.fat"
    _file_system(system, -(-size // MIB) * MIB, volume, found)
    _partition(path, system, identity, EFI_SYSTEM if boots_by_uefi(subject) else BASIC_DATA)
    with path.open("r+b") as disk:
        _bios(disk.fileno(), core.read_bytes())
        disk.seek(ALIGNED * SECTOR)
        disk.write(system.read_bytes())


def _config(subject: Subject) -> str:
    parameters = " ".join(f"'{word}'" for word in subject.cmdline.split(" "))
    lines = [
        f"# {subject.name}, made by ukl export",
        "serial --unit=0 --speed=115200",
        "terminal_output serial console",
        f"linux /{KERNEL} {parameters}",
        *([f"initrd /{INITRD}"] if INITRD in subject.boot else []),
        "boot",
    ]
    return "\n".join(lines) + "\n"


def _grub(platform: str, early: Path, out: Path, *modules: str) -> None:
    if not (GRUB / platform / "moddep.lst").is_file():
        package = {"i386-pc": "grub-pc-bin", "x86_64-efi": "grub-efi-amd64-bin"}[platform]
        raise UklError(
            "tool-missing",
            f"GRUB for {platform} is not installed",
            hint=f"install it; on Debian it is the package {package}",
        )
    words = ("-O", platform, "-p", "/boot", "-c", early, "-o", out)
    _run("grub-mkimage", *words, *modules, *MODULES)


def _file_system(path: Path, size: int, volume: str, found: dict[str, Path]) -> None:
    with path.open("xb") as file:
        file.truncate(size)
    # --invariant: no time of day, and no number by chance.
    _run("mkfs.fat", "--invariant", "-i", volume, "-n", "UKL", path)
    folders = sorted({str(up) for name in found for up in Path(name).parents} - {"."})
    _run("mmd", "-i", path, *(f"::/{folder}" for folder in folders))
    for name, one in found.items():
        _run("mcopy", "-i", path, one, f"::/{name}")


def _partition(path: Path, system: Path, identity: str, kind: str) -> None:
    sectors = system.stat().st_size // SECTOR
    with path.open("xb") as file:
        file.truncate((2 * ALIGNED + sectors) * SECTOR)
    # Versions 4 as RFC 9562 has them, of bytes that are as good as chance.
    guids = [uuid.UUID(identity[8 * n : 8 * n + 32], version=4) for n in range(3)]
    words = ["--set-alignment=1", f"--disk-guid={guids[0]}"]
    first = FIRST
    for number, (last, type_) in enumerate(
        ((ALIGNED - 1, BIOS_BOOT), (ALIGNED + sectors - 1, kind)), 1
    ):
        words += [f"--new={number}:{first}:{last}", f"--typecode={number}:{type_}"]
        words += [f"--partition-guid={number}:{guids[number]}"]
        first = last + 1
    _run("sgdisk", *words, path)


def _bios(disk: int, core: bytes) -> None:
    """Put GRUB for BIOS where the firmware and itself look for it."""
    boot = bytearray((GRUB / "i386-pc" / "boot.img").read_bytes()[:CODE])
    struct.pack_into("<Q", boot, KERNEL_SECTOR, FIRST)
    boot[DRIVE_CHECK : DRIVE_CHECK + 2] = b"\x90\x90"
    image = bytearray(core)
    struct.pack_into("<Q", image, BLOCK_LIST, FIRST + 1)
    assert len(image) <= (ALIGNED - FIRST) * SECTOR, "GRUB has grown out of its partition"
    os.pwrite(disk, boot, 0)
    os.pwrite(disk, image, FIRST * SECTOR)
