# SPDX-License-Identifier: Apache-2.0
"""What takes the bytes of an image, on small objects linked with ld itself."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ukl_build import size
from ukl_build.elf.contents import Content, addresses, contents
from ukl_build.errors import UklError
from ukl_build.size import Part, Sizes

UNIT = """
int a_global_with_a_name = 1;
int zeros[1000];
int first(void) { return a_global_with_a_name; }
"""


def cc(folder: Path, name: str, text: str, *flags: str) -> Path:
    """Compile a unit."""
    source, out = folder / f"{name}.c", folder / f"{name}.o"
    source.write_text(text)
    subprocess.run(["gcc", "-c", "-O2", "-fno-pic", *flags, "-o", out, source], check=True)
    return out


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A partial link of one object of the application and one member of a library, with its map."""
    home = tmp_path / "home"
    home.mkdir()
    own = cc(home, "own", UNIT + "int second(void); int (*p)(void) = second;")
    # The section's name is so long that the map has a line for it alone.
    library = cc(tmp_path, "library", "int second(void) { return 2; }", "-ffunction-sections")
    subprocess.run(
        ["objcopy", "--rename-section", ".text.second=.text.a_long_name_of_a_section", library],
        check=True,
    )
    subprocess.run(["ar", "rc", tmp_path / "libsecond.a", library], check=True)
    link: list[str | Path] = ["ld", "-r", "-d", f"-Map={home / 'app.map'}", "-o"]
    subprocess.run([*link, home / "app.o", own, tmp_path / "libsecond.a"], check=True)
    return home


def of_the_application(text: str, home: Path) -> Iterator[size.Piece]:
    """Return the pieces of the link as a map has it."""
    return size.linked(text, contents(home / "app.o"), lambda _, file: size.owner_of(file, home))


def test_all_of_a_partial_link_has_an_owner(home: Path) -> None:
    sections = {one.name: one for one in contents(home / "app.o")}
    pieces = list(of_the_application((home / "app.map").read_text(), home))
    parts = {part.owner: part for part in size.measured(pieces)}
    assert set(parts) == {"application", "application: libsecond.a"}
    own, library = parts["application"], parts["application: libsecond.a"]
    assert own.zero == 4000 and own.data >= 12 and own.code > 0
    assert library.code == sections[".text.a_long_name_of_a_section"].size and not library.zero
    assert "libsecond.a(library.o)" in library.file
    code = sum(one.size for one in sections.values() if one.code)
    assert own.code + library.code == code


def test_a_map_of_another_link_is_not_believed(home: Path) -> None:
    text = " .text          0x0000000000000000   0x999999 /x/y.o\n"
    assert not list(of_the_application(text, home))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("net/ipv4/tcp.o", "Linux: net/ipv4"),
        ("net/socket.o", "Linux: net"),
        ("drivers/net/virtio_net.o", "Linux: drivers/net"),
        ("arch/x86/kernel/cpu/bugs.o", "Linux: arch/x86"),
    ],
)
def test_an_object_belongs_to_two_folders_at_most(path: str, name: str) -> None:
    section = Content(".text", 0, code=True, size=0, data=b"")
    assert size.subsystem(section, path) == name


@pytest.mark.parametrize(
    ("file", "owner"),
    [
        ("/b/redis/native/src/ae.o", "application"),
        ("/b/redis/native/deps/lua/liblua.a(lapi.o)", "application: liblua.a"),
        ("/cache/libc/x/csu/crt1.o", "application: start files"),
    ],
)
def test_owners_of_a_link(file: str, owner: str) -> None:
    assert size.owner_of(file, Path("/b/redis")) == owner


def part(owner: str, *, code: int = 0, compressed: int = 0) -> Part:
    """Return a part with nothing else."""
    return Part(owner=owner, file="", code=code, data=0, zero=0, compressed=compressed)


def test_parts_are_scaled_to_the_file() -> None:
    found = size.scaled([part("a", compressed=30), part("b", compressed=10)], 400)
    assert [one.compressed for one in found] == [300, 100]


def test_small_owners_share_a_line_and_nothing_is_lost() -> None:
    many = tuple(part(f"Linux: {n}", code=9, compressed=9) for n in range(5))
    parts = (part("a", code=600, compressed=300), part("a", code=355, compressed=655), *many)
    found = Sizes(app="x", file=1000, memory=1000, parts=parts)
    rows = size.owners(found)
    assert [(row.owner, row.memory, row.compressed) for row in rows] == [
        ("a", 955, 955),
        ("5 smaller ones", 45, 45),
    ]


def test_repeated_contents_take_little_of_the_file() -> None:
    noise = Content("x", 0, code=True, size=4096, data=bytes(range(256)) * 16)
    other = Content("x", 0, code=True, size=4096, data=bytes(4096))
    few, fewer = (
        size.measured([size.Piece("o", "f", one)])[0].compressed for one in (noise, other)
    )
    assert fewer < few < 4096


def test_names_of_symbols_are_taken_out_of_their_section(tmp_path: Path) -> None:
    text = """
    __asm__(".section .rodata\\n.globl kallsyms_offsets, kallsyms_token_index\\n"
            ".fill 64, 1, 7\\nkallsyms_offsets: .fill 100, 1, 1\\n"
            "kallsyms_token_index: .fill 512, 1, 2\\n.fill 64, 1, 7\\n");
    void _start(void) {}
    """
    unit = cc(tmp_path, "unit", text)
    vmlinux = tmp_path / "vmlinux"
    subprocess.run(["ld", "-o", vmlinux, unit], check=True)
    relocs = tmp_path / size.BOOT / "vmlinux.relocs"
    relocs.parent.mkdir(parents=True)
    relocs.write_bytes(b"1234")
    names, moved = size.tables(vmlinux, tmp_path)
    assert names.content.data == b"\1" * 100 + b"\2" * 512
    assert moved.owner == size.RELOCATIONS and moved.content.data == b"1234"
    assert size.measured([moved])[0].memory == 0


def test_an_image_whose_folder_was_emptied_is_named(tmp_path: Path) -> None:
    with pytest.raises(UklError) as caught:
        size.payload(tmp_path)
    assert caught.value.code == "image-missing"


def test_a_damaged_object_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "x.o"
    damaged.write_bytes(cc(tmp_path, "y", UNIT).read_bytes()[:200])
    for read in (contents, lambda path: addresses(path, frozenset(("_text",)))):
        with pytest.raises(UklError) as caught:
            read(damaged)
        assert caught.value.code == "elf-format"


def test_a_program_without_symbols_is_named(tmp_path: Path) -> None:
    unit = cc(tmp_path, "unit", "void _start(void) {}")
    subprocess.run(["ld", "-s", "-o", tmp_path / "stripped", unit], check=True)
    with pytest.raises(UklError, match="no symbol table"):
        addresses(tmp_path / "stripped", frozenset(("_start",)))
