# SPDX-License-Identifier: Apache-2.0
"""What make_archive does to small programs, one construct at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.elf import minikernel
from tests.elf.conftest import START, Compiler, run, tool
from tests.elf.minikernel import HIGH, LOW, link, read_image, slide
from ukl_build.elf.linked import check_linked
from ukl_build.stages.archive import link_application, make_archive

ArchiveOf = Callable[..., Path]


def run_slid(archive: Path, folder: Path, *others: Path) -> int:
    """Link low, move to two other addresses, run all three; return the one exit status."""
    link(archive, folder / "low", *others, base=LOW)
    found = set()
    for delta in (0, 0x200000, 0x6A00000):
        slide(folder / "low", folder / "program", delta)
        found.add(run(folder / "program").returncode)
    assert len(found) == 1, found
    return found.pop()


def members(archive: Path, folder: Path) -> Path:
    """Unpack the archive's one member."""
    tool("ar", "x", "--output", folder, archive)
    assert tool("ar", "t", archive).split() == ["app.o"]
    return folder / "app.o"


def test_sections_get_the_names_of_the_contract(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """By name where the contract has a rule, by flags behind .ukl.KIND. where it has none."""
    unit = cc(
        """
        int data = 1, bss, common_array[4];
        static const int constant[] = { 1, 2 };
        const int *const relro[] = { constant };
        __thread int tdata = 1, tbss;
        __attribute__((section("odd_data"))) int odd_1 = 2;
        __attribute__((section("odd_rodata"))) const int odd_2 = 3;
        __attribute__((section(".odd.bss,\\"aw\\",@nobits#"))) int odd_3;
        __attribute__((section("odd_text"))) int odd_4(void) { return 4; }
        __attribute__((section(".text.unlikely.named"))) int cold(void) { return 5; }
        __attribute__((constructor)) static void construct(void) { bss++; }
        __attribute__((constructor(300))) static void construct_300(void) { bss++; }
        const char *text(void) { return "text"; }
        int program(void) { return data; }
        """,
        "-fcommon", "-ffunction-sections", "-fdata-sections",
    )  # fmt: skip
    app = members(archive(start, unit), tmp_path)
    names = {
        line.split("]", 1)[1].split()[0]
        for line in tool("readelf", "-SW", app).splitlines()
        if "]" in line and "ukl" in line and "RELA" not in line
    }
    assert names == {
        ".ukl.text", ".ukl.text.odd_text", ".ukl.rodata", ".ukl.rodata.odd_rodata",
        ".ukl.rodata.merge.str1.1", ".ukl.data", ".ukl.data.odd_data", ".ukl.bss",
        ".ukl.bss..odd.bss", ".ukl.tdata", ".ukl.tbss", ".ukl.init_array", ".ukl.eh_frame",
        ".ukl.rodata.eh_frame_hdr",
    }  # fmt: skip


def test_cold_code_is_kept_from_the_rest(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """As in an ordinary link: .text.unlikely first, then startup, hot, the rest."""
    unit = cc(
        """
        int plain(void) { return 1; }
        __attribute__((section(".text.hot.a"))) int hot(void) { return 1; }
        __attribute__((section(".text.unlikely.a"))) int cold(void) { return 1; }
        __attribute__((section(".text.startup.a"))) int startup(void) { return 1; }
        int program(void) { return 0; }
        """
    )
    nm = tool("nm", "-n", members(archive(start, unit), tmp_path))
    order = [line.split()[-1] for line in nm.splitlines()]
    wanted = ["ukl.cold", "ukl.startup", "ukl.hot", "ukl.plain"]
    assert [one for one in order if one in wanted] == wanted


MODELS = {
    "general-dynamic": ["-fPIC", "-ftls-model=global-dynamic"],
    "general-dynamic, no plt": ["-fPIC", "-fno-plt", "-ftls-model=global-dynamic"],
    "local-dynamic": ["-fPIC", "-ftls-model=local-dynamic"],
    "local-dynamic, no plt": ["-fPIC", "-fno-plt", "-ftls-model=local-dynamic"],
    "descriptors": ["-fPIC", "-mtls-dialect=gnu2"],
    "initial-exec": ["-fPIC", "-ftls-model=initial-exec"],
    "local-exec": ["-fno-pic", "-mcmodel=kernel"],
}


@pytest.mark.parametrize("model", MODELS)
def test_every_tls_model_ends_in_the_same_place(
    model: str, cc: Compiler, archive: ArchiveOf, tmp_path: Path
) -> None:
    """The variables are read through %fs at the offsets that PT_TLS and its alignment give."""
    start = cc(
        """
        .globl _start
    _start:
        lea block_end(%rip), %rsi       # arch_prctl(ARCH_SET_FS, block_end)
        mov %rsi, (%rsi)
        mov $0x1002, %edi
        mov $158, %eax
        syscall
        call program
        mov %eax, %edi
        mov $60, %eax
        syscall
        .bss
        .balign 64
        .skip 4096
    block_end:
        .skip 64
        .section .note.GNU-stack,"",@progbits
        """,
        suffix=".S", name="start",
    )  # fmt: skip
    variables = cc(
        """
        __thread char small = 1;
        __thread long number = 2, other = 3;
        __thread int zero_int;
        __thread _Alignas(32) long zero_long[4];
        """,
        name="variables",
    )
    unit = cc(
        f"""
        {"static" if "local-dynamic" in model else "extern"} __thread char small;
        extern __thread long number, other, zero_long[4];
        extern __thread int zero_int;
        static __thread int mine, mine_too;
        long *address_of_other(void) {{ return &other; }}
        __attribute__((noinline)) void set(int value) {{ mine = value; mine_too = value + 1;
            zero_int = 5; zero_long[3] = 6; small = 1; number = 2; *address_of_other() = 3; }}
        __attribute__((noinline)) long get(void) {{
            return mine + mine_too + zero_int + zero_long[3] + small + number + other; }}
        __attribute__((noinline)) long tp(void) {{
            long p; __asm__("mov %%fs:0, %0" : "=r"(p)); return p; }}
        __attribute__((noinline)) long distance(void) {{
            int *volatile a = &mine, *volatile b = &mine_too;
            return *a + 1 == *b ? tp() - (long)b : 0; }}
        int program(void) {{
            set(10);
            if (get() != 10 + 11 + 5 + 6 + 1 + 2 + 3 || (long)zero_long % 32)
                return 1;
            return distance(); }}
        """,
        "-O2", "-ffreestanding", "-mno-red-zone", "-fcf-protection=none", "-fno-stack-protector",
        *MODELS[model], kernel=False,
    )  # fmt: skip
    made = archive(start, variables, unit)
    relocations = tool("readelf", "-rW", members(made, tmp_path))
    assert (
        "TPOFF32" in relocations
        and "GOT" not in relocations
        and "__tls_get_addr" not in relocations
    )
    status = run_slid(made, tmp_path)
    link(made, tmp_path / "vmlinux", base=HIGH)
    image = read_image(tmp_path / "vmlinux")
    assert image.tls is not None
    _, memsz, align = image.tls
    assert align == 32
    # TLS 3.4.2: the block ends at the thread pointer, symbol values count from its start
    assert status == -(-memsz // align) * align - image.symbols["ukl.mine_too"] > 1


def test_tls_slots_are_not_slid(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """An instruction that cannot take a constant reads R_X86_64_TPOFF64 out of a slot."""
    unit = cc(
        """
        .globl program
    program:
        mov $-1, %eax
        imul variable@gottpoff(%rip), %rax
        ret
        .section .tdata,"awT",@progbits
        .globl variable
    variable: .quad 1, 2, 3
        .section .note.GNU-stack,"",@progbits
        """,
        suffix=".S",
    )
    made = archive(start, unit)
    link(made, tmp_path / "vmlinux", base=HIGH)
    assert slide(tmp_path / "vmlinux", tmp_path / "slid", 0x1000000)["R_X86_64_TPOFF64"] == 1
    before, after = read_image(tmp_path / "vmlinux"), read_image(tmp_path / "slid")
    slot = before.symbols["ukl.gottpoff.variable"]
    assert before.at(slot) == after.at(slot) == (-24) % (1 << 64)


def test_got_slots_of_addresses_are_slid(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """What cannot be relaxed keeps a slot: R_X86_64_64, shared by all users of the symbol."""
    unit = cc(
        """
        .globl program
    program:
        mov variable@GOTPCREL(%rip), %rax       # REX_GOTPCRELX: becomes lea
        cmp variable@GOTPCREL(%rip), %rax       # REX_GOTPCRELX: no such relaxation here
        jne 1f
        push variable@GOTPCREL(%rip)            # GOTPCRELX or GOTPCREL
        pop %rcx
        cmp %rcx, %rax
        jne 1f
        call *seven@GOTPCREL(%rip)              # GOTPCRELX: becomes addr32 call
        cmp $7, %eax
        jne 1f
        jmp *eight@GOTPCREL(%rip)               # GOTPCRELX: becomes jmp; nop
    1:  mov $1, %eax
        ret
    seven: mov $7, %eax
        ret
    eight: mov variable@GOTPCREL(%rip), %r12
        mov (%r12), %eax
        ret
        .data
        .globl variable
    variable: .quad 55
        .section .note.GNU-stack,"",@progbits
        """,
        suffix=".S",
    )
    made = archive(start, unit)
    assert run_slid(made, tmp_path) == 55
    link(made, tmp_path / "vmlinux", base=HIGH)
    slide(tmp_path / "vmlinux", tmp_path / "slid", 0x1000000)
    before, after = read_image(tmp_path / "vmlinux"), read_image(tmp_path / "slid")
    slots = [name for name in before.symbols if name.startswith("ukl.got.")]
    assert slots == ["ukl.got.variable"]
    slot = before.symbols[slots[0]]
    assert before.at(slot) == before.symbols["ukl.variable"]
    assert after.at(slot) == before.at(slot) + 0x1000000
    text = tool("objdump", "-d", "--no-show-raw-insn", tmp_path / "vmlinux")
    assert "addr32 call" in text and "lea " in text


IFUNC = """
    static int one(void) { return 1; }
    static int two(void) { return 2; }
    static int which = 2;
    static void *resolve(void) { return which == 2 ? two : one; }
    int choose(void) __attribute__((ifunc("resolve")));
    extern int alias(void) __attribute__((alias("choose")));
    static int local(void) __attribute__((ifunc("resolve")));
    struct rela { unsigned long *offset, info; void *(*addend)(void); };
    extern const struct rela __rela_iplt_start[] __attribute__((weak)),
        __rela_iplt_end[] __attribute__((weak));
    static int (*pointer)(void) = choose;
    int program(void)
    {
        int n = 0;
        for (const struct rela *one = __rela_iplt_start; one < __rela_iplt_end; one++, n++) {
            if (one->info != 37)
                return 100;
            *one->offset = (unsigned long)one->addend();
        }
        int (*volatile same)(void) = alias;
        return n * 10 + (choose() == 2 && local() == 2 && pointer() == 2 && alias() == 2
            && pointer == choose && same == pointer);
    }
"""


@pytest.mark.parametrize(
    "flags", [["-fno-pic", "-mcmodel=kernel"], ["-fPIE"], ["-fPIC", "-fno-plt"]]
)
def test_ifuncs_are_resolved_by_the_program_itself(
    flags: list[str], cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """Calls, pointers and aliases agree; aliases share the slot."""
    unit = cc(IFUNC, "-O1", "-ffreestanding", "-fno-stack-protector", *flags, kernel=False)
    assert run_slid(archive(start, unit), tmp_path) == 11


def test_start_and_stop_and_arrays_are_defined(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """Constructors run in ld's order; a section that is not there has bounds of 0."""
    one = cc(
        """
        typedef void function(void);
        extern function *__preinit_array_start[], *__preinit_array_end[], *__init_array_start[],
            *__init_array_end[], *__fini_array_start[], *__fini_array_end[];
        extern int __start_numbers[], __stop_numbers[];
        extern int __start_absent[] __attribute__((weak)), __stop_absent[] __attribute__((weak));
        extern void absent(void) __attribute__((weak));
        static int digits;
        __attribute__((section("numbers"))) int a = 1;
        __attribute__((constructor)) static void third(void) { digits = digits * 4 + 3; }
        __attribute__((constructor(200))) static void second(void) { digits = digits * 4 + 2; }
        __attribute__((constructor(101))) static void first(void) { digits = digits * 4 + 1; }
        int program(void)
        {
            int sum = 0;
            if (absent)
                absent();
            if (__start_absent || __stop_absent || __preinit_array_start != __preinit_array_end
                || __fini_array_end != __fini_array_start)
                return 1;
            for (function **f = __init_array_start; f < __init_array_end; f++)
                (*f)();
            for (int *n = __start_numbers; n < __stop_numbers; n++)
                sum += *n;
            return digits == 1 * 16 + 2 * 4 + 3 ? sum : 2;
        }
        """,
        name="one",
    )
    two = cc('__attribute__((section("numbers"))) int b[] = { 20, 30 };', name="two")
    made = archive(start, one, two, zero={"absent": "the test"})
    assert run_slid(made, tmp_path) == 51


def test_arrays_and_tls_that_claim_to_be_read_only_are_data_all_the_same(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """Other assemblers leave the W out; where the parts go does not depend on it."""
    unit = cc(
        """
        .globl program
    program: call *__init_array_start(%rip)
        ret
    seven: mov $7, %eax
        ret
        .section .init_array,"a",@init_array
        .quad seven
        .section .tdata,"aT",@progbits
        .long 1
        .section .note.GNU-stack,"",@progbits
        """,
        suffix=".S",
    )
    assert run_slid(archive(start, unit), tmp_path) == 7


def test_a_relocation_without_a_symbol_is_a_number(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """Symbol index 0 means the value 0 (gABI, "Relocation"): the addend is all."""
    unit = cc(
        """
        .globl program
    program: mov number(%rip), %eax
        ret
        .data
    number: .quad 0
        .reloc number, R_X86_64_64, 44
        .section .note.GNU-stack,"",@progbits
        """,
        suffix=".S",
    )
    assert run_slid(archive(start, unit), tmp_path) == 44


@pytest.mark.parametrize("flags", [["-fno-pic", "-mcmodel=kernel"], ["-fPIE"], ["-fPIC"]])
def test_absent_weak_symbols_are_zero_wherever_the_program_is(
    flags: list[str], cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """Also after a slide, also relative to rip, also where the call stands."""
    unit = cc(
        """
        extern int hook(int) __attribute__((weak));
        extern int hidden(void) __attribute__((weak, visibility("hidden")));
        extern __thread int variable __attribute__((weak));
        int *address(void) { return &variable; }
        static int (*pointer)(int) = hook;
        static unsigned long number = (unsigned long)hook + 8;
        int program(void)
        {
            int (*volatile taken)(void) = hidden;
            int *(*volatile never)(void) = address;
            if (hook)
                return hook(1);
            if (hidden)
                hidden();
            return !pointer && !taken && never && number == 8 ? 33 : 1;
        }
        """,
        "-O1", "-ffreestanding", "-fno-stack-protector", *flags, kernel=False,
    )  # fmt: skip
    names = ("hook", "hidden", "variable")
    made = archive(start, unit, zero=dict.fromkeys(names, "the test"))
    assert "TPOFF" not in tool("readelf", "-rW", members(made, tmp_path))
    assert run_slid(made, tmp_path) == 33
    link(made, tmp_path / "vmlinux", base=HIGH)
    slide(tmp_path / "vmlinux", tmp_path / "slid", 0x1000000)


def test_debuggers_are_told_nothing_about_what_is_left_out(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """A C library with debug information describes its notes; program code may not use them."""
    unit = cc(
        ".text\n.globl program\nprogram: mov $7, %eax\nret\n"
        '.section .note.mine,"a",@note\nnote: .long 0\n'
        '.section .debug_info,"",@progbits\n.quad program, note\n'
        '.section .note.GNU-stack,"",@progbits\n',
        suffix=".S", name="notes",
    )  # fmt: skip
    made = archive(start, unit)
    relocations = tool("readelf", "-rW", members(made, tmp_path))
    assert relocations.partition(".debug_info")[2].count("R_X86_64_64") == 1
    assert run_slid(made, tmp_path) == 7


def test_absolute_symbols_become_numbers(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """As data of any width, as operand, through the GOT, and by lea."""
    one = cc(".globl number\nnumber = 40\n.section .note.GNU-stack", suffix=".S", name="one")
    two = cc(
        """
        .globl program
    program:
        lea number(%rip), %r9
        cmp wide(%rip), %r9
        jne 1f
        mov number@GOTPCREL(%rip), %r10
        cmp %r10, %r9
        jne 1f
        cmp $number, %r9                        # R_X86_64_32S
        jne 1f
        mov narrow(%rip), %ecx
        cmp %rcx, %r9
        jne 1f
        lea number + 2(%rip), %rax
        ret
    1:  mov $1, %eax
        ret
        .data
    wide: .quad number
    narrow: .long number
        .section .note.GNU-stack,"",@progbits
        """,
        suffix=".S", name="two",
    )  # fmt: skip
    assert run_slid(archive(start, one, two), tmp_path) == 42


def test_comdat_groups_are_dissolved(cc: Compiler, start: Path, tmp_path: Path) -> None:
    """Two objects with the same inline function: one copy, no group, with and without ld -r."""
    text = """
        template <typename T> struct counter { static T next() { static T n; return ++n; } };
        int NAME() { return counter<int>::next(); }
    """
    flags = ["-std=c++17", "-fno-exceptions", "-fno-threadsafe-statics", "-O0"]
    one = cc(text.replace("NAME", "one"), *flags, suffix=".cc", name="one")
    two = cc(text.replace("NAME", "two"), *flags, suffix=".cc", name="two")
    three = cc(
        'int one(), two(); extern "C" int program() { return one() * 10 + two(); }',
        *flags, suffix=".cc", name="three",
    )  # fmt: skip
    assert "GROUP" in tool("readelf", "-SW", one)
    link_application([start, one, two, three], tmp_path / "app.o")
    assert "GROUP" not in tool("readelf", "-SW", tmp_path / "app.o")
    tool("ld", "-r", "-o", tmp_path / "groups.o", start, one, two, three)
    assert "GROUP" in tool("readelf", "-SW", tmp_path / "groups.o")
    for app in ("app.o", "groups.o"):
        make_archive(tmp_path / app, tmp_path / "UKL.a")
        assert run_slid(tmp_path / "UKL.a", tmp_path) == 12


def test_common_symbols_get_their_place(cc: Compiler, start: Path, tmp_path: Path) -> None:
    """Aligned as asked, shared between objects, apart from each other, also if left common."""
    one = cc("char a; int shared[3]; long b; char e[5]; short f;", "-fcommon", name="one")
    two = cc(
        """
        char c; int shared[3]; _Alignas(64) char d[3]; extern long b; extern char a, e[5];
        extern short f; int g; char h; _Alignas(128) char i;
        /* volatile: the compiler knows what it asked for, and would not look */
        static int bad(void *volatile p, unsigned long align) { return (unsigned long)p % align; }
        #define BAD(x, align) bad((void *)&x, align)
        int program(void)
        {
            for (int n = 0; n < 3; n++)
                shared[n] = d[n] = 1;
            a = b = c = f = g = h = i = 1;
            for (int n = 0; n < 5; n++)
                e[n] = 0;
            if (BAD(d, 64) | BAD(b, 8) | BAD(f, 2) | BAD(g, 4) | BAD(shared, 4) | BAD(i, 128))
                return 99;
            return shared[0] + shared[1] + shared[2] + d[0] + d[1] + d[2]
                + a + b + c + f + g + h + i;
        }
        """,
        "-fcommon", name="two",
    )  # fmt: skip
    tool("ld", "-r", "-o", tmp_path / "commons.o", start, one, two)
    assert " COM " in tool("readelf", "-sW", tmp_path / "commons.o")
    link_application([start, one, two], tmp_path / "app.o")
    assert " COM " not in tool("readelf", "-sW", tmp_path / "app.o")
    for app in ("commons.o", "app.o"):
        make_archive(tmp_path / app, tmp_path / "UKL.a")
        assert run_slid(tmp_path / "UKL.a", tmp_path) == 13


def test_joined_sections_keep_every_alignment(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """A section that needs more than the first is still where it must be."""
    unit = cc(
        """
        __thread char in_front = 1;
        __attribute__((section(".data.a"))) char a = 1;
        __attribute__((section(".data.b"))) _Alignas(256) char b = 2;
        __attribute__((section(".data.c"))) char c = 3;
        __attribute__((section(".data.d"))) _Alignas(1024) char d = 4;
        int program(void)
        {
            char *volatile pb = &b, *volatile pd = &d;  /* or the compiler would not look */
            return (unsigned long)pb % 256 || (unsigned long)pd % 1024 ? 99 : a + b + c + d;
        }
        """
    )
    assert run_slid(archive(start, unit), tmp_path) == 10


def test_code_begins_with_text_whatever_the_object_begins_with(
    cc: Compiler, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that both ways to write the linker script give the order of the unwind header."""
    unit = cc(
        """
        .section .init,"ax",@progbits  # which ld -r puts before .text
    first: .cfi_startproc
        ret
        .cfi_endproc
        .text
        .globl program
    program: .cfi_startproc
        ret
        .cfi_endproc
        .section .note.GNU-stack,"",@progbits
        """,
        suffix=".S",
    )
    tool("ld", "-r", "-o", tmp_path / "app.o", unit, start)
    make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    old = "*(.ukl.text .ukl.text.*)"
    for new in (old, "*(.ukl.text) *(.ukl.text.*)"):
        monkeypatch.setattr(minikernel, "SCRIPT", minikernel.SCRIPT.replace(old, new))
        link(tmp_path / "UKL.a", tmp_path / "vmlinux", base=HIGH)
        check_linked(tmp_path / "vmlinux")


def test_sections_of_one_name_are_merged_only_if_all_may_be(cc: Compiler, tmp_path: Path) -> None:
    """Strings that ld may merge beside data that it may not: nothing is merged."""
    unit = cc(
        START + ".text\n.globl program\nprogram: movzbl second + 1(%rip), %eax\nret\n"
        '.section odd,"aMS",@progbits,1\n.asciz "x"\n.asciz "x"\n'
        '.section odd,"a",@progbits,unique,1\n.byte 0\nsecond: .byte 0, 7, 0, 0, 0, 9\n',
        suffix=".S",
    )
    make_archive(unit, tmp_path / "UKL.a")
    assert run_slid(tmp_path / "UKL.a", tmp_path) == 7


def test_merged_strings_keep_their_contents(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """References into string sections survive the final link's merging of equal tails."""
    one = cc('const char *one(void) { return "a tail"; }', name="one")
    two = cc(
        """
        const char *one(void);
        static const char *two(void) { return "tail"; }
        const char *const pointers[] = { "another tail", "tail" };
        int program(void)
        {
            const char *const *volatile p = pointers;
            return one()[2] == 't' && two()[0] == 't' && p[0][8] == 't' && p[1][3] == 'l' ? 9 : 1;
        }
        """,
        name="two",
    )
    assert run_slid(archive(start, one, two), tmp_path) == 9


def test_debugging_information_follows(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """After the link, addresses lead to lines of the source, TLS variables have their DTPOFF."""
    unit = cc(
        """
        __thread int variable;
        static int marked(int n) { return n * variable; }
        int (*pointer)(int) = marked;
        int program(void) { return pointer(1); }
        """,
        "-g",
    )
    made = archive(start, unit)
    assert "R_X86_64_DTPOFF" in tool("readelf", "-rW", members(made, tmp_path))
    link(made, tmp_path / "vmlinux", base=HIGH)
    address = read_image(tmp_path / "vmlinux").symbols["ukl.marked"]
    found = tool("addr2line", "-f", "-e", tmp_path / "vmlinux", f"{address:#x}")
    assert found.split()[0] == "marked" and found.split()[1].endswith("unit.c:3")


@pytest.mark.parametrize("name", ["ukl_syscall", "ukl_sys_231"])
def test_the_kernels_gate_overrides_the_weak_one(
    name: str, cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """A gate stays unprefixed and weak: a strong definition in the kernel wins."""
    gate = cc(
        f".globl {name}\n.weak {name}\n.type {name},@function\n"
        f"{name}: mov $3, %eax\nret\n.section .note.GNU-stack",
        suffix=".S", name="gate",
    )  # fmt: skip
    unit = cc(f'int program(void) {{ int r; __asm__("call {name}" : "=a"(r)); return r; }}')
    made = archive(start, gate, unit)
    assert f" W {name}\n" in tool("nm", made)
    strong = cc(
        f".globl {name}\n{name}: mov $4, %eax\nret\n.section .note.GNU-stack\n"
        + (".text\n.globl ukl_syscall_fde\nukl_syscall_fde:" if name == "ukl_syscall" else ""),
        suffix=".S", name="strong",
    )  # fmt: skip
    assert run_slid(made, tmp_path, strong) == 4


def test_a_local_symbol_may_be_called_like_the_gate(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """It is the application's own, and is prefixed like any other."""
    unit = cc(
        "__attribute__((noinline)) static int ukl_syscall(int n) { return n + 5; }"
        " int program(int n) { return ukl_syscall(n); }"
    )
    made = archive(start, unit)
    assert " t ukl.ukl_syscall" in tool("nm", made)
    strong = cc("int ukl_syscall(void) { return 0; }", name="strong")
    assert run_slid(made, tmp_path, strong) == 6


def test_the_archive_depends_on_nothing_but_its_input(
    cc: Compiler, start: Path, tmp_path: Path
) -> None:
    """Another folder, another time: the same bytes; folders are made as needed."""
    unit = cc("int program(void) { return 0; }", "-g")
    found = set()
    for name in ("here", "there/deeper"):
        link_application([start, unit], tmp_path / name / "app.o")
        made = make_archive(tmp_path / name / "app.o", tmp_path / name / "out" / "UKL.a")
        found.add(made.path.read_bytes())
    assert len(found) == 1


def test_kernel_symbols_never_collide(
    cc: Compiler, start: Path, archive: ArchiveOf, tmp_path: Path
) -> None:
    """An application may define what the kernel defines: printk, even _text and free."""
    text = "int printk(void) { return %d; } int free(void) { return 0; } int _text;"
    made = archive(start, cc(text % 6 + " int program(void) { return printk(); }", "-fno-builtin"))
    kernel = cc(text % 5, "-fno-builtin", name="kernel")
    assert run_slid(made, tmp_path, kernel) == 6


def test_linker_provided_names_are_the_only_undefined_ones(
    cc: Compiler, start: Path, tmp_path: Path
) -> None:
    """_end and its like are left, prefixed, to the linker script."""
    unit = cc(
        """
        extern char _end[], end[], _etext[], _edata[], __bss_start[], __executable_start[];
        extern struct { char ident[16]; short type, machine; } __ehdr_start;
        int program(void)
        {
            return _end == end && _edata <= __bss_start && __executable_start < _etext
                && (char *)program < _etext && __ehdr_start.machine == 62 ? 8 : 1;
        }
        """
    )
    link_application([start, unit], tmp_path / "app.o")
    made = make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert made.undefined == (
        "ukl.__bss_start", "ukl.__executable_start", "ukl._edata", "ukl._end", "ukl._etext",
        "ukl.end",
    )  # fmt: skip
    assert run_slid(made.path, tmp_path) == 8
