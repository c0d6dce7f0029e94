# SPDX-License-Identifier: Apache-2.0
"""A libvirt domain that starts the kernel itself; source: libvirt's "Domain XML format"."""

from __future__ import annotations

import uuid
from xml.etree import ElementTree

from ukl_build.export.subject import Subject
from ukl_build.initconf import share_tag
from ukl_build.run.vm import Accel

DOMAINS = uuid.UUID("b3d4b1b4-5c0e-4d5e-9b0e-5f3a6a1f0c11")
"""Namespace of the identities of domains: another export of an image is the same domain."""

USER = "user"
"""In place of a network's name: QEMU's own, which needs no rights and no network of libvirt's."""


def domain(subject: Subject, kernel: str, initrd: str | None, accel: Accel, network: str) -> str:
    """Return the XML of a domain.

    :param kernel: absolute path, as is that of the initramfs.
    :param network: name of one of libvirt's, or :data:`USER`.
    """
    vm = subject.vm
    root = ElementTree.Element("domain", type="kvm" if accel is Accel.KVM else "qemu")

    def add(
        parent: ElementTree.Element, tag: str, text: str = "", **what: str
    ) -> ElementTree.Element:
        made = ElementTree.SubElement(parent, tag, what)
        made.text = text or None
        return made

    add(root, "name", subject.name)
    add(root, "uuid", str(uuid.uuid5(DOMAINS, subject.name)))
    add(root, "genid")
    add(root, "memory", str(vm.memory_mib), unit="MiB")
    add(root, "vcpu", str(vm.cpus))
    system = add(root, "os")
    add(system, "type", "hvm", arch="x86_64", machine="q35")
    add(system, "kernel", kernel)
    if initrd is not None:
        add(system, "initrd", initrd)
    add(system, "cmdline", subject.cmdline)
    # The power button.
    add(add(root, "features"), "acpi")
    if accel is Accel.KVM:
        add(root, "cpu", mode="host-passthrough")
    else:
        # What ukl_build.run.qemu.CPU_MODELS has, and for the same reason.
        cpu = add(root, "cpu", mode="maximum")
        for name in ("erms", "fsrm"):
            add(cpu, "feature", policy="disable", name=name)
    add(root, "clock", offset="utc")
    add(root, "on_poweroff", "destroy")
    add(root, "on_reboot", "restart")
    # What pvpanic tells of.
    add(root, "on_crash", "restart")
    devices = add(root, "devices")
    for number, drive in enumerate(vm.drives):
        one = add(devices, "disk", type="file", device="disk")
        # What the guest has flushed is on the host's disk, what it discards is a hole in the file.
        add(one, "driver", name="qemu", type="raw", cache="writeback", discard="unmap")
        add(one, "source", file=str(drive.path))
        add(one, "target", dev=f"vd{chr(ord('a') + number)}", bus="virtio")
    for number, folder in enumerate(vm.folders):
        one = add(devices, "filesystem", type="mount", accessmode="squash", multidevs="remap")
        add(one, "source", dir=str(folder.path))
        add(one, "target", dir=share_tag(number))
        if folder.read_only:
            add(one, "readonly")
    # The kernel has no driver for it, and libvirt would add it.
    add(devices, "controller", type="usb", model="none")
    card = add(devices, "interface", type="user" if network == USER else "network")
    if network != USER:
        add(card, "source", network=network)
    add(card, "model", type="virtio")
    add(card, "rom", enabled="no")
    add(devices, "serial", type="pty")
    add(devices, "memballoon", model="none")
    add(add(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
    add(devices, "panic", model="isa")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
