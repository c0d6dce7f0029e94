# SPDX-License-Identifier: Apache-2.0
"""Numbers of the gABI and the psABI that this package needs."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final

# gABI, "Special Section Indexes"
SHN_UNDEF: Final = 0
SHN_LORESERVE: Final = 0xFF00
SHN_ABS: Final = 0xFFF1
SHN_COMMON: Final = 0xFFF2
SHN_XINDEX: Final = 0xFFFF

# gABI, "Section Types"
SHT_NULL: Final = 0
SHT_PROGBITS: Final = 1
SHT_SYMTAB: Final = 2
SHT_STRTAB: Final = 3
SHT_RELA: Final = 4
SHT_NOTE: Final = 7
SHT_NOBITS: Final = 8
SHT_REL: Final = 9
SHT_INIT_ARRAY: Final = 14
SHT_FINI_ARRAY: Final = 15
SHT_PREINIT_ARRAY: Final = 16
SHT_GROUP: Final = 17
SHT_SYMTAB_SHNDX: Final = 18
SHT_X86_64_UNWIND: Final = 0x70000001


GRP_COMDAT: Final = 1
"""gABI, "Section Group Flags"."""


class SHF(IntFlag):
    """gABI, "Section Attribute Flags", and psABI 4.2.1."""

    SHF_WRITE = 0x1
    SHF_ALLOC = 0x2
    SHF_EXECINSTR = 0x4
    SHF_MERGE = 0x10
    SHF_STRINGS = 0x20
    SHF_INFO_LINK = 0x40
    SHF_LINK_ORDER = 0x80
    SHF_GROUP = 0x200
    SHF_TLS = 0x400
    SHF_COMPRESSED = 0x800
    SHF_GNU_RETAIN = 0x200000
    SHF_X86_64_LARGE = 0x10000000
    SHF_EXCLUDE = 0x80000000


# gABI, "Symbol Binding", "Symbol Types", "Symbol Visibility"
STB_LOCAL: Final = 0
STB_GLOBAL: Final = 1
STB_WEAK: Final = 2
STB_GNU_UNIQUE: Final = 10
STT_NOTYPE: Final = 0
STT_OBJECT: Final = 1
STT_FUNC: Final = 2
STT_SECTION: Final = 3
STT_FILE: Final = 4
STT_COMMON: Final = 5
STT_TLS: Final = 6
STT_GNU_IFUNC: Final = 10
STV_DEFAULT: Final = 0
STV_HIDDEN: Final = 2


class RelocType(IntEnum):
    """psABI table 4.9, "Relocation Types"."""

    R_X86_64_NONE = 0
    R_X86_64_64 = 1
    R_X86_64_PC32 = 2
    R_X86_64_GOT32 = 3
    R_X86_64_PLT32 = 4
    R_X86_64_COPY = 5
    R_X86_64_GLOB_DAT = 6
    R_X86_64_JUMP_SLOT = 7
    R_X86_64_RELATIVE = 8
    R_X86_64_GOTPCREL = 9
    R_X86_64_32 = 10
    R_X86_64_32S = 11
    R_X86_64_16 = 12
    R_X86_64_PC16 = 13
    R_X86_64_8 = 14
    R_X86_64_PC8 = 15
    R_X86_64_DTPMOD64 = 16
    R_X86_64_DTPOFF64 = 17
    R_X86_64_TPOFF64 = 18
    R_X86_64_TLSGD = 19
    R_X86_64_TLSLD = 20
    R_X86_64_DTPOFF32 = 21
    R_X86_64_GOTTPOFF = 22
    R_X86_64_TPOFF32 = 23
    R_X86_64_PC64 = 24
    R_X86_64_GOTOFF64 = 25
    R_X86_64_GOTPC32 = 26
    R_X86_64_GOT64 = 27
    R_X86_64_GOTPCREL64 = 28
    R_X86_64_GOTPC64 = 29
    R_X86_64_GOTPLT64 = 30
    R_X86_64_PLTOFF64 = 31
    R_X86_64_SIZE32 = 32
    R_X86_64_SIZE64 = 33
    R_X86_64_GOTPC32_TLSDESC = 34
    R_X86_64_TLSDESC_CALL = 35
    R_X86_64_TLSDESC = 36
    R_X86_64_IRELATIVE = 37
    R_X86_64_RELATIVE64 = 38
    R_X86_64_GOTPCRELX = 41
    R_X86_64_REX_GOTPCRELX = 42


def reloc_name(r_type: int) -> str:
    """Return the name of a relocation type, or its number if this package does not know it."""
    try:
        return RelocType(r_type).name
    except ValueError:
        return f"relocation type {r_type}"


_WIDTHS: dict[int, int] = {
    RelocType.R_X86_64_NONE: 0,
    RelocType.R_X86_64_TLSDESC_CALL: 0,  # marks an instruction, has no field
    **dict.fromkeys((RelocType.R_X86_64_8, RelocType.R_X86_64_PC8), 1),
    **dict.fromkeys((RelocType.R_X86_64_16, RelocType.R_X86_64_PC16), 2),
    **dict.fromkeys(
        (RelocType.R_X86_64_64, RelocType.R_X86_64_PC64, RelocType.R_X86_64_TPOFF64,
         RelocType.R_X86_64_DTPMOD64, RelocType.R_X86_64_DTPOFF64, RelocType.R_X86_64_SIZE64,
         RelocType.R_X86_64_GOTOFF64, RelocType.R_X86_64_GOT64, RelocType.R_X86_64_GOTPCREL64,
         RelocType.R_X86_64_GOTPC64, RelocType.R_X86_64_GOTPLT64, RelocType.R_X86_64_PLTOFF64), 8
    ),
}  # fmt: skip


def reloc_width(r_type: int) -> int:
    """Return how many bytes a relocation changes (psABI table 4.9); 4 for an unknown type."""
    return _WIDTHS.get(r_type, 4)


# gABI, "ELF Header", "Section Header", "Symbol Table Entry", "Relocation Entry"; all little endian
ELF64_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
ELF64_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
ELF64_SYM: Final = struct.Struct("<IBBHQQ")
ELF64_RELA: Final = struct.Struct("<QQq")
ET_REL: Final = 1
EM_X86_64: Final = 62
E_IDENT: Final = b"\x7fELF\x02\x01\x01" + bytes(9)
"""64 bit, little endian, version 1, System V."""
EI_OSABI: Final = 7
ELFOSABI_GNU: Final = 3
"""For what GNU has added to the gABI's symbols and section flags."""
