# SPDX-License-Identifier: Apache-2.0
"""Reading a relocatable object into the model."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_SH_TYPE_AMD64

from ukl_build.elf import abi
from ukl_build.elf.abi import SHF
from ukl_build.elf.model import ObjectFile, Relocation, Section, Symbol
from ukl_build.elf.rules import RULES
from ukl_build.errors import UklError

_OF_THE_FILE = frozenset(
    (
        abi.SHT_NULL,
        abi.SHT_STRTAB,
        abi.SHT_RELA,
        abi.SHT_GROUP,
        abi.SHT_SYMTAB,
        abi.SHT_SYMTAB_SHNDX,
    )
)
"""Section types that hold nothing of the program, only of the file."""
_BINDINGS = frozenset((abi.STB_LOCAL, abi.STB_GLOBAL, abi.STB_WEAK, abi.STB_GNU_UNIQUE))
_TYPES = frozenset(
    (
        abi.STT_NOTYPE,
        abi.STT_OBJECT,
        abi.STT_FUNC,
        abi.STT_SECTION,
        abi.STT_FILE,
        abi.STT_COMMON,
        abi.STT_TLS,
        abi.STT_GNU_IFUNC,
    )
)

_DAMAGE = (ELFError, struct.error, LookupError, ValueError, OSError, OverflowError)
"""What pyelftools and this module raise for numbers that cannot be; OSError and OverflowError for
offsets that no file has."""


class Kind(Enum):
    """What a file may be, besides an object for another machine."""

    OBJECT = "object"
    EXECUTABLE = "executable"
    SHARED = "shared object"
    NO_ELF = "no ELF file"


def describe(data: bytes | memoryview) -> Kind | str:
    """Tell what a file is by its ELF header; for another machine than x86-64, which one.

    What begins like ELF and is none is taken for a damaged object, which reading it will tell.
    """
    try:
        elf = ELFFile(io.BytesIO(data))
    except _DAMAGE:
        return Kind.OBJECT if data[:4] == abi.E_IDENT[:4] else Kind.NO_ELF
    machine, little = elf["e_machine"], elf.little_endian
    if machine == "EM_X86_64" and elf.elfclass == 32:
        return "x32 (EM_X86_64, 32 bit)"
    if machine != "EM_X86_64" or elf.elfclass != 64 or not little:
        order = "little" if little else "big"
        return f"another machine ({machine}, {elf.elfclass} bit, {order} endian)"
    return {
        "ET_REL": Kind.OBJECT, "ET_EXEC": Kind.EXECUTABLE, "ET_DYN": Kind.SHARED
    }.get(elf["e_type"], Kind.NO_ELF)  # fmt: skip


def read_object(path: Path) -> ObjectFile:
    """Read a relocatable object.

    Section groups (gABI, "Section Groups") are dissolved: within one object every group is the
    only one of its signature.  What is left is the signature, see :class:`Section`.

    :raise UklError: ``elf-format`` if the file is no sound x86-64 ET_REL object.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        _refuse(str(path), f"cannot be read: {error.strerror}", error)
    return parse_object(data, str(path))


def parse_object(data: bytes | memoryview, path: str) -> ObjectFile:
    """Read a relocatable object from its bytes, as :func:`read_object` does.

    :param path: for messages.
    :raise UklError: ``elf-format``.
    """
    try:
        elf = ELFFile(io.BytesIO(data))
    except _DAMAGE as error:
        _refuse(path, f"cannot be read as ELF: {error or type(error).__name__}", error)
    found = (elf["e_type"], elf["e_machine"], elf.elfclass)
    if found != ("ET_REL", "EM_X86_64", 64):
        _refuse(path, "is {} for {}, {} bit, not ET_REL for EM_X86_64, 64 bit".format(*found))
    try:
        return _read(path, elf)
    except _DAMAGE as error:
        _refuse(path, f"is damaged: {error or type(error).__name__}", error)


def _refuse(path: str, what: str, cause: Exception | None = None) -> NoReturn:
    rule = RULES["format"]
    raise UklError(rule.error, f"{path} {what}", hint=rule.do) from cause


def _read(path: str, elf: Any) -> ObjectFile:
    result = ObjectFile()
    by_index: dict[int, Section] = {}
    headers = list(elf.iter_sections())
    types = [_number(raw["sh_type"]) for raw in headers]
    end = elf.stream.seek(0, os.SEEK_END)

    def contents(raw: Any) -> bytes:
        # Before reading: a damaged size may be more than there is memory for.
        if raw["sh_offset"] + raw["sh_size"] > end:
            _refuse(path, f"is truncated: section {raw.name} ends behind the end of the file")
        elf.stream.seek(raw["sh_offset"])
        data: bytes = elf.stream.read(raw["sh_size"])
        return data

    for index, (raw, sh_type) in enumerate(zip(headers, types, strict=True)):
        if sh_type == abi.SHT_REL:
            _refuse(path, f"has {raw.name} without addends, which the psABI does not use")
        if sh_type in _OF_THE_FILE:
            continue
        section = Section(
            name=raw.name,
            sh_type=sh_type,
            sh_flags=raw["sh_flags"] & ~SHF.SHF_GROUP & ~SHF.SHF_INFO_LINK,
            sh_addralign=raw["sh_addralign"] or 1,
            sh_entsize=raw["sh_entsize"],
        )
        if sh_type == abi.SHT_NOBITS:
            section.nobits_size = raw["sh_size"]
        else:
            section.data = bytearray(contents(raw))
        by_index[index] = section
        result.sections.append(section)

    if abi.SHT_SYMTAB not in types and abi.SHT_RELA not in types:
        return result  # strip leaves none where it would be empty
    if types.count(abi.SHT_SYMTAB) != 1:
        _refuse(path, f"has {types.count(abi.SHT_SYMTAB)} symbol tables instead of one")
    symtab = headers[types.index(abi.SHT_SYMTAB)]
    indices: Iterator[int] = iter(())
    if abi.SHT_SYMTAB_SHNDX in types:
        # gABI: a parallel table of 32-bit indices for symbols whose st_shndx is SHN_XINDEX.
        raw = headers[types.index(abi.SHT_SYMTAB_SHNDX)]
        indices = (word for (word,) in struct.iter_unpack("<I", contents(raw)))
    strings = contents(headers[symtab["sh_link"]])
    symbols: list[Symbol] = []
    foreign: set[int] = set()
    for st_name, st_info, st_other, st_shndx, st_value, st_size in abi.ELF64_SYM.iter_unpack(
        contents(symtab)
    ):
        extended = next(indices, 0)
        index = extended if st_shndx == abi.SHN_XINDEX else st_shndx
        name = strings[st_name : strings.index(b"\0", st_name)].decode("utf-8", "surrogateescape")
        owner = by_index.get(index) if st_shndx < abi.SHN_LORESERVE or extended else None
        if st_info >> 4 not in _BINDINGS or st_info & 0xF not in _TYPES:
            _refuse(path, f"has symbol {name} of unknown binding and type {st_info:#x}")
        if not symbols:
            # Nothing of the program; relocations that name it mean 0 (gABI, "Relocation").
            symbols.append(Symbol("", abi.STB_LOCAL, abi.STT_NOTYPE, st_shndx=abi.SHN_ABS))
            continue
        if st_info & 0xF == abi.STT_SECTION:
            # One symbol a section is enough; those of tables (relocations…) have no referents.
            symbols.append(owner.symbol if owner else Symbol("", abi.STB_LOCAL, abi.STT_SECTION))
            if owner is None:
                foreign.add(id(symbols[-1]))
            continue
        if owner is None and 0 < index < len(types) and types[index] == abi.SHT_GROUP:
            # g++ puts the signature of some groups (C5 constructors) there: a name, no place.
            symbols.append(Symbol(name, abi.STB_LOCAL, abi.STT_NOTYPE))
            foreign.add(id(symbols[-1]))
            continue
        if owner is None and index not in (abi.SHN_UNDEF, abi.SHN_ABS, abi.SHN_COMMON):
            _refuse(path, f"has symbol {name} in section {index:#x}, which is none of the program")
        symbol = Symbol(
            name=name,
            st_bind=st_info >> 4,
            st_type=st_info & 0xF,
            section=owner,
            st_shndx=index if owner is None else 0,
            st_value=st_value,
            st_size=st_size,
            st_other=st_other,
        )
        result.symbols.append(symbol)
        symbols.append(symbol)

    for raw, sh_type in zip(headers, types, strict=True):
        if sh_type != abi.SHT_RELA:
            continue
        section = by_index[raw["sh_info"]]
        section.relocations = [
            Relocation(r_offset, r_info & 0xFFFFFFFF, symbols[r_info >> 32], r_addend)
            for r_offset, r_info, r_addend in abi.ELF64_RELA.iter_unpack(contents(raw))
        ]
        _check_relocations(path, section, foreign)

    for raw, sh_type in zip(headers, types, strict=True):
        if sh_type == abi.SHT_GROUP:
            flags, *members = (word for (word,) in struct.iter_unpack("<I", contents(raw)))
            if flags & abi.GRP_COMDAT:
                signature = symbols[raw["sh_info"]]
                for index in members:
                    if index in by_index:  # not a section of relocations
                        by_index[index].comdat = signature.shown
    return result


def _check_relocations(path: str, section: Section, foreign: set[int]) -> None:
    """Require that every relocation is of the program and inside its section.

    Here, because the passes write through the offsets long before they look at what is left.
    """
    room = 0 if section.sh_type == abi.SHT_NOBITS else len(section.data)
    for one in section.relocations:
        if one.r_type == abi.RelocType.R_X86_64_NONE:
            continue
        outside = one.r_offset + abi.reloc_width(one.r_type) > room
        if outside or id(one.symbol) in foreign:
            what = (
                "outside its section" if outside else "against a symbol of nothing in the program"
            )
            kind = abi.reloc_name(one.r_type)
            _refuse(path, f"has {kind} at {section.name}+{one.r_offset:#x}, {what}")


def _number(sh_type: str | int) -> int:
    """Turn the name that pyelftools gives a section type back into its number."""
    return sh_type if isinstance(sh_type, int) else int(ENUM_SH_TYPE_AMD64[sh_type])
