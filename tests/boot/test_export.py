# SPDX-License-Identifier: Apache-2.0
"""Images as other programs start them: firmware, libvirt, a microVM, tools for container images."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.boot.conftest import image_folder
from tests.ports import free_port
from tests.project import ROOT
from tests.users import ordinary
from tests.waiting import wait_for
from ukl_build import cpio, files
from ukl_build.image import IMAGE_FILE, Disk, Feature, Port, load
from ukl_build.initconf import INIT_CONF, InitConf, mounts, render
from ukl_build.run import qemu
from ukl_build.run.machine import Machine
from ukl_build.run.outcome import Kind, Outcome
from ukl_build.run.vm import Drive, Forward, Vm

pytestmark = pytest.mark.boot

PORT = 5555
ENOUGH_S = 120.0
FIRMWARE = Path("/usr/share/OVMF")
QUIET_S = 3.0

Export = Callable[..., list[Path]]


@pytest.fixture
def image(built_for_tests: Path, tmp_path: Path) -> Path:
    """Return the image of an echo server for all kinds of machines, with a disk."""
    disks = (Disk(name="data", size_mib=16, mount="/data"),)
    out = image_folder(
        tmp_path,
        built_for_tests / "tcp_server.bzImage",
        cmdline=("console=ttyS0", "panic=-1"),
        ports=(Port(guest=PORT),),
        disks=disks,
        initrd="initrd",
        features=tuple(Feature),
        licences={"linux": "GPL-2.0-only"},
        redistributable=True,
    )
    (out / "kernel.vmlinux").symlink_to(built_for_tests / "tcp_server.vmlinux")
    # As a build would have it inside of the kernel.
    conf = render(InitConf(mounts=mounts(disks, ())))
    (out / "initrd").write_bytes(cpio.archive([cpio.file(INIT_CONF, conf)]))
    return out


@pytest.fixture
def export(image: Path, tmp_path: Path) -> Export:
    """Return a function that exports it as somebody types it, and returns what is printed."""

    def run(form: str, *words: str, out: Path = tmp_path / "out") -> list[Path]:
        command = [sys.executable, str(ROOT / "tools" / "ukl"), "export", str(image)]
        done = subprocess.run(
            [*command, "--format", form, "--out", str(out), *words],
            capture_output=True,
            text=True,
            timeout=ENOUGH_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [Path(line) for line in done.stdout.splitlines()]

    return run


def echoes(port: int) -> bool:
    """Return whether the echo server answers, there and now."""
    try:
        with socket.create_connection(("127.0.0.1", port), QUIET_S) as client:
            client.settimeout(QUIET_S)
            client.sendall(b"hello\n")
            return client.recv(100) == b"hello\n"
    except OSError:
        return False


@pytest.mark.parametrize("firmware", ["BIOS", "UEFI"])
def test_firmware_starts_the_disk(export: Export, tmp_path: Path, firmware: str) -> None:
    disk, data = export("raw")
    uefi = (
        *("-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE}/OVMF_CODE_4M.fd"),
        *("-drive", f"if=pflash,format=raw,snapshot=on,file={FIRMWARE}/OVMF_VARS_4M.fd"),
    )
    vm = Vm(
        "exported",
        drives=(Drive(disk, volatile=True), Drive(data)),
        forwards=(Forward(0, PORT),),
        extra=uefi if firmware == "UEFI" else (),
    )
    with Machine(vm, console=tmp_path / "console.log") as machine:
        machine.start()
        # A disk that is not where the init looks for it would keep the application from starting.
        assert machine.ask(PORT, b"hello\n", b"hello\n", deadline_s=ENOUGH_S)
        said = machine.console.read_text(errors="replace")
        assert machine.stop() == Outcome(Kind.EXITED, 0), said
    assert ("efi: EFI v2" in said) is (firmware == "UEFI")
    assert "EXT4-fs (vdb): mounted filesystem" in said


def test_the_same_image_gives_the_same_disk(export: Export, tmp_path: Path) -> None:
    disk, data = export("raw")
    first = files.sha256(disk)
    data.write_bytes(data.read_bytes().replace(b"lost+found", b"lost+FOUND"))
    kept = files.sha256(data)
    assert export("raw") == [disk, data]
    assert files.sha256(disk) == first
    assert files.sha256(data) == kept, "what a guest has stored is gone"
    small, stored = export("qcow2")
    stored.write_bytes(b"as a guest has left it")
    assert export("qcow2") == [small, stored]
    assert stored.read_bytes() == b"as a guest has left it"
    back = tmp_path / "back.raw"
    subprocess.run(["qemu-img", "check", "-q", small], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "raw", small, back], check=True)
    assert files.sha256(back) == first
    subprocess.run(["sgdisk", "--verify", disk], check=True, stdout=subprocess.DEVNULL)
    other, _ = export("raw", "--append", "quiet", out=tmp_path / "other")
    assert files.sha256(other) != first


def test_a_microvm_starts_the_kernel(export: Export, tmp_path: Path) -> None:
    """QEMU's in place of Firecracker, which needs KVM: its devices are on the same bus."""
    described, kernel, initrd, data = export("firecracker", "--address", "10.0.2.15/24")
    found = json.loads(described.read_text())
    boot = found["boot-source"]
    names = [boot["kernel_image_path"], boot["initrd_path"], found["drives"][0]["path_on_host"]]
    assert [described.parent / name for name in names] == [kernel, initrd, data]
    port = free_port()

    def start(parameters: str) -> subprocess.Popen[bytes]:
        machine = found["machine-config"]
        return subprocess.Popen(
            [
                *(qemu.PROGRAM, "-machine", "microvm,acpi=off", "-accel", "tcg"),
                *("-cpu", "max,-erms,-fsrm", "-nodefaults", "-display", "none", "-no-reboot"),
                *("-m", f"{machine['mem_size_mib']}M", "-smp", str(machine["vcpu_count"])),
                *("-kernel", kernel, "-initrd", initrd, "-append", parameters),
                *("-serial", f"file:{tmp_path}/console.log"),
                *("-drive", f"file={data},format=raw,if=none,id=data"),
                *("-device", "virtio-blk-device,drive=data"),
                *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:{PORT}"),
                *("-device", "virtio-net-device,netdev=net", "-device", "virtio-rng-device"),
            ]
        )

    with start(boot["boot_args"]) as process:
        try:
            wait_for(lambda: echoes(port), "an answer", ENOUGH_S)
        finally:
            process.kill()
    assert "EXT4-fs (vda): mounted filesystem" in (tmp_path / "console.log").read_text()
    # There is no power to turn off: the end is a reset.
    with start(f"{boot['boot_args']} ukl.app=/nothing") as process:
        try:
            assert process.wait(ENOUGH_S) == 0
        finally:
            process.kill()
    assert "reboot: Restarting system" in (tmp_path / "console.log").read_text()


@contextmanager
def libvirt(place: Path) -> Iterator[Callable[..., str]]:
    """Start libvirt's daemon of a user who is not root, and return what runs virsh."""
    env = {
        **{"PATH": os.environ["PATH"], "HOME": str(place), "LC_ALL": "C"},
        **{f"XDG_{name}_HOME": str(place / name) for name in ("CONFIG", "CACHE", "DATA")},
        **{"XDG_RUNTIME_DIR": str(place / "run"), "LIBVIRT_DEFAULT_URI": "qemu:///session"},
    }
    (place / "run").mkdir(mode=0o700)
    user = ordinary(place)

    def virsh(*words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["virsh", "--quiet", *words],
            cwd=place,
            env=env,
            capture_output=True,
            text=True,
            timeout=ENOUGH_S,
            check=False,
            **user,
        )
        assert not check or done.returncode == 0, done.stderr
        return str(done.stdout)

    log = (place / "libvirtd.log").open("w")
    daemon = subprocess.Popen(
        ["libvirtd"],
        cwd=place,
        env=env,
        stdout=log,
        stderr=log,
        **user,
    )
    try:
        wait_for((place / "run" / "libvirt" / "libvirt-sock").exists, "libvirt", ENOUGH_S)
        yield virsh
    finally:
        for name in virsh("list", "--name", check=False).split():
            virsh("destroy", name, check=False)
        daemon.terminate()
        daemon.wait(ENOUGH_S)
        log.close()


def test_libvirt_starts_the_domain(export: Export) -> None:
    # Where a user who is not root may read.
    place = Path(tempfile.mkdtemp(prefix="ukl-libvirt-", dir="/var/tmp"))
    try:
        domain, *_ = export("libvirt", "--accel", "tcg", "--network", "user", out=place)
        subprocess.run(["virt-xml-validate", domain, "domain"], check=True)
        port = free_port()
        with libvirt(place) as virsh:
            virsh("create", str(domain))
            hmp = f"hostfwd_add hostnet0 tcp:127.0.0.1:{port}-:{PORT}"
            virsh("qemu-monitor-command", "app", "--hmp", hmp)
            wait_for(lambda: echoes(port), "an answer", ENOUGH_S)
            # The power button, and all is written back.
            virsh("shutdown", "app")
            wait_for(lambda: "app" not in virsh("list", "--name"), "its end", ENOUGH_S)
    finally:
        shutil.rmtree(place)


def test_tools_for_container_images_take_it(export: Export, image: Path, tmp_path: Path) -> None:
    reference = "registry.example/team/app:1.0"
    layout, *_ = export("oci", "--reference", reference, "--append", "quiet")
    again, *_ = export("oci", "--reference", reference, out=tmp_path / "again")
    # What was in there before is gone.
    first, machine, _ = export("oci", "--reference", reference, "-m", "300")
    assert first == layout
    blobs = sorted(path.name for path in (layout / "blobs" / "sha256").iterdir())
    assert blobs == sorted(path.name for path in (again / "blobs" / "sha256").iterdir())
    assert (layout / "index.json").read_bytes() == (again / "index.json").read_bytes()

    def told(*command: str | Path) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout

    inspected = json.loads(told("skopeo", "inspect", f"oci:{layout}:1.0"))
    labels = inspected["Labels"]
    assert (inspected["Architecture"], inspected["Os"]) == ("amd64", "linux")
    assert labels["org.opencontainers.image.licenses"] == "GPL-2.0-only"
    # It compares all digests.
    told("skopeo", "--insecure-policy", "copy", f"oci:{layout}:1.0", f"dir:{tmp_path}/copied")
    told("umoci", "unpack", "--rootless", "--image", f"{layout}:1.0", "bundle")
    root = tmp_path / "bundle" / "rootfs"
    kernel = root / labels["com.urunc.unikernel.binary"].removeprefix("/")
    described = load(image / IMAGE_FILE)
    assert files.sha256(kernel) == files.sha256(image / described.kernel)
    urunc = json.loads((root / "urunc.json").read_text())
    assert {name: base64.b64decode(value).decode() for name, value in urunc.items()} == {
        name: value for name, value in labels.items() if name.startswith("com.urunc.")
    }
    spec = json.loads(machine.read_text())["spec"]["template"]["spec"]
    assert spec["domain"]["memory"] == {"guest": "300Mi"}
    boot = spec["domain"]["firmware"]["kernelBoot"]
    assert boot["container"] == {
        **{"image": reference, "kernelPath": "/boot/kernel", "initrdPath": "/boot/initrd"}
    }
    assert boot["kernelArgs"] == labels["com.urunc.unikernel.cmdline"]
    assert spec["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": "app-data"}}]
