# SPDX-License-Identifier: Apache-2.0
"""What cannot be in the kernel is refused, by name, with a hint, and leaves no file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.elf.conftest import Compiler, link_with_libc, tool
from ukl_build import toolchain
from ukl_build.elf import layout
from ukl_build.elf.names import PROVIDED, UNPREFIXED
from ukl_build.elf.reader import read_object
from ukl_build.errors import UklError
from ukl_build.stages.archive import link_application, make_archive

END = '\n.section .note.GNU-stack,"",@progbits\n'
PROGRAM = "\n.text\n.globl program\n.type program,@function\nprogram:\n"

ASSEMBLER: dict[str, tuple[str, str, list[str]]] = {
    # what: (source, error code, words of the message)
    "zero-extended address": (
        PROGRAM + "mov $variable, %eax\nret\n.size program,.-program\n.data\nvariable: .long 1",
        "elf-relocation",
        ["R_X86_64_32 ", ".data", "(in program)", "-mcmodel=kernel"],
    ),
    "16-bit address": (PROGRAM + "movw $program, %ax", "elf-relocation", ["R_X86_64_16 "]),
    "8-bit address": (PROGRAM + "movb $program, %al", "elf-relocation", ["R_X86_64_8 "]),
    "16-bit distance": (
        PROGRAM + ".word away - .\n.data\naway:", "elf-relocation", ["R_X86_64_PC16"],
    ),
    "8-bit distance": (
        PROGRAM + ".byte away - .\n.data\naway:", "elf-relocation", ["R_X86_64_PC8"],
    ),
    "address of the GOT": (
        PROGRAM + "lea _GLOBAL_OFFSET_TABLE_(%rip), %rax", "elf-undefined",
        ["_GLOBAL_OFFSET_TABLE_"],
    ),
    "GOT of the large model": (
        PROGRAM + "movabs $program@GOT, %rax", "elf-relocation", ["R_X86_64_GOT64", "large model"],
    ),
    "distance from the GOT": (
        PROGRAM + "movabs $program@GOTOFF, %rax", "elf-relocation", ["R_X86_64_GOTOFF64"],
    ),
    "PLT of the large model": (
        PROGRAM + "movabs $program@PLTOFF, %rax", "elf-relocation", ["R_X86_64_PLTOFF64"],
    ),
    "size of a symbol": (
        PROGRAM + "mov $program@SIZE, %eax", "elf-relocation", ["R_X86_64_SIZE32"],
    ),
    "GOT reference in data": (
        PROGRAM + ".data\n.long program@GOTPCREL", "elf-relocation",
        ["R_X86_64_GOTPCREL", "only instructions"],
    ),
    "TLS offset in data": (
        PROGRAM + ".data\n.long variable@DTPOFF\n.section .tbss,\"awT\",@nobits\nvariable: .long 0",
        "elf-relocation", ["R_X86_64_DTPOFF32"],
    ),
    "general-dynamic by hand": (
        PROGRAM + "lea variable@TLSGD(%rip), %rdi\ncall __tls_get_addr@PLT\n"
        '.section .tbss,"awT",@nobits\nvariable: .long 0',
        "elf-relocation", ["R_X86_64_TLSGD", "variable"],
    ),
    "general-dynamic without its call": (
        PROGRAM + ".byte 0x66\nlea variable@TLSGD(%rip), %rdi\n.byte 0x66, 0x66, 0x48\n"
        'call program@PLT\n.section .tbss,"awT",@nobits\nvariable: .long 0',
        "elf-relocation", ["R_X86_64_TLSGD", "__tls_get_addr"],
    ),
    "local-dynamic by hand": (
        PROGRAM + "lea variable@TLSLD(%rip), %rsi\ncall __tls_get_addr@PLT\n"
        '.section .tbss,"awT",@nobits\nvariable: .long 0',
        "elf-relocation", ["R_X86_64_TLSLD"],
    ),
    "descriptor by hand": (
        PROGRAM + "lea variable@TLSDESC(%rip), %rax\ncall *variable@TLSCALL(%rax)\nret\n"
        "mov variable@TLSDESC(%rip), %rax\n"
        '.section .tbss,"awT",@nobits\nvariable: .long 0',
        "elf-relocation", ["R_X86_64_GOTPC32_TLSDESC"],
    ),
    "TLS variable used as an ordinary one": (
        PROGRAM + 'lea variable(%rip), %rax\n.section .tbss,"awT",@nobits\nvariable: .long 0',
        "elf-relocation", ["R_X86_64_PC32", "variable", "TLS"],
    ),
    "ordinary variable used as a TLS one": (
        PROGRAM + ".long 0\n.reloc program, R_X86_64_TPOFF32, variable\n.data\nvariable: .long 1",
        "elf-relocation", ["R_X86_64_TPOFF32", "TLS"],
    ),
    "branch to a number": (
        PROGRAM + "call number\n.globl number\nnumber = 0x1000", "elf-relocation",
        ["number", "fixed address"],
    ),
    "number read relative to rip": (
        PROGRAM + "mov number(%rip), %eax\n.globl number\nnumber = 0x1000", "elf-relocation",
        ["number", "KASLR"],
    ),
    "writable code": (
        PROGRAM + '.section odd,"awx",@progbits\n.byte 0', "elf-section",
        ["odd", "writable and executable"],
    ),
    "executable stack": (
        PROGRAM + '.section .note.GNU-stack,"x",@progbits', "elf-section",
        [".note.GNU-stack", "SMEP"],
    ),
    "large data": (
        PROGRAM + '.section .ldata,"awl",@progbits\n.byte 1', "elf-section",
        [".ldata", "large code model"],
    ),
    "a section like the archive's": (
        PROGRAM + '.section .ukl.data,"aw",@progbits\n.byte 1', "elf-section", [".ukl.data"],
    ),
    "a section that would be called like the archive's": (
        PROGRAM + "push variable@GOTPCREL(%rip)\nret\n"
        '.section got,"a",@progbits\n.globl variable\nvariable: .byte 1',
        "elf-section", ["got", ".ukl.rodata.got"],
    ),
    "constructors of old": (
        PROGRAM + '.section .ctors,"aw",@progbits\n.quad program', "elf-section",
        [".ctors", ".init_array"],
    ),
    "read-only section without contents": (
        PROGRAM + '.section odd,"a",@nobits\n.skip 8', "elf-section", ["odd", "NOBITS"],
    ),
    "half a pointer to a constructor": (
        PROGRAM + '.section .init_array,"aw",@init_array\n.long 0', "elf-section",
        [".init_array", "pointers"],
    ),
    "common symbol aligned beyond the slide": (
        PROGRAM + "lea variable(%rip), %rax\n.comm variable, 8, 0x400000", "elf-section",
        [".bss.COMMON", "0x400000"],
    ),
    "alignment beyond the slide": (
        PROGRAM + ".data\n.balign 0x400000\n.byte 1", "elf-section", [".data", "0x400000"],
    ),
    "data in a section that is left out": (
        PROGRAM + 'lea note(%rip), %rax\n.section .note.mine,"a",@note\nnote: .long 0',
        "elf-section", [".note.mine", "program"],
    ),
    "unwind table cut in two": (
        PROGRAM + '.section .eh_frame,"a",@progbits\n.long 0\n.long 4\n.long 0', "elf-section",
        [".ukl.eh_frame", "unwinder"],
    ),
    "undefined function": (
        PROGRAM + "call somewhere\n.size program,.-program", "elf-undefined",
        ["somewhere (used at .text", "(in program)"],
    ),
    "weak name without a reason": (
        PROGRAM + ".weak perhaps\ncall perhaps", "elf-undefined", ["perhaps (weak", "[zero]"],
    ),
    "strong name where a weak one could be 0": (
        PROGRAM + "call __gmon_start__", "elf-undefined", ["__gmon_start__ (used"],
    ),
    "gate that is not weak": (
        PROGRAM + "call ukl_syscall\n.globl ukl_syscall\nukl_syscall: ret", "elf-symbol",
        ["ukl_syscall", "weak"],
    ),
    "IFUNC that nobody resolves": (
        PROGRAM + "call choose\n.type choose,@gnu_indirect_function\n.globl choose\nchoose: ret",
        "elf-symbol", ["choose", "IFUNC"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ASSEMBLER)
def test_refused_by_name(what: str, cc: Compiler, start: Path, tmp_path: Path) -> None:
    """The message names what is wrong and where; neither archive nor remains are left."""
    source, code, words = ASSEMBLER[what]
    unit = cc(source + ("" if "GNU-stack" in source else END), suffix=".S")
    # ld directly, as a user's own partial link might be: link_application would look first
    tool("ld", "-r", "-o", tmp_path / "app.o", start, unit)
    with pytest.raises(UklError) as caught:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert caught.value.code == code
    assert caught.value.hint
    for word in words:
        assert word in str(caught.value), caught.value
    assert not (tmp_path / "UKL.a").exists()
    assert [one for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_crtbegin_for_static_programs_is_refused(cc: Compiler, tmp_path: Path) -> None:
    """crtbeginT.o has R_X86_64_32, and the hint says which file to take."""
    unit = cc("int main(void) { return 0; }")
    tool(
        "ld", "-r", "-d", "--force-group-allocation", "-o", tmp_path / "app.o",
        *(toolchain.file(one) for one in ("crt1.o", "crti.o", "crtbeginT.o")), unit,
        "--start-group",
        *(toolchain.file(one) for one in ("libc.a", "libgcc.a", "libgcc_eh.a")), "--end-group",
        *(toolchain.file(one) for one in ("crtend.o", "crtn.o")),
    )  # fmt: skip
    with pytest.raises(UklError) as caught:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert caught.value.code == "elf-relocation"
    assert "R_X86_64_32 " in caught.value.message and "crtbeginS.o" in caught.value.hint


def test_nested_functions_are_refused(cc: Compiler, start: Path, tmp_path: Path) -> None:
    """A trampoline on the stack is code in user memory."""
    unit = cc(
        """
        int call(int (*f)(void)) { return f(); }
        int program(int n) { int nested(void) { return n; } return call(nested); }
        """,
        "-O0",
    )
    link_application([start, unit], tmp_path / "app.o")
    with pytest.raises(UklError) as caught:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert "executable stack" in caught.value.message and "nested" in caught.value.hint


def test_a_start_and_stop_of_different_flags_are_refused(cc: Compiler, tmp_path: Path) -> None:
    """From the start to the stop there would be a gap: the parts are mapped differently."""
    unit = cc(
        ".globl _start\n_start: lea __start_odd(%rip), %rax\n"
        '.section odd,"a",@progbits\n.byte 1\n.section odd,"aw",@progbits,unique,1\n.byte 1' + END,
        suffix=".S",
    )
    with pytest.raises(UklError, match="different flags") as caught:
        make_archive(unit, tmp_path / "UKL.a")
    assert caught.value.code == "elf-section"


def test_too_much_static_data_is_refused_with_figures(
    cc: Compiler, start: Path, tmp_path: Path
) -> None:
    """Both numbers and the largest object are named; one byte less is accepted."""
    unit = cc(f"char huge[{layout.MAX_IMAGE}]; int program(void) {{ return huge[0]; }}")
    link_application([start, unit], tmp_path / "app.o")
    with pytest.raises(UklError) as caught:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert caught.value.code == "elf-size"
    assert "448 MiB" in caught.value.message and "huge" in caught.value.detail
    unit = cc(f"char huge[{layout.MAX_IMAGE - 4096}]; int program(void) {{ return huge[0]; }}")
    link_application([start, unit], tmp_path / "app.o")
    made = make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert made.path.stat().st_size < 10_000


@pytest.mark.parametrize(
    "source",
    ["int other(void) { return 0; }", "static int _start(void) { return 0; } "
     "int (*pointer)(void) = _start;", "int _start = 1;"],
)  # fmt: skip
def test_a_program_without_entry_is_refused(source: str, cc: Compiler, tmp_path: Path) -> None:
    """_start is missing, local, or data."""
    link_application([cc(source)], tmp_path / "app.o")
    with pytest.raises(UklError, match="_start") as caught:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert caught.value.code == "elf-symbol"


def test_an_archive_is_not_taken_for_an_application(
    cc: Compiler, start: Path, tmp_path: Path
) -> None:
    """Prefixing twice is refused."""
    link_application([start, cc("int program(void) { return 0; }")], tmp_path / "app.o")
    make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    tool("ar", "x", "--output", tmp_path, tmp_path / "UKL.a")
    with pytest.raises(UklError, match=r"\.ukl\."):
        make_archive(tmp_path / "app.o", tmp_path / "second.a")


def test_an_old_archive_stays_when_the_new_one_fails(
    cc: Compiler, start: Path, tmp_path: Path
) -> None:
    """The file is replaced in one step or not at all."""
    link_application([start, cc("int program(void) { return 0; }")], tmp_path / "app.o")
    make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    before = (tmp_path / "UKL.a").read_bytes()
    (tmp_path / "reader").hardlink_to(tmp_path / "UKL.a")
    make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert not (tmp_path / "reader").samefile(tmp_path / "UKL.a"), "written in place"
    link_application([cc("int x;")], tmp_path / "app.o")
    with pytest.raises(UklError):
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert (tmp_path / "UKL.a").read_bytes() == before


def damaged(whole: bytes) -> dict[str, bytes]:
    """Return damaged copies of an object."""

    def patched(offset: int, form: str, value: int) -> bytes:
        copy = bytearray(whole)
        struct.pack_into(form, copy, offset, value)
        return bytes(copy)

    (e_shoff,) = struct.unpack_from("<Q", whole, 40)
    (e_shnum,) = struct.unpack_from("<H", whole, 60)
    result = {
        "empty": b"",
        "text": b"not an object\n",
        "magic only": whole[:4],
        "half a header": whole[:40],
        "half a file": whole[: len(whole) // 2],
        "last byte missing": whole[:-1],
        "32 bit": patched(4, "<B", 1),
        "big endian": patched(5, "<B", 2),
        "executable": patched(16, "<H", 2),
        "AArch64": patched(18, "<H", 183),
        "names in no section": patched(62, "<H", e_shnum + 5),
        "section table outside": patched(40, "<Q", len(whole) + 1000),
    }
    for index in range(1, e_shnum):
        header = e_shoff + index * 64
        (sh_type,) = struct.unpack_from("<I", whole, header + 4)
        if sh_type == 1:  # SHT_PROGBITS
            result["section outside"] = patched(header + 24, "<Q", len(whole) + 1)
            result["section beyond any file"] = patched(header + 24, "<Q", 1 << 63)
            result["section beyond any memory"] = patched(header + 32, "<Q", 1 << 62)
        if sh_type == 2:  # SHT_SYMTAB
            (offset,) = struct.unpack_from("<Q", whole, header + 24)
            result["symbol in no section"] = patched(offset + 24 + 6, "<H", 0x1234)
            result["symbol name outside"] = patched(offset + 24, "<I", 1 << 30)
            result["symbol of unknown binding"] = patched(offset + 24 + 4, "<B", 0xC0)
            result["symbol of unknown type"] = patched(offset + 24 + 4, "<B", 0x0E)
            result["no symbol table"] = patched(header + 4, "<I", 3)
            result["strings outside"] = patched(header + 40, "<I", 999)
        if sh_type == 4:  # SHT_RELA
            (offset,) = struct.unpack_from("<Q", whole, header + 24)
            result["relocation of no symbol"] = patched(offset + 12, "<I", 1 << 20)
            result["relocation outside"] = patched(offset, "<Q", 1 << 20)
            result["relocations of no section"] = patched(header + 44, "<I", 999)
            result["half a relocation"] = patched(header + 32, "<Q", 25)
            result["relocations without addend"] = patched(header + 4, "<I", 9)
    return result


def test_damaged_files_are_refused(cc: Compiler, tmp_path: Path) -> None:
    """Never a traceback: each damage is elf-format and names the file."""
    unit = cc("extern int x; int program(void) { return x; }")
    files = damaged(unit.read_bytes())
    assert len(files) > 18
    for what, data in files.items():
        bad = tmp_path / "bad.o"
        bad.write_bytes(data)
        with pytest.raises(UklError) as caught:
            read_object(bad)
        assert caught.value.code == "elf-format", what
        assert str(bad) in caught.value.message, what


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """With the system's own words."""
    with pytest.raises(UklError, match="No such file") as caught:
        read_object(tmp_path / "absent.o")
    assert caught.value.code == "elf-format"


@pytest.mark.parametrize("offset", [1 << 20, 1 << 63, -3])
@pytest.mark.parametrize("x", ["int x[1];", "", 'asm(".globl x; x = 0x1000");'])
def test_relocations_outside_their_section_are_refused(
    offset: int, x: str, cc: Compiler, start: Path, tmp_path: Path
) -> None:
    """A damaged offset is not written through; nor if a number is all that is written there."""
    unit = cc(f"extern int x[] __attribute__((weak)); int *program(void) {{ return x; }} {x}")
    link_application([start, unit], tmp_path / "app.o")
    whole = bytearray((tmp_path / "app.o").read_bytes())
    (e_shoff,) = struct.unpack_from("<Q", whole, 40)
    for index in range(struct.unpack_from("<H", whole, 60)[0]):
        header = e_shoff + index * 64
        if struct.unpack_from("<I", whole, header + 4)[0] == 4:
            (size,) = struct.unpack_from("<Q", whole, header - 64 + 32)
            rela, rela_size = struct.unpack_from("<QQ", whole, header + 24)
            last = rela + rela_size - 24  # the one against x
            struct.pack_into("<Q", whole, last, size + offset if offset < 0 else offset)
            break
    (tmp_path / "app.o").write_bytes(whole)
    with pytest.raises(UklError, match="outside its section"):
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a", zero={"x": "the test"})


def test_relocations_against_a_section_of_the_file_are_refused(
    cc: Compiler, start: Path, tmp_path: Path
) -> None:
    """A section symbol may stand for a table, which is not in memory; none may point there."""
    link_application([start, cc("int x; int *program(void) { return &x; }")], tmp_path / "app.o")
    whole = bytearray((tmp_path / "app.o").read_bytes())
    (e_shoff,) = struct.unpack_from("<Q", whole, 40)
    (e_shnum,) = struct.unpack_from("<H", whole, 60)
    types = [struct.unpack_from("<I", whole, e_shoff + n * 64 + 4)[0] for n in range(e_shnum)]
    (symtab,) = struct.unpack_from("<Q", whole, e_shoff + types.index(2) * 64 + 24)
    (rela,) = struct.unpack_from("<Q", whole, e_shoff + types.index(4) * 64 + 24)
    (symbol,) = struct.unpack_from("<I", whole, rela + 12)
    struct.pack_into("<BBH", whole, symtab + symbol * 24 + 4, 3, 0, types.index(3))
    (tmp_path / "app.o").write_bytes(whole)
    with pytest.raises(UklError, match="a symbol of nothing in the program") as caught:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert caught.value.code == "elf-format"


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        "[[other]]\nnames = ['a']\nreason = 'b'",
        "[[unprefixed]]\nnames = ['a']",
        "[[unprefixed]]\nnames = ['a']\nreason = ' '",
        "[[unprefixed]]\nnames = []\nreason = 'b'",
        "[[unprefixed]]\nnames = 'a'\nreason = 'b'",
        "[[unprefixed]]\nnames = [1]\nreason = 'b'",
        "[[unprefixed]]\nnames = ['a', 'a']\nreason = 'b'",
        "[[unprefixed]]\nnames = ['a']\nreason = 'b'\nmore = 1",
        "[unprefixed]\nnames = ['a']\nreason = 'b'",
    ],
)
def test_damaged_tables_are_refused(text: str, cc: Compiler, start: Path, tmp_path: Path) -> None:
    """Every name has a reason, and every mistake is named with its file."""
    link_application([start, cc("int program(void) { return 0; }")], tmp_path / "app.o")
    table = tmp_path / "table.toml"
    table.write_text(text)
    for first, second in ((table, PROVIDED), (UNPREFIXED, tmp_path / "absent")):
        with pytest.raises(UklError) as caught:
            make_archive(tmp_path / "app.o", tmp_path / "UKL.a", unprefixed=first, provided=second)
        assert caught.value.code == "linker-table"
    with pytest.raises(UklError, match="without a reason"):
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a", unprefixed=UNPREFIXED, zero={"x": ""})


def test_a_libc_program_with_a_missing_library_names_all_symbols(
    cc: Compiler, tmp_path: Path
) -> None:
    """Everything that is missing is in one message."""
    unit = cc(
        "double sin(double), cos(double); int main(int c, char **v) { return sin(c) + cos(c); }",
        "-fno-builtin",
    )
    link_with_libc(tmp_path / "app.o", unit)
    with pytest.raises(UklError, match="2 symbols are not defined") as caught:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert "cos (used at" in caught.value.detail and "sin (used at" in caught.value.detail
    assert "(in main)" in caught.value.detail
