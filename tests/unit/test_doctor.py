# SPDX-License-Identifier: Apache-2.0
"""``ukl doctor`` sees what is amiss, and says what mends it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.project import ROOT, Project
from ukl_build import doctor, proc, ukl
from ukl_build.doctor import CHECKS, OPTIONAL, Finding, Host, State
from ukl_build.errors import Fault
from ukl_build.run import accel, qemu

INTEL = "processor\t: 0\nflags\t\t: fpu vmx smep\n"


def copied(folder: Path) -> Host:
    """Return a host whose project has copies of the files that checks read."""
    for name in ("packages.txt", "pyproject.toml", "requirements.txt", "README.md"):
        shutil.copyfile(ROOT / name, folder / name)
    return Host(project=folder, path=os.defpath)


def programs(folder: Path, **texts: str) -> Mapping[str, str]:
    """Return an environment with nothing but small programs that say something."""
    folder.mkdir()
    for name, text in texts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return {**proc.BASE_ENV, "PATH": str(folder)}


# --- The command --------------------------------------------------------------------------------


def test_all_checks_are_said_with_what_mends_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    status = ukl.main(["doctor", "--offline", "--json"])
    rows = json.loads(capsys.readouterr().out)["checks"]
    assert [row["check"] for row in rows] == [check.name for check in CHECKS]
    assert all(row["found"] for row in rows)
    assert all((row["state"] == State.OK) == (row["mend"] == "") for row in rows)
    assert status == (3 if "fails" in {row["state"] for row in rows} else 0)
    # These tests could not be run otherwise.
    states = {row["check"]: row["state"] for row in rows}
    assert {states[name] for name in ("python", "compilers", "qemu", "clock")} == {State.OK}


def test_people_get_a_line_and_the_command_under_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "word " * 60
    checks = (
        doctor.Check("well", lambda _: Finding(State.OK, "[as] it should be")),
        doctor.Check("so-so", lambda _: Finding(State.WARNING, "slow", long.strip())),
    )
    monkeypatch.setattr(doctor, "CHECKS", checks)
    assert ukl.main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok       well   [as] it should be",
        "warning  so-so  slow",
        f"                -> {long.strip()}",
    ]


def test_without_the_virtual_environment_it_says_so() -> None:
    python = Path(sys.executable).resolve()
    argv: list[str | Path] = [python, "-I", "-S", ROOT / "tools" / "ukl"]
    done = subprocess.run(
        [*argv, "doctor", "--json", "--offline"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (Fault.MACHINE, "")
    rows = {row["check"]: row for row in json.loads(done.stdout)["checks"]}
    assert rows["libraries"]["state"] == State.FAILS
    assert "kconfiglib" in rows["libraries"]["found"]
    assert rows["libraries"]["mend"].endswith("/bootstrap true")
    assert "No module named" in rows["ports"]["found"]
    plain = subprocess.run([*argv, "doctor", "--offline"], capture_output=True, check=False)
    assert plain.returncode == Fault.MACHINE and b"\nfails    libraries" in plain.stdout
    other = subprocess.run([*argv, "explain"], capture_output=True, check=False)
    assert other.returncode == 1 and b"hint: ./bootstrap tools/ukl" in other.stderr


@pytest.mark.parametrize("error", [RuntimeError("odd"), PermissionError(13, "not for you", "/x")])
def test_what_a_check_raises_is_a_finding(error: Exception) -> None:
    def look(_: Host) -> Finding:
        raise error

    found = doctor.look(doctor.Check("x", look), Host())
    assert found.state is State.FAILS
    assert str(error) in found.found


# --- What is installed --------------------------------------------------------------------------


def test_another_debian_lacks_the_sources(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    for text, words in (
        ("ID=debian\nVERSION_CODENAME=trixie\n", "Debian trixie, where bookworm"),
        ("ID=fedora\n", "not a Debian release"),
    ):
        path.write_text(text)
        found = doctor.system(Host(etc=tmp_path))
        assert found.state is State.WARNING
        assert words in found.found
        assert "linux_src=FOLDER" in found.mend
    path.write_text(f"ID=debian\nVERSION_CODENAME={doctor.RELEASE}\n")
    assert doctor.system(Host(etc=tmp_path)).state is State.OK


def database(folder: Path, names: set[str]) -> Mapping[str, str]:
    """Return the environment of a dpkg that has some packages installed, and one half removed."""
    entry = "Package: {}\nStatus: {}\nArchitecture: amd64\nVersion: 1\nMaintainer: x\n"
    there = [entry.format(name, "install ok installed") for name in sorted(names)]
    gone = [entry.format("flex", "deinstall ok config-files")]
    folder.mkdir()
    (folder / "status").write_text("\n".join([*there, *gone]))
    return {**proc.BASE_ENV, "DPKG_ADMINDIR": str(folder)}


def test_packages_that_are_missing_are_named_with_the_command(tmp_path: Path) -> None:
    names = {*doctor.packages(ROOT)}
    host = Host(env=database(tmp_path / "dpkg", names - {"flex", "bison", "gdb"}))
    found = doctor.needed(host)
    assert (found.state, found.found) == (State.FAILS, "not installed: flex, bison")
    assert re.fullmatch(
        r"(sudo )?apt-get install --yes --no-install-recommends flex bison", found.mend
    )
    comfort = doctor.optional(host)
    assert comfort.state is State.WARNING
    assert comfort.found == f"not installed: gdb ({doctor.packages(ROOT)['gdb']})"
    assert comfort.mend.endswith(" gdb")


def test_packages_that_are_there_are_counted(tmp_path: Path) -> None:
    names = {*doctor.packages(ROOT)} - {"flex"}
    project = tmp_path / "project"
    project.mkdir()
    text = (ROOT / "packages.txt").read_text()
    (project / "packages.txt").write_text(re.sub(r"^flex .*\n", "", text, flags=re.M))
    host = Host(project=project, env=database(tmp_path / "dpkg", names))
    count = len(names - OPTIONAL)
    assert doctor.needed(host) == Finding(State.OK, f"all {count} of packages.txt are installed")
    assert doctor.optional(host).state is State.OK


def test_optional_packages_are_some_of_those_that_are_listed() -> None:
    assert doctor.packages(ROOT).keys() > OPTIONAL


def test_a_system_without_dpkg_is_told_what_to_do(tmp_path: Path) -> None:
    found = doctor.look(doctor.Check("x", doctor.needed), Host(env=programs(tmp_path / "none")))
    assert found.state is State.FAILS
    assert "'dpkg-query' is not installed" in found.found
    assert "packages.txt" in found.mend


def test_an_old_python_is_seen(tmp_path: Path) -> None:
    programs(tmp_path / "bin", python3="echo Python 3.9.2")
    found = doctor.python(Host(path=str(tmp_path / "bin")))
    assert (found.state, found.found) == (State.FAILS, "Python 3.9.2, where >=3.11 is needed")


def test_the_stamp_is_the_one_of_bootstrap() -> None:
    (line,) = re.findall(r"^stamp=.*$", (ROOT / "bootstrap").read_text(), re.M)
    done = subprocess.run(
        ["sh", "-c", f'{line}; printf "%s" "$stamp"'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert doctor.stamp(Host()) == done.stdout


def test_a_stale_virtual_environment_is_seen(tmp_path: Path) -> None:
    host = copied(tmp_path)
    found = doctor.environment(host)
    assert found.state is State.FAILS and found.mend == f"{tmp_path}/bootstrap true"
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "stamp").write_text(doctor.stamp(host) + "\n")
    assert doctor.environment(host).state is State.OK
    (tmp_path / "link").symlink_to(tmp_path)
    text = doctor.stamp(replace(host, project=tmp_path / "link"))
    (tmp_path / ".venv" / "stamp").write_text(text + "\n")
    assert doctor.environment(host).state is State.OK
    (tmp_path / ".venv" / "stamp").write_text(text.replace("/link", "/other") + "\n")
    assert doctor.environment(host).state is State.WARNING
    with (tmp_path / "requirements.txt").open("a") as file:
        file.write("more==1\n")
    (tmp_path / ".venv" / "stamp").write_text(text + "\n")
    assert doctor.environment(host).state is State.WARNING


def test_versions_other_than_those_pinned_are_seen(tmp_path: Path) -> None:
    host = copied(tmp_path)
    path = tmp_path / "requirements.txt"
    assert doctor.libraries(host).state is State.OK
    path.write_text(f"# no pin\npytest=={pytest.__version__}\nrich==0.1\n")
    found = doctor.libraries(host)
    assert found.state is State.WARNING
    assert re.fullmatch(r"other versions than pinned: rich [\d.]+, not 0.1", found.found)
    path.write_text("no-such-package-anywhere==1\n")
    found = doctor.libraries(host)
    assert found.state is State.FAILS
    assert found.found.endswith("lacks no-such-package-anywhere")
    assert found.mend == f"rm -f {tmp_path}/.venv/stamp && {tmp_path}/bootstrap true"


WELL = {name: f"echo {name} 99.0" for name in doctor.LEAST}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"gcc": "echo 'gcc (Debian 12.2.0-14) 5.4.0'"}, "where version 6.2 or newer is needed"),
        ({"make": "echo BSD make"}, "make says 'BSD make'"),
        ({"ld": "exit 3"}, "ld ended with status 3"),
        ({"gcc": 'echo gcc 12.0; [ "$1" = --version ] || exit 1'}, "gcc ended with status 1"),
    ],
)
def test_compilers_that_are_too_old_or_broken_are_seen(
    tmp_path: Path, texts: dict[str, str], words: str
) -> None:
    host = Host(env=programs(tmp_path / "bin", **{**WELL, **texts}))
    found = doctor.look(doctor.Check("x", doctor.compilers), host)
    assert found.state is State.FAILS
    assert words in found.found
    assert "apt-get install" in found.mend


def test_programs_that_are_missing_come_with_their_package(tmp_path: Path) -> None:
    host = Host(env=programs(tmp_path / "bin"))
    for look, package in ((doctor.compilers, "gcc"), (doctor.emulator, "qemu-system-x86")):
        found = doctor.look(doctor.Check("x", look), host)
        assert found.state is State.FAILS
        assert "is not installed" in found.found
        assert package in found.mend


def test_a_qemu_that_lacks_something_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "VIRTIO", "no-such-property=on")
    found = doctor.emulator(Host())
    assert found.state is State.FAILS
    assert "no-such-property" in found.found
    assert "qemu-system-x86" in found.mend


# --- What there is of it ------------------------------------------------------------------------


def test_a_full_disk_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "ukl-build"
    # What is free is what it is; so it is what is needed that changes.
    monkeypatch.setattr(doctor, "BUILD_DISK", 0)
    monkeypatch.setattr(doctor, "LEAST_DISK", 0)
    assert doctor.disk(Host()).state is State.OK
    monkeypatch.setattr(doctor, "BUILD_DISK", 1 << 60)
    found = doctor.disk(Host())
    assert found.state is State.WARNING
    assert "where a first build takes" in found.found
    assert not found.mend.startswith("rm")
    cache.mkdir()
    monkeypatch.setattr(doctor, "LEAST_DISK", 1 << 60)
    found = doctor.disk(Host())
    assert found.state is State.FAILS
    assert found.mend.startswith(f"rm -r {cache}; ")


def test_the_readme_says_how_much_is_used() -> None:
    amount = f"About {doctor.BUILD_DISK // doctor.GB} GB of disk space are used."
    assert amount in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("free", "limit", "state"),
    [
        (100, None, State.FAILS),
        (doctor.LINK_MIB, None, State.WARNING),
        (99_999, None, State.OK),
        (99_999, "max", State.OK),
        (99_999, str(300 * doctor.MIB), State.FAILS),
    ],
)
def test_too_little_memory_is_seen(
    tmp_path: Path, free: int, limit: str | None, state: State
) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: 999999999 kB\nMemAvailable:   {free * 1024} kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{50 * doctor.MIB}\n")
    found = doctor.memory(Host(meminfo=tmp_path / "meminfo", cgroup=tmp_path))
    assert found.state is state
    if limit and limit != "max":
        assert found.found.startswith("250 MiB are free")
    if state is State.WARNING:
        assert found.mend == "scons -j1 app=NAME"


def test_a_clock_that_is_behind_is_seen(tmp_path: Path) -> None:
    host = replace(copied(tmp_path), dpkg=tmp_path / "none")
    assert doctor.clock(host).state is State.OK
    tomorrow = time.time() + 86400
    os.utime(tmp_path / "README.md", (tomorrow, tomorrow))
    found = doctor.clock(host)
    assert found.state is State.FAILS
    assert "it is 1.0 days behind" in found.found


def test_what_keeps_kvm_from_working_comes_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    host = Host(device=tmp_path / "kvm", cpuinfo=tmp_path / "cpuinfo")
    host.cpuinfo.write_text("flags : fpu\n")
    assert "firmware" in doctor.kvm(host).mend
    host.cpuinfo.write_text(INTEL)
    assert "modprobe kvm_intel" in doctor.kvm(host).mend
    host.device.touch()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    kept = tmp_path / "ukl-build" / accel.VERDICT
    kept.parent.mkdir()
    why = "a small guest did not end within 10 s"
    kept.write_text(json.dumps({"boot_id": boot, "why": why}))
    found = doctor.kvm(host)
    assert (found.state, found.found) == (State.WARNING, f"KVM does not work here: {why}")
    assert found.mend.endswith(f"rm {kept}")
    kept.write_text(json.dumps({"boot_id": boot, "why": None}))
    assert doctor.kvm(host).state is State.OK


NOBODY = """
import os, sys, tempfile
from pathlib import Path
sys.path.insert(0, {root!r})
from ukl_build import doctor
place = Path({place!r})
host = doctor.Host(device=place / "kvm", cpuinfo=place / "cpuinfo")
doctor.{look}(host)
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
found = doctor.{look}(host)
print(found.found)
print(found.mend)
"""


def as_nobody(look: str, place: Path) -> list[str]:
    """Do a check twice, the second time as a user who may do nothing: modules are read then."""
    program = NOBODY.format(root=str(ROOT), place=str(place), look=look)
    env = {**os.environ, "XDG_STATE_HOME": str(place / "state"), "TMPDIR": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_a_user_may_not_do_is_seen() -> None:
    # pytest's own folders are for nobody else.
    with tempfile.TemporaryDirectory(prefix="ukl-test-") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "cpuinfo").write_text(INTEL)
        (place / "cpuinfo").chmod(0o444)
        (place / "kvm").touch(mode=0)
        if os.getuid() == 0:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            (place / "state" / "ukl-build").mkdir(parents=True)
            kept = place / "state" / "ukl-build" / accel.VERDICT
            kept.write_text(json.dumps({"boot_id": boot, "why": None}))
        found, mend = as_nobody("kvm", place)
        assert "may not be opened by this user" in found
        assert re.fullmatch(r"sudo usermod -aG \S+ \S+, and log in again", mend)
        place.chmod(0o555)
        found, mend = as_nobody("disk", place)
        assert "cannot be written" in found
        assert re.fullmatch(r"sudo chown -R \S+ \S+", mend)


def test_a_port_that_is_taken_comes_with_its_holder(project: Project) -> None:
    path = project.root / "recipes" / "hello" / "recipe.toml"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        path.write_text(path.read_text().replace("guest = 5555", f"guest = {port}"))
        found = doctor.ports(Host(project=project.root))
        assert found.state is State.WARNING
        assert f"{port}/tcp of hello: Address already in use, process {os.getpid()}" in found.found
        assert found.mend == f"tools/ukl-run --qemu hello -p 0:{port}/tcp"
    assert doctor.ports(Host(project=project.root)) == Finding(
        State.OK, f"the recipes' are free: {port}/tcp"
    )


def test_places_of_debian_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIRROR_S", doctor.PROGRAM_S)
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    (tmp_path / "apt").mkdir()
    assert "names no place" in doctor.sources(Host(etc=tmp_path)).found
    mirror = tmp_path / "mirror"
    (tmp_path / "apt" / "sources.list").write_text(f"deb file://{mirror} bookworm main\n")
    found = doctor.sources(Host(etc=tmp_path))
    assert found.state is State.WARNING
    assert f"file://{mirror}/dists/bookworm/InRelease did not come" in found.found
    assert "linux_src=FOLDER" in found.mend
    assert "not asked" in doctor.sources(Host(etc=tmp_path, offline=True)).found
    (mirror / "dists" / "bookworm").mkdir(parents=True)
    (mirror / "dists" / "bookworm" / "InRelease").write_text("Origin: Debian\n")
    assert doctor.sources(Host(etc=tmp_path)).found == "places of Debian that answer: 1"


def test_each_check_has_a_name_and_says_what_it_is_for() -> None:
    looks: list[Callable[[Host], Finding]] = [check.look for check in CHECKS]
    assert len({check.name for check in CHECKS}) == len(set(looks)) == len(CHECKS)
    assert all(look.__doc__ for look in looks)
