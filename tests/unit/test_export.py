# SPDX-License-Identifier: Apache-2.0
"""What ukl export writes for other programs, and what it refuses.

Whether they take it is in tests/boot/test_export.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.unit.place import Place
from ukl_build.export import bootdisk
from ukl_build.image import Disk, Feature, Init, Port, Protocol, Share
from ukl_build.ukl import main

DATA = Disk(name="data", size_mib=16, mount="/data")
WWW = Share(name="www", mount="/srv/www", read_only=True)
ALL = tuple(Feature)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which commands are typed; images go to build/."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder: Path, **described: Any) -> None:
    """Make the image of an application, called app if nothing else is said."""
    given: dict[str, Any] = {"features": ALL, "redistributable": True, "init": Init.RING3}
    out = Place(folder).image("halt", **(given | described))
    # Any ELF file.
    shutil.copyfile("/bin/true", out / "app.vmlinux")


def export(form: str, *words: str, name: str = "app") -> int:
    """Run the command line."""
    return main(["export", name, "--format", form, *words])


@pytest.mark.parametrize(
    ("described", "words", "said"),
    [
        (
            {"cmdline": ("console=ttyS0", "--", '"a b"')},
            ["raw"],
            ["export-invalid", "GRUB cannot hand a quotation mark", '-- "a b"', "with our init"],
        ),
        (
            {"shares": (WWW,)},
            ["qcow2"],
            ["export-invalid", "shares /srv/www with its host", "as qcow2", "--file"],
        ),
        (
            {"init": Init.DIRECT},
            ["firecracker"],
            ["export-invalid", "Firecracker has no DHCP", "scons app=app init=ring3"],
        ),
        (
            {"features": ()},
            ["firecracker"],
            ["run-invalid", "built without virtio-mmio", "scons app=app fragments=virtio-mmio"],
        ),
        ({}, ["oci", "--reference", "Redis"], ["run-invalid", "'Redis' is no name", "registry"]),
        ({}, ["oci", *["--arg=" + "x" * 100_000] * 30], ["run-invalid"]),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    described: dict[str, Any],
    words: list[str],
    said: list[str],
) -> None:
    made(folder, **described)
    assert export(*words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    for one in said:
        assert one in told.err
    left = (folder / "build" / "app" / "export").rglob("*")
    assert [path.name for path in left if path.is_file()] in ([], [".lock"])


@pytest.mark.parametrize("text", ["10.0.0.2", "10.0.0.2/31", "10.0.0.256/24", "x/24"])
def test_an_address_has_room_for_a_router(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    with pytest.raises(SystemExit):
        export("firecracker", "--address", text)
    assert "--address" in capsys.readouterr().err


def test_what_was_begun_by_one_that_was_killed_is_gone(folder: Path) -> None:
    made(folder)
    (folder / "out" / ".partial").mkdir(parents=True)
    (folder / "out" / ".partial" / "layout").write_text("begun")
    assert export("oci", "--out", "out") == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        *(".lock", "app.kubevirt.json", "app.oci")
    ]


def test_a_licence_that_forbids_it_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(folder, redistributable=False, licences={"linux": "GPL-2.0-only", "app": "Apache-2.0"})
    assert export("oci") == 0
    assert "do not let it be handed on: app is under Apache-2.0" in capsys.readouterr().err


def test_a_domain_has_what_the_machine_of_ukl_run_has(folder: Path) -> None:
    made(folder, disks=(DATA,), shares=(WWW,), memory_mib=64, cpus=2)
    assert export("libvirt", "-m", "1G", "--append", "quiet", "--arg=--an arg") == 0
    out = folder / "build" / "app" / "export" / "libvirt"
    root = ElementTree.fromstring((out / "app.xml").read_text())
    assert (root.get("type"), root.findtext("name")) == ("kvm", "app")
    assert (root.findtext("memory"), root.findtext("vcpu")) == ("1024", "2")
    assert str(root.findtext("os/cmdline")).endswith(" quiet")
    # The argument, in a file that the init reads.
    initrd = Path(str(root.findtext("os/initrd")))
    assert b"arg=--an arg\n" in initrd.read_bytes()
    (disk,) = root.findall("devices/disk")
    assert [(one.tag, dict(one.attrib)) for one in disk][1:] == [
        ("source", {"file": str(out / "data.img")}),
        ("target", {"dev": "vda", "bus": "virtio"}),
    ]
    assert (out / "data.img").stat().st_size == 16 << 20
    (share,) = root.findall("devices/filesystem")
    assert [one.tag for one in share] == ["source", "target", "readonly"]
    assert dict(share[1].attrib) == {"dir": "share0"}
    assert [dict(one.attrib) for one in root.findall("devices/interface/source")] == [
        {"network": "default"}
    ]


def test_a_microvm_has_an_address_and_a_disk_that_flushes(folder: Path) -> None:
    made(folder, disks=(DATA,), memory_mib=64)
    assert export("firecracker", "--address", "192.168.7.1/24", "--tap", "tap7") == 0
    out = folder / "build" / "app" / "export" / "firecracker"
    found = json.loads((out / "app.json").read_text())
    assert found["boot-source"]["boot_args"].endswith(
        " pci=off reboot=k ukl.end=reset ukl.ip=192.168.7.1/24,192.168.7.2"
    )
    assert found["machine-config"] == {"vcpu_count": 1, "mem_size_mib": 64}
    (drive,) = found["drives"]
    assert (drive["path_on_host"], drive["cache_type"]) == ("data.img", "Writeback")
    assert found["network-interfaces"] == [{"iface_id": "eth0", "host_dev_name": "tap7"}]


def test_ports_and_names_are_as_kubernetes_wants_them(folder: Path) -> None:
    ports = (Port(guest=80), Port(guest=53, proto=Protocol.UDP))
    made(folder, name="my_app", ports=ports, disks=(DATA,))
    assert export("oci", name="my_app") == 0
    out = folder / "build" / "my_app" / "export" / "oci"
    found = json.loads((out / "my_app.kubevirt.json").read_text())
    assert found["metadata"]["name"] == "my-app"
    spec = found["spec"]["template"]["spec"]
    (card,) = spec["domain"]["devices"]["interfaces"]
    assert card["ports"] == [
        {"port": 80, "protocol": "TCP"},
        {"port": 53, "protocol": "UDP"},
    ]
    assert spec["volumes"][0]["persistentVolumeClaim"] == {"claimName": "my-app-data"}
    assert spec["domain"]["firmware"]["kernelBoot"]["container"]["image"] == "my_app:latest"


@pytest.mark.parametrize(
    ("reference", "tag"),
    [
        ("registry.example:5000/team/app", "latest"),
        ("registry.example:5000/team/app:1.0", "1.0"),
        ("app:2", "2"),
    ],
)
def test_a_layout_has_the_tag_of_the_reference(folder: Path, reference: str, tag: str) -> None:
    made(folder)
    assert export("oci", "--reference", reference) == 0
    out = folder / "build" / "app" / "export" / "oci"
    (found,) = json.loads((out / "app.oci" / "index.json").read_text())["manifests"]
    assert found["annotations"] == {"org.opencontainers.image.ref.name": tag}


def test_grub_that_is_not_there_is_named_with_its_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(folder, features=())
    monkeypatch.setattr(bootdisk, "GRUB", folder)
    assert export("raw") == 3
    said = capsys.readouterr().err
    assert "error[tool-missing]: GRUB for i386-pc is not installed" in said
    assert "grub-pc-bin" in said
