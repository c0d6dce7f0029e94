# SPDX-License-Identifier: Apache-2.0
"""A whole C library, as Debian ships it, through the archive: linked high, run low, slid."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.elf.conftest import link_with_libc, lint_clean, run, tool
from tests.elf.minikernel import HIGH, LOW, link, read_image, slide
from ukl_build import toolchain
from ukl_build.stages.archive import Archive, make_archive

PROGRAM = r"""
#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static __thread int initialised = 5;
static __thread long zeroed;
static int order;
static void (*volatile copy)(void) = (void (*)(void))memcpy;
__attribute__((constructor(200))) static void second(void) { order = order * 10 + 2; }
__attribute__((constructor(101))) static void first(void) { order = order * 10 + 1; }
__attribute__((constructor)) static void third(void) { order = order * 10 + 3; }
__attribute__((destructor)) static void last(void) { puts("destructor"); }
static void at_exit(void) { puts("atexit"); }

static void *thread(void *value)
{
	zeroed += initialised++ + *(int *)value;
	errno = 3;
	return (void *)(zeroed + errno);
}

static int compare(const void *a, const void *b)
{
	return strcmp(*(char **)a, *(char **)b);
}

int main(int argc, char **argv)
{
	const char *words[] = { "unikernel", "linux", "ring", "zero" };
	char text[300];
	int value = 7;
	pthread_t id;
	void *result;

	atexit(at_exit);
	printf("order %d argc %d %s\n", order, argc, argv[argc - 1]);
	memset(text, 'x', sizeof(text));
	text[299] = 0;
	printf("strlen %zu strchr %d\n", strlen(text), strchr(text, 'y') == NULL);
	qsort(words, 4, sizeof(words[0]), compare);
	printf("%s %s %s %s\n", words[0], words[1], words[2], words[3]);
	pthread_create(&id, NULL, thread, &value);
	pthread_join(id, &result);
	printf("thread %ld main %d %ld\n", (long)result, initialised, zeroed);
	printf("same address %d\n", copy == (void (*)(void))memcpy);
	setenv("TZ", "UTC", 1);
	tzset();
	setlocale(LC_ALL, "C");
	printf("%s %.3f %s\n", strerror(ENOENT), strtod("2.5", NULL), tzname[0]);
	free(malloc(1 << 20));
	return 42;
}
"""
EXPECTED = """\
order 123 argc 2 argument
strlen 299 strchr 1
linux ring unikernel zero
thread 15 main 5 0
same address 1
No such file or directory 2.500 UTC
atexit
destructor
"""


@pytest.fixture(scope="module", params=["-fPIE", "-fno-pie -no-pie"])
def libc_archive(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Archive:
    """Return the archive of the program and libc.a."""
    folder = tmp_path_factory.mktemp("libc")
    source = folder / "main.c"
    source.write_text(PROGRAM)
    kernel = [] if "PIE" in request.param else ["-mcmodel=kernel"]
    tool("gcc", "-O1", *request.param.split(), *kernel, "-c", "-o", folder / "main.o", source)
    link_with_libc(folder / "app.o", folder / "main.o")
    return make_archive(folder / "app.o", folder / "UKL.a")


def test_a_program_with_libc_runs_prefixed_and_slid(libc_archive: Archive, tmp_path: Path) -> None:
    """GOT, IFUNC, TLS, arrays and start/stop symbols mean the same after the rewriting."""
    folder = libc_archive.path.parent
    tool("gcc", "-static", "-o", tmp_path / "ordinary", folder / "main.o")
    done = run(tmp_path / "ordinary", "argument")
    assert (done.returncode, done.stdout) == (42, EXPECTED), "an ordinary static link of the same"
    link(libc_archive.path, tmp_path / "low", base=LOW)
    for delta in (0, 0x3A00000, 0x40000000):
        slide(tmp_path / "low", tmp_path / "program", delta)
        done = run(tmp_path / "program", "argument")
        assert (done.returncode, done.stdout, done.stderr) == (42, EXPECTED, "")


def test_a_program_with_libc_links_in_the_kernel_half(
    libc_archive: Archive, tmp_path: Path
) -> None:
    """Every relocation of the result is one that the kernel slides or leaves alone rightly."""
    link(libc_archive.path, tmp_path / "vmlinux", base=HIGH)
    count = slide(tmp_path / "vmlinux", tmp_path / "slid", 0x1200000)
    assert set(count) <= {
        "R_X86_64_64", "R_X86_64_32S", "R_X86_64_PC32", "R_X86_64_PLT32", "R_X86_64_TPOFF32",
        "R_X86_64_TPOFF64",
    }  # fmt: skip
    before, after = read_image(tmp_path / "vmlinux"), read_image(tmp_path / "slid")
    slots = {name: at for name, at in before.symbols.items() if name.startswith("ukl.got.")}
    assert slots, "libc.a has GOT references that cannot be relaxed"
    for name, at in slots.items():
        # read at the old addresses: slide() moves the program headers, not the sections
        value, slid = before.at(at), after.at(at)
        symbol = name.removeprefix("ukl.got.")
        if symbol in libc_archive.zeroed:
            assert (value, slid) == (0, 0), name
        elif symbol.startswith("_nl_current_LC_"):  # absolute symbols of glibc's, value 2
            assert (value, slid) == (2, 2), name
        else:
            assert slid - value == 0x1200000, name


def test_irelative_entries_are_the_c_librarys(libc_archive: Archive, tmp_path: Path) -> None:
    """__rela_iplt_start…end hold one Elf64_Rela for each resolver, slot and resolver slid."""
    link(libc_archive.path, tmp_path / "vmlinux", base=HIGH)
    image = read_image(tmp_path / "vmlinux")
    start, end = image.symbols["ukl.__rela_iplt_start"], image.symbols["ukl.__rela_iplt_end"]
    assert (end - start) // 24 == libc_archive.counts.ifuncs > 20
    slots = {at for name, at in image.symbols.items() if name.startswith("ukl.iplt_got.")}
    resolvers = {at for name, at in image.symbols.items() if name.startswith("ukl.ifunc.")}
    for entry in range(start, end, 24):
        assert image.at(entry) in slots
        assert image.at(entry + 8) == 37  # R_X86_64_IRELATIVE
        assert image.at(entry + 16) in resolvers


def test_the_libc_archive_is_sound_and_repeatable(libc_archive: Archive, tmp_path: Path) -> None:
    """eu-elflint finds nothing, only _end is left to the linker script, the bytes repeat."""
    tool("ar", "x", "--output", tmp_path, libc_archive.path)
    lint_clean(tmp_path / "app.o")
    assert libc_archive.undefined == ("ukl._end",)
    again = make_archive(libc_archive.path.parent / "app.o", tmp_path / "again.a")
    assert again.path.read_bytes() == libc_archive.path.read_bytes()
    assert tool("ar", "tvO", again.path).split()[0:2] == ["rw-r--r--", "0/0"]


def test_relro_variables_of_libc_are_written_at_start(
    libc_archive: Archive, tmp_path: Path
) -> None:
    """Why .ukl.data.rel.ro is private data, not rodata: a static glibc writes to it itself."""
    link(libc_archive.path, tmp_path / "vmlinux", base=HIGH)
    image = read_image(tmp_path / "vmlinux")
    start, _, size, _ = image.sections[".ukl_data"]
    for name in ("ukl._dl_random", "ukl.__libc_stack_end", "ukl._dl_pagesize"):
        assert start <= image.symbols[name] < start + size


def test_all_of_libc_goes_through(tmp_path: Path) -> None:
    """Every member, not only what a program happens to use: linked high, slid, run."""
    library = tmp_path / "libc.a"
    library.write_bytes(toolchain.file("libc.a").read_bytes())
    # Two belong to static-pie programs alone, one is crtbeginT.o's counterpart.
    tool("ar", "d", library, "dl-reloc-static-pie.o", "static-reloc.o", "dso_handle.o")
    (tmp_path / "main.c").write_text('#include <stdio.h>\nint main(void) { return puts("all"); }')
    tool("gcc", "-O1", "-c", "-o", tmp_path / "main.o", tmp_path / "main.c")
    tool(
        "ld", "-r", "-z", "muldefs", "--force-group-allocation", "-o", tmp_path / "app.o",
        *(toolchain.file(one) for one in ("crt1.o", "crti.o", "crtbeginS.o")), tmp_path / "main.o",
        "--whole-archive", library, "--no-whole-archive", "--start-group", library,
        toolchain.file("libgcc.a"), toolchain.file("libgcc_eh.a"), "--end-group",
        *(toolchain.file(one) for one in ("crtendS.o", "crtn.o")),
    )  # fmt: skip
    made = make_archive(tmp_path / "app.o", tmp_path / "UKL.a")
    assert made.symbols > 9000
    link(made.path, tmp_path / "vmlinux", base=HIGH)
    link(made.path, tmp_path / "low", base=LOW)
    slide(tmp_path / "low", tmp_path / "program", 0x4400000)
    done = run(tmp_path / "program")
    assert (done.returncode, done.stdout) == (4, "all\n")
