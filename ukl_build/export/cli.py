# SPDX-License-Identifier: Apache-2.0
"""``ukl export``: an image as other programs take it."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from ukl_build import files, licence, proc
from ukl_build.commands import Command
from ukl_build.completion import completed
from ukl_build.errors import UklError
from ukl_build.export import bootdisk, firecracker, libvirt, oci
from ukl_build.export.subject import KERNEL, Subject, refuse, subject
from ukl_build.image import IMAGE_FILE, load
from ukl_build.plan import Layout
from ukl_build.run import attach, cli, prepare
from ukl_build.run.vm import Accel

REFERENCE = re.compile(r"[a-z0-9][a-z0-9._/:-]*")
"""What can be an image's name in a registry (OCI distribution specification), roughly."""

QEMU_IMG = "install it; on Debian it is in the package qemu-utils"


def _say(text: str) -> None:
    print(f"export: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Format:
    """What an image can be made into."""

    meaning: str
    write: Callable[[Subject, argparse.Namespace], list[Path]]
    """Writes it, and returns its files, that which is started first."""
    before: int = 0
    """Disks that the machine has before the recipe's."""
    shares: bool = False
    """Whether its machines can have folders of the host."""


def _data(subject: Subject) -> list[Path]:
    """Make disks and folders that are not there yet: what is in them is never written over."""
    attach.prepare(subject.found, _say)
    return [one.path for one in subject.found.disks]


def _boot_files(subject: Subject) -> tuple[Path, Path | None]:
    """Write kernel and initramfs beside each other."""
    kernel = subject.out / f"{subject.name}.bzImage"
    files.copy(subject.boot[KERNEL], kernel)
    return kernel, _initrd(subject)


def _initrd(subject: Subject) -> Path | None:
    if subject.vm.initrd is None:
        return None
    initrd = subject.out / f"{subject.name}.initrd"
    files.copy(subject.vm.initrd, initrd)
    return initrd


def _tell_firmware(subject: Subject) -> None:
    by = "BIOS and UEFI" if bootdisk.boots_by_uefi(subject) else "BIOS"
    hint = "" if "UEFI" in by else f"; for UEFI too: {subject.image.command} fragments=efi"
    _say(f"it starts by {by}{hint}")
    if subject.found.disks:
        _say("attach them in this order, by virtio: the disk with the kernel, then the others")


def _raw(subject: Subject, _: argparse.Namespace) -> list[Path]:
    made = subject.scratch / "disk"
    bootdisk.make(subject, made)
    out = subject.out / f"{subject.name}.raw"
    _tell_firmware(subject)
    data = _data(subject)
    made.replace(out)
    return [out, *data]


def _qcow2(subject: Subject, _: argparse.Namespace) -> list[Path]:
    qemu_img = proc.which("qemu-img", hint=QEMU_IMG)

    def convert(raw: Path) -> Path:
        made = subject.scratch / f"{raw.name}.qcow2"
        proc.run([qemu_img, "convert", "-f", "raw", "-O", "qcow2", raw, made])
        return made

    raw = subject.scratch / "disk"
    bootdisk.make(subject, raw)
    disk = convert(raw)
    _tell_firmware(subject)
    data = []
    for one in subject.found.disks:
        out = one.path.with_suffix(".qcow2")
        data.append(out)
        if out.exists():
            continue
        fresh = attach.Attached((attach.AttachedDisk(subject.scratch / one.path.name, one.disk),))
        attach.prepare(fresh, lambda _: None)
        made = convert(fresh.disks[0].path)
        # Not a rename: it would replace a file that appeared meanwhile.
        out.hardlink_to(made)
        assert one.disk is not None, "only an application without our init has a disk of its own"
        _say(f"made {out}: {one.disk.size_mib} MiB, ext4, for {one.disk.mount}")
    out = subject.out / f"{subject.name}.qcow2"
    disk.replace(out)
    return [out, *data]


def _libvirt(subject: Subject, options: argparse.Namespace) -> list[Path]:
    kernel, initrd = _boot_files(subject)
    data = _data(subject)
    accel = Accel(options.accel)
    text = libvirt.domain(
        *(subject, str(kernel.absolute()), None if initrd is None else str(initrd.absolute())),
        *(accel, options.network),
    )
    out = subject.out / f"{subject.name}.xml"
    files.write(out, text)
    _say(f"start it: virsh create {out}")
    return [out, kernel, *([initrd] if initrd else []), *data]


def _firecracker(subject: Subject, options: argparse.Namespace) -> list[Path]:
    made = subject.scratch / "vmlinux"
    firecracker.kernel(subject, made)
    kernel = subject.out / f"{subject.name}.vmlinux"
    made.replace(kernel)
    initrd = _initrd(subject)
    data = _data(subject)
    text = firecracker.configuration(
        *(subject, kernel.name, None if initrd is None else initrd.name),
        *(options.address, options.tap),
    )
    out = subject.out / f"{subject.name}.json"
    files.write(out, text)
    _say("not tested with Firecracker itself, but with QEMU's microvm")
    _say(f"start it: cd {subject.out} && firecracker --no-api --config-file {out.name}")
    return [out, kernel, *([initrd] if initrd else []), *data]


def _oci(subject: Subject, options: argparse.Namespace) -> list[Path]:
    reference = options.reference or f"{subject.name}:latest"
    if not REFERENCE.fullmatch(reference):
        raise UklError(
            "run-invalid",
            f"{reference!r} is no name that a registry takes",
            hint="such as registry.example/team/redis:1.0",
        )
    # A colon before the last slash is that of a port.
    tag = reference.rpartition("/")[2].partition(":")[2] or "latest"
    layout = oci.layout(subject, tag)
    data = _data(subject)
    out = subject.out / f"{subject.name}.oci"
    # A layout is a folder, and none can be replaced by another at once: all that is in it is named
    # by what it has, but for its index, which comes last.
    for name, content in layout.items():
        files.write(out / name, content)
    for blob in (out / oci.BLOBS).iterdir():
        if f"{oci.BLOBS}/{blob.name}" not in layout:
            blob.unlink()
    machine = subject.out / f"{subject.name}.kubevirt.json"
    files.write(machine, oci.virtual_machine(subject, reference))
    _say("not tested with urunc and KubeVirt themselves")
    _say(f"push it: skopeo copy oci:{out} docker://{reference}")
    return [out, machine, *data]


FORMATS = {
    "raw": Format("a disk that BIOS, or UEFI, starts", _raw, before=1),
    "qcow2": Format("the same in QEMU's format", _qcow2, before=1),
    "libvirt": Format("a domain of libvirt", _libvirt, shares=True),
    "firecracker": Format("a microVM of Firecracker (untested)", _firecracker),
    "oci": Format(
        "an OCI image for registries, urunc (untested) and KubeVirt (untested)",
        _oci,
    ),
}


def _address(text: str) -> IPv4Interface:
    try:
        found = IPv4Interface(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if "/" not in text or found.network.prefixlen > 30:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not ADDRESS/PREFIX with room for a router, such as {firecracker.ADDRESS}"
        )
    return found


def _arguments(parser: argparse.ArgumentParser) -> None:
    app = parser.add_argument("app", metavar="APP|DIR", help="of build/, or an image's folder")
    completed(app, prepare.short_names)
    parser.add_argument(
        "--format",
        required=True,
        choices=FORMATS,
        help="; ".join(f"{name}: {one.meaning}" for name, one in FORMATS.items()),
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where it goes (export/FORMAT beside the image)"
    )
    parser.add_argument(
        "--accel",
        choices=[one.value for one in Accel],
        default=Accel.KVM.value,
        help="libvirt: what executes it (kvm)",
    )
    parser.add_argument(
        "--network",
        metavar="NAME",
        default="default",
        help=f"libvirt: one of its networks (default), or {libvirt.USER}: QEMU's own",
    )
    parser.add_argument(
        "--tap",
        metavar="NAME",
        default=firecracker.TAP,
        help=f"firecracker: this machine's interface ({firecracker.TAP})",
    )
    parser.add_argument(
        "--address",
        metavar="ADDRESS/PREFIX",
        type=_address,
        default=firecracker.ADDRESS,
        help=f"firecracker: the guest's ({firecracker.ADDRESS})",
    )
    parser.add_argument(
        "--reference", metavar="NAME:TAG", help="oci: under which a registry has it (APP:latest)"
    )
    # Behind -- they would have to follow the image at once: argparse takes all words at one place.
    parser.add_argument(
        "--arg",
        dest="args",
        metavar="WORD",
        action="append",
        default=[],
        help="an argument of the application, in place of the recipe's; again for each",
    )
    cli.add_machine(parser.add_argument)
    cli.add_file(parser.add_argument)


def _run(options: argparse.Namespace) -> int:
    made = FORMATS[options.format]
    folder = prepare.find_image(options.app)
    image = load(folder / IMAGE_FILE)
    if image.shares and not made.shares:
        raise refuse(
            f"{image.label} shares {image.shares[0].mount} with its host, which is not possible as"
            f" {options.format}",
            "put what is in there on a disk, or into the image with --file",
        )
    home = Layout.around(folder, image.variant).export
    out = options.out or home / options.format
    out.mkdir(parents=True, exist_ok=True)
    scratch = out / ".partial"
    with (out / ".lock").open("w") as lock:
        proc.lock(lock, lambda: _say(f"waiting for another export to {out}"))
        shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed
        scratch.mkdir()
        try:
            paths = made.write(subject(options, out, scratch, before=made.before), options)
        finally:
            shutil.rmtree(scratch)
    if not image.redistributable:
        what = licence.obstacles(image.licences)
        why = f": {what[0]}" if what else ""
        _say(f"warning: the licences of its parts do not let it be handed on{why}")
    for path in paths:
        print(path)
    return 0


COMMAND = Command(
    "export",
    "make of an image what other programs start: a disk, a domain, a container image",
    _arguments,
    _run,
    "  ukl export redis --format qcow2               build/redis/export/qcow2/redis.qcow2\n"
    "  ukl export redis --format libvirt -m 512      a domain with other memory\n"
    "  ukl export redis --format oci --reference registry.example/redis:7\n",
)
