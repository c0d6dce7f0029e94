# SPDX-License-Identifier: Apache-2.0
"""Which option brings an object in, as makefiles of Kbuild's say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ukl_build import kbuild

FILES = {
    "Kbuild": "obj-y += init/ arch/$(SRCARCH)/\nobj-$(CONFIG_NET) += net/\nobj-y += fs/ # all\n",
    "Makefile": "libs-y := lib/\nall: vmlinux\n\techo obj-y += never/\n",
    "arch/x86/Makefile": "drivers-$(CONFIG_PCI) += arch/x86/pci/\n",
    "arch/x86/Kbuild": "obj-y += kernel/\n",
    "arch/x86/Makefile.um": "obj-y += um.o\n",
    "arch/x86/kernel/Makefile": "obj-$(subst m,y,$(CONFIG_HYPERV)) += hyperv.o\nobj-y := head.o\n",
    "arch/x86/pci/Makefile": "obj-y := common.o\nobj-$(CONFIG_OLPC) += olpc.o\n",
    "init/Makefile": "obj-y := main.o \\\n\tversion.o\nmounts-y := do_mounts.o\n"
    "mounts-$(CONFIG_INITRD) += initrd.o\nobj-y += mounts.o\n",
    "net/Makefile": "obj-y += socket.o\nobj-$(CONFIG_INET) += ipv4/\nobj-$(CONFIG_IPV6) += ipv6/\n",
    "net/ipv4/Makefile": "obj-y := tcp.o\nobj-$(CONFIG_SYSCTL) += sysctl.o ../core/shared.o\n",
    "net/ipv6/Makefile": "obj-y := never.o\n",
    "fs/Makefile": "obj-y := open.o\n"
    "ifeq ($(CONFIG_BLOCK),y)\nobj-y += buffer.o\nelse\nobj-y += no-block.o\nendif\n"
    "ifdef CONFIG_NFS\nobj-y += nfs.o\nelse\nobj-y += no-nfs.o\nendif\n"
    "ifneq ($(CONFIG_PROC),)\nobj-y += proc.o\nendif\n"
    "ifneq ($(CONFIG_NFS),y)\nobj-y += without.o\nendif\n"
    "ifeq ($(shell true),)\nobj-y += unknown.o\nendif\n"
    "mmu-$(CONFIG_MMU) := mapped.o\nobj-y += $(mmu-y)\nloop-y := $(loop-y) $(other-y)\n"
    "other-y := $(loop-y) last.o\nobj-y += $(loop-y)\n",
    "lib/Makefile": "lib-y := string.o\nlib-$(CONFIG_FAST) += fast.o\nobj-y += bug.o\n",
}
CONFIG = {"NET": "y", "INET": "y", "PCI": "y", "SYSCTL": "y", "BLOCK": "y", "PROC": "y", "MMU": "y"}


@pytest.fixture
def found(tmp_path: Path) -> kbuild.Options:
    """Read the makefiles above."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return kbuild.options(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("init/main.o", ()),
        ("init/version.o", ()),
        ("init/do_mounts.o", ()),
        ("net/socket.o", ("NET",)),
        ("net/ipv4/tcp.o", ("NET", "INET")),
        ("net/ipv4/sysctl.o", ("NET", "INET", "SYSCTL")),
        ("net/core/shared.o", ("NET", "INET", "SYSCTL")),
        ("arch/x86/kernel/head.o", ()),
        ("arch/x86/pci/common.o", ("PCI",)),
        ("fs/buffer.o", ("BLOCK",)),
        ("fs/no-nfs.o", ()),
        ("fs/proc.o", ("PROC",)),
        ("fs/without.o", ()),
        ("fs/unknown.o", ()),
        ("fs/mapped.o", ("MMU",)),
        ("fs/last.o", ()),
        ("lib/string.o", ()),
        ("lib/bug.o", ()),
    ],
)
def test_an_objects_options_are_those_of_its_folders_and_its_own(
    found: kbuild.Options, path: str, options: tuple[str, ...]
) -> None:
    assert found.objects[path] == options
    assert found.of(path) == options


def test_what_is_not_built_is_not_there(found: kbuild.Options) -> None:
    names = {Path(path).name for path in found.objects}
    assert not names & {"never.o", "initrd.o", "olpc.o", "hyperv.o", "no-block.o", "nfs.o", "um.o"}
    assert not names & {"fast.o"}


def test_an_object_that_no_list_names_has_the_options_of_its_folder(found: kbuild.Options) -> None:
    assert found.of("net/ipv4/computed.o") == ("NET", "INET")
    assert found.of("net/ipv4/deeper/computed.o") == ("NET", "INET")
    assert found.of("nowhere/x.o") == ()
