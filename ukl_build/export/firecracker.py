# SPDX-License-Identifier: Apache-2.0
"""A microVM of Firecracker: its configuration file, and the kernel as the ELF file that it starts.

Source: Firecracker's docs/getting-started.md, docs/network-setup.md and API description
(``src/firecracker/swagger/firecracker.yaml``).  It needs KVM, so what is here has not been run by
it; the tests start the same kernel with the same parameters on QEMU's microvm, whose devices are on
the same bus.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Interface
from pathlib import Path

from ukl_build import proc
from ukl_build.export.subject import Subject, refuse
from ukl_build.image import Feature, Init
from ukl_build.run import attach, prepare

ADDRESS = IPv4Interface("172.16.0.2/30")
"""Of the guest; its router is the other one of these two.  As in Firecracker's documentation."""
TAP = "tap0"


def parameters(subject: Subject, address: IPv4Interface) -> str:
    """Return the kernel's command line."""
    router = next(one for one in address.network.hosts() if one != address.ip)
    own = (
        # No PCI to be searched; the reset of the keyboard controller is what ends Firecracker.
        *("pci=off", "reboot=k", "ukl.end=reset"),
        f"ukl.ip={address.with_prefixlen},{router}",
    )
    return " ".join((*subject.vm.cmdline, *own))


def kernel(subject: Subject, path: Path) -> None:
    """Write the kernel as an ELF file without symbols.

    :raise UklError: ``export-invalid`` or ``run-invalid`` if it cannot run there;
        ``image-missing``, ``tool-missing`` or ``tool-failed``.
    """
    if subject.image.init is Init.DIRECT:
        raise refuse(
            f"{subject.name} runs without our init: nobody would be told its address, and"
            " Firecracker has no DHCP",
            f"build it with our init: {subject.image.command} init=ring3",
        )
    attach.check_features(subject.image, [Feature.VIRTIO_MMIO])
    prepare.check_files(subject.image, subject.folder, symbols=True)
    strip = proc.which("strip", hint="install it; on Debian it is in the package binutils")
    proc.run([strip, "-o", path, prepare.vmlinux(subject.image, subject.folder)])


def configuration(
    subject: Subject, kernel: str, initrd: str | None, address: IPv4Interface, tap: str
) -> str:
    """Return the file for ``firecracker --config-file``; names in it are relative.

    :param tap: the host's interface.
    """
    vm = subject.vm
    boot = {"kernel_image_path": kernel, "boot_args": parameters(subject, address)}
    if initrd is not None:
        boot["initrd_path"] = initrd
    found = {
        "boot-source": boot,
        "machine-config": {"vcpu_count": vm.cpus, "mem_size_mib": vm.memory_mib},
        "drives": [
            {
                "drive_id": drive.path.stem,
                "path_on_host": drive.path.name,
                "is_root_device": False,
                "is_read_only": drive.read_only,
                # By default what the guest has flushed is lost with the host.
                "cache_type": "Writeback",
            }
            for drive in vm.drives
        ],
        "network-interfaces": [{"iface_id": "eth0", "host_dev_name": tap}],
        "entropy": {},
    }
    return json.dumps(found, indent=2) + "\n"
