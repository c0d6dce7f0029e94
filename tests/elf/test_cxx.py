# SPDX-License-Identifier: Apache-2.0
"""C++: exceptions, which need the unwind table and its header, and libstdc++ as Debian ships it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.elf import minikernel
from tests.elf.conftest import link_with_libc, lint_clean, run, tool
from tests.elf.minikernel import HIGH, LOW, link, read_image, slide
from ukl_build import toolchain
from ukl_build.elf.linked import check_linked
from ukl_build.errors import UklError
from ukl_build.stages.archive import Archive, make_archive

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "cxx"
COMPILERS = ("libstdc++.a", "libgcc.a", "libgcc_eh.a")
"""Libraries that are linked as they are on this machine."""

PROGRAM = r"""
#include <cstdio>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <typeinfo>

struct guard { const char *name; ~guard() { std::printf("left %s\n", name); } };
static std::map<std::string, int> table{{"one", 1}, {"two", 2}};
thread_local std::string mine = "fresh";

__attribute__((noinline, section("odd_text"))) static int deep(int n)
{
    guard here{"deep"};
    if (n == 0)
        throw std::out_of_range("bottom");
    return deep(n - 1) + 1;
}

int main()
{
    try {
        deep(2);
    } catch (const std::exception &error) {
        std::printf("%s %d\n", error.what(), typeid(error) == typeid(std::out_of_range));
    }
    try {
        table.at("three");
    } catch (const std::out_of_range &) {
        std::puts("no three");
    }
    std::thread([] {
        try { mine += "!"; throw mine; }
        catch (const std::string &text) { std::puts(text.c_str()); }
    }).join();
    std::cout << mine << ' ' << table["two"] << std::endl;
    return 21;
}
"""
EXPECTED = """\
left deep
left deep
left deep
bottom 1
no three
fresh!
fresh 2
"""


@pytest.fixture(scope="module")
def cxx_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Return the archive of a C++ program."""
    folder = tmp_path_factory.mktemp("cxx")
    (folder / "main.cc").write_text(PROGRAM)
    tool("g++", "-O1", "-std=c++17", "-fPIC", "-c", "-o", folder / "main.o", folder / "main.cc")
    link_with_libc(folder / "app.o", folder / "main.o", libraries=("libstdc++.a", "libm.a"))
    return make_archive(folder / "app.o", folder / "UKL.a")


def test_exceptions_are_caught_wherever_the_program_is(
    cxx_archive: Archive, tmp_path: Path
) -> None:
    """Across functions in several sections, in threads, through libstdc++; slid as well."""
    assert cxx_archive.counts.functions > 4000
    link(cxx_archive.path, tmp_path / "low", base=LOW)
    for delta in (0, 0x2600000):
        slide(tmp_path / "low", tmp_path / "program", delta)
        done = run(tmp_path / "program")
        assert (done.returncode, done.stdout, done.stderr) == (21, EXPECTED, "")


def test_the_search_table_is_sorted(cxx_archive: Archive, tmp_path: Path) -> None:
    """Binary search needs it, and the linker's order of sections must not break it."""
    link(cxx_archive.path, tmp_path / "vmlinux", base=HIGH)
    image = read_image(tmp_path / "vmlinux")
    start, end = (image.symbols[f"ukl.__GNU_EH_FRAME_HDR{one}"] for one in ("", "_end"))
    assert image.at(start, 4) == 0x3B031B01
    count = image.at(start + 8, 4)
    assert count == cxx_archive.counts.functions == (end - start - 12) // 8
    check_linked(tmp_path / "vmlinux")
    table = [(image.at(at, 4) ^ 1 << 31) for at in range(start + 12, end, 8)]
    assert table == sorted(table)
    deep = image.symbols["ukl._ZL4deepi"]
    assert ((deep - start) % (1 << 32)) ^ 1 << 31 in table
    tool("ar", "x", "--output", tmp_path, cxx_archive.path)
    lint_clean(tmp_path / "app.o")


KERNELS_FLAGS = ("-O2", *toolchain.CODE_FLAGS)


def test_a_program_compiled_for_the_kernel_half_does_what_an_ordinary_one_does(
    tmp_path: Path,
) -> None:
    """Sources of C++ and C, compiled as a recipe's are; thread_local variables of another file."""
    sources = sorted(path for path in SAMPLE.iterdir() if path.suffix in (".c", ".cc"))
    objects: dict[str, list[Path]] = {"ordinary": [], "kernel": []}
    for kind, flags in (("ordinary", ("-O2",)), ("kernel", KERNELS_FLAGS)):
        for source in sources:
            compiler, more = ("gcc", []) if source.suffix == ".c" else ("g++", ["-std=c++20"])
            out = tmp_path / f"{kind}-{source.name}.o"
            tool(compiler, *flags, *more, "-c", "-o", out, source)
            objects[kind].append(out)
    tool("g++", "-static", "-o", tmp_path / "ordinary", *objects["ordinary"])
    expected = run(tmp_path / "ordinary")
    assert (expected.returncode, expected.stderr) == (0, "")
    assert expected.stdout.count("\n") > 20
    link_with_libc(tmp_path / "app.o", *objects["kernel"], libraries=("libstdc++.a", "libm.a"))
    made = make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert "_ZTH7unwound" in made.zeroed
    link(made.path, tmp_path / "low", base=LOW)
    slide(tmp_path / "low", tmp_path / "program", 0x2600000)
    done = run(tmp_path / "program")
    assert (done.returncode, done.stdout, done.stderr) == (0, expected.stdout, "")


def test_all_of_the_compilers_libraries_go_through(tmp_path: Path) -> None:
    """Every member: what they are compiled for is Debian's business, that it fits is ours."""
    (tmp_path / "main.c").write_text("int main(void) { return 7; }")
    tool("gcc", "-O1", "-c", "-o", tmp_path / "main.o", tmp_path / "main.c")
    whole = [toolchain.file(one) for one in COMPILERS]
    libc = [toolchain.file(one) for one in ("libm.a", "libc.a")]
    tool(
        "ld", "-r", "--force-group-allocation", "-o", tmp_path / "app.o",
        *(toolchain.file(one) for one in ("crt1.o", "crti.o", "crtbeginS.o")), tmp_path / "main.o",
        "--whole-archive", *whole, "--no-whole-archive", "--start-group", *libc, *whole,
        "--end-group", *(toolchain.file(one) for one in ("crtendS.o", "crtn.o")),
    )  # fmt: skip
    split = {"__real_pthread_create": "libgcc.a, for programs with -fsplit-stack"}
    made = make_archive(tmp_path / "app.o", tmp_path / "UKL.a", zero=split)
    assert made.symbols > 12000
    link(made.path, tmp_path / "vmlinux", base=HIGH)
    check_linked(tmp_path / "vmlinux")
    link(made.path, tmp_path / "low", base=LOW)
    slide(tmp_path / "low", tmp_path / "program", 0x4400000)
    assert run(tmp_path / "program").returncode == 7


@pytest.mark.parametrize("name", COMPILERS)
def test_the_compilers_libraries_enter_the_kernel_through_the_c_library_alone(name: str) -> None:
    """So that the red zone they are compiled with is theirs."""
    path = toolchain.file(name)
    assert "ukl_syscall" not in tool("nm", path)
    code = tool("objdump", "-d", "--no-show-raw-insn", path)
    assert code.count("\tret") > 50
    assert re.findall(r".*\t(?:syscall|sysenter|int +\$0x80).*", code) == []


def test_a_library_of_the_compiler_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """As an object of the application would be: with addresses of 32 bits."""
    (tmp_path / "new.cc").write_text(
        "static char heap[99];\n__attribute__((noinline)) void *at(char *p) { return p; }\n"
        "void *operator new(decltype(sizeof 0)) { return at(heap); }\n"
    )
    (tmp_path / "main.cc").write_text("int main() { return *new int; }")
    for one, flag in (("new", "-fno-pic"), ("main", "-fPIC")):
        tool("g++", flag, "-c", "-o", tmp_path / f"{one}.o", tmp_path / f"{one}.cc")
    library = tmp_path / "libstdc++.a"
    tool("ar", "rcsD", library, tmp_path / "new.o")
    link_with_libc(tmp_path / "app.o", tmp_path / "main.o", libraries=(str(library),))
    with pytest.raises(UklError, match=r"R_X86_64_32 .* \(in _Znwm\)") as caught:
        make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert caught.value.code == "elf-relocation"


def test_code_out_of_order_is_found_after_the_link(
    cxx_archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A linker script that puts the other sections first: found before the first exception."""
    old, new = "*(.ukl.text .ukl.text.*)", "*(.ukl.text.*) *(.ukl.text)"
    assert old in minikernel.SCRIPT
    monkeypatch.setattr(minikernel, "SCRIPT", minikernel.SCRIPT.replace(old, new))
    link(cxx_archive.path, tmp_path / "vmlinux", base=HIGH)
    with pytest.raises(UklError, match="does not hold the application") as caught:
        check_linked(tmp_path / "vmlinux")
    assert caught.value.code == "elf-linked" and "not sorted" in caught.value.detail


def test_either_way_to_gather_the_code_keeps_the_order(
    cxx_archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pattern list or two: .ukl.text is the first section of code in the archive."""
    old, new = "*(.ukl.text .ukl.text.*)", "*(.ukl.text) *(.ukl.text.*)"
    monkeypatch.setattr(minikernel, "SCRIPT", minikernel.SCRIPT.replace(old, new))
    link(cxx_archive.path, tmp_path / "vmlinux", base=HIGH)
    check_linked(tmp_path / "vmlinux")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (0, 0, "IRELATIVE"),  # no slot
        (0, "ukl._start", "IRELATIVE"),  # a slot in code
        (8, 8, "IRELATIVE"),  # R_X86_64_RELATIVE
        (16, "ukl.__rela_iplt_start", "IRELATIVE"),  # a resolver in data
    ],
)
def test_a_wrong_irelative_entry_is_found_after_the_link(
    field: int, value: int | str, words: str, cxx_archive: Archive, tmp_path: Path
) -> None:
    """Slot, type and resolver are looked at."""
    link(cxx_archive.path, tmp_path / "vmlinux", base=HIGH)
    image = read_image(tmp_path / "vmlinux")
    address = image.symbols["ukl.__rela_iplt_start"] + 24 + field
    number = image.symbols[value] if isinstance(value, str) else value
    for start, offset, size, sh_type in image.sections.values():
        if start <= address < start + size and sh_type == "SHT_PROGBITS":
            data = bytearray(image.data)
            at = offset + address - start
            data[at : at + 8] = number.to_bytes(8, "little")
            (tmp_path / "vmlinux").write_bytes(data)
    with pytest.raises(UklError) as caught:
        check_linked(tmp_path / "vmlinux")
    assert caught.value.code == "elf-linked" and words in caught.value.detail


def test_an_unwind_header_that_was_cut_is_found_after_the_link(
    cxx_archive: Archive, tmp_path: Path
) -> None:
    """Its number of functions and its size have to agree."""
    link(cxx_archive.path, tmp_path / "vmlinux", base=HIGH)
    image = read_image(tmp_path / "vmlinux")
    address, offset, _, _ = image.sections[".ukl_eh_frame_hdr"]
    data = bytearray(image.data)
    data[offset + image.symbols["ukl.__GNU_EH_FRAME_HDR"] - address + 8] ^= 1
    (tmp_path / "vmlinux").write_bytes(data)
    with pytest.raises(UklError) as caught:
        check_linked(tmp_path / "vmlinux")
    assert "the unwind header has" in caught.value.detail


def test_an_unwind_table_that_ld_has_edited_is_found(cxx_archive: Archive, tmp_path: Path) -> None:
    """As ld does where the output section is called .eh_frame: entries are in other places then."""
    link(cxx_archive.path, tmp_path / "vmlinux", base=HIGH)
    image = read_image(tmp_path / "vmlinux")
    header = image.symbols["ukl.__GNU_EH_FRAME_HDR"]
    data = bytearray(image.data)

    def place(address: int) -> int:
        return next(
            address - start + offset
            for start, offset, size, sh_type in image.sections.values()
            if start <= address < start + size and sh_type == "SHT_PROGBITS"
        )

    row = place(header) + 12 + 8 * 100
    fde = header + int.from_bytes(data[row + 4 : row + 8], "little", signed=True)
    at = place(fde)
    data[at : at + 400] = data[at + 24 : at + 424]
    (tmp_path / "vmlinux").write_bytes(data)
    with pytest.raises(UklError) as caught:
        check_linked(tmp_path / "vmlinux")
    assert "where none is" in caught.value.detail


def test_a_name_that_the_linker_script_does_not_define_is_found(
    cxx_archive: Archive, tmp_path: Path
) -> None:
    """Where ld is content with 0, because the reference is weak."""
    weak = tmp_path / "weak.S"
    weak.write_text('.weak ukl.absent\n.quad ukl.absent\n.section .note.GNU-stack,"",@progbits\n')
    tool("gcc", "-c", "-o", tmp_path / "weak.o", weak)
    link(cxx_archive.path, tmp_path / "vmlinux", tmp_path / "weak.o", base=HIGH)
    with pytest.raises(UklError) as caught:
        check_linked(tmp_path / "vmlinux")
    assert caught.value.detail == "ukl.absent is undefined"


def test_what_is_no_kernel_is_refused(cxx_archive: Archive, tmp_path: Path) -> None:
    """Missing, cut or stripped: the file's name and a hint, no traceback."""
    link(cxx_archive.path, tmp_path / "vmlinux", base=HIGH)
    whole = (tmp_path / "vmlinux").read_bytes()
    tool("strip", "-o", tmp_path / "stripped", tmp_path / "vmlinux")
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("not ELF")
    for name in ("absent", "stripped", "cut", "text"):
        with pytest.raises(UklError, match="cannot be read") as caught:
            check_linked(tmp_path / name)
        assert caught.value.code == "elf-format" and name in caught.value.message


def test_a_kernel_without_the_application_is_found(cxx_archive: Archive, tmp_path: Path) -> None:
    """The archive is a member of no link unless something asks for ukl._start."""
    (tmp_path / "empty.c").write_text("int x;")
    tool("gcc", "-c", "-o", tmp_path / "empty.o", tmp_path / "empty.c")
    tool("ld", "-o", tmp_path / "vmlinux", tmp_path / "empty.o", cxx_archive.path, "-e", "0")
    with pytest.raises(UklError) as caught:
        check_linked(tmp_path / "vmlinux")
    assert "was the archive linked?" in caught.value.detail
