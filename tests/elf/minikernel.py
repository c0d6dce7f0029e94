# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the kernel's link, small enough to run in every test.

The linker script gathers the archive's sections as vmlinux's does and accepts no orphan; the
options are the kernel's, ``--emit-relocs`` included.  At a base in the lower half the result is a
program that can be run.  :func:`slide` is what arch/x86/tools/relocs and the boot code do for
KASLR: it moves a finished link to another address by nothing but the relocations.
"""

from __future__ import annotations

import struct
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_RELOC_TYPE_x64
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

HIGH = 0xFFFFFFFF81000000
LOW = 0x10000000
_TYPES = {number: name for name, number in ENUM_RELOC_TYPE_x64.items()}

SCRIPT = """
OUTPUT_FORMAT(elf64-x86-64)
ENTRY(ukl._start)
PHDRS
{
  headers PT_PHDR PHDRS;
  text PT_LOAD FILEHDR PHDRS FLAGS(5);
  rodata PT_LOAD FLAGS(4);
  data PT_LOAD FLAGS(6);
  tls PT_TLS FLAGS(4);
  unwind PT_GNU_EH_FRAME FLAGS(4);
  stack PT_GNU_STACK FLAGS(6);
}
SECTIONS
{
  . = %(base)#x + SIZEOF_HEADERS;
  .text : { *(.text .text.*) } :text
  .ukl_text : ALIGN(4096) {
    ukl.__executable_start = .;
    *(.ukl.text .ukl.text.*)
    ukl._etext = .; ukl.etext = .; ukl.__etext = .;
  } :text
  . = ALIGN(0x1000);
  .rodata : { *(.rodata .rodata.*) } :rodata
  .ukl_eh_frame_hdr : { *(.ukl.rodata.eh_frame_hdr) } :rodata :unwind
  .ukl_rodata : {
    *(.ukl.rodata .ukl.rodata.* .ukl.irelative .ukl.eh_frame .ukl.gcc_except_table)
  } :rodata
  . = ALIGN(0x200000);
  .data : { *(.data .data.* .bss .bss.*) } :data
  .ukl_tdata : { *(.ukl.tdata) } :data :tls
  .ukl_tbss : { *(.ukl.tbss) } :data :tls
  .ukl_data : {
    *(.ukl.data.rel.ro .ukl.preinit_array .ukl.init_array .ukl.fini_array)
    *(.ukl.data .ukl.data.*)
    ukl._edata = .; ukl.edata = .;
  } :data
  .ukl_bss : {
    ukl.__bss_start = .;
    *(.ukl.bss .ukl.bss.*)
    ukl._end = .; ukl.end = .;
  } :data
  .comment 0 : { *(.comment) } :NONE
  %(debug)s
  .symtab 0 : { *(.symtab) }
  .strtab 0 : { *(.strtab) }
  .shstrtab 0 : { *(.shstrtab) }

  /* As in arch/x86/kernel/vmlinux.lds.S: nothing that a dynamic loader would have to fill. */
  .got : { *(.got) *(.igot.*) } :NONE
  ASSERT(SIZEOF(.got) == 0, "GOT entries detected!")
  .got.plt : { *(.got.plt) } :NONE
  ASSERT(SIZEOF(.got.plt) == 0 || SIZEOF(.got.plt) == 0x18, "GOT/PLT entries detected!")
  .plt : { *(.plt) *(.plt.*) *(.iplt) } :NONE
  ASSERT(SIZEOF(.plt) == 0, "run-time procedure linkages detected!")
  .rela.dyn : { *(.rela.*) *(.rela_*) }
  ASSERT(SIZEOF(.rela.dyn) == 0, "run-time relocations (.rela) detected!")
  /DISCARD/ : { *(.note.gnu.property) *(.note.GNU-stack) *(.eh_frame) }
}
"""
_DWARF = (
    "abbrev addr aranges frame info line line_str loc loclists macro names pubnames pubtypes"
    " ranges rnglists str str_offsets types"
)


ENTRY = """
.section .ukl.text, "ax"
.globl ukl_syscall
.type ukl_syscall, @function
ukl_syscall:
.cfi_startproc
syscall
ret
.cfi_endproc
.section .note.GNU-stack
"""
"""The kernel's entry, which here is the next kernel's."""
SIZEOF_CIE = 0x18


def entry(folder: Path) -> Path:
    """Assemble the entry and describe how to unwind from there, as arch/x86/entry/ukl_64.S does."""
    out = folder / "kernel-entry.o"
    subprocess.run(["gcc", "-xassembler", "-c", "-o", out, "-"], input=ENTRY, text=True, check=True)
    subprocess.run(
        ["objcopy", "--rename-section", ".eh_frame=.ukl.eh_frame", "--add-symbol",
         f"ukl_syscall_fde=.ukl.eh_frame:{SIZEOF_CIE:#x},global", out],
        check=True,
    )  # fmt: skip
    return out


def link(archive: Path, out: Path, *others: Path, base: int) -> None:
    """Link an archive as the kernel does, with other objects in front.

    One of these may be the kernel's entry; else it is made here.
    """
    names = [subprocess.check_output(["nm", other], text=True) for other in others]
    if not any(" T ukl_syscall\n" in text for text in names):
        others = (entry(out.parent), *others)
    debug = "\n  ".join(f".debug_{one} 0 : {{ *(.debug_{one}) }}" for one in _DWARF.split())
    script = out.with_suffix(".lds")
    script.write_text(SCRIPT % {"base": base, "debug": debug})
    done = subprocess.run(
        ["ld", "-m", "elf_x86_64", "-static", "--emit-relocs", "--discard-none", "-z",
         "noexecstack", "--no-warn-rwx-segments", "-z", "max-page-size=0x200000", "--build-id=none",
         "--orphan-handling=error", "--fatal-warnings", "-u", "ukl._start", "-T", script,
         "-o", out, *others, archive],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Image:
    """A finished link, read with pyelftools."""

    data: bytes
    sections: dict[str, tuple[int, int, int, str]]
    """Name: address, offset in the file, size, type."""
    symbols: dict[str, int]
    tls: tuple[int, int, int] | None
    """p_vaddr, p_memsz, p_align of PT_TLS."""

    def at(self, address: int, size: int = 8) -> int:
        """Return the number at an address."""
        for start, offset, length, sh_type in self.sections.values():
            if start <= address < start + length and sh_type == "SHT_PROGBITS":
                where = offset + address - start
                return int.from_bytes(self.data[where : where + size], "little")
        raise AssertionError(f"{address:#x} is in no section with contents")


def read_image(path: Path) -> Image:
    """Read a finished link."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        sections = {
            one.name: (one["sh_addr"], one["sh_offset"], one["sh_size"], one["sh_type"])
            for one in elf.iter_sections()
            if one["sh_flags"] & 2
        }
        symtab = elf.get_section_by_name(".symtab")
        assert isinstance(symtab, SymbolTableSection)
        symbols = {one.name: one["st_value"] for one in symtab.iter_symbols() if one.name}
        tls = [
            (one["p_vaddr"], one["p_memsz"], one["p_align"])
            for one in elf.iter_segments()
            if one["p_type"] == "PT_TLS" and one["p_memsz"]
        ]
        return Image(path.read_bytes(), sections, symbols, tls[0] if tls else None)


def slide(path: Path, out: Path, delta: int) -> Counter[str]:
    """Move a finished link; refuse what arch/x86/tools/relocs (do_reloc64) refuses.

    :return: the relocations by type.
    """
    data = bytearray(path.read_bytes())
    count: Counter[str] = Counter()
    with path.open("rb") as file:
        elf = ELFFile(file)
        for relocations in elf.iter_sections():
            if not isinstance(relocations, RelocationSection):
                continue
            target = elf.get_section(relocations["sh_info"])
            if not target["sh_flags"] & 2:
                continue
            symtab = elf.get_section(relocations["sh_link"])
            assert isinstance(symtab, SymbolTableSection)
            for one in relocations.iter_relocations():
                name = _TYPES[one["r_info_type"]]
                count[name] += 1
                symbol = symtab.get_symbol(one["r_info_sym"])
                assert symbol["st_shndx"] != "SHN_UNDEF", f"{name} against undefined {symbol.name}"
                offset = one["r_offset"] - target["sh_addr"] + target["sh_offset"]
                match name:
                    case "R_X86_64_PC32" | "R_X86_64_PLT32" | "R_X86_64_PC64":
                        assert symbol["st_shndx"] != "SHN_ABS", f"{name} against {symbol.name}"
                    case "R_X86_64_TPOFF32" | "R_X86_64_TPOFF64":
                        pass
                    case "R_X86_64_64" | "R_X86_64_32S":
                        assert symbol["st_shndx"] != "SHN_ABS", f"{name} against {symbol.name}"
                        form = "<Q" if name == "R_X86_64_64" else "<i"
                        (old,) = struct.unpack_from(form, data, offset)
                        struct.pack_into(form, data, offset, old + delta)
                    case _:
                        raise AssertionError(f"Unsupported relocation type: {name}")
        (entry,) = struct.unpack_from("<Q", data, 24)
        struct.pack_into("<Q", data, 24, entry + delta)
        for index in range(elf["e_phnum"]):
            at = elf["e_phoff"] + index * elf["e_phentsize"]
            (p_type,) = struct.unpack_from("<I", data, at)
            if p_type != 0x6474E551:  # PT_GNU_STACK
                for field in (at + 16, at + 24):
                    (address,) = struct.unpack_from("<Q", data, field)
                    struct.pack_into("<Q", data, field, address + delta)
    out.write_bytes(data)
    out.chmod(0o755)
    return count
