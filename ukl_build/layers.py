# SPDX-License-Identifier: Apache-2.0
"""Which layer a function of a kernel or of an application belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ukl_build import proc
from ukl_build.elf.names import PREFIX

APPLICATION, LIBRARY, OTHER = "application", "C library", "other"

VDSO = "vDSO"
"""Function that stands for the kernel's code in user memory, and the layer of its counterparts."""

LAYERS = (
    ("arch/x86/entry/ukl_time", VDSO),
    ("arch/x86/entry/", "entry and exit"),
    ("kernel/entry/", "entry and exit"),
    ("arch/x86/lib/", "copies and strings"),
    ("lib/", "copies and strings"),
    ("kernel/sched/", "scheduler"),
    ("kernel/locking/", "locks"),
    ("kernel/time/", "time"),
    ("kernel/rcu/", "RCU"),
    ("kernel/irq/", "interrupts"),
    ("kernel/softirq", "interrupts"),
    ("net/ipv4/tcp", "TCP"),
    ("net/ipv4/inet_", "TCP"),
    ("net/ipv4/", "IP"),
    ("net/ipv6/", "IP"),
    ("net/core/", "sockets and packets"),
    ("net/", "sockets and packets"),
    ("fs/eventpoll", "epoll"),
    ("fs/", "VFS"),
    ("mm/", "memory"),
    ("arch/x86/mm/", "memory"),
    ("drivers/", "drivers"),
    ("security/", "security"),
    ("arch/", "architecture"),
    ("kernel/", "processes and signals"),
)
"""What the paths of the kernel's objects begin with; the first that fits counts."""

_MEMBER = re.compile(r"^[^:]+:(?P<path>[^:]+\.o):\S+ [tTwW] (?P<name>\S+)$", re.MULTILINE)
"""A line of nm -A for an archive's function."""


@dataclass(frozen=True)
class Names:
    """Who defines a function."""

    kernel: Mapping[str, frozenset[str]]
    """Paths of the kernel's objects, relative to make's output folder."""
    library: frozenset[str]
    """Functions of the C library."""

    def layer(self, function: str) -> str:
        """Return the layer of a function, by the name that
        :func:`ukl_build.elf.functions.functions` gives it.
        """
        name, _, file = function.partition(" ")
        if name == VDSO:
            return VDSO
        if name.startswith(PREFIX):
            return LIBRARY if name.removeprefix(PREFIX) in self.library else APPLICATION
        places = self.kernel.get(name, frozenset())
        if file:
            places = frozenset(one for one in places if Path(one).stem == Path(file[1:-1]).stem)
        for place in sorted(places):
            for begin, layer in LAYERS:
                if place.startswith(begin):
                    return layer
        return OTHER


def kernel_names(out: Path) -> dict[str, frozenset[str]]:
    """Return the functions of a kernel's objects.

    :param out: make's output folder.
    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    found: dict[str, set[str]] = {}
    for archive in ("vmlinux.a", "lib/lib.a", "arch/x86/lib/lib.a"):
        text = proc.run(["nm", "--defined-only", "-A", archive], cwd=out).stdout
        for match in _MEMBER.finditer(text):
            found.setdefault(match["name"], set()).add(match["path"])
    return {name: frozenset(paths) for name, paths in found.items()}


def library_names(archive: Path) -> frozenset[str]:
    """Return the functions of an archive.

    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    text = proc.run(["nm", "--defined-only", "-P", archive]).stdout
    rows = (line.split() for line in text.splitlines())
    return frozenset(row[0] for row in rows if len(row) > 1 and row[1] in "tTwWiI")
