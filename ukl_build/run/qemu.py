# SPDX-License-Identifier: Apache-2.0
"""From a machine's description to QEMU's argument list; pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ukl_build.initconf import STATUS_PORT
from ukl_build.run.vm import LOCALHOST, Accel, Vm

PROGRAM = "qemu-system-x86_64"

CPU_MODELS = {
    Accel.KVM: "host",
    # max has SMEP, SMAP, LA57, PKU, RDRAND …; but with erms the kernel copies by `rep movsb`, which
    # TCG runs byte by byte (a 4 KiB pipe write is 3.5 times slower).
    Accel.TCG: "max,-erms,-fsrm",
}

MACHINE = "q35,sata=off,smbus=off,vmport=off"
"""q35 for ACPI (power button, power-off) and PCI Express; the rest of its board would only be
probed.  microvm has no ACPI power button by default and wedges under TCG without its PIT and PIC;
pc has an IDE controller and a floppy controller that cannot be left out."""

VIRTIO = "disable-legacy=on"
"""The kernel needs no CONFIG_VIRTIO_PCI_LEGACY."""

PANIC = "panic=exit-failure,reboot=shutdown,shutdown=poweroff"
"""QEMU would exit 0 on a panic, a reset and a power-off alike."""


@dataclass(frozen=True)
class Wiring:
    """Where the machine's ends lead to."""

    qmp: int
    """Descriptor, inherited by QEMU, of its end of a socket pair for QMP."""
    status: int
    """The same for the guest's status port."""
    console: Path
    """File that takes the serial console."""


def escape(value: str | Path) -> str:
    """Write a value for one of QEMU's option lists, where a comma ends it unless doubled."""
    return str(value).replace(",", ",,")


def argv(vm: Vm, wiring: Wiring, *, program: str = PROGRAM) -> list[str]:
    """Return the command line that starts a machine."""
    words = [program, "-nodefaults", "-no-user-config", "-name", escape(vm.name)]
    words += ["-machine", MACHINE, "-accel", vm.accel.value, "-cpu", vm.cpu or CPU_MODELS[vm.accel]]
    words += ["-m", f"{vm.memory_mib}M", "-smp", str(vm.cpus), "-display", "none"]
    words += ["-no-reboot", "-action", PANIC, "-device", "pvpanic-pci"]
    if vm.kernel is not None:
        words += ["-kernel", str(vm.kernel), "-append", " ".join(vm.cmdline)]
    if vm.initrd is not None:
        words += ["-initrd", str(vm.initrd)]
    words += ["-chardev", f"socket,id=qmp,fd={wiring.qmp}", "-mon", "chardev=qmp,mode=control"]
    words += ["-chardev", f"file,id=console,path={escape(wiring.console)}"]
    words += ["-serial", "chardev:console"]
    words += ["-chardev", f"socket,id=status,fd={wiring.status}"]
    words += ["-device", f"virtio-serial-pci,{VIRTIO}"]
    words += ["-device", f"virtserialport,chardev=status,name={STATUS_PORT}"]
    words += ["-device", f"virtio-rng-pci,{VIRTIO}"]
    if vm.network:
        forwards = "".join(
            f",hostfwd={forward.proto.value}:{forward.address}:{forward.host}-:{forward.guest}"
            for forward in vm.forwards
        )
        words += ["-netdev", f"user,id=net{forwards}"]
        # romfile: the boot ROM for starting from the network would be searched and run.
        words += ["-device", f"virtio-net-pci,netdev=net,romfile=,{VIRTIO}"]
    for number, drive in enumerate(vm.drives):
        readonly = "on" if drive.read_only else "off"
        file = f"file={escape(drive.path)},format=raw,if=none,id=disk{number},readonly={readonly}"
        words += ["-drive", file]
        boot = f",bootindex={number}" if vm.kernel is None else ""
        words += ["-device", f"virtio-blk-pci,drive=disk{number}{boot},{VIRTIO}"]
    if vm.gdb is not None:
        words += ["-gdb", f"tcp:{LOCALHOST}:{vm.gdb}"]
    return [*words, *vm.extra]
