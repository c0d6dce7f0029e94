# SPDX-License-Identifier: Apache-2.0
"""Writing a relocatable object.

lief 1.0.0 renames symbols and sections of an ET_REL file well, but what else the archive needs it
cannot do: a local symbol is appended behind the global ones (gABI, "Symbol Table": sh_info is one
greater than the index of the last local symbol), a section with relocations cannot be added, and
none removed, without an exception or a file that eu-elflint rejects.  So the file is laid out here
from the model, in one pass, with nothing taken over from the input's own layout.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ukl_build.elf import abi
from ukl_build.elf.abi import SHF
from ukl_build.elf.model import ObjectFile, Section, Symbol
from ukl_build.errors import UklError

MAX_SECTIONS = abi.SHN_LORESERVE // 2 - 4
"""Sections that fit without SHT_SYMTAB_SHNDX: each may have a relocation section.  The archive
has about thirty."""


class _Strings:
    """A string table (gABI, "String Table")."""

    def __init__(self) -> None:
        self.data = bytearray(1)
        self._offsets: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        if text not in self._offsets:
            self._offsets[text] = len(self.data)
            self.data += text.encode("utf-8", "surrogateescape") + b"\0"
        return self._offsets[text]


def write_object(obj: ObjectFile, path: Path) -> None:
    """Write an object, replacing the file in one step.

    The same model gives the same bytes.

    :raise UklError: ``internal`` for a model that is not closed: a symbol or relocation refers to
        something that is not part of it.
    """
    replace_file(path, encode(obj))


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that no reader ever sees half of it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def encode(obj: ObjectFile) -> bytes:
    """Return the bytes of an object file.

    :raise UklError: ``internal``, as :func:`write_object`.
    """
    if len(obj.sections) > MAX_SECTIONS:
        raise UklError("internal", f"{len(obj.sections)} sections in one object", hint="report it")
    section_index = {id(section): number for number, section in enumerate(obj.sections, 1)}

    # Local symbols first; among them those of the sections, then the file's order.
    ordered: list[Symbol] = [section.symbol for section in obj.sections]
    ordered += [symbol for symbol in obj.symbols if symbol.st_bind == abi.STB_LOCAL]
    first_global = len(ordered) + 1
    ordered += [symbol for symbol in obj.symbols if symbol.st_bind != abi.STB_LOCAL]
    symbol_index = {id(symbol): number for number, symbol in enumerate(ordered, 1)}

    strtab = _Strings()
    symtab = bytearray(abi.ELF64_SYM.size)
    for symbol in ordered:
        if symbol.section is None:
            st_shndx = symbol.st_shndx
        else:
            st_shndx = _index(section_index, symbol.section, symbol.shown)
        symtab += abi.ELF64_SYM.pack(
            strtab.add(symbol.name),
            symbol.st_bind << 4 | symbol.st_type,
            symbol.st_other,
            st_shndx,
            symbol.st_value % (1 << 64),  # addresses wrap around, as in ld
            symbol.st_size,
        )

    shstrtab = _Strings()
    body = bytearray(abi.ELF64_EHDR.size)
    headers = [bytes(abi.ELF64_SHDR.size)]

    def put(
        name: str,
        sh_type: int,
        data: bytes | bytearray,
        *,
        flags: int = 0,
        size: int | None = None,
        link: int = 0,
        info: int = 0,
        align: int = 1,
        entsize: int = 0,
    ) -> None:
        body.extend(bytes(-len(body) % align))
        headers.append(
            abi.ELF64_SHDR.pack(
                shstrtab.add(name),
                sh_type,
                flags,
                0,
                len(body),
                len(data) if size is None else size,
                link,
                info,
                align,
                entsize,
            )
        )
        body.extend(data)

    for section in obj.sections:
        put(
            section.name,
            section.sh_type,
            section.data,
            flags=section.sh_flags,
            size=section.sh_size,
            align=section.sh_addralign,
            entsize=section.sh_entsize,
        )
    with_relocations = [section for section in obj.sections if section.relocations]
    symtab_index = 1 + len(obj.sections) + len(with_relocations)
    for section in with_relocations:
        rela = bytearray()
        for relocation in section.relocations:
            number = _index(symbol_index, relocation.symbol, section.name)
            rela += abi.ELF64_RELA.pack(
                relocation.r_offset,
                number << 32 | relocation.r_type,
                (relocation.r_addend + (1 << 63)) % (1 << 64) - (1 << 63),
            )
        put(
            f".rela{section.name}",
            abi.SHT_RELA,
            rela,
            flags=SHF.SHF_INFO_LINK,
            link=symtab_index,
            info=section_index[id(section)],
            align=8,
            entsize=abi.ELF64_RELA.size,
        )
    put(
        ".symtab",
        abi.SHT_SYMTAB,
        symtab,
        link=symtab_index + 1,
        info=first_global,
        align=8,
        entsize=abi.ELF64_SYM.size,
    )
    put(".strtab", abi.SHT_STRTAB, strtab.data)
    shstrtab.add(".shstrtab")
    put(".shstrtab", abi.SHT_STRTAB, shstrtab.data)

    e_ident = bytearray(abi.E_IDENT)
    if any(
        symbol.st_type == abi.STT_GNU_IFUNC or symbol.st_bind == abi.STB_GNU_UNIQUE
        for symbol in obj.symbols
    ) or any(section.sh_flags & SHF.SHF_GNU_RETAIN for section in obj.sections):
        e_ident[abi.EI_OSABI] = abi.ELFOSABI_GNU
    body.extend(bytes(-len(body) % 8))
    body[: abi.ELF64_EHDR.size] = abi.ELF64_EHDR.pack(
        bytes(e_ident),
        abi.ET_REL,
        abi.EM_X86_64,
        1,  # EV_CURRENT
        0,
        0,
        len(body),
        0,
        abi.ELF64_EHDR.size,
        0,
        0,
        abi.ELF64_SHDR.size,
        len(headers),
        len(headers) - 1,
    )
    return bytes(body) + b"".join(headers)


def _index(table: dict[int, int], thing: Section | Symbol, user: str) -> int:
    try:
        return table[id(thing)]
    except KeyError:
        raise UklError(
            "internal", f"{user} refers to {thing!r}, which is not in the object", hint="report it"
        ) from None
