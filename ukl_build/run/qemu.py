# SPDX-License-Identifier: Apache-2.0
"""From a machine's description to QEMU's argument list; pure but for its version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ukl_build import proc
from ukl_build.initconf import EXEC_PORT, STATUS_PORT, share_tag
from ukl_build.run.vm import LOCALHOST, Accel, Network, Recording, Vm

PROGRAM = "qemu-system-x86_64"
INSTALL = "install it; on Debian it is in the package qemu-system-x86"

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

ACTIONS = "panic=exit-failure,reboot=shutdown,shutdown=poweroff,watchdog=pause"
"""QEMU would exit 0 on a panic, a reset and a power-off alike.  A guest whose watchdog was not fed
stands still until it has been looked at."""


DISK = (
    # What the guest has flushed is in the host's file and on its disk (fdatasync), what it has not
    # is in the host's page cache.  direct=on would not make that safer, and not all file systems
    # have it; no-flush=on ("unsafe") would drop the guest's flushes.
    "cache.writeback=on,cache.direct=off,cache.no-flush=off,"
    # What the guest discards is a hole in the file.
    "discard=unmap,"
    # Two machines on one disk would destroy it.
    "file.locking=on"
)
"""Of every drive."""

SHARE = (
    # Files are as the guest makes them, owned by whoever runs QEMU: root is not needed, a change of
    # owner has no effect.  mapped-xattr would hide modes and owners in attributes that other
    # programs do not know, and make files of symbolic links.
    "security_model=none,"
    # A folder may have others mounted in it, whose inode numbers may be the same.
    "multidevs=remap"
)
"""Of every shared folder."""

REPEATABLE = (
    # One instruction is one nanosecond of the guest's; while it idles, its clock jumps.
    *("-icount", "shift=0,sleep=off"),
    # Without clock=vm it has the host's time of day, and runs differ from the fifth digit on.
    *("-rtc", "base=2020-01-01T00:00:00,clock=vm"),
    # RDRAND's numbers, which are all that the guest's are made of.
    *("-seed", "1"),
)
"""Of every machine that is to do the same each time."""


LOG, STATE = "log", "state.qcow2"
"""Files of a recording: its events, and a disk that keeps states of the machine."""

FIRST = "first"
"""Name of the state before the first instruction."""


@dataclass(frozen=True)
class Wiring:
    """Where the machine's ends lead to, each a backend of ``-chardev`` with its options."""

    qmp: str
    status: str
    """The guest's reports."""
    exec: str
    """What is asked of the guest's init."""
    console: str
    """The serial line."""
    state: str = "defer"
    """Where a machine that goes on from a saved state has that from (``-incoming``)."""
    card: str = ""
    """The other end of the network card, as options of ``-netdev stream`` (passt) or ``tap``."""

    @classmethod
    def inherited(cls, sockets: Sequence[int], console: Path) -> Wiring:
        """Return that of a machine that we watch.

        :param sockets: descriptors, inherited by QEMU, of its ends of socket pairs: for QMP, for
            the guest's status port, and for its port for programs.
        :param console: file that takes the serial console.
        """
        qmp, status, execute = (f"socket,fd={one}" for one in sockets)
        return cls(qmp, status, execute, f"file,append=on,path={escape(console)}")


# The guest waits for a status port that nobody has opened, which a file is from the start.
TERMINAL = Wiring("null", "file,path=/dev/null", "file,path=/dev/null", "stdio,signal=on")
"""That of a machine that somebody starts by hand."""


def escape(value: str | Path) -> str:
    """Write a value for one of QEMU's option lists, where a comma ends it unless doubled."""
    return str(value).replace(",", ",,")


def version() -> str:
    """Return QEMU's version, as it says it.

    :raise UklError: ``tool-missing`` or ``tool-failed``.
    """
    program = proc.which(PROGRAM, hint=INSTALL)
    return proc.run([program, "--version"]).stdout.splitlines()[0]


def _recording(recording: Recording) -> list[str]:
    """Return what has a machine written down, or do again what was."""
    # An instruction is 8 ns of the guest's clock, which is about what one takes in TCG.  With 1 ns
    # the guest waits for its timers in hundreds of millions of instructions, and the log is six
    # times as large; with many it is a slow machine.  While it idles its clock goes by the host's.
    log = f"rrfile={escape(recording.folder / LOG)}"
    state = f"file={escape(recording.folder / STATE)},format=qcow2,if=none,id=states"
    return [
        *("-icount", f"shift=3,rr={recording.mode.value},{log},rrsnapshot={FIRST}"),
        *("-drive", state),
        # Loading a state resets the machine, and this helper for old Windows asks the processor's
        # thread for something then, which may wait for the one that asks: QEMU stands still.
        *("-global", "apic.vapic=off"),
    ]


def _netdev(vm: Vm, wiring: Wiring) -> str:
    match vm.network:
        case Network.PASST:
            return f"stream,id=net,server=off,{wiring.card}"
        case Network.TAP:
            return f"tap,id=net,{wiring.card}"
        case _:
            forwards = "".join(
                f",hostfwd={forward.proto.value}:{forward.address}:{forward.host}-:{forward.guest}"
                for forward in vm.forwards
            )
            return f"user,id=net{forwards}"


def argv(vm: Vm, wiring: Wiring, *, program: str = PROGRAM) -> list[str]:
    """Return the command line that starts a machine."""
    words = [program, "-nodefaults", "-no-user-config", "-name", escape(vm.name)]
    words += ["-machine", MACHINE, "-accel", vm.accel.value, "-cpu", vm.cpu or CPU_MODELS[vm.accel]]
    words += ["-m", f"{vm.memory_mib}M", "-smp", str(vm.cpus), "-display", "none"]
    words += ["-no-reboot", "-action", ACTIONS, "-device", "pvpanic-pci"]
    if vm.kernel is not None:
        words += ["-kernel", str(vm.kernel), "-append", " ".join(vm.cmdline)]
    if vm.initrd is not None:
        words += ["-initrd", str(vm.initrd)]
    words += ["-chardev", f"{wiring.qmp},id=qmp", "-mon", "chardev=qmp,mode=control"]
    words += ["-chardev", f"{wiring.console},id=console"]
    words += ["-serial", "chardev:console"]
    if vm.recording is not None:
        words += _recording(vm.recording)
        words += ["-chardev", f"{wiring.status},id=status"]
        words += ["-device", "isa-serial,chardev=status,index=1"]
        words += ["-device", f"virtio-rng-pci,{VIRTIO}"]
    elif vm.repeatable:
        words += REPEATABLE
    else:
        words += ["-chardev", f"{wiring.status},id=status"]
        words += ["-device", f"virtio-serial-pci,{VIRTIO}"]
        # Before the other, whose name the guest waits for: so it need not wait for this one.
        words += ["-chardev", f"{wiring.exec},id=exec"]
        words += ["-device", f"virtserialport,chardev=exec,name={EXEC_PORT}"]
        words += ["-device", f"virtserialport,chardev=status,name={STATUS_PORT}"]
        words += ["-device", f"virtio-rng-pci,{VIRTIO}"]
        # Another one in each process, and the guest is told of it: it is not who it was when its
        # state was saved.
        words += ["-device", "vmgenid,guid=auto"]
    if vm.network is not Network.NONE and not vm.repeatable:
        words += ["-netdev", _netdev(vm, wiring)]
        # romfile: the boot ROM for starting from the network would be searched and run.
        words += ["-device", f"virtio-net-pci,netdev=net,romfile=,{VIRTIO}"]
        if vm.recording is not None:
            words += ["-object", "filter-replay,id=replay,netdev=net"]
    for number, drive in enumerate(vm.drives):
        readonly = "on" if drive.read_only else "off"
        form = "raw" if vm.recording is None else "qcow2"
        name = f"disk{number}"
        file = f"file={escape(drive.path)},format={form},if=none,id={name},readonly={readonly}"
        if drive.volatile:
            file += ",snapshot=on"
        words += ["-drive", f"{file},{DISK}"]
        if vm.recording is not None:
            # What comes from the host's disk comes at the same instruction again.
            words += ["-drive", f"driver=blkreplay,if=none,image={name},id={name}-replay"]
            name = f"{name}-replay"
        boot = f",bootindex={number}" if vm.kernel is None else ""
        words += ["-device", f"virtio-blk-pci,drive={name}{boot},{VIRTIO}"]
    for number, folder in enumerate(vm.folders):
        readonly = "on" if folder.read_only else "off"
        path = f"id=folder{number},path={escape(folder.path)},readonly={readonly}"
        words += ["-fsdev", f"local,{path},{SHARE}"]
        tag = f"fsdev=folder{number},mount_tag={share_tag(number)}"
        words += ["-device", f"virtio-9p-pci,{tag},{VIRTIO}"]
    if vm.watchdog:
        words += ["-device", "i6300esb"]
    if vm.incoming:
        words += ["-incoming", wiring.state]
    if vm.gdb is not None:
        words += ["-gdb", f"tcp:{LOCALHOST}:{vm.gdb}"]
    return [*words, *vm.extra]
