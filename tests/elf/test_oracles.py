# SPDX-License-Identifier: Apache-2.0
"""The same question asked of other programs: objcopy, readelf, nm, eu-elflint, ld."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.elf.conftest import Compiler, link_with_libc, lint_clean, tool
from ukl_build.elf import abi, names
from ukl_build.elf.model import ObjectFile, Relocation, Section, Symbol
from ukl_build.elf.names import PROVIDED, UNPREFIXED
from ukl_build.elf.reader import read_object
from ukl_build.elf.writer import encode, write_object
from ukl_build.errors import UklError
from ukl_build.stages.archive import make_archive

TABLES = names.load_tables(UNPREFIXED, PROVIDED)

UNITS = {
    "variables": "int a = 1, b; const int c = 3; __thread int d = 4, e; static int f = 5;"
    " int *g(void) { return &f; } extern int h; int *i(void) { return &h; }",
    "weak and hidden": "__attribute__((weak)) int a = 1; __attribute__((visibility(\"hidden\")))"
    " int b(void) { return 2; } extern int c(void) __attribute__((weak));"
    " int d(void) { return c ? c() : b(); }",
    "ifunc": "static int one(void) { return 1; } static void *pick(void) { return one; }"
    " int a(void) __attribute__((ifunc(\"pick\"))); int b(void) { return a(); }",
    "strings": "const char *a(void) { return \"text\"; } const char b[] = \"text\";",
    "gate": "__attribute__((weak)) void ukl_syscall(void) { } void a(void) { ukl_syscall(); }",
    "empty": "",
}  # fmt: skip


def symbols(path: Path) -> Counter[tuple[str, ...]]:
    """Return readelf's view of the symbol table, without the order."""
    lines = [line.split() for line in tool("readelf", "-sW", path).splitlines()]
    found: Counter[tuple[str, ...]] = Counter()
    for words in lines:
        if len(words) >= 7 and words[0].rstrip(":").isdigit() and words[3] != "SECTION":
            # value, size, type, binding, visibility, section or UND/ABS/COM, name
            found[(*words[1:6], words[6] if not words[6].isdigit() else "in", *words[7:])] += 1
    return found


def relocations(path: Path) -> Counter[tuple[str, ...]]:
    """Return readelf's view of the relocations: section, offset, type, symbol and addend."""
    found: Counter[tuple[str, ...]] = Counter()
    section = ""
    for line in tool("readelf", "-rW", path).splitlines():
        if line.startswith("Relocation section"):
            section = line.split("'")[1]
        elif match := re.match(r"([0-9a-f]{16}) +[0-9a-f]{16} (\S+) +([0-9a-f]{16})?(.*)", line):
            found[(section, match[1], match[2], *match[4].split())] += 1
    return found


def sections(path: Path) -> list[tuple[str, ...]]:
    """Return name, type, size, entry size, flags and alignment of what the program has."""
    found: list[tuple[str, ...]] = []
    for line in tool("readelf", "-SW", path).splitlines():
        if match := re.match(r" +\[ *\d+\] (\S+) +(\S+) +(.*)", line):
            words = match[3].split()
            flags = words[4] if len(words) == 8 else ""
            if match[2] not in ("RELA", "STRTAB", "SYMTAB", "NULL"):
                found.append((match[1], match[2], words[2], words[3], flags, words[-1]))
    return found


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("pic", ["-fno-pic", "-fPIC"])
def test_prefixing_agrees_with_objcopy(unit: str, pic: str, cc: Compiler, tmp_path: Path) -> None:
    """Objcopy --prefix-symbols on the same object gives the same symbols and relocations."""
    flags = ["-mcmodel=kernel", pic] if pic == "-fno-pic" else [pic]
    original = cc(UNITS[unit], "-O1", "-g", "-fcommon", *flags, kernel=False)
    obj = read_object(original)
    names.prefix_symbols(obj.symbols, TABLES)
    write_object(obj, tmp_path / "ours.o")
    tool("objcopy", "--prefix-symbols=ukl.", original, tmp_path / "oracle.o")
    back = [f"--redefine-sym=ukl.{one.name}={one.name}" for one in obj.symbols
            if TABLES.shared(one.name)]  # fmt: skip
    tool("objcopy", *back, tmp_path / "oracle.o")
    lint_clean(tmp_path / "ours.o")
    # objcopy prefixes the names of source files as well; they are not linked, ours stay.
    oracle = Counter(
        {
            (*one[:-1], one[-1].removeprefix("ukl.")) if one[2] == "FILE" else one: count
            for one, count in symbols(tmp_path / "oracle.o").items()
        }
    )
    assert symbols(tmp_path / "ours.o") == oracle
    assert relocations(tmp_path / "ours.o") == relocations(tmp_path / "oracle.o")
    assert sections(tmp_path / "ours.o") == sections(tmp_path / "oracle.o")


def test_reading_and_writing_changes_nothing(cc: Compiler, tmp_path: Path) -> None:
    """A whole libc goes through the model and comes out as ld left it."""
    unit = cc('int printf(const char *, ...); int main(void) { return printf("%f", 1.5); }')
    link_with_libc(tmp_path / "app.o", unit)
    write_object(read_object(tmp_path / "app.o"), tmp_path / "ours.o")
    lint_clean(tmp_path / "ours.o")
    for view in (symbols, relocations):
        assert view(tmp_path / "ours.o") == view(tmp_path / "app.o")
    assert sections(tmp_path / "ours.o") == sections(tmp_path / "app.o")
    for name in (".text", ".rodata", ".data", ".eh_frame", ".tdata"):
        for file in ("app.o", "ours.o"):
            tool("objcopy", "-O", "binary", f"--only-section={name}", tmp_path / file,
                 tmp_path / f"{file}.bin")  # fmt: skip
        assert (tmp_path / "app.o.bin").read_bytes() == (tmp_path / "ours.o.bin").read_bytes()
    first = encode(read_object(tmp_path / "ours.o"))
    assert first == (tmp_path / "ours.o").read_bytes()


def test_thousands_of_sections_are_joined(cc: Compiler, start: Path, tmp_path: Path) -> None:
    """-ffunction-sections with more sections than 16 bits count: read through SHT_SYMTAB_SHNDX."""
    count = 33_000
    source = "".join(
        f'.section .text.f{n},"ax",@progbits\nf{n}: call f{(n * 7 + 1) % count}\n'
        for n in range(count)
    )
    unit = cc(
        source + '.text\n.globl program\nprogram: ret\n.section .note.GNU-stack,"",@progbits\n',
        suffix=".s",
    )
    # ld -r with --unique keeps them apart
    tool("ld", "-r", "--unique", "-o", tmp_path / "app.o", start, unit)
    assert "SYMTAB SECTION INDICES" in tool("readelf", "-SW", tmp_path / "app.o").upper()
    made = make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert ".ukl.text" in made.sections and len(made.sections) == 1
    tool("ar", "x", "--output", tmp_path, made.path)
    lint_clean(tmp_path / "app.o")
    tool("ld", "-o", tmp_path / "program", "-e", "ukl._start", tmp_path / "app.o")
    text = tool("objdump", "-d", "--no-show-raw-insn", "-j", ".ukl.text", tmp_path / "program")
    assert len(re.findall(r"<ukl\.f\d+>:\n.*call .*<ukl\.f\d+>", text)) == count


def test_the_writer_refuses_a_model_that_is_not_closed(tmp_path: Path) -> None:
    """A relocation against a symbol that was removed is our own mistake, and said to be."""
    section = Section(".text", abi.SHT_PROGBITS, 6, data=bytearray(8))
    gone = Symbol("gone", abi.STB_GLOBAL, abi.STT_NOTYPE)
    section.relocations.append(Relocation(0, 1, gone, 0))
    for obj in (
        ObjectFile([section]),
        ObjectFile([], [Symbol("x", abi.STB_GLOBAL, abi.STT_FUNC, section)]),
    ):
        with pytest.raises(UklError) as caught:
            write_object(obj, tmp_path / "out.o")
        assert caught.value.code == "internal" and not (tmp_path / "out.o").exists()
