# SPDX-License-Identifier: Apache-2.0
"""KVM is used only where it works."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ukl_build.errors import UklError
from ukl_build.run import accel
from ukl_build.run.vm import Accel

INTEL = "processor\t: 0\nflags\t\t: fpu vme vmx smep\n"
AMD = "processor\t: 0\nflags\t\t: fpu svm\n"
NESTED_WITHOUT = "processor\t: 0\nflags\t\t: fpu hypervisor vmxnotreally\n"


def test_the_probes_guest_is_the_assembled_source(tmp_path: Path) -> None:
    source = Path(accel.__file__).with_name("probe.S")
    program, binary = tmp_path / "probe.o", tmp_path / "probe.bin"
    subprocess.run(["gcc", "-c", "-o", program, source], check=True)
    subprocess.run(
        ["ld", "-Ttext", "0x7c00", "--oformat", "binary", "-o", binary, program], check=True
    )
    assert accel.PROBE_SECTOR[:-2].rstrip(b"\0") == binary.read_bytes().rstrip(b"\0")
    assert len(accel.PROBE_SECTOR) == accel.SECTOR


def test_the_probes_guest_comes_to_its_end() -> None:
    assert accel.probe(Accel.TCG) is None


def test_the_probe_sees_a_guest_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    # mov $0xcf9, %dx; mov $6, %al; out %al, %dx; hlt
    reset = bytes.fromhex("baf90cb006eef4").ljust(510, b"\0") + b"\x55\xaa"
    monkeypatch.setattr(accel, "PROBE_SECTOR", reset)
    assert "a small guest failed" in str(accel.probe(Accel.TCG))


def test_the_probe_sees_a_guest_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "PROBE_SECTOR", b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa")
    monkeypatch.setattr(accel, "PROBE_S", 1.5)
    assert "did not end within 1.5 s" in str(accel.probe(Accel.TCG))


def test_hopeless_cases_are_not_even_tried(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    assert "there is no" in str(accel.unusable(device, INTEL))
    device.touch()
    assert accel.unusable(device, INTEL) is None
    assert accel.unusable(device, AMD) is None
    assert "neither vmx nor svm" in str(accel.unusable(device, NESTED_WITHOUT))
    assert "neither vmx nor svm" in str(accel.unusable(device, ""))


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Make probes say what is in this list, in turn."""
    results: list[str | None] = []
    monkeypatch.setattr(accel, "probe", lambda: results.pop(0))
    return results


def choose(asked: str, folder: Path, boot_id: str = "one") -> accel.Verdict:
    """Choose on a machine whose processor and device look well."""
    device = folder / "kvm"
    device.touch()
    return accel.choose(asked, state=folder, boot_id=boot_id, cpuinfo=INTEL, device=device)


def test_kvm_that_works_is_used_and_probed_once_a_boot(
    tmp_path: Path, probes: list[str | None]
) -> None:
    probes += [None, "it hangs"]
    assert choose("auto", tmp_path).accel is Accel.KVM
    assert choose("auto", tmp_path).accel is Accel.KVM
    assert choose("auto", tmp_path, "two") == accel.Verdict(
        Accel.TCG, "KVM does not work here: it hangs"
    )
    assert probes == []


@pytest.mark.parametrize("junk", ["", "{", "[]", '{"boot_id": "one"}', "\udcff"])
def test_a_broken_cache_is_no_verdict(tmp_path: Path, probes: list[str | None], junk: str) -> None:
    (tmp_path / "kvm.json").write_bytes(junk.encode("utf-8", "surrogateescape"))
    probes.append(None)
    assert choose("auto", tmp_path).accel is Accel.KVM
    assert json.loads((tmp_path / "kvm.json").read_text()) == {"boot_id": "one", "why": None}


def test_tcg_that_is_asked_for_is_not_questioned(tmp_path: Path) -> None:
    assert choose("tcg", tmp_path).accel is Accel.TCG
    assert not (tmp_path / "kvm.json").exists()


def test_kvm_that_is_asked_for_and_broken_is_an_error(
    tmp_path: Path, probes: list[str | None]
) -> None:
    probes.append("it hangs")
    with pytest.raises(UklError, match="it hangs") as caught:
        choose("kvm", tmp_path)
    assert caught.value.code == "kvm-unusable"
