# SPDX-License-Identifier: Apache-2.0
"""Whether hardware virtualisation really works here.

/dev/kvm that is there proves nothing: it may be of another user, of a host whose processor shows no
vmx or svm, or of a nested set-up that creates a machine and then hangs every guest.  So the
processor's flags are looked at, and then a small guest is run to its end, with a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path

from ukl_build import files
from ukl_build.errors import UklError
from ukl_build.image import Init
from ukl_build.run.machine import Machine
from ukl_build.run.vm import Accel, Drive, Network, Vm

DEVICE = Path("/dev/kvm")

VERDICT = "kvm.json"
"""File in the state folder with what the probe found, for as long as this boot lasts."""

PROBE_S = 10.0
"""Seconds for the probe's guest; it takes 0.3 s where KVM works."""

EXIT_PORT, EXIT_VALUE = 0xF4, 0x15
PROBE_STATUS = EXIT_VALUE << 1 | 1
"""QEMU's exit status when the probe's guest has come to its end (isa-debug-exit)."""

SECTOR = 512
DISK = 1 << 20
"""Size of the probe's disk: SeaBIOS does not start from one with less than a cylinder."""

PROBE_SECTOR = (
    bytes.fromhex(
        "31c08ed88ec08ed0bc007cfcfbf4f4fa66bf001000000f22df6631c066b9000c"
        "000066f3ab66c70600100320000066c70600200330000066c706003083000000"
        "0f0116907c66b8200000000f22e066b9800000c00f32660d000100000f300f20"
        "c0660d010000800f22c0ea6f7c080031c00fa2b015e6f4f4ebfd660f1f440000"
        "0000000000000000ffff0000009aaf000f00807c0000"
    ).ljust(SECTOR - 2, b"\0")
    + b"\x55\xaa"
)
"""The assembled probe.S beside this file (a test assembles it again and compares)."""


@dataclass(frozen=True)
class Verdict:
    """What executes guests here, and why."""

    accel: Accel
    why: str


def virtualisation(cpuinfo: str) -> set[str]:
    """Return which of vmx (Intel's) and svm (AMD's) the processor shows.

    :param cpuinfo: content of /proc/cpuinfo.
    """
    found = re.search(r"^flags\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return {"vmx", "svm"}.intersection(found.group(1).split() if found else ())


def unusable(device: Path, cpuinfo: str) -> str | None:
    """Return why KVM cannot be tried at all, or None."""
    if not device.exists():
        return f"there is no {device}"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} may not be opened by this user"
    if not virtualisation(cpuinfo):
        return "the processor shows neither vmx nor svm"
    return None


def probe(using: Accel = Accel.KVM) -> str | None:
    """Run a small guest; return what went wrong, or None.

    It goes through real mode, a timer interrupt while halted, and paged 64-bit mode, which is where
    set-ups that only seem to work get stuck.
    """
    with tempfile.TemporaryDirectory(prefix="ukl-kvm-") as folder:
        disk = Path(folder) / "probe.img"
        disk.write_bytes(PROBE_SECTOR.ljust(DISK, b"\0"))
        exit_device = f"isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1"
        vm = Vm(
            name="kvm-probe",
            accel=using,
            memory_mib=32,
            network=Network.NONE,
            drives=(Drive(disk, read_only=True),),
            init=Init.DIRECT,
            extra=("-device", exit_device),
        )
        with Machine(vm, console=Path(folder) / "console.log") as machine:
            try:
                machine.start()
            except UklError as error:
                return error.message
            if machine.wait(PROBE_S) is None:
                return f"a small guest did not end within {PROBE_S:g} s"
            if machine.qemu_status != PROBE_STATUS:
                return f"a small guest failed ({machine.outcome})"
    return None


def choose(
    asked: str, *, state: Path, boot_id: str, cpuinfo: str, device: Path = DEVICE
) -> Verdict:
    """Return what to execute guests with.

    :param asked: ``auto``, ``kvm`` or ``tcg``.
    :param state: folder for the verdict of the probe, which holds until the next boot.
    :param boot_id: identity of this boot of the host.
    :param cpuinfo: content of /proc/cpuinfo.
    :raise UklError: ``kvm-unusable`` if KVM was asked for and does not work.
    """
    if asked == Accel.TCG:
        return Verdict(Accel.TCG, "asked for")
    why = unusable(device, cpuinfo)
    if why is None:
        why = _cached_probe(state / VERDICT, boot_id)
    if why is None:
        return Verdict(Accel.KVM, "works here")
    if asked == Accel.KVM:
        raise UklError(
            "kvm-unusable",
            f"KVM does not work here: {why}",
            hint="ukl-run --accel auto takes TCG then, and bench without accel=kvm counts",
        )
    return Verdict(Accel.TCG, f"KVM does not work here: {why}")


def here(asked: str) -> Verdict:
    """Return what to execute guests with on this machine.

    :param asked: ``auto``, ``kvm`` or ``tcg``.
    :raise UklError: ``kvm-unusable`` if KVM was asked for and does not work.
    """
    return choose(
        asked,
        state=user_state_path("ukl-build"),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        cpuinfo=Path("/proc/cpuinfo").read_text(encoding="utf-8"),
    )


def _cached_probe(cache: Path, boot_id: str) -> str | None:
    """Probe once a boot: modules and the hypervisor below change with a new one."""
    try:
        known = json.loads(cache.read_text(encoding="utf-8"))
        if known["boot_id"] == boot_id:
            return None if known["why"] is None else str(known["why"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none yet, or not ours: probe
    why = probe()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second each time
        files.write(cache, json.dumps({"boot_id": boot_id, "why": why}) + "\n")
    return why
