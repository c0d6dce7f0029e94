# SPDX-License-Identifier: Apache-2.0
"""Sections: which are kept, what they are called, what the linker would have said about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ukl_build.elf import abi
from ukl_build.elf.abi import SHF
from ukl_build.elf.model import ObjectFile, Section, where
from ukl_build.elf.rules import Report, RuleError, stop

RESERVED = ".ukl."
"""How every allocated section of the archive begins, and no section of an application may."""

IRELATIVE = ".ukl.irelative"
"""Elf64_Rela entries for the IFUNC slots, see :func:`ukl_build.elf.access.make_ifunc_stubs`."""

MAX_IMAGE = 448 << 20
"""Bytes of memory the application's sections may need.  The kernel image, application included,
must fit into KERNEL_IMAGE_SIZE: 1 GiB with RANDOMIZE_BASE, of which half is left for the slide,
and 512 MiB without (arch/x86/include/asm/page_64_types.h).  64 MiB of these are the kernel's own,
three times what a full distribution kernel needs."""

DEBUG = re.compile(
    r"\.debug_(abbrev|addr|aranges|frame|info|line|line_str|loc|loclists|macinfo|macro|names"
    r"|pubnames|pubtypes|ranges|rnglists|str|str_offsets|types)"
)
"""Debugging information that the kernel's linker script has a place for (DWARF_DEBUG in
include/asm-generic/vmlinux.lds.h)."""

STACK_NOTE = ".note.GNU-stack"

_ARRAYS = {
    abi.SHT_PREINIT_ARRAY: ".preinit_array",
    abi.SHT_INIT_ARRAY: ".init_array",
    abi.SHT_FINI_ARRAY: ".fini_array",
}
_C_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _refuse(
    section: Section, what: str, rule: str = "section", *, do: str = "", why: str = ""
) -> RuleError:
    return RuleError(rule, f"section {section.name} {what}", section=section, do=do, why=why)


def select_sections(obj: ObjectFile, report: Report = stop) -> tuple[str, ...]:
    """Keep what runs and what debuggers read; refuse what the kernel must not contain.

    Dropped are

    * SHT_NOTE sections.  The kernel gathers ``.note.*`` into its own notes, which /sys/kernel/notes
      shows and boot loaders parse: .note.ABI-tag, .note.gnu.property and build IDs make statements
      about an executable file that the application no longer is, .note.stapsdt is not even
      allocated and would become so;
    * everything else that is not allocated and no DWARF: .comment, .gnu.warning.* (the linker
      would print them at every link), LTO and address-significance tables.  What is not loaded
      cannot change what the program does.

    What debuggers are told about these is 0, as ld has it for sections it discards.

    :return: names of the dropped sections.
    :raise UklError: ``elf-section``.
    """
    kept: list[Section] = []
    dropped: list[Section] = []
    for section in obj.sections:
        for refusal in _problems(section):
            report(refusal)
        if section.sh_type == abi.SHT_NOTE or section.sh_flags & SHF.SHF_EXCLUDE:
            dropped.append(section)
        elif section.allocated or DEBUG.fullmatch(section.name):
            kept.append(section)
        else:
            dropped.append(section)
    gone = {id(section) for section in dropped}
    for section in kept:
        wrong = [
            one
            for one in section.relocations
            if one.symbol.section is not None and id(one.symbol.section) in gone
        ]
        if wrong and section.allocated:
            target = wrong[0].symbol.section
            assert target is not None
            report(
                _refuse(
                    target,
                    "is left out of the kernel, but"
                    f" {where(section, wrong[0].r_offset, obj.symbols)} refers to it",
                    why="nothing would be there",
                    do="put that data into an ordinary section",
                )
            )
        if wrong:
            lost = {id(one) for one in wrong}
            section.relocations = [one for one in section.relocations if id(one) not in lost]
    obj.sections = kept
    obj.symbols = [
        symbol for symbol in obj.symbols if symbol.section is None or id(symbol.section) not in gone
    ]
    return tuple(sorted(section.name for section in dropped))


def _problems(section: Section) -> Iterator[RuleError]:
    """Yield what is wrong with a section."""
    flags = section.sh_flags
    if section.name.startswith(RESERVED):
        yield _refuse(
            section,
            f"begins with {RESERVED}",
            why="that is what the archive calls its own",
            do="give app.o, not what make_archive wrote; rename the section if it is the program's",
        )
    if section.name == STACK_NOTE and flags & SHF.SHF_EXECINSTR:
        yield _refuse(section, "asks for an executable stack", "exec-stack")
    if section.name.startswith(".gnu.lto_") and not flags & SHF.SHF_EXCLUDE:
        yield _refuse(section, "holds LTO bytecode", "lto")
    yield from _alignment_problems(section)
    if not flags & SHF.SHF_ALLOC:
        return
    if section.sh_type == abi.SHT_NOBITS and section.sh_size and not flags & SHF.SHF_WRITE:
        yield _refuse(
            section,
            "has no contents and can never have any: it is read-only and NOBITS",
            do="give it contents (@progbits), or make it writable",
        )
    if flags & (SHF.SHF_WRITE | SHF.SHF_TLS) and flags & SHF.SHF_EXECINSTR:
        yield _refuse(section, "is writable and executable", "writable-code")
    if flags & SHF.SHF_X86_64_LARGE:
        yield _refuse(section, "belongs to the large code model", "large-data")
    if flags & SHF.SHF_COMPRESSED:
        yield _refuse(
            section, "is compressed and allocated", do="link it with --compress-debug-sections=none"
        )
    if re.fullmatch(r"\.[cd]tors(\..*)?", section.name) and section.sh_size:
        yield _refuse(section, "holds constructors in the way before .init_array", "constructors")
    if not section.name:
        yield _refuse(
            section, "has no name", why="what it is called decides where it is", do="give it one"
        )
    if section.sh_type in _ARRAYS and section.sh_size % 8:
        yield _refuse(
            section,
            f"has {section.sh_size:#x} bytes, which is no number of pointers",
            do="put nothing but pointers to functions there",
        )


def _alignment_problems(section: Section) -> Iterator[RuleError]:
    align = section.sh_addralign
    if align & (align - 1) or align > 1 << 21:
        yield _refuse(section, f"wants to be aligned to {align:#x}", "alignment")


def allot_commons(obj: ObjectFile, report: Report = stop) -> None:
    """Give common symbols (gABI, SHN_COMMON: st_value is the alignment) their place in .bss.

    :raise UklError: ``elf-section`` if one wants an alignment that the kernel cannot keep.
    """
    commons = [one for one in obj.symbols if one.section is None and one.st_shndx == abi.SHN_COMMON]
    if not commons:
        return
    bss = Section(".bss.COMMON", abi.SHT_NOBITS, SHF.SHF_ALLOC | SHF.SHF_WRITE)
    for symbol in commons:
        align = max(symbol.st_value, 1)
        bss.sh_addralign = max(bss.sh_addralign, align)
        symbol.st_value = -(-bss.nobits_size // align) * align
        bss.nobits_size = symbol.st_value + symbol.st_size
        symbol.section = bss
        symbol.st_type = abi.STT_OBJECT
    for refusal in _alignment_problems(bss):
        report(refusal)
    obj.sections.append(bss)


def define_bounds(obj: ObjectFile, report: Report = stop) -> None:
    """Define the names that ld would define by itself, were they not prefixed.

    ``__start_X`` and ``__stop_X`` around a section whose name is a C identifier; start and end of
    the arrays of functions and of the IRELATIVE entries; ``__ehdr_start``, which a C library reads
    if the kernel passes no AT_PHDR: an ELF header with no program headers, as none are in memory.
    """
    undefined = {symbol.name: symbol for symbol in obj.symbols if symbol.undefined}

    def define(name: str, section: Section, value: int) -> None:
        if symbol := undefined.get(name):
            symbol.section = section
            symbol.st_value = value
            symbol.st_type = abi.STT_NOTYPE
            # It is this object's, whatever the reference said: a weak one must not be overridden.
            symbol.st_bind = abi.STB_GLOBAL

    by_name: dict[str, list[Section]] = {}
    for section in obj.sections:
        by_name.setdefault(section.name, []).append(section)
    for name, sections in by_name.items():
        if _C_IDENTIFIER.fullmatch(name) and sections[0].allocated:
            if len({destination(one) for one in sections}) > 1 and (
                f"__start_{name}" in undefined or f"__stop_{name}" in undefined
            ):
                report(
                    _refuse(
                        sections[0],
                        "exists with different flags",
                        why="nothing can go from its start to its end",
                        do="give all its parts the same flags and type",
                    )
                )
            define(f"__start_{name}", sections[0], 0)
            define(f"__stop_{name}", sections[-1], sections[-1].sh_size)

    for sh_type, name in _ARRAYS.items():
        start, end = f"_{name.replace('.', '_')}_start", f"_{name.replace('.', '_')}_end"
        arrays = _sorted_arrays([one for one in obj.sections if one.sh_type == sh_type])
        if not arrays and (start in undefined or end in undefined):
            flags = SHF.SHF_ALLOC | SHF.SHF_WRITE
            arrays = [Section(name, sh_type, flags, sh_addralign=8, sh_entsize=8)]
            obj.sections += arrays
        if arrays:
            define(start, arrays[0], 0)
            define(end, arrays[-1], arrays[-1].sh_size)

    if "__rela_iplt_start" in undefined or "__rela_iplt_end" in undefined:
        if IRELATIVE not in by_name:
            irelative = Section(IRELATIVE, abi.SHT_PROGBITS, SHF.SHF_ALLOC, sh_addralign=8)
            obj.sections.append(irelative)
            by_name[IRELATIVE] = [irelative]
        define("__rela_iplt_start", by_name[IRELATIVE][0], 0)
        define("__rela_iplt_end", by_name[IRELATIVE][0], by_name[IRELATIVE][0].sh_size)

    if "__ehdr_start" in undefined:
        ehdr = Section(".rodata.ehdr", abi.SHT_PROGBITS, SHF.SHF_ALLOC, sh_addralign=8)
        ehdr.data = bytearray(
            abi.ELF64_EHDR.pack(
                # ET_EXEC; e_phentsize is given so that a reader's check of it holds
                abi.E_IDENT,
                2,
                abi.EM_X86_64,
                1,
                0,
                0,
                0,
                0,
                abi.ELF64_EHDR.size,
                56,
                0,
                64,
                0,
                0,
            )
        )
        obj.sections.append(ehdr)
        define("__ehdr_start", ehdr, 0)


def _sorted_arrays(sections: list[Section]) -> list[Section]:
    """Order arrays of functions as ld's SORT_BY_INIT_PRIORITY does: numbered ones first."""

    def key(section: Section) -> tuple[int, int]:
        number = section.name.rpartition(".")[2]
        return (0, int(number)) if number.isdecimal() else (1, 0)

    return sorted(sections, key=key)


@dataclass(frozen=True)
class _Rule:
    """Input sections of one kind: by name and flags."""

    name: re.Pattern[str]
    flags: int
    """What SHF_WRITE and SHF_EXECINSTR must be."""
    nobits: bool
    to: str


_MERGED = ".ukl.rodata.merge."
"""Constants that the final link may merge: called by what they have in common."""
_W, _X = int(SHF.SHF_WRITE), int(SHF.SHF_EXECINSTR)
_RULES = (
    _Rule(re.compile(r"\.text(\..*)?"), _X, False, ".ukl.text"),
    _Rule(re.compile(r"\.eh_frame"), 0, False, ".ukl.eh_frame"),
    _Rule(re.compile(r"\.gcc_except_table(\..*)?"), 0, False, ".ukl.gcc_except_table"),
    _Rule(re.compile(r"\.rodata(1|\..*)?"), 0, False, ".ukl.rodata"),
    _Rule(re.compile(r"\.data\.rel\.ro(\..*)?"), _W, False, ".ukl.data.rel.ro"),
    _Rule(re.compile(r"\.data(1|\..*)?"), _W, False, ".ukl.data"),
    _Rule(re.compile(r"\.bss(\..*)?"), _W, True, ".ukl.bss"),
)


def destination(section: Section) -> str:
    """Return what the contract of docs/design.md calls a section.

    A section of another name is called by its flags: they say how its memory must be mapped.
    """
    flags, nobits = section.sh_flags, section.sh_type == abi.SHT_NOBITS
    if not section.allocated or section.name.startswith(RESERVED):
        return section.name
    if flags & SHF.SHF_TLS:
        return ".ukl.tbss" if nobits else ".ukl.tdata"
    if section.sh_type in _ARRAYS:
        return ".ukl" + _ARRAYS[section.sh_type]
    if flags & SHF.SHF_MERGE and section.name.startswith(".rodata") and not flags & (_W | _X):
        # Kept apart, so that the final link still merges equal constants (gABI, SHF_MERGE).
        if flags & SHF.SHF_STRINGS:
            return f"{_MERGED}str{section.sh_entsize}.{section.sh_addralign}"
        return f"{_MERGED}cst{section.sh_entsize}.{section.sh_addralign}"
    for rule in _RULES:
        if (
            rule.name.fullmatch(section.name)
            and flags & (_W | _X) == rule.flags
            and nobits == rule.nobits
        ):
            return rule.to
    if flags & SHF.SHF_EXECINSTR:
        return f".ukl.text.{section.name}"
    if nobits and flags & SHF.SHF_WRITE:
        return f".ukl.bss.{section.name}"
    return f".ukl.{'data' if flags & SHF.SHF_WRITE else 'rodata'}.{section.name}"


def _text_rank(section: Section) -> int:
    """Order of code as in ld's default script: what runs rarely is kept from what runs often."""
    for rank, name in enumerate((".text.unlikely", ".text.exit", ".text.startup", ".text.hot")):
        if section.name == name or section.name.startswith(name + "."):
            return rank
    return 4


def group_sections(obj: ObjectFile, report: Report = stop) -> dict[str, list[Section]]:
    """Return the sections that get the same name, by that name.

    :raise UklError: ``elf-section``, as :func:`gather_sections`.
    """
    groups: dict[str, list[Section]] = {}
    ours = {one.name for one in obj.sections if one.name.startswith(RESERVED)}
    for section in obj.sections:
        name = destination(section)
        if name in ours and section.name != name:
            report(_refuse(section, f"would be called {name}, which is taken", do="rename it"))
        groups.setdefault(name, []).append(section)
    return groups


def gather_sections(obj: ObjectFile) -> None:
    """Rename sections as the contract says, and join those that get the same name.

    :raise UklError: ``elf-section`` if a section of the program is called like one that the
        archive adds; ``elf-size`` if the whole needs more than :data:`MAX_IMAGE`.
    """
    groups = group_sections(obj)
    for symbol in obj.symbols:
        # STB_GNU_UNIQUE tells a dynamic loader to keep one copy in the process; here is no other.
        if symbol.st_bind == abi.STB_GNU_UNIQUE:
            symbol.st_bind = abi.STB_GLOBAL
    moved: dict[int, tuple[Section, int]] = {}
    result = [_join(name, members, moved) for name, members in groups.items()]
    for symbol in obj.symbols:
        if symbol.section is not None:
            symbol.section, offset = moved[id(symbol.section)]
            symbol.st_value += offset
    section_symbols = {id(section.symbol): moved[id(section)] for section in obj.sections}
    for section in result:
        for relocation in section.relocations:
            if to := section_symbols.get(id(relocation.symbol)):
                relocation.symbol = to[0].symbol
                relocation.r_addend += to[1]
    used = obj.referenced() | {id(symbol.section) for symbol in obj.symbols}
    # .ukl.text first: the order that a linker script's `*(.ukl.text) *(.ukl.text.*)` would make.
    result.sort(key=lambda one: one.name != ".ukl.text")
    obj.sections = [
        one for one in result if one.sh_size or id(one) in used or id(one.symbol) in used
    ]
    # Tells ld that this object does not ask for an executable stack.
    obj.sections.append(Section(STACK_NOTE, abi.SHT_PROGBITS, 0))
    if needed := oversize(obj.sections):
        raise _too_large(obj, needed)


def _join(name: str, members: list[Section], moved: dict[int, tuple[Section, int]]) -> Section:
    """Put sections behind each other, and note where each went."""
    first = members[0]
    if first.sh_type in _ARRAYS:
        members = _sorted_arrays(members)
    elif name == ".ukl.text":
        members = sorted(members, key=_text_rank)
    nobits = all(one.sh_type == abi.SHT_NOBITS for one in members)
    flags = 0
    for one in members:
        flags |= one.sh_flags
    if first.allocated:
        # What is left is how the memory is mapped.  SHF_LINK_ORDER has done its work in the partial
        # link; SHF_GNU_RETAIN speaks to --gc-sections, which no kernel link uses; SHF_MERGE is true
        # only if it is of all members.
        keep = SHF.SHF_ALLOC | SHF.SHF_WRITE | SHF.SHF_EXECINSTR | SHF.SHF_TLS
        if name.startswith(_MERGED):
            keep |= SHF.SHF_MERGE | SHF.SHF_STRINGS
        flags &= keep
        if first.sh_type in _ARRAYS or flags & SHF.SHF_TLS:
            flags |= SHF.SHF_WRITE  # hand-written ones may lack it; each process has its own
    result = Section(
        name,
        # Nothing acts on the special types in the kernel's link, and ld would give them to the
        # output section of kernel data that these become a part of.
        abi.SHT_NOBITS if nobits else abi.SHT_PROGBITS,
        flags,
        sh_addralign=max(one.sh_addralign for one in members),
        sh_entsize=first.sh_entsize if flags & SHF.SHF_MERGE else 0,
    )
    filler = b"\x90" if flags & SHF.SHF_EXECINSTR else b"\0"
    size = 0
    for one in members:
        padding = -size % one.sh_addralign
        start = size + padding
        if not nobits:
            result.data += filler * padding
            result.data += one.data
        size = start + one.sh_size
        moved[id(one)] = (result, start)
        for relocation in one.relocations:
            relocation.r_offset += start
        result.relocations += one.relocations
    if nobits:
        result.nobits_size = size
    return result


def oversize(sections: Iterable[Section]) -> int:
    """Return how many bytes of memory sections need, if that is more than :data:`MAX_IMAGE`."""
    needed = sum(section.sh_size for section in sections if section.allocated)
    return needed if needed > MAX_IMAGE else 0


def says_size(needed: int) -> str:
    """Return what is too large by how much."""
    return (
        f"the application's sections need {needed >> 20} MiB, the kernel image has room for"
        f" {MAX_IMAGE >> 20} MiB"
    )


def _too_large(obj: ObjectFile, needed: int) -> RuleError:
    largest = sorted(
        (one for one in obj.symbols if one.section is not None), key=lambda one: -one.st_size
    )[:5]
    sections = [one for one in obj.sections if one.allocated]
    lines = [f"{one.name}: {one.sh_size:,} bytes" for one in sections]
    lines += [f"{one.name} in {one.section!r}: {one.st_size:,} bytes" for one in largest]
    return RuleError("size", says_size(needed), detail="\n".join(lines))
