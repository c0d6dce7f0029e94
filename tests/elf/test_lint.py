# SPDX-License-Identifier: Apache-2.0
"""Instructions that trap in ring 3 and act in ring 0 are found, others are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.elf.conftest import SAMPLE, Compiler, link_with_libc, tool
from ukl_build.elf.lint import Severity, lint_object

ACTING = """
    hlt; cli; sti; popf; popfw; in $0x20, %al; in (%dx), %eax; out %al, $0x20; outl %eax, (%dx)
    rep insb; rep outsl; rdmsr; wrmsr; rdpmc; swapgs; wrgsbase %rax; clts; lmsw %ax
    lgdt (%rax); lidt (%rax); lldt %ax; ltr %ax; xsetbv; stac; clac; invd; wbinvd; invlpg (%rax)
    iretq; sysretq; sysexit; lretq; sysenter; monitor; mwait; vmrun
    mov %rax, %cr3; mov %cr0, %rax; mov %rax, %dr7; mov %db6, %rax
    mov %eax, %gs; pop %gs; lgs (%rax), %ecx
""".replace("\n", ";").split(";")
HARMLESS = """
    mov %rax, %rbx; syscall; rdtsc; cpuid; rdfsbase %rax; wrfsbase %rax; rdgsbase %rax; pushf; nop
    mov %fs:0x28, %rax; mov %eax, %ds; int3; ud2; ret; leave; pause; xgetbv
    rdtscp; lea 8(%rsp), %rax
    sysinfo: call sysinfo; call hlt_like; jmp inb_like; clflush (%rax)
    prefetchw (%rax); mov %ss, %eax
    mov %gs, %eax; int $0x80; cld; std; stc; sahf; insertps $1, %xmm0, %xmm1; lock incl (%rax)
""".replace("\n", ";").split(";")


@pytest.mark.parametrize("instruction", [one.strip() for one in ACTING if one.strip()])
def test_found(instruction: str, cc: Compiler) -> None:
    """One instruction, one finding, with the function it is in."""
    unit = cc(f".text\nfunction: nop\n{instruction}\nnop\n", suffix=".S")
    (finding,) = lint_object(unit)
    assert (finding.function, finding.section, finding.offset) == ("function", ".text", 1)
    assert finding.severity is Severity.WARNING
    assert finding.effect and str(finding).startswith("warning: ")


def test_not_found(cc: Compiler) -> None:
    """What ring 3 may do as well, and names that only look like it."""
    unit = cc(".text\nfunction:\n" + "\n".join(HARMLESS), suffix=".S")
    assert lint_object(unit) == ()


def test_a_stack_protector_that_reads_the_kernels_canary_is_an_error(cc: Compiler) -> None:
    """-mcmodel=kernel moves the canary to %gs:0x28; with the guard options it is the thread's."""
    source = "int fill(char *); int program(void) { char text[64]; return fill(text); }"
    findings = lint_object(cc(source, "-fstack-protector-all"))
    assert findings and all(one.severity is Severity.ERROR for one in findings)
    assert "-mstack-protector-guard-reg=fs" in findings[0].effect
    guarded = ["-mstack-protector-guard-reg=fs", "-mstack-protector-guard-offset=40"]
    unit = cc(source, "-fstack-protector-all", *guarded)
    assert "%fs:0x28" in tool("objdump", "-d", unit)
    assert lint_object(unit) == ()


def test_the_sample_is_clean_and_libc_has_its_hlt(cc: Compiler, tmp_path: Path) -> None:
    """Glibc stops behind calls that never return; nothing else is found in a small program."""
    flags = ["-I", str(SAMPLE)]
    assert lint_object(cc((SAMPLE / "tcp_server.c").read_text(), *flags)) == ()
    assert lint_object(cc((SAMPLE / "start.S").read_text(), suffix=".S", name="start")) == ()
    link_with_libc(tmp_path / "app.o", cc("int main(void) { return 0; }"))
    found = lint_object(tmp_path / "app.o")
    assert {one.instruction for one in found} == {"hlt"}
    assert {"abort", "_start"} <= {one.function for one in found}
