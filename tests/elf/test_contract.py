# SPDX-License-Identifier: Apache-2.0
"""The second reading notices every breach of the contract that a pass could cause."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.elf.conftest import Compiler, tool
from tests.project import ROOT
from ukl_build.elf import abi, names
from ukl_build.elf.contract import check_archive_member
from ukl_build.elf.model import ObjectFile, Relocation, Section, Symbol
from ukl_build.elf.names import PROVIDED, UNPREFIXED
from ukl_build.elf.reader import read_object
from ukl_build.elf.writer import write_object
from ukl_build.errors import UklError
from ukl_build.stages.archive import link_application, make_archive

TABLES = names.load_tables(UNPREFIXED, PROVIDED)
ALLOC, WRITE, CODE, TLS = 2, 1, 4, 0x400
UNIT = """
    int data = 1, bss, *pointer = &data;
    const int constant = 2;
    __thread int tdata = 1, tbss;
    __attribute__((constructor)) static void construct(void) { bss++; }
    extern char _end[];
    int program(void) { return *pointer + tdata + tbss + bss + constant + (_end != 0); }
"""


@pytest.fixture
def member(cc: Compiler, start: Path, tmp_path: Path) -> Path:
    """Return the member of a sound archive."""
    link_application([start, cc(UNIT, "-g")], tmp_path / "app.o")
    make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    (tmp_path / "out").mkdir()
    tool("ar", "x", "--output", tmp_path / "out", tmp_path / "UKL.a")
    return tmp_path / "out" / "app.o"


def section(obj: ObjectFile, name: str) -> Section:
    """Return a section by its name."""
    return next(one for one in obj.sections if one.name == name)


def symbol(obj: ObjectFile, name: str) -> Symbol:
    """Return a symbol by its name."""
    return next(one for one in obj.symbols if one.name == name)


def add(name: str, flags: int, sh_type: int = abi.SHT_PROGBITS) -> Callable[[ObjectFile], None]:
    """Add a section."""
    return lambda obj: obj.sections.append(Section(name, sh_type, flags, data=bytearray(8)))


def flag(name: str, flags: int) -> Callable[[ObjectFile], None]:
    """Change flags."""

    def change(obj: ObjectFile) -> None:
        section(obj, name).sh_flags ^= flags

    return change


def set_symbol(which: str, **values: object) -> Callable[[ObjectFile], None]:
    """Change a symbol."""

    def change(obj: ObjectFile) -> None:
        one = symbol(obj, which)
        for key, value in values.items():
            setattr(one, key, value)

    return change


def set_type(name: str, r_type: int) -> Callable[[ObjectFile], None]:
    """Change a relocation's type."""

    def change(obj: ObjectFile) -> None:
        section(obj, name).relocations[0].r_type = r_type

    return change


def bad_irelative(obj: ObjectFile) -> None:
    """Add an entry that is no Elf64_Rela."""
    entries = Section(".ukl.irelative", abi.SHT_PROGBITS, ALLOC, data=bytearray(24))
    entries.relocations.append(Relocation(8, 1, symbol(obj, "ukl.program"), 0))
    obj.sections.append(entries)


def reference_to_nowhere(obj: ObjectFile) -> None:
    """Let a relocation name a symbol that nothing defines."""
    one = Symbol("ukl.nowhere", abi.STB_GLOBAL, abi.STT_NOTYPE)
    obj.symbols.append(one)
    section(obj, ".ukl.data").relocations[0].symbol = one


BREACHES: dict[str, tuple[Callable[[ObjectFile], None], str]] = {
    "orphan": (add("odd", ALLOC), "odd would be an orphan"),
    "orphan by prefix": (add(".ukl.textual", ALLOC | CODE), ".ukl.textual would be an orphan"),
    "not allocated": (add(".odd", 0), ".odd has no place"),
    "note": (add(".note.mine", ALLOC, abi.SHT_NOTE), "orphan"),
    "writable code": (flag(".ukl.text", WRITE), ".ukl.text has flags"),
    "read-only data": (flag(".ukl.data", WRITE), ".ukl.data has flags"),
    "executable data": (flag(".ukl.data", CODE), ".ukl.data has flags"),
    "TLS data": (flag(".ukl.data", TLS), ".ukl.data has flags"),
    "group": (flag(".ukl.data", 0x200), ".ukl.data has flags"),
    "array type": (add(".ukl.fini_array", ALLOC | WRITE, abi.SHT_FINI_ARRAY), "type FINI_ARRAY"),
    "bss with contents": (add(".ukl.bss.odd", ALLOC | WRITE), ".ukl.bss.odd has type"),
    "second .ukl.tdata": (add(".ukl.tdata", ALLOC | WRITE | TLS), ".ukl.tdata is there 2 times"),
    "no prefix": (set_symbol("ukl.data", name="data"), "data has no prefix"),
    "no prefix on a local symbol": (
        set_symbol("ukl.construct", name="construct"), "construct has no prefix",
    ),
    "indirect function": (
        set_symbol("ukl.program", st_type=abi.STT_GNU_IFUNC), "ukl.program is an indirect function",
    ),
    "unique symbol": (
        set_symbol("ukl.data", st_bind=abi.STB_GNU_UNIQUE), "ukl.data has binding",
    ),
    "undefined": (
        set_symbol("ukl.data", section=None, st_shndx=abi.SHN_UNDEF), "ukl.data is undefined",
    ),
    "absolute": (
        set_symbol("ukl.data", section=None, st_shndx=abi.SHN_ABS), "absolute or common",
    ),
    "common": (
        set_symbol("ukl.data", section=None, st_shndx=abi.SHN_COMMON), "absolute or common",
    ),
    "no entry": (set_symbol("ukl._start", name="ukl.start"), "ukl._start is defined 0 times"),
    "local entry": (
        set_symbol("ukl._start", st_bind=abi.STB_LOCAL), "ukl._start is defined 0 times",
    ),
    "GOT": (set_type(".ukl.text", 42), "R_X86_64_REX_GOTPCRELX"),
    "zero-extended": (set_type(".ukl.text", 10), "R_X86_64_32"),
    "no relocation": (set_type(".ukl.data", 0), "R_X86_64_NONE"),
    "TLS offset in debugging information": (set_type(".debug_info", 23), "R_X86_64_TPOFF32"),
    "IRELATIVE": (bad_irelative, "is no Elf64_Rela"),
    "reference to nowhere": (reference_to_nowhere, "ukl.nowhere is undefined"),
}  # fmt: skip


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_noticed(breach: str, member: Path, tmp_path: Path) -> None:
    """Each alone, in an otherwise sound object."""
    check_archive_member(member, TABLES)
    change, words = BREACHES[breach]
    obj = read_object(member)
    change(obj)
    write_object(obj, tmp_path / "broken.o")
    with pytest.raises(UklError) as caught:
        check_archive_member(tmp_path / "broken.o", TABLES)
    assert caught.value.code == "elf-contract"
    assert words in caught.value.detail


def test_breaches_that_our_writer_cannot_make_are_noticed(member: Path, tmp_path: Path) -> None:
    """Kind of file, machine, and relocations of nothing, of another section, against nothing."""
    whole = member.read_bytes()
    (e_shoff,) = struct.unpack_from("<Q", whole, 40)
    (e_shnum,) = struct.unpack_from("<H", whole, 60)
    types = [struct.unpack_from("<I", whole, e_shoff + n * 64 + 4)[0] for n in range(e_shnum)]
    header = e_shoff + types.index(abi.SHT_RELA) * 64
    (rela,) = struct.unpack_from("<Q", whole, header + 24)
    for offset, form, value, words in (
        (16, "<H", 2, "it is not relocatable"),
        (18, "<H", 183, "it is not for x86-64"),
        (rela + 12, "<I", 0, "names no symbol"),
        (header + 44, "<I", 0, "changes no section"),
    ):
        copy = bytearray(whole)
        struct.pack_into(form, copy, offset, value)
        (tmp_path / "broken.o").write_bytes(copy)
        with pytest.raises(UklError) as caught:
            check_archive_member(tmp_path / "broken.o", TABLES)
        assert caught.value.code == "elf-contract"
        assert words in caught.value.detail, caught.value


def test_names_in_another_encoding_keep_the_contract(
    cc: Compiler, start: Path, tmp_path: Path
) -> None:
    """A name is bytes (gABI, "String Table"); that they are no UTF-8 is nobody's defect."""
    link_application([start, cc("int caf_; int *program(void) { return &caf_; }")], tmp_path / "a")
    (tmp_path / "app.o").write_bytes((tmp_path / "a").read_bytes().replace(b"caf_", b"caf\xe9"))
    made = make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert b"\0ukl.caf\xe9\0" in made.path.read_bytes()


def test_the_kernel_defines_what_the_table_promises() -> None:
    """Both by their own text: a name that only one of them has fails in somebody's link."""
    arch = ROOT / "recipes/linux/files/arch/x86"
    script = (arch / "include/asm/ukl.lds.h").read_text()
    defined = set(re.findall(r"\bukl\.(\w+) = \.;", script))
    shared = {name for name in TABLES.provided if TABLES.shared(name)}
    assert defined == TABLES.provided - shared
    assembly = set(
        re.findall(r"\bSYM_\w+\((\w+), SYM_L_GLOBAL", (arch / "entry/ukl_64.S").read_text())
    )
    functions = set(re.findall(r"__flatten (\w+)\(", (arch / "entry/ukl_time.c").read_text()))
    assert shared <= assembly | functions


def test_local_symbols_behind_global_ones_are_noticed(member: Path, tmp_path: Path) -> None:
    """What lief 1.0.0 itself does when it adds a symbol."""
    data = bytearray(member.read_bytes())
    # make the last symbol, a global one, local: st_info of the last entry of .symtab
    obj_symbols = tool("readelf", "-SW", member).splitlines()
    line = next(one for one in obj_symbols if ".symtab" in one).split("SYMTAB")[1].split()
    offset, size = int(line[1], 16), int(line[2], 16)
    data[offset + size - 24 + 4] &= 0xF
    first = bytearray(data[offset + 24 : offset + 48])
    first[4] |= 0x10
    data[offset + 24 : offset + 48] = first
    (tmp_path / "broken.o").write_bytes(data)
    with pytest.raises(UklError) as caught:
        check_archive_member(tmp_path / "broken.o", TABLES)
    assert "a local symbol behind a global one" in caught.value.detail


def test_what_is_no_object_is_noticed(tmp_path: Path) -> None:
    """A file that lief cannot read is a breach as well."""
    (tmp_path / "broken.o").write_bytes(b"nothing")
    with pytest.raises(UklError) as caught:
        check_archive_member(tmp_path / "broken.o", TABLES)
    assert caught.value.code == "elf-contract"


def test_make_archive_reads_its_result_again(
    cc: Compiler, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that forgets its work is found out before there is an archive."""
    link_application([start, cc(UNIT)], tmp_path / "app.o")
    monkeypatch.setattr(names, "prefix_symbols", lambda symbols, tables: None)
    with pytest.raises(UklError) as caught:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert caught.value.code == "elf-contract"
    assert not (tmp_path / "UKL.a").exists()
