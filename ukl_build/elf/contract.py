# SPDX-License-Identifier: Apache-2.0
"""The contract between the archive and the kernel, read off the finished file.

Nothing here is taken from the passes that made the file: it is read from disk by lief, while they
read theirs with pyelftools, and what docs/design.md says is written down a second time.
"""

from __future__ import annotations

import re
from pathlib import Path

import lief

from ukl_build.elf import abi
from ukl_build.elf.names import ENTRY, PREFIX, Tables, prefixed
from ukl_build.errors import UklError

_ALLOC, _WRITE, _EXEC, _TLS = 0x2, 0x1, 0x4, 0x400
_SECTIONS: tuple[tuple[str, int], ...] = (
    (r"\.ukl\.text(\..+)?", _ALLOC | _EXEC),
    (r"\.ukl\.rodata(\..+)?", _ALLOC),
    (r"\.ukl\.eh_frame", _ALLOC),
    (r"\.ukl\.gcc_except_table", _ALLOC),
    (r"\.ukl\.irelative", _ALLOC),
    (r"\.ukl\.data\.rel\.ro", _ALLOC | _WRITE),
    (r"\.ukl\.data(\..+)?", _ALLOC | _WRITE),
    (r"\.ukl\.(preinit|init|fini)_array", _ALLOC | _WRITE),
    (r"\.ukl\.bss(\..+)?", _ALLOC | _WRITE),
    (r"\.ukl\.tdata", _ALLOC | _WRITE | _TLS),
    (r"\.ukl\.tbss", _ALLOC | _WRITE | _TLS),
)
"""Allocated sections: name, and flags out of write, execute and TLS."""
_OTHERS = re.compile(
    r"|\.debug_.*|\.note\.GNU-stack|\.rela\..*|\.symtab|\.strtab|\.shstrtab", re.DOTALL
)
_MEMORY_TYPES = frozenset(("64", "32S", "PC32", "PLT32", "PC64", "TPOFF32", "TPOFF64"))
_DEBUG_TYPES = frozenset(("64", "32", "32S", "PC32", "PC64", "DTPOFF32", "DTPOFF64"))


def check_archive_member(path: Path, tables: Tables) -> None:
    """Hold a finished object against the contract.

    :raise UklError: ``elf-contract`` with every way in which it is broken.
    """
    binary = lief.ELF.parse(str(path))
    problems = ["lief cannot read it"] if binary is None else list(_problems(binary, tables))
    if problems:
        raise UklError(
            "elf-contract",
            f"{path.name} is not what the kernel's linker script expects",
            hint="report it with the application's app.o: this is a defect of ukl-build",
            detail="\n".join(problems[:25]),
        )


def _text(name: str | bytes) -> str:
    """Return a name; lief gives the bytes of one that is no UTF-8."""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def _problems(binary: lief.ELF.Binary, tables: Tables) -> list[str]:
    found: list[str] = []
    if binary.header.file_type != lief.ELF.Header.FILE_TYPE.REL:
        found.append("it is not relocatable")
    if binary.header.machine_type != lief.ELF.ARCH.X86_64:
        found.append("it is not for x86-64")
    if found:
        return found  # what follows would be read as something else than it is
    found += _section_problems(binary)
    found += _symbol_problems(binary, tables)
    found += _relocation_problems(binary)
    return found


def _section_problems(binary: lief.ELF.Binary) -> list[str]:
    found = []
    names = [_text(one.name) for one in binary.sections]
    for section in binary.sections:
        name, flags = _text(section.name), int(section.flags)
        if not flags & _ALLOC:
            if not _OTHERS.fullmatch(name):
                found.append(f"{name} has no place in vmlinux")
            continue
        wanted = [kind for pattern, kind in _SECTIONS if re.fullmatch(pattern, name, re.DOTALL)]
        if not wanted:
            found.append(f"{name} would be an orphan in vmlinux")
        elif flags & (_ALLOC | _WRITE | _EXEC | _TLS) != wanted[0]:
            found.append(f"{name} has flags {flags:#x}")
        nobits = section.type == lief.ELF.Section.TYPE.NOBITS
        if nobits != name.startswith((".ukl.bss", ".ukl.tbss")):
            found.append(f"{name} has type {section.type.name}")
        if section.type not in (lief.ELF.Section.TYPE.NOBITS, lief.ELF.Section.TYPE.PROGBITS):
            found.append(f"{name} has type {section.type.name}")
        if flags & ~(_ALLOC | _WRITE | _EXEC | _TLS | 0x30):
            found.append(f"{name} has flags {flags:#x}")
    for once in (".ukl.tdata", ".ukl.tbss", ".ukl.irelative", ".ukl.text", ".ukl.eh_frame"):
        if names.count(once) > 1:
            found.append(f"{once} is there {names.count(once)} times")
    return found


def _symbol_problems(binary: lief.ELF.Binary, tables: Tables) -> list[str]:
    found = []
    provided = {prefixed(name, tables) for name in tables.provided}
    kind, bind = lief.ELF.Symbol.TYPE, lief.ELF.Symbol.BINDING
    local_over = False
    entries = 0
    for number, symbol in enumerate(binary.symtab_symbols):
        name = _text(symbol.name)
        local = symbol.binding == bind.LOCAL
        if local and local_over:
            found.append(f"{name}: a local symbol behind a global one")
        local_over = local_over or not local
        if number == 0 or symbol.type in (kind.SECTION, kind.FILE):
            continue
        if not name.startswith(PREFIX) and (local or not tables.shared(name)):
            found.append(f"{name} has no prefix")
        if symbol.type == kind.GNU_IFUNC:
            found.append(f"{name} is an indirect function")
        if symbol.binding not in (bind.LOCAL, bind.GLOBAL, bind.WEAK):
            found.append(f"{name} has binding {int(symbol.binding)}")
        match int(symbol.shndx):
            case abi.SHN_UNDEF if name not in provided:
                found.append(f"{name} is undefined")
            case abi.SHN_ABS | abi.SHN_COMMON:
                found.append(f"{name} is absolute or common")
        entries += name == PREFIX + ENTRY and not local and int(symbol.shndx) != abi.SHN_UNDEF
    if entries != 1:
        found.append(f"{PREFIX}{ENTRY} is defined {entries} times")
    return found


def _relocation_problems(binary: lief.ELF.Binary) -> list[str]:
    found = []
    irelative = 0
    for one in binary.object_relocations:
        owner, name = one.section, one.type.name.removeprefix("X86_64_")
        if owner is None:
            found.append(f"a relocation {name} changes no section")
            continue
        section = _text(owner.name)
        memory = bool(int(owner.flags) & _ALLOC)
        if name not in (_MEMORY_TYPES if memory else _DEBUG_TYPES):
            found.append(f"{section}+{one.address:#x} has R_X86_64_{name}")
        # lief gives the symbol of index 0, which has no name either, where there is none.
        nothing = one.symbol is None or not _text(one.symbol.name)
        if nothing and (one.symbol is None or one.symbol.type != lief.ELF.Symbol.TYPE.SECTION):
            found.append(f"{section}+{one.address:#x} names no symbol")
        if section == ".ukl.irelative":
            irelative += 1
            if name != "64" or one.address % abi.ELF64_RELA.size not in (0, 16):
                found.append(f"{section}+{one.address:#x} is no Elf64_Rela")
    entries = binary.get_section(".ukl.irelative")
    if entries is not None:
        data = bytes(entries.content)
        kinds = {r_info for _, r_info, _ in abi.ELF64_RELA.iter_unpack(data)}
        if kinds - {abi.RelocType.R_X86_64_IRELATIVE} or irelative * 12 != len(data):
            found.append(f".ukl.irelative has {irelative} relocations in {len(data)} bytes")
    return found
