# SPDX-License-Identifier: Apache-2.0
"""The description of a virtual machine, without a word of QEMU; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Interface
from pathlib import Path

from ukl_build.image import Image, Init, Protocol

LOCALHOST = "127.0.0.1"


class Accel(StrEnum):
    """What executes the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


class Network(StrEnum):
    """What a guest's network card leads to."""

    PASST = "passt"
    """A process beside QEMU."""
    USER = "user"
    """QEMU itself (slirp)."""
    TAP = "tap"
    """An interface of the host."""
    NONE = "none"
    """There is no card."""


@dataclass(frozen=True)
class Tap:
    """An interface of this machine that a guest's network card is the other end of."""

    name: str
    host: IPv4Interface | None = None
    """Address of this machine on it; None of an interface that is there already."""

    @property
    def guest(self) -> IPv4Interface | None:
        """Address that the guest is given."""
        if self.host is None:
            return None
        return IPv4Interface(f"{self.host.ip + 1}/{self.host.network.prefixlen}")

    @property
    def lease(self) -> str:
        """Word for the guest's init; empty where DHCP is to answer."""
        if self.host is None or self.guest is None:
            return ""
        return f"ukl.ip={self.guest.with_prefixlen},{self.host.ip}"


@dataclass(frozen=True)
class Forward:
    """A port of the host that leads to a port of the guest."""

    host: int
    """Port number; 0 takes a free one, see :meth:`Machine.host_port`."""
    guest: int
    proto: Protocol = Protocol.TCP
    address: str = LOCALHOST
    """IPv4 address of the host to listen on.  Only this machine's own by default: nobody expects
    that a first try of a server opens it to the network."""


@dataclass(frozen=True)
class Drive:
    """A raw disk image, attached as virtio-blk."""

    path: Path
    read_only: bool = False
    volatile: bool = False
    """What the guest writes is gone with the machine, and the file stays as it is."""


@dataclass(frozen=True)
class Folder:
    """A folder of the host, attached as virtio-9p."""

    path: Path
    read_only: bool = False


class Replay(StrEnum):
    """Whether a run is written down or done again."""

    RECORD = "record"
    REPLAY = "replay"


@dataclass(frozen=True)
class Recording:
    """What makes a run the same as another one."""

    mode: Replay
    folder: Path
    """See :mod:`ukl_build.run.recording`."""


@dataclass(frozen=True)
class Vm:
    """One virtual machine."""

    name: str
    kernel: Path | None = None
    """A bzImage; without it the machine boots from its first drive."""
    initrd: Path | None = None
    """A cpio archive; laid over the one that is inside the kernel."""
    cmdline: tuple[str, ...] = ()
    """Kernel parameters."""
    memory_mib: int = 256
    cpus: int = 1
    accel: Accel = Accel.TCG
    cpu: str | None = None
    """QEMU's CPU model; chosen by the accelerator if None."""
    forwards: tuple[Forward, ...] = ()
    network: Network = Network.USER
    """QEMU's own by default: it is wherever QEMU is."""
    tap: Tap | None = None
    """Of :attr:`Network.TAP`."""
    drives: tuple[Drive, ...] = ()
    folders: tuple[Folder, ...] = ()
    init: Init = Init.RING3
    """Whether an init inside reports over the status port and knows the power button."""
    repeatable: bool = False
    """Execute the same instructions in every run, to the last one: the guest's clock goes by them.
    There is nothing then that the host serves in its own time: no network, no status port, no
    random numbers.  Needs TCG and one processor, and disks would spoil it."""
    incoming: bool = False
    """It does not boot: it waits for a state that was saved of a machine like it."""
    recording: Recording | None = None
    """It is written down, or does again what was.  Needs TCG and one processor; its drives are
    qcow2, and its init reports over a second UART."""
    watchdog: bool = False
    """There is a device that ends the machine when the guest does not feed it any more."""
    gdb: int | None = None
    """TCP port of the host on which the machine waits for gdb before its first instruction; 0 takes
    a free one, see :meth:`Machine.gdb_port`."""
    extra: tuple[str, ...] = ()
    """Further arguments for QEMU, such as ``-gdb`` or ``-icount``; they come last."""


GUARD_PARAMETERS = {
    # The console log is what a failure is explained from.
    "console": "console=ttyS0",
    # pvpanic reports a panic once its driver is there; one before that reboots at once, which
    # -no-reboot turns into an end, and is told from other resets by the console.  Without this the
    # kernel would stop in a loop and look like a hang.
    "panic": "panic=-1",
    # The kernel counts ticks for a moment, and panics if there are none: under emulation on a busy
    # host, or with a debugger attached, there may be none.  Under KVM it leaves that out itself.
    "no_timer_check": "no_timer_check",
}
"""Kernel parameters that ukl-run relies on; added unless the command line has them already."""

REPORT_PARAMETERS = {
    # Of a process that is killed for a fault the kernel otherwise prints two addresses.  Until then
    # nothing is executed for it.
    "print-fatal-signals": "print-fatal-signals=1",
}
"""Kernel parameters for the report of a crash, likewise.  Not for experiments: a test in which
hundreds of processes are killed on purpose has no use for their registers."""


def guarded(
    cmdline: tuple[str, ...], parameters: Mapping[str, str] = GUARD_PARAMETERS
) -> tuple[str, ...]:
    """Return a command line with what ukl-run relies on in front of ``--``."""
    end = cmdline.index("--") if "--" in cmdline else len(cmdline)
    names = {word.partition("=")[0] for word in cmdline[:end]}
    added = tuple(word for name, word in parameters.items() if name not in names)
    return added + cmdline


def from_image(image: Image, folder: Path, parameters: Mapping[str, str] = GUARD_PARAMETERS) -> Vm:
    """Return the machine that an image asks for, without its disks and folders.

    :param folder: where its image.json is.
    :param parameters: of the kernel, by their names, in addition to the image's.
    """
    return Vm(
        name=image.label,
        kernel=folder / image.kernel,
        initrd=None if image.initrd is None else folder / image.initrd,
        cmdline=guarded(image.cmdline, parameters),
        memory_mib=image.memory_mib,
        cpus=image.cpus,
        init=image.init,
    )
