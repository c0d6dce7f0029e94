# SPDX-License-Identifier: Apache-2.0
"""What is exported: an image, with all that a command line adds to it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from ukl_build.errors import UklError
from ukl_build.image import Image
from ukl_build.run import attach, cli, session
from ukl_build.run.vm import Accel, Vm

KERNEL, INITRD = "boot/kernel", "boot/initrd"


@dataclass(frozen=True)
class Subject:
    """An image and where it goes."""

    image: Image
    folder: Path
    """Of its image.json."""
    found: attach.Attached
    """Its disks and shared folders, which are in :attr:`out`."""
    vm: Vm
    """With kernel, initramfs, kernel parameters, memory and processors."""
    out: Path
    """Folder that is written to."""
    scratch: Path
    """Folder of the same file system that is gone afterwards."""

    @property
    def name(self) -> str:
        """What its files are called, but for what follows the last dot."""
        return self.image.label

    @property
    def boot(self) -> dict[str, Path]:
        """What is booted, by the places that it has on a disk and in a container image."""
        assert self.vm.kernel is not None
        found = {KERNEL: self.vm.kernel}
        return found | ({INITRD: self.vm.initrd} if self.vm.initrd else {})

    @property
    def cmdline(self) -> str:
        """All kernel parameters."""
        return " ".join(self.vm.cmdline)


def subject(options: argparse.Namespace, out: Path, scratch: Path, *, before: int = 0) -> Subject:
    """Return what a command line asks for.

    :param options: with those of :func:`ukl_build.run.cli.add_machine` and ``add_file``.
    :param before: how many disks the machine has before those of the recipe.
    :raise UklError: ``image-missing``, ``image-invalid`` or ``run-invalid``.
    :raise OSError: if something cannot be read or written.
    """
    asked = cli.parser().parse_args(["--qemu", options.app, "--accel", Accel.TCG.value])
    for name in ("args", "env", "append", "memory", "cpus", "files"):
        setattr(asked, name, getattr(options, name))
    plan = session.planned(asked, out)
    plan = replace(plan, found=replace(plan.found, before=before))

    def place(data: bytes) -> Path:
        path = scratch / "initrd"
        path.write_bytes(data)
        return path

    vm = plan.machine(0, place)
    return Subject(plan.image, plan.folder, plan.found, vm, out, scratch)


def refuse(message: str, hint: str) -> UklError:
    """Return the error of an image that cannot be had in a format."""
    return UklError("export-invalid", message, hint=hint)
