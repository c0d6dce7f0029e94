# SPDX-License-Identifier: Apache-2.0
"""Every finding of the lint where it is due and nowhere else; what goes in is what ld takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.elf.conftest import SAMPLE, START, Compiler, tool
from tests.elf.test_refusals import ASSEMBLER, END
from tests.project import ROOT
from ukl_build import toolchain
from ukl_build.elf import layout
from ukl_build.elf.names import PROVIDED, UNPREFIXED, load_tables
from ukl_build.elf.rules import RULES, RuleError, Severity
from ukl_build.errors import UklError
from ukl_build.lint import cli, inputs
from ukl_build.lint.check import lint
from ukl_build.lint.findings import Finding, Report
from ukl_build.stages import libc
from ukl_build.stages.archive import make_archive
from ukl_build.stages.lint import check_link

TABLES = load_tables(UNPREFIXED, PROVIDED)
TLS = '\n.section .tbss,"awT",@nobits\nvariable: .long 0'


def look(*files: Path, program: bool = False) -> Report:
    """Lint files, as parts of a program unless told otherwise."""
    return lint(inputs.read([str(file) for file in files]), TABLES, program=program)


def codes(report: Report) -> list[str]:
    """Return the codes of all findings."""
    return [one.code for one in report.findings]


def archive(out: Path, *objects: Path, thin: bool = False, index: bool = True) -> Path:
    """Make an archive."""
    how = ["--thin"] if thin else []
    tool("ar", "rc" if index else "rcS", *how, out, *objects)
    return out


# --- Instructions

RING0 = """
    cli; sti; popf; popfw; in $0x20, %al; in (%dx), %eax; out %al, $0x20; outl %eax, (%dx)
    rep insb; rep outsl; rdmsr; wrmsr; rdpmc; clts; lmsw %ax
    lgdt (%rax); lidt (%rax); lldt %ax; ltr %ax; xsetbv; stac; clac; invd; wbinvd; invlpg (%rax)
    iretq; sysretq; sysexit; lretq; monitor; mwait; vmrun; vmread %rax, %rbx; xrstors (%rax)
    mov %rax, %cr3; mov %cr0, %rax; mov %rax, %dr7; mov %db6, %rax; mov %rax, %cr8
""".replace("\n", ";").split(";")
GS = [
    "swapgs",
    " wrgsbase %rax",
    " mov %eax, %gs",
    " pop %gs",
    " lgs (%rax), %ecx",
    " incl %gs:8",
    " gs lodsb",
]
OTHERS = {
    "hlt": "hlt", "sysenter": "sysenter", "syscall": "syscall",
    "int $0x80": "int", "int $2": "int", "mov %gs:0x28, %rax": "stack-protector",
}  # fmt: skip
HARMLESS = """
    mov %rax, %rbx; rdtsc; cpuid; rdfsbase %rax; wrfsbase %rax; rdgsbase %rax; pushf; nop
    mov %fs:0x28, %rax; mov %eax, %ds; int3; ud2; ret; leave; pause; xgetbv
    rdtscp; lea 8(%rsp), %rax; vmcall; rdsspq %rax; endbr64; sgdt (%rax)
    sysinfo: call sysinfo; call hlt_like; jmp inb_like; clflush (%rax)
    prefetchw (%rax); mov %ss, %eax; mov $0x80f4, %eax
    mov %gs, %eax; cld; std; stc; sahf; insertps $1, %xmm0, %xmm1; lock incl (%rax)
""".replace("\n", ";").split(";")


@pytest.mark.parametrize(
    ("instruction", "code"),
    [
        *((one.strip(), "ring0") for one in RING0 if one.strip()),
        *((one.strip(), "gs") for one in GS),
        *OTHERS.items(),
    ],
)
def test_an_instruction_is_found(instruction: str, code: str, cc: Compiler) -> None:
    """One instruction, one finding, with the function it is in."""
    unit = cc(f".text\nfunction: nop\n{instruction}\nnop\n{END}", suffix=".S")
    (found,) = look(unit).findings
    assert (found.code, found.function, found.offset, found.section) == (
        code, "function", 1, ".text",
    )  # fmt: skip
    assert found.severity is RULES[code].severity


def test_harmless_instructions_are_not_found(cc: Compiler) -> None:
    """What ring 3 may do as well, and names and numbers that only look like it."""
    unit = cc(".text\nfunction:\n" + "\n".join(HARMLESS) + END, suffix=".S")
    assert set(codes(look(unit))) == {"needs"}


def test_instructions_of_one_kind_in_a_function_are_one_finding(cc: Compiler) -> None:
    unit = cc(f".text\nfunction: syscall; nop; syscall; cli{END}", suffix=".S")
    first, second = look(unit).findings
    assert (first.code, first.count) == ("ring0", 1)
    assert (second.code, second.count, second.offset) == ("syscall", 2, 0)
    assert "(2 places)" in str(second)


def test_a_stack_protector_that_reads_the_kernels_canary_is_an_error(cc: Compiler) -> None:
    """-mcmodel=kernel moves the canary to %gs:0x28; with the guard options it is the thread's."""
    source = "int fill(char *); int program(void) { char text[64]; return fill(text); }"
    assert "stack-protector" in codes(look(cc(source, "-fstack-protector-all")))
    guarded = ["-mstack-protector-guard-reg=fs", "-mstack-protector-guard-offset=40"]
    unit = cc(source, "-fstack-protector-all", *guarded)
    assert "%fs:0x28" in tool("objdump", "-d", unit)
    assert set(codes(look(unit))) == {"needs"}


TABLE = """
    .text
    .globl function
    .type function, @function
function:
    {code}
    ret
table: .byte 0xfa, 0xf4, 0x65, 0x8b, 0x00, 0xcd, 0x80, 0x0f, 0x05  # cli; hlt; mov %gs:(%rax)…
    .asciz "lemon"
    .size function, . - function
"""


def test_a_table_between_functions_is_no_code(cc: Compiler) -> None:
    """As in hand-written assembly; inside the function's size or not."""
    unit = cc(TABLE.format(code="lea table(%rip), %rax") + END, suffix=".S")
    (found,) = look(unit).findings
    assert (found.code, found.severity) == ("table", Severity.NOTE)
    assert found.count >= 4 and "cli" in found.what


@pytest.mark.parametrize("way", ["jmp table", "je table", "call table", "lea 1f(%rip), %rax\n1:"])
def test_what_control_flow_reaches_is_code(way: str, cc: Compiler) -> None:
    source = TABLE.format(code=way)
    found = set(codes(look(cc(source + END, suffix=".S"))))
    assert found == ({"table"} if "lea" in way else {"ring0", "hlt", "gs", "int", "syscall"} | (
        found & {"table"}
    ))  # fmt: skip


def test_an_indirect_jump_may_lead_anywhere_in_its_function(cc: Compiler) -> None:
    unit = cc(TABLE.format(code="jmp *%rax") + END, suffix=".S")
    assert "table" not in codes(look(unit)) and "ring0" in codes(look(unit))


def test_code_in_several_sections_of_one_name_is_told_apart(cc: Compiler) -> None:
    unit = cc(
        '.section .text.x,"ax",@progbits,unique,1\n.type one,@function\none: nop; ret\n'
        '.section .text.x,"ax",@progbits,unique,2\n.type two,@function\ntwo: nop; nop; cli; ret\n'
        '.section .text.y,"ax",@progbits\n.section .text.z,"ax",@progbits\nthree: sti' + END,
        suffix=".S",
    )
    assert [(one.function, one.offset) for one in look(unit).findings] == [("two", 2), ("three", 0)]


# --- The red zone

GATE = """
extern long ukl_syscall(void);
static inline __attribute__((always_inline)) long enter(long number, long first)
{
    long result;
    asm volatile("call ukl_syscall" : "=a" (result) : "0" (number), "D" (first)
             : "rcx", "r11", "memory");
    return result;
}
"""
RED_ZONE = {
    "value": "long f(long n) { volatile long x = n; enter(39, 0); return x; }",
    "in a loop": "long f(long n) { volatile long x = n; while (enter(39, 0)) x++; return 0; }",
    "argument": "void f(long n) { long t[3] = { n, n, n }; enter(35, (long)t); }",
    "vector": "typedef long v __attribute__((vector_size(16)));"
    "v f(v n) { volatile v x = n; enter(39, 0); return x; }",
}
NO_RED_ZONE = {
    "a frame": "long g(long *); long f(long n) { long x[9]; g(x); enter(39, n); return x[n]; }",
    "none needed": "long f(long n) { return enter(39, n); }",
    "a result": "long f(void) { long t[3]; enter(228, (long)t); return t[2]; }",
    "called by the compiler": "long f(long n) { volatile long x = n; ukl_syscall(); return x; }",
    "another function": "long f(long n) { return enter(39, n); }\n"
    "long g(long n) { volatile long x = n; return x; }",
}
LEVELS = ["-O2", "-O0", "-O1 -fno-omit-frame-pointer"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("what", RED_ZONE)
def test_a_red_zone_in_a_function_that_calls_the_gate_is_an_error(
    what: str, level: str, cc: Compiler
) -> None:
    source = GATE + RED_ZONE[what]
    (found,) = [one for one in look(cc(source, "-mred-zone", *level.split())).findings
                if one.code == "red-zone"]  # fmt: skip
    assert found.function == "f" and "-mno-red-zone" in found.do
    assert "red-zone" not in codes(look(cc(source, *level.split(), "-mno-red-zone")))


@pytest.mark.parametrize("gate", ["ukl_sys_39", "ukl_sys_0"])
def test_the_gate_of_one_system_call_is_a_gate(gate: str, cc: Compiler) -> None:
    source = (GATE + RED_ZONE["value"]).replace("ukl_syscall", gate)
    (found,) = [one for one in look(cc(source, "-mred-zone")).findings if one.code == "red-zone"]
    assert gate in found.what
    other = source.replace(gate, f"{gate}_")
    assert "red-zone" not in codes(look(cc(other, "-mred-zone")))


@pytest.mark.parametrize("name", ["ukl_syscall", "ukl_sys_3"])
def test_the_instruction_of_a_gate_is_not_the_kernels(name: str, cc: Compiler) -> None:
    """It is replaced; the one behind it is not."""
    text = ".weak gate\n.type gate,@function\ngate: syscall\nret\n.size gate, . - gate\n"
    after = ".globl f\n.type f,@function\nf: syscall\nret\n.size f, . - f\n"
    found = look(cc((text + after).replace("gate", name) + END, suffix=".S")).findings
    assert [(one.code, one.function) for one in found] == [("syscall", "f")]
    local = look(
        cc((text.replace(".weak gate\n", "") + after).replace("gate", name) + END, suffix=".S")
    )
    assert [one.function for one in local.findings] == [name, "f"]


@pytest.mark.parametrize("level", [LEVELS[0], LEVELS[2]])  # -O0 puts arguments there
@pytest.mark.parametrize("what", NO_RED_ZONE)
def test_what_is_no_red_zone_is_not_called_one(what: str, level: str, cc: Compiler) -> None:
    unit = cc(GATE + NO_RED_ZONE[what], "-mred-zone", *level.split())
    assert "red-zone" not in codes(look(unit))


def test_a_syscall_instruction_spares_the_red_zone(cc: Compiler) -> None:
    source = (GATE + RED_ZONE["value"]).replace("call ukl_syscall", "syscall")
    assert codes(look(cc(source, "-mred-zone"))) == ["syscall"]


# --- Objects

CASES: dict[str, tuple[str, str]] = {
    # code: (assembler that breaks the rule, assembler that nearly does)
    "code-model": ("mov $variable, %eax\n.data\nvariable: .long 1",
                   "mov $variable, %rax\n.data\nvariable: .long 1"),
    "large-model": ("movabs $f@GOTOFF, %rax", "movabs $f, %rax"),
    "relocation": (".data\n.long f@GOTPCREL", "mov f@GOTPCREL(%rip), %eax"),
    "fixed-address": ("call number\n.globl number\nnumber = 0x1000",
                      "mov $number, %eax\n.globl number\nnumber = 0x1000"),
    "tls-sequence": ("lea variable@TLSGD(%rip), %rdi\ncall __tls_get_addr@PLT" + TLS,
                     "data16 lea variable@TLSGD(%rip), %rdi\n.word 0x6666\nrex64\n"
                     "call __tls_get_addr@PLT" + TLS),
    "tls-mismatch": ("lea variable(%rip), %rax" + TLS, "lea variable@TPOFF, %rax" + TLS),
    "exec-stack": ('.section .note.GNU-stack,"x",@progbits',
                   '.section .note.GNU-stack,"",@progbits'),
    "writable-code": ('.section odd,"awx",@progbits\n.byte 0', '.section odd,"aw",@progbits'),
    "constructors": ('.section .ctors,"aw",@progbits\n.quad f',
                     '.section .init_array,"aw",@init_array\n.quad f'),
    "large-data": ('.section odd,"awl",@progbits', '.section odd,"aw",@progbits'),
    "alignment": (".data\n.balign 0x400000\n.byte 1", ".data\n.balign 0x200000\n.byte 1"),
    "section": ('.section odd,"a",@nobits\n.skip 8', '.section odd,"aw",@nobits\n.skip 8'),
    "unwind-table": ('.section .eh_frame,"a",@progbits\n.long 0\n.long 4\n.long 0',
                     '.section .eh_frame,"a",@progbits\n.long 0'),
    "size": (f".bss\n.skip {layout.MAX_IMAGE + 1}", f".bss\n.skip {layout.MAX_IMAGE - 4096}"),
    "gate": (".globl ukl_sys_1\nukl_sys_1: ret", ".weak ukl_syscall\nukl_syscall: ret"),
    "ifunc": (".type g,@gnu_indirect_function\n.globl g\ng: ret",
              ".type g,@gnu_indirect_function\n.globl g\ng: ret\n"
              "lea __rela_iplt_start(%rip), %rax"),
    "undefined": ("call somewhere", "call somewhere\n.globl somewhere\nsomewhere: ret"),
    "undefined-weak": (".weak perhaps\ncall perhaps", ".weak _DYNAMIC\nlea _DYNAMIC(%rip), %rax"),
    "no-main": ("call main", "call main\n.globl main\nmain: ret"),
}  # fmt: skip
RETURN = "\n.text\n.globl f\n.type f,@function\n.globl _start\n_start:\nf:\n"


@pytest.mark.parametrize("code", CASES)
def test_a_rule_is_broken_or_nearly(code: str, cc: Compiler) -> None:
    """In a program of one object; the place is named."""
    bad, good = (
        cc(RETURN + text + ("" if "GNU-stack" in text else END), suffix=".S", name=name)
        for text, name in zip(CASES[code], ("bad", "good"), strict=True)
    )
    found = [one for one in look(bad, program=True).findings if one.code == code]
    assert len(found) == 1
    assert found[0].severity is Severity.ERROR
    assert found[0].file == str(bad) and found[0].what and found[0].why and found[0].do
    assert look(good, program=True).of_severity(Severity.ERROR) == []


@pytest.mark.parametrize("what", ASSEMBLER)
def test_the_lint_agrees_with_the_archive(what: str, cc: Compiler, tmp_path: Path) -> None:
    """What the archive refuses is an error before, by the same rule."""
    source = ASSEMBLER[what][0]
    unit = cc(source + ("" if "GNU-stack" in source else END), suffix=".S")
    begin = cc(START, suffix=".S", name="start")
    tool("ld", "-r", "-o", tmp_path / "app.o", begin, unit)
    with pytest.raises(RuleError) as refused:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    found = look(begin, unit, program=True).of_severity(Severity.ERROR)
    assert refused.value.rule in [one.code for one in found]
    # The place survives the partial link; here it is named with its file.
    assert {one.file for one in found if one.code == refused.value.rule} == {str(unit)}


def test_all_errors_are_found_at_once(cc: Compiler) -> None:
    source = (
        RETURN + "mov $x, %eax; mov $y, %eax; sysenter\ncall missing\n"
        ".globl g\n.type g,@function\ng: mov $x, %ecx\n"
        '.section odd,"awx",@progbits\n.byte 0\n.data\nx: y: .long 1'
    )
    found = look(cc(source + END, suffix=".S"), program=True).of_severity(Severity.ERROR)
    assert sorted((one.code, one.function, one.count) for one in found if one.function) == [
        ("code-model", "f", 2), ("code-model", "g", 1), ("sysenter", "f", 1), ("undefined", "f", 1),
    ]  # fmt: skip
    assert [one.section for one in found if not one.function] == ["odd"]


def test_an_object_of_the_small_model_is_named_with_its_functions(cc: Compiler) -> None:
    source = 'int puts(const char *); int f(void) { return puts("a"); }'
    small = cc(source, "-O2", "-fno-pic", "-mcmodel=small", kernel=False)
    (found,) = look(small).of_severity(Severity.ERROR)
    assert (found.code, found.function) == ("code-model", "f")
    assert "R_X86_64_32 against" in found.what and "-mcmodel=kernel" in found.do
    pic = cc(source, "-O2", "-fPIC", kernel=False)
    assert look(pic).of_severity(Severity.ERROR) == []


def test_a_number_of_another_object_may_be_32_bits_wide(cc: Compiler) -> None:
    """Only together it is known that the symbol is no address."""
    user = cc(RETURN + "mov $number, %eax" + END, suffix=".S", name="user")
    number = cc(".globl number\nnumber = 0x1000" + END, suffix=".S", name="number")
    variable = cc(".data\n.globl number\nnumber: .long 1" + END, suffix=".S", name="variable")
    assert codes(look(user, number, program=True)) == []
    assert codes(look(user, variable, program=True)) == ["code-model"]


def test_a_tls_variable_of_another_object_must_be_one_there(cc: Compiler) -> None:
    user = cc(RETURN + "mov variable@TPOFF, %eax" + END, suffix=".S", name="user")
    right = cc(f".globl variable{TLS}{END}", suffix=".S", name="right")
    wrong = cc(f".globl variable\n.data\nvariable: .long 0{END}", suffix=".S", name="wrong")
    assert codes(look(user, right, program=True)) == []
    assert codes(look(user, wrong, program=True)) == ["tls-mismatch"]


@pytest.mark.parametrize("model", ["global-dynamic", "local-dynamic", "initial-exec", "local-exec"])
@pytest.mark.parametrize("dialect", ["gnu", "gnu2"])
def test_tls_of_every_model_is_counted(model: str, dialect: str, cc: Compiler) -> None:
    """Compiled code can have all models, descriptors too; local-exec needs nothing."""
    own = "static " if model.startswith("local") else "extern "
    source = f"{own}__thread int x; int f(void) {{ return x++; }}"
    flags = ["-fPIC", f"-ftls-model={model}", f"-mtls-dialect={dialect}", "-mcmodel=small"]
    report = look(cc(source, "-O2", *flags, kernel=False))
    assert report.of_severity(Severity.ERROR) == []
    assert ("tls" in codes(report)) == (model != "local-exec")


def test_marks_for_cet_are_counted_for_a_file(cc: Compiler, tmp_path: Path) -> None:
    one, two = (cc("int x;", f"-fcf-protection={how}", name=how) for how in ("full", "branch"))
    (found,) = look(archive(tmp_path / "lib.a", one, two)).findings
    assert (found.code, found.member, found.count) == ("cet", None, 2)
    assert "2 for IBT and 1 for SHSTK" in found.what
    assert codes(look(cc("int x;"))) == []


def test_lto(cc: Compiler) -> None:
    source = "int f(void) { return 0; }"
    assert codes(look(cc(source, "-flto", "-fno-fat-lto-objects"))) == ["lto"]
    assert codes(look(cc(source, "-flto", "-ffat-lto-objects"))) == []


# --- Files


@pytest.fixture
def files(cc: Compiler, tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes a file of a kind."""

    def make(kind: str) -> Path:
        out = tmp_path / kind
        unit = cc("int f(void) { return 0; }", name="unit")
        match kind:
            case "text":
                out.write_text("int main(void);\n")
            case "nothing":
                out.touch()
            case "half":
                out.write_bytes(unit.read_bytes()[:-100])
            case "head":
                out.write_bytes(unit.read_bytes()[:30])
            case "x86-32" | "x32":
                flag = "--32" if kind == "x86-32" else "--x32"
                (tmp_path / "a.s").write_text("f: ret\n")
                tool("as", flag, "-o", out, tmp_path / "a.s")
            case "arm":
                data = bytearray(unit.read_bytes())
                data[18] = 183
                out.write_bytes(data)
            case "shared":
                tool("gcc", "-shared", "-nostdlib", "-o", out, unit)
            case "executable":
                tool("ld", "-e", "0", "-o", out, unit)
            case "bitcode":
                out.write_bytes(b"BC\xc0\xde" + bytes(20))
            case "script":
                out.write_text("/* GNU ld script */\nGROUP ( nowhere.a AS_NEEDED ( -lm ) )\n")
            case "sections":
                out.write_text("SECTIONS { .text : { *(.text) } }\n")
            case "no index":
                archive(out, unit, index=False)
            case "archive cut":
                archive(tmp_path / "whole.a", unit)
                out.write_bytes((tmp_path / "whole.a").read_bytes()[:-100])
        return out

    return make


@pytest.mark.parametrize(
    ("kind", "code", "word"),
    [
        ("text", "format", "no ELF file"),
        ("nothing", "format", "empty"),
        ("half", "format", "damaged"),
        ("head", "format", "ELF"),
        ("archive cut", "format", "damaged archive"),
        ("x86-32", "machine", "EM_386"),
        ("x32", "machine", "x32"),
        ("arm", "machine", "EM_AARCH64"),
        ("shared", "linked", "shared object"),
        ("executable", "linked", "executable"),
        ("bitcode", "lto", "LLVM"),
        ("script", "linker-script", "linker script"),
        ("sections", "linker-script", "linker script"),
        ("no index", "index", "symbol index"),
    ],
)
def test_a_file_that_cannot_be_linked_is_named(
    kind: str, code: str, word: str, files: Callable[[str], Path], tmp_path: Path
) -> None:
    """Alone and, if it can be in one, as the member of an archive.

    Whether that has an index then depends on the plugins that ar finds on a machine.
    """
    path = files(kind)
    (found,) = look(path).findings
    assert (found.code, found.file, found.member) == (code, str(path), None)
    assert word in found.what and found.severity is Severity.ERROR
    if kind not in ("text", "script", "sections", "archive cut", "no index", "nothing"):
        for index in (True, False):
            (member,) = look(archive(tmp_path / f"{index}.a", path, index=index)).findings
            assert (member.code, member.member) == (code, path.name)


def test_thin_archives_and_long_names_are_read(cc: Compiler, tmp_path: Path) -> None:
    unit = cc("f: cli" + END, suffix=".S", name="a_member_whose_name_is_long")
    for thin in (False, True):
        made = archive(tmp_path / f"{thin}.a", unit, thin=thin)
        (found,) = look(made).findings
        assert (found.code, Path(found.member or "").name) == ("ring0", unit.name)
        assert inputs.read_index(made) == []  # f is local


def test_a_linker_script_stands_for_its_archives(cc: Compiler, tmp_path: Path) -> None:
    """As Debian's libm.a; ld -r reads it as well."""
    made = archive(tmp_path / "real.a", cc("f: cli" + END, suffix=".S"))
    script = tmp_path / "lib.a"
    script.write_text(f"/* GNU ld script\n*/\nOUTPUT_FORMAT(elf64-x86-64)\nGROUP ( {made} )\n")
    (found,) = look(script).findings
    assert (found.code, found.file) == ("ring0", str(made))
    assert look(toolchain.file("libm.a")).of_severity(Severity.ERROR) == []


def test_members_without_symbols_are_nothing_to_complain_about(
    cc: Compiler, tmp_path: Path
) -> None:
    """Strip leaves no symbol table where it would be empty."""
    unit = cc("")
    tool("strip", "--strip-unneeded", unit)
    assert ".symtab" not in tool("readelf", "-SW", unit)
    assert look(unit).findings == ()


# --- Names


def test_a_program_without_start_file_is_told_of_crt1(cc: Compiler) -> None:
    unit = cc('#include <stdio.h>\nint main(void) { return puts("x"); }')
    found = {one.code: one for one in look(unit, program=True).findings}
    assert set(found) == {"no-entry", "undefined"}
    assert "_start" in found["no-entry"].what and "crt1.o" in found["no-entry"].do
    assert found["no-entry"].function == "main"
    assert found["undefined"].what == "puts is not defined"
    assert (found["undefined"].function, found["undefined"].do) == (
        "main",
        "add libc.a of libc6-dev",
    )


def test_a_program_without_main_is_told(cc: Compiler) -> None:
    crt1, unit = toolchain.file("crt1.o"), cc("int x;")
    found = {one.code: one for one in look(crt1, unit, program=True).findings}
    assert found["no-main"].file == str(crt1) and found["no-main"].function == "_start"


@pytest.mark.parametrize(
    "source", ["static int _start(void) { return 0; } int (*p)(void) = _start;", "int _start = 1;"]
)
def test_an_entry_that_is_local_or_data_is_none(source: str, cc: Compiler) -> None:
    assert codes(look(cc(source), program=True)) == ["no-entry"]


def test_an_undefined_name_has_who_needs_it_and_who_has_it(cc: Compiler, tmp_path: Path) -> None:
    one = cc("int deflate(void); int f(void) { return deflate() + 1; }", name="one")
    two = cc("int f(void), deflate(void); int _start(void) { return f() + deflate(); }", name="two")
    library = archive(tmp_path / "lib.a", one)
    (found,) = look(two, library, program=True).findings
    assert (found.code, found.place) == ("undefined", f"{two}:_start+{found.offset:#x}")
    assert found.what == "deflate is not defined (used in 1 more object)"
    assert found.do == "add libz.a of zlib1g-dev"
    (unknown,) = look(cc("int f(void); int _start(void) { return f(); }"), program=True).findings
    assert unknown.do == RULES["undefined"].do


def test_a_weak_name_that_an_archive_has_is_not_taken_out_of_it(cc: Compiler) -> None:
    source = (
        "int puts(char *) __attribute__((weak)); int _start(void) { return puts ? puts(0) : 0; }"
    )
    (found,) = look(cc(source), toolchain.file("libc.a"), program=True).findings
    assert found.code == "undefined-weak" and "[zero]" in found.do
    assert "libc.a of libc6-dev has it" in found.do


def test_names_of_cxx_are_readable(cc: Compiler) -> None:
    unit = cc('extern "C" void *_start(void) { return new int[3]; }', suffix=".cc")
    (found,) = look(unit, program=True).findings
    assert found.what.startswith("operator new[](unsigned long)")
    assert "libstdc++.a of libstdc++" in found.do


def test_a_library_alone_needs_others(cc: Compiler, tmp_path: Path) -> None:
    """Without an object nothing is a program, and one note says what to add for all its names."""
    unit = cc("int puts(int), puts(int), abs(int), nosuch(int);\n"
              "int f(int x) { return puts(x) + nosuch(x) + getenv(x); }",
              "-Wno-implicit-function-declaration")  # fmt: skip
    report = look(archive(tmp_path / "lib.a", unit))
    assert [(one.code, one.severity, one.count) for one in report.findings] == [
        ("needs", Severity.NOTE, 2), ("needs", Severity.NOTE, 1),
    ]  # fmt: skip
    assert "puts, getenv are not defined here" in report.findings[0].what
    assert report.findings[0].do == "link libc.a of libc6-dev as well"


def test_two_definitions_name_both_and_why_the_member_is_there(
    cc: Compiler, tmp_path: Path
) -> None:
    begin = cc("int f(void), g(void); int _start(void) { return f() + g(); }", name="begin")
    own = cc("int f(void) { return 1; }", name="own")
    both = cc("int f(void) { return 2; } int g(void) { return 3; }", name="both")
    library = archive(tmp_path / "lib.a", both)
    (found,) = look(begin, own, library, program=True).findings
    assert (found.code, found.place) == ("duplicate", f"{library}(both.o):f+0x0")
    assert str(own) in found.what and "goes in for g" in found.what
    ld = subprocess.run(
        ["ld", "-r", "-o", tmp_path / "o", begin, own, library], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "multiple definition of `f'" in ld.stderr


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("int f(void) { return 1; }", "__attribute__((weak)) int f(void) { return 2; }"),
        ("__attribute__((weak)) int f(void) { return 2; }", "int f(void) { return 1; }"),
        ("static int f(void) { return 1; } int (*p)(void) = f;", "int f(void) { return 2; }"),
        ("__attribute__((common)) int f;", "int f = 1;"),
        ('asm(".globl f; f = 1");', 'asm(".globl f; f = 1");'),
        ('asm(".section .text.f,\\"axG\\",@progbits,f,comdat; .globl f; f: ret");',) * 2,
    ],
)
def test_definitions_that_ld_accepts_are_no_duplicates(
    first: str, second: str, cc: Compiler, tmp_path: Path
) -> None:
    units = [cc(first, name="first"), cc(second, name="second"), cc(START, suffix=".S", name="s")]
    tool("ld", "-r", "-o", tmp_path / "o", *units)
    assert "duplicate" not in codes(look(*units, program=True))


def ld_takes(*words: str | Path) -> list[str]:
    """Return the members of archives that ld takes."""
    said = tool("ld", "-r", "-o", "/dev/null", "--trace", "--trace", *words)
    return sorted(re.findall(r"\.a\)(.+\.o)$", said, re.M))


@pytest.mark.parametrize("language", ["c", "cc"])
def test_what_goes_in_is_what_ld_takes(language: str, cc: Compiler, tmp_path: Path) -> None:
    source = {
        "c": "#include <stdio.h>\n#include <math.h>\n#include <pthread.h>\n"
        "int main(int c, char **v) { pthread_t t; pthread_create(&t, 0, 0, 0);"
        ' return printf("%f", sin(c)); }',
        "cc": "#include <iostream>\n#include <stdexcept>\n#include <map>\nint main(int c, char **v)"
        "{ std::map<int, int> m; m[c] = 1; try { throw std::runtime_error(*v); }"
        " catch (std::exception &e) { std::cout << e.what() << m.size(); } }",
    }[language]
    unit = cc(source, "-fhosted", suffix=f".{language}")
    names = ("libstdc++.a", "libm.a", "libc.a", "libgcc.a", "libgcc_eh.a")
    libraries = [toolchain.file(name) for name in names]
    before = [toolchain.file(name) for name in ("crt1.o", "crti.o", "crtbeginS.o")]
    after = [toolchain.file(name) for name in ("crtendS.o", "crtn.o")]
    taken = ld_takes(*before, unit, "--start-group", *libraries, "--end-group", *after)
    found = inputs.read([str(path) for path in (*before, unit, *libraries, *after)])
    report = lint(found, TABLES, program=True)
    assert report.of_severity(Severity.ERROR) == []
    assert report.units == len(taken) + len(before) + 1 + len(after)
    assert len(taken) > 200


LIBRARIES = ("libc.a", "libgcc.a", "libgcc_eh.a", "libstdc++.a", "libz.a")


@pytest.mark.parametrize("name", LIBRARIES)
def test_debians_libraries_are_clean(name: str) -> None:
    """Every member; notes are true of them and nothing else is said."""
    report = look(toolchain.file(name))
    assert [str(one) for one in report.findings if one.severity is not Severity.NOTE] == []
    assert {one.code for one in report.findings} <= {"cet", "hlt", "needs", "syscall", "tls"}
    assert report.units > 4


def test_the_rebuilt_library_is_clean(library: libc.Parts) -> None:
    """Few system calls are left in it, and no red zone."""
    notes: list[Finding] = []
    for path in (*library.before, *library.libraries, *library.after):
        report = look(path)
        assert report.counts.error == report.counts.warning == 0, report.findings
        notes += report.findings
    sites = {one.member for one in notes if one.code == "syscall"}
    assert sites == {"libc_sigaction.o", "vfork.o", "clone.o", "clone3.o"}
    assert {one.code for one in notes} <= {"cet", "hlt", "needs", "syscall", "tls"}


def test_the_sample_is_a_clean_program(cc: Compiler) -> None:
    units = [
        cc((SAMPLE / name).read_text(), "-I", str(SAMPLE), suffix=suffix, name=name)
        for name, suffix in (("tcp_server.c", ".c"), ("start.S", ".S"))
    ]
    assert set(codes(look(*units, program=True))) <= {"syscall"}


# --- The command and the stage


def run(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "ukl-lint", *argv],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip


def test_the_exit_status_is_that_of_the_worst(
    cc: Compiler, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = archive(tmp_path / "clean.a", cc("int x;", name="clean"))
    warns = archive(tmp_path / "warns.a", cc("f: cli" + END, suffix=".S", name="warns"))
    stops = archive(tmp_path / "stops.a", cc("f: sysenter" + END, suffix=".S", name="stops"))
    for argv, status in (
        ([clean], 0), ([warns], 0), (["--strict", warns], 1), ([stops, warns], 1),
        ([tmp_path / "absent.a"], 2), ([tmp_path], 2),
    ):  # fmt: skip
        assert cli.main([str(word) for word in argv]) == status, argv
    capsys.readouterr()
    assert cli.main([str(stops), str(warns)]) == 1
    out = capsys.readouterr().out.splitlines()
    rule = RULES["sysenter"]
    assert out[0] == f"{stops}(stops.o):f+0x0: error: sysenter; {rule.why}; {rule.do} [sysenter]"
    assert [line.partition(")")[0] for line in out] == [f"{stops}(stops.o", f"{warns}(warns.o"]


def test_the_command_and_its_options(cc: Compiler, tmp_path: Path) -> None:
    unit = cc("int puts(int); int main(void) { return puts(1); }")
    done = run(unit)
    assert done.returncode == 1 and "[no-entry]" in done.stdout
    assert done.stderr == "ukl-lint: 1 object: 2 errors\n"
    done = run("--part", unit)
    assert done.returncode == 0 and "[needs]" in done.stdout
    done = run("--part", "-q", unit)
    assert (done.returncode, done.stdout) == (0, "")
    assert run().returncode == 2
    assert "exit status" in run("--help").stdout


def test_the_json_is_what_the_document_says(cc: Compiler, tmp_path: Path) -> None:
    """Keys, types and order of both are compared with docs/ukl-lint.md."""
    unit = cc("f: nop; sysenter; cli; sysenter" + END, suffix=".S")
    done = run("--json", archive(tmp_path / "lib.a", unit))
    said = json.loads(done.stdout)
    assert (said["schema"], said["program"], said["units"]) == (1, False, 1)
    assert said["counts"] == {"error": 1, "warning": 1, "note": 0}
    first = said["findings"][0]
    rule = RULES["sysenter"]
    assert first == {
        "code": "sysenter", "severity": "error", "file": str(tmp_path / "lib.a"),
        "member": "unit.o", "section": ".text", "section_offset": 1, "function": "f", "offset": 1,
        "what": "sysenter (2 places)", "why": rule.why, "do": rule.do, "count": 2,
    }  # fmt: skip
    text = (ROOT / "docs" / "ukl-lint.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \| (?:string|number)", text, re.M)
    assert documented == list(first)
    assert set(said) == set(re.findall(r"^\* `(\w+)`", text, re.M))


def test_the_document_has_every_rule_with_its_severity() -> None:
    text = (ROOT / "docs" / "ukl-lint.md").read_text()
    documented = {
        code: severity
        for codes, severity in re.findall(r"^\| (`.*`) \| (error|warning|note) \|", text, re.M)
        for code in re.findall(r"`([\w-]+)`", codes)
    }
    assert documented == {code: rule.severity for code, rule in RULES.items()}


def test_the_stage_leaves_all_findings_and_refuses_errors(cc: Compiler, tmp_path: Path) -> None:
    unit = cc(RETURN + "sysenter; cli; call missing; mov $x, %eax\n.data\nx:" + END, suffix=".S")
    out, log = tmp_path / "lint.json", tmp_path / "logs" / "lint.log"
    with pytest.raises(UklError) as refused:
        check_link([str(unit)], out, unprefixed=UNPREFIXED, provided=PROVIDED, zero={}, log=log)
    assert refused.value.code == "elf-lint" and "3 findings" in refused.value.message
    for code in ("sysenter", "undefined", "code-model"):
        assert f"[{code}]" in refused.value.detail
    assert "[ring0]" not in refused.value.detail and "[ring0]" in log.read_text()
    assert json.loads(out.read_text())["counts"]["error"] == 3


def test_every_rule_is_tested() -> None:
    """By its code, somewhere in this file."""
    text = Path(__file__).read_text()
    assert {code for code in RULES if f'"{code}"' not in text} == set()
