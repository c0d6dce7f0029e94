# SPDX-License-Identifier: Apache-2.0
"""What the tests of the archive share: a compiler, a libc, and one archive of each."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.boot.conftest import library
from ukl_build import toolchain
from ukl_build.stages.archive import link_application, make_archive

__all__ = ["library"]  # a fixture of the tests here as well

KERNEL_FLAGS = (
    "-O2",
    "-ffreestanding",
    "-fno-pic",
    "-fno-pie",
    "-mcmodel=kernel",
    "-mno-red-zone",
    "-fno-stack-protector",
    "-fcf-protection=none",
)

Compiler = Callable[..., Path]
SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "tcp_server"

START = """
    .globl _start
    .text
_start:
    xor %ebp, %ebp
    mov (%rsp), %rdi
    lea 8(%rsp), %rsi
    and $-16, %rsp
    call program
    mov %eax, %edi
    mov $60, %eax
    syscall
    .section .note.GNU-stack,"",@progbits
"""
"""The least a program without a C library needs; its exit status is the result of program()."""


def tool(*argv: str | Path) -> str:
    """Run a host program that must succeed, and return what it printed."""
    done = subprocess.run([str(one) for one in argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def lint_clean(path: Path) -> None:
    """Require that eu-elflint finds nothing, by the standard alone.

    Except that it holds R_X86_64_TPOFF64 to be for dynamic linking only (elfutils,
    backends/x86_64_reloc.def); ld resolves it in static links.
    """
    done = subprocess.run(["eu-elflint", path], capture_output=True, text=True, check=False)
    said = [
        line
        for line in done.stdout.splitlines()
        if not re.fullmatch(
            r"section \[ *\d+\] '\.rela\.ukl\.rodata\.got': relocation \d+:"
            r" relocation type invalid for the file type",
            line,
        )
    ]
    assert said in ([], ["No errors"]), done.stdout + done.stderr


def run(program: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a test program to its end."""
    return subprocess.run(
        [str(program), *argv], capture_output=True, text=True, check=False, timeout=20
    )


@pytest.fixture
def cc(tmp_path: Path) -> Compiler:
    """Return a function that compiles a text."""

    def compile_text(
        source: str, *flags: str, suffix: str = ".c", name: str = "unit", kernel: bool = True
    ) -> Path:
        text = tmp_path / f"{name}{suffix}"
        text.write_text(source)
        out = tmp_path / f"{name}.o"
        tool("gcc", *(KERNEL_FLAGS if kernel else ()), *flags, "-c", "-o", out, text)
        return out

    return compile_text


@pytest.fixture
def start(cc: Compiler) -> Path:
    """Return an object with an entry point that calls program(argc, argv)."""
    return cc(START, suffix=".S", name="start")


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes an archive of objects."""

    def make(*objects: Path, zero: dict[str, str] | None = None) -> Path:
        link_application(objects, tmp_path / "app.o")
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a", zero=zero)
        tool("sh", "-c", f"cd {tmp_path} && mkdir -p out && cd out && ar x ../UKL.a")
        lint_clean(tmp_path / "out" / "app.o")
        return tmp_path / "UKL.a"

    return make


def link_with_libc(out: Path, *objects: Path, libraries: tuple[str, ...] = ()) -> None:
    """Link partially with Debian's own libc.a, as docs/design.md says."""
    link_application(
        objects,
        out,
        before=[toolchain.file(one) for one in ("crt1.o", "crti.o", "crtbeginS.o")],
        libraries=[
            toolchain.file(one) for one in (*libraries, "libc.a", "libgcc.a", "libgcc_eh.a")
        ],
        after=[toolchain.file(one) for one in ("crtendS.o", "crtn.o")],
    )
