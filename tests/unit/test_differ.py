# SPDX-License-Identifier: Apache-2.0
"""Where two files differ, and in which stage two builds part."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project import Project
from ukl_build import cpio, differ, ukl
from ukl_build.elf.difference import first_difference

CODE = """\
int counter = {counter};
int first(int n) {{ return n * 3; }}
int second(int n) {{ return n * {factor}; }}
int last(int n) {{ return n - 1; }}
void _start(void) {{ for (;;) counter = last(second(first(counter))); }}
"""


def compiled(folder: Path, name: str, *options: str, counter: int = 1, factor: int = 5) -> Path:
    """Compile a small program, whatever it is called with the same bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "code.c").write_text(CODE.format(counter=counter, factor=factor))
    argv = ["gcc", "-O0", *options, "code.c", "-o", name]
    subprocess.run(argv, cwd=folder, check=True)
    return folder / name


def between(a: Path, b: Path) -> list[str]:
    """Return where two files differ."""
    return list(differ.difference(a.read_bytes(), b.read_bytes()))


LINKED = ("-static", "-nostdlib", "-fno-pie", "-no-pie", "-Wl,--build-id=none")


@pytest.mark.parametrize("options", [("-c",), LINKED], ids=["object", "program"])
def test_of_code_the_function_is_told(tmp_path: Path, options: tuple[str, ...]) -> None:
    a = compiled(tmp_path / "a", "it", *options)
    assert between(a, compiled(tmp_path / "b", "it", *options)) == []
    section, symbol, data = between(a, compiled(tmp_path / "c", "it", *options, factor=9))
    assert section == "section .text"
    assert symbol.startswith("symbol second+0x")
    # n + 4n against n + 8n: lea's scale, or what the compiler takes instead.
    assert data.startswith("byte 0x")
    assert " against " in data
    found = between(a, compiled(tmp_path / "d", "it", *options, counter=7))
    assert found[:2] == ["section .data", "symbol counter+0x0"]
    assert found[2].startswith("byte 0x0: 01 00 00 00")
    assert " against 07 00 00 00" in found[2]


def test_of_an_archive_the_member_is_told(tmp_path: Path) -> None:
    paths = []
    for name, factor in (("a", 5), ("b", 9)):
        folder = tmp_path / name
        compiled(folder, "code.o", "-c", factor=factor)
        (folder / "first.o").write_bytes(b"the same")
        subprocess.run(["ar", "rcD", "it.a", "first.o", "code.o"], cwd=folder, check=True)
        paths.append(folder / "it.a")
    assert between(*paths)[:2] == ["member code.o", "section .text"]
    subprocess.run(["ar", "rcD", "it.a", "code.o", "code.o"], cwd=tmp_path / "b", check=True)
    (tmp_path / "b" / "it.a").unlink()
    subprocess.run(["ar", "rcD", "it.a", "first.o"], cwd=tmp_path / "b", check=True)
    assert between(*paths) == ["member code.o against nothing"]


def test_of_an_initramfs_the_file_is_told(tmp_path: Path) -> None:
    def archive(*files: cpio.Entry) -> bytes:
        return cpio.archive([cpio.file("/init", b"1"), *files])

    a = archive(cpio.file("/etc/x", b"abc"), cpio.file("/etc/y", b"abcdefgh"))
    b = archive(cpio.file("/etc/x", b"abc"), cpio.file("/etc/y", b"abcdefgX"))
    assert [name for name, _, _ in cpio.listed(a)] == [
        "etc",
        "etc/x",
        "etc/y",
        "init",
        "TRAILER!!!",
    ]
    assert b"".join(part for _, part, _ in cpio.listed(a)) == a
    name, data = differ.difference(a, b)
    assert name == "file etc/y"
    assert data.endswith(": 68 against 58")
    assert list(differ.difference(a, archive())) == ["file etc against init"]
    with pytest.raises(ValueError, match="no end"):
        cpio.listed(a[:-120])


def test_whatever_is_damaged_is_bytes(tmp_path: Path) -> None:
    a = compiled(tmp_path / "a", "it", "-c").read_bytes()
    assert list(differ.difference(a[:200], a[:199] + b"!")) == [
        f"byte 0xc7: {a[199:200].hex()} against 21"
    ]
    assert list(differ.difference(b"abc", b"abcd")) == ["3 against 4 bytes"]


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_the_first_byte_is_found(size: int) -> None:
    data = bytes(size)
    for at in {0, size // 2, size - 1}:
        other = data[:at] + b"\1" + bytes([2] * (size - at - 1))
        assert first_difference(data, other) == at
    assert first_difference(data, data + b"x") == size


def parted(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the command; return its exit status and what it says."""
    return ukl.main(["diff", str(a), str(b)]), capsys.readouterr().out


def test_the_stage_is_told_and_what_differed_before_it(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.build()
    other = Project(tmp_path / "elsewhere" / "project", tmp_path / "other cache")
    shutil.copytree(project.root, other.root, ignore=shutil.ignore_patterns("build"))
    other.build("build=out")
    out = other.root / "out" / "hello"
    assert parted(project.out, out, capsys) == (0, f"{project.out} and {out} are the same\n")
    other.edit("int edited = 1;\n")
    other.build("build=out")
    status, said = parted(project.out, out, capsys)
    assert status == 1
    lines = said.splitlines()
    assert lines[0] == "they part in the stage compile"
    assert lines[1] == f"  differs before it: {differ.SOURCE}"
    assert lines[2] == "  objects/tcp_server.c.o"
    assert lines[3].startswith("    section .")
    assert ukl.main(["diff", "--json", str(project.out), str(out)]) == 1
    assert json.loads(capsys.readouterr().out)["stage"] == "compile"
    patch = other.root / "recipes" / "linux" / "patches" / "0001-a.patch"
    patch.write_text(patch.read_text().replace("int patched;", "int healed;"))
    other.build("build=out")
    assert parted(project.out, out, capsys) == (
        1,
        "they part in the stage sources\n"
        f"  differs before it: {differ.RECIPE}\n"
        "  tree\n"
        "    a.c\n"
        "      byte 0x35: 70 61 74 63 68 65 64 3b 0a against 68 65 61 6c 65 64 3b 0a\n"
        "        62 against 61 bytes\n",
    )


def test_a_stage_that_does_not_do_the_same_twice_is_told(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.build()
    copy = tmp_path / "copy" / "hello"
    shutil.copytree(project.out, copy)
    # As if the kernel's build had put the time into it.
    kernel, record = copy / "hello.vmlinux", copy / "linux.manifest.json"
    found = json.loads(record.read_text())
    kernel.write_bytes(kernel.read_bytes() + b"!")
    found["outputs"]["hello.vmlinux"] = "another"
    record.write_text(json.dumps(found))
    status, said = parted(project.out, copy, capsys)
    assert status == 1
    assert said.startswith(
        "they part in the stage linux\n"
        "  differs before it: nothing: it does not do the same twice\n"
        "  hello.vmlinux\n"
    )
    record.unlink()
    assert (
        "they part in the stage linux\n  differs before it: only "
        in parted(project.out, copy, capsys)[1]
    )
