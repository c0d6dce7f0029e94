# SPDX-License-Identifier: Apache-2.0
"""How code reaches data: GOT, IFUNC and TLS references made explicit.

Position-independent code asks the linker for more than addresses: for slots of a global offset
table, for stubs, for changes of instructions.  ld would do all that in the final link, and
``--emit-relocs`` would describe the input, not the result, so that the kernel's relocation table
(arch/x86/tools/relocs, which KASLR lives on) would be wrong.  Here it is done before: what is
left are references to addresses, which are slid, and offsets in the TLS block, which are not.

Changed instructions follow psABI appendix B.2 ("Optimize GOTPCRELX Relocations") and TLS
section 5 ("Linker Optimizations").  No instruction changes its length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from ukl_build.elf import abi
from ukl_build.elf.abi import SHF, RelocType
from ukl_build.elf.layout import DEBUG, IRELATIVE
from ukl_build.elf.model import ObjectFile, Relocation, Section, Symbol
from ukl_build.elf.rules import Report, RuleError, stop

R = RelocType

GOT = ".ukl.rodata.got"
"""Slots that hold constants: addresses and TLS offsets."""
IPLT_GOT = ".ukl.data.iplt_got"
"""Slots that the C library fills when the process starts: results of IFUNC resolvers."""
IPLT = ".ukl.text.iplt"
"""Stubs that jump through :data:`IPLT_GOT`."""

ALLOCATED_TYPES = frozenset(
    (R.R_X86_64_64, R.R_X86_64_32S, R.R_X86_64_PC32, R.R_X86_64_PLT32, R.R_X86_64_PC64,
     R.R_X86_64_TPOFF32, R.R_X86_64_TPOFF64)
)  # fmt: skip
"""Relocation types in memory of the program that the archive may have."""
DEBUG_TYPES = frozenset(
    (R.R_X86_64_64, R.R_X86_64_32, R.R_X86_64_32S, R.R_X86_64_PC32, R.R_X86_64_PC64,
     R.R_X86_64_DTPOFF32, R.R_X86_64_DTPOFF64)
)  # fmt: skip
"""The same for debugging information, which nothing slides."""
TLS_TYPES = frozenset(
    (R.R_X86_64_TPOFF32, R.R_X86_64_TPOFF64, R.R_X86_64_DTPOFF32, R.R_X86_64_DTPOFF64)
)

_WRONG_MODEL: dict[int, str] = {
    **dict.fromkeys(
        (R.R_X86_64_32, R.R_X86_64_16, R.R_X86_64_8, R.R_X86_64_PC16, R.R_X86_64_PC8), "code-model"
    ),
    **dict.fromkeys(
        (R.R_X86_64_GOT32, R.R_X86_64_GOTPC32, R.R_X86_64_GOTOFF64, R.R_X86_64_GOT64,
         R.R_X86_64_GOTPCREL64, R.R_X86_64_GOTPC64, R.R_X86_64_GOTPLT64, R.R_X86_64_PLTOFF64),
        "large-model",
    ),
}  # fmt: skip
"""Relocation types that tell which rule was broken; all others that are not allowed break
``relocation``."""


def _refuse(
    obj: ObjectFile, section: Section, one: Relocation, what: str, rule: str = "", *, do: str = ""
) -> RuleError:
    """Return what is wrong with a relocation; without a rule its type tells which one it breaks."""
    return RuleError(
        rule or _WRONG_MODEL.get(one.r_type, "relocation"),
        f"{abi.reloc_name(one.r_type)} against {one.symbol.shown} {what}",
        section=section,
        offset=one.r_offset,
        symbols=obj.symbols,
        do=do,
    )


@dataclass(frozen=True)
class Counts:
    """What was done; for the manifest."""

    got_slots: int
    tls_slots: int
    ifuncs: int
    relaxed: int
    """Instructions that no longer need a slot or a call."""
    constants: int
    """References to absolute symbols and absent weak ones, now numbers."""
    functions: int
    """Functions an exception can be thrown through."""


def make_ifunc_stubs(obj: ObjectFile) -> int:
    """Turn every IFUNC symbol (STT_GNU_IFUNC) into an ordinary function.

    The function is a stub that jumps through a slot; the resolver keeps its place under the local
    name ``ifunc.NAME``.  The slot and the resolver's address become an Elf64_Rela entry of type
    R_X86_64_IRELATIVE in ``.ukl.irelative``, between ``__rela_iplt_start`` and ``__rela_iplt_end``:
    exactly what the start code of a static C library goes through (glibc's apply_irel), with
    ordinary relocations for the addresses, so that KASLR slides them.

    Every use of the name means the stub, calls and comparisons of addresses alike.

    :return: number of resolvers.
    :raise UklError: ``elf-symbol`` if nothing in the application would fill the slots.
    """
    found = [one for one in obj.symbols if one.st_type == abi.STT_GNU_IFUNC and one.section]
    if not found:
        return 0
    if not any(one.undefined and one.name == "__rela_iplt_start" for one in obj.symbols):
        raise RuleError("ifunc", f"{found[0].name} is an indirect function (IFUNC)")
    alloc, write, code = SHF.SHF_ALLOC, SHF.SHF_WRITE, SHF.SHF_EXECINSTR
    stubs = Section(IPLT, abi.SHT_PROGBITS, alloc | code, sh_addralign=16)
    slots = Section(IPLT_GOT, abi.SHT_NOBITS, alloc | write, sh_addralign=8)
    entries = Section(IRELATIVE, abi.SHT_PROGBITS, alloc, sh_addralign=8)
    # Aliases share resolver, slot and stub, so that their addresses stay equal.
    stub_at: dict[tuple[int, int], int] = {}
    for symbol in found:
        resolver, value = symbol.section, symbol.st_value
        assert resolver is not None
        key = (id(resolver), value)
        if key not in stub_at:
            stub_at[key] = len(stubs.data)
            slot = Symbol(f"iplt_got.{symbol.name}", abi.STB_LOCAL, abi.STT_OBJECT, slots)
            slot.st_value, slot.st_size = slots.nobits_size, 8
            slots.nobits_size += 8
            target = Symbol(f"ifunc.{symbol.name}", abi.STB_LOCAL, abi.STT_FUNC, resolver)
            target.st_value, target.st_size = value, symbol.st_size
            obj.symbols += (slot, target)
            # endbr64; jmp *slot(%rip); int3…
            stubs.relocations.append(Relocation(len(stubs.data) + 6, R.R_X86_64_PC32, slot, -4))
            stubs.data += b"\xf3\x0f\x1e\xfa\xff\x25\0\0\0\0".ljust(16, b"\xcc")
            offset = len(entries.data)
            entries.relocations += (
                Relocation(offset, R.R_X86_64_64, slot, 0),
                Relocation(offset + 16, R.R_X86_64_64, target, 0),
            )
            entries.data += abi.ELF64_RELA.pack(0, R.R_X86_64_IRELATIVE, 0)
        symbol.st_type = abi.STT_FUNC
        symbol.section, symbol.st_value, symbol.st_size = stubs, stub_at[key], 16
    # The slots are data, not .bss: their section is called so by the contract.
    slots.sh_type, slots.data, slots.nobits_size = (
        abi.SHT_PROGBITS, bytearray(slots.nobits_size), 0
    )  # fmt: skip
    obj.sections += (stubs, slots, entries)
    return len(stub_at)


class _Code:
    """The relocations of one executable section, by offset."""

    def __init__(self, obj: ObjectFile, section: Section) -> None:
        self.obj = obj
        self.section = section
        self.data = section.data
        section.relocations.sort(key=lambda one: one.r_offset)
        self._offsets = [one.r_offset for one in section.relocations]

    def at(self, offset: int) -> Relocation | None:
        """Return the relocation at an offset."""
        index = bisect_left(self._offsets, offset)
        if index < len(self._offsets) and self._offsets[index] == offset:
            return self.section.relocations[index]
        return None

    def span(self, start: int, end: int) -> bytes:
        """Return the code between two offsets; empty if it is not all there."""
        return bytes(self.data[start:end]) if 0 <= start <= end <= len(self.data) else b""

    def put(self, start: int, code: bytes) -> None:
        """Replace code."""
        self.data[start : start + len(code)] = code


def _code(obj: ObjectFile) -> Iterator[_Code]:
    for section in obj.sections:
        if section.allocated and section.sh_flags & SHF.SHF_EXECINSTR:
            yield _Code(obj, section)


def relax_tls(obj: ObjectFile, report: Report = stop) -> int:
    """Change every TLS access of code to the local-exec model.

    The application is one program with one TLS block, so the offset of every variable from the
    thread pointer is constant, and ``__tls_get_addr`` is not needed (TLS 5.5, "x86-64 linker
    optimizations"; TLS descriptors: A. Oliva, "Thread-Local Storage Descriptors for IA32 and
    AMD64/EM64T").  An initial-exec access by another instruction than mov and add keeps
    R_X86_64_GOTTPOFF and gets a slot, see :func:`make_got_slots`.

    :return: number of changed places.
    :raise UklError: ``elf-relocation`` for a sequence that is not one of the standard's.
    """
    count = 0
    for section in obj.sections:
        _sweep(section)  # what ld -r has crossed out
    for code in _code(obj):
        for one in code.section.relocations:
            try:
                count += _relax_tls(code, one)
            except RuleError as refusal:
                report(refusal)
                one.r_type = R.R_X86_64_NONE
        _sweep(code.section)
    return count


def _relax_tls(code: _Code, one: Relocation) -> bool:
    """Change one place; return whether it was a TLS access that could be."""
    match one.r_type:
        case R.R_X86_64_TLSGD:
            _general_dynamic(code, one)
        case R.R_X86_64_TLSLD:
            _local_dynamic(code, one)
        case R.R_X86_64_DTPOFF32:
            one.r_type = R.R_X86_64_TPOFF32
        case R.R_X86_64_GOTPC32_TLSDESC:
            _descriptor(code, one)
        case R.R_X86_64_TLSDESC_CALL:
            if code.span(one.r_offset, one.r_offset + 2) != b"\xff\x10":
                raise _refuse(code.obj, code.section, one, "is not at call *(%rax)", "tls-sequence")
            code.put(one.r_offset, b"\x66\x90")  # xchg %ax,%ax
            one.r_type = R.R_X86_64_NONE
        case R.R_X86_64_GOTTPOFF:
            return _initial_exec(code, one)
        case _:
            return False
    return True


def _sweep(section: Section) -> None:
    """Remove relocations that are done."""
    section.relocations = [one for one in section.relocations if one.r_type != R.R_X86_64_NONE]


def _take_call(code: _Code, tls: Relocation, offset: int) -> None:
    """Cross out the call of __tls_get_addr that belongs to a sequence."""
    call = code.at(offset)
    if call is None or call.symbol.name != "__tls_get_addr":
        raise _refuse(
            code.obj, code.section, tls, "is not followed by a call of __tls_get_addr",
            "tls-sequence",
        )  # fmt: skip
    call.r_type = R.R_X86_64_NONE


def _no_sequence(code: _Code, one: Relocation, kind: str) -> RuleError:
    what = f"is in no {kind} sequence of the ABI"
    return _refuse(code.obj, code.section, one, what, "tls-sequence")


def _general_dynamic(code: _Code, one: Relocation) -> None:
    at = one.r_offset
    lea, call = code.span(at - 4, at), code.span(at + 4, at + 8)
    if lea != b"\x66\x48\x8d\x3d" or call not in (b"\x66\x66\x48\xe8", b"\x66\x48\xff\x15"):
        raise _no_sequence(code, one, "general-dynamic")
    _take_call(code, one, at + 8)
    # movq %fs:0,%rax; leaq x@tpoff(%rax),%rax
    code.put(at - 4, b"\x64\x48\x8b\x04\x25\0\0\0\0\x48\x8d\x80\0\0\0\0")
    one.r_offset, one.r_type = at + 8, R.R_X86_64_TPOFF32
    one.r_addend += 4


def _local_dynamic(code: _Code, one: Relocation) -> None:
    at = one.r_offset
    call = code.span(at + 4, at + 6)
    if code.span(at - 3, at) != b"\x48\x8d\x3d":
        raise _no_sequence(code, one, "local-dynamic")
    if call[:1] == b"\xe8":
        _take_call(code, one, at + 5)
        code.put(at - 3, b"\x66\x66\x66\x64\x48\x8b\x04\x25\0\0\0\0")
    elif call == b"\xff\x15":
        _take_call(code, one, at + 6)
        code.put(at - 3, b"\x66\x66\x66\x66\x64\x48\x8b\x04\x25\0\0\0\0")
    else:
        raise _no_sequence(code, one, "local-dynamic")
    one.r_type = R.R_X86_64_NONE


def _to_register(rex: int, modrm: int, opcode: int, modifier: int = 0) -> bytes | None:
    """Build the first bytes of OP $imm32,%reg out of those of OP disp32(%rip),%reg.

    The register moves from ModRM.reg (REX.R) to ModRM.rm (REX.B).
    """
    if rex & 0xFB != 0x48 or modrm & 0xC7 != 0x05:
        return None
    return bytes((0x48 | (rex & 4) >> 2, opcode, 0xC0 | modifier << 3 | modrm >> 3 & 7))


def _descriptor(code: _Code, one: Relocation) -> None:
    at = one.r_offset
    lea = code.span(at - 3, at)
    mov = _to_register(lea[0], lea[2], 0xC7) if len(lea) == 3 and lea[1] == 0x8D else None
    if mov is None:
        raise _no_sequence(code, one, "TLS-descriptor")
    if one.symbol.name == "_TLS_MODULE_BASE_":
        # The base that a local-dynamic sequence adds R_X86_64_DTPOFF32 to.  These have become
        # offsets from the thread pointer, so it is 0, as ld defines it for an executable.
        code.put(at - 3, mov + bytes(4))
        one.r_type = R.R_X86_64_NONE
        return
    code.put(at - 3, mov)
    one.r_type = R.R_X86_64_TPOFF32
    one.r_addend += 4


def _initial_exec(code: _Code, one: Relocation) -> bool:
    at = one.r_offset
    load = code.span(at - 3, at)
    new = None
    if len(load) == 3 and one.r_addend == -4:
        if load[1] == 0x8B:  # movq x@gottpoff(%rip),%reg → movq $x@tpoff,%reg
            new = _to_register(load[0], load[2], 0xC7)
        elif load[1] == 0x03:  # addq x@gottpoff(%rip),%reg → addq $x@tpoff,%reg
            new = _to_register(load[0], load[2], 0x81)
    if new is None:
        return False
    code.put(at - 3, new)
    one.r_type = R.R_X86_64_TPOFF32
    one.r_addend += 4
    return True


_GOT_TYPES = (R.R_X86_64_GOTPCREL, R.R_X86_64_GOTPCRELX, R.R_X86_64_REX_GOTPCRELX)


def relax_got(obj: ObjectFile) -> int:
    """Let instructions that load an address from the GOT compute it instead (psABI B.2).

    Only where the assembler marked them for it (GOTPCRELX, REX_GOTPCRELX), and only for symbols
    that have an address: an absolute one keeps its slot, which then holds the number.

    :return: number of changed instructions.
    """
    count = 0
    for code in _code(obj):
        for one in code.section.relocations:
            if one.r_type not in _GOT_TYPES[1:] or one.r_addend != -4 or one.symbol.absolute:
                continue
            at = one.r_offset
            opcode, modrm = code.span(at - 2, at) or (0, 0)
            if opcode == 0x8B and modrm & 0xC7 == 0x05:  # mov → lea
                code.put(at - 2, b"\x8d")
            elif (opcode, modrm) == (0xFF, 0x15):  # call *f@GOTPCREL(%rip) → addr32 call f
                code.put(at - 2, b"\x67\xe8")
            elif (opcode, modrm) == (0xFF, 0x25):  # jmp *f@GOTPCREL(%rip) → jmp f; nop
                code.put(at - 2, b"\xe9\0\0\0\0\x90")
                one.r_offset = at - 1
            else:
                continue
            one.r_type = R.R_X86_64_PC32
            count += 1
    return count


def make_got_slots(obj: ObjectFile, report: Report = stop) -> tuple[int, int]:
    """Give every symbol that is still reached through the GOT a slot of its own.

    A slot is eight bytes of ``.ukl.rodata.got`` with the symbol ``got.NAME`` (an address,
    R_X86_64_64, slid by KASLR) or ``gottpoff.NAME`` (a TLS offset, R_X86_64_TPOFF64, not slid); the
    reference becomes an ordinary R_X86_64_PC32.

    :return: how many slots hold addresses and numbers, and how many TLS offsets.
    :raise UklError: ``elf-relocation`` for a GOT reference in data.
    """
    got = Section(GOT, abi.SHT_PROGBITS, SHF.SHF_ALLOC, sh_addralign=8)
    slots: dict[tuple[int, bool], Symbol] = {}
    for section, one in obj.all_relocations():
        tls = one.r_type == R.R_X86_64_GOTTPOFF
        if not tls and one.r_type not in _GOT_TYPES:
            continue
        if not section.sh_flags & SHF.SHF_EXECINSTR:
            report(_refuse(obj, section, one, "is in data", do="only instructions can use the GOT"))
            one.r_type = R.R_X86_64_NONE
            continue
        key = (id(one.symbol), tls)
        if key not in slots:
            kind = "gottpoff" if tls else "got"
            name = one.symbol.name or one.symbol.shown
            slot = Symbol(f"{kind}.{name}", abi.STB_LOCAL, abi.STT_OBJECT, got)
            slot.st_value, slot.st_size = len(got.data), 8
            r_type = R.R_X86_64_TPOFF64 if tls else R.R_X86_64_64
            got.relocations.append(Relocation(len(got.data), r_type, one.symbol, 0))
            got.data += bytes(8)
            slots[key] = slot
        one.symbol, one.r_type = slots[key], R.R_X86_64_PC32
    if slots:
        obj.sections.append(got)
        obj.symbols += slots.values()
    tls_slots = sum(tls for _, tls in slots)
    return len(slots) - tls_slots, tls_slots


def fold_constants(obj: ObjectFile, report: Report = stop) -> int:
    """Write the value of absolute symbols where they are used, and forget the symbols.

    Absolute symbols are numbers, among them the absent weak ones
    (:func:`ukl_build.elf.names.settle_undefined`).  Left to the final link, an
    R_X86_64_64 against one ends arch/x86/tools/relocs ("Invalid absolute"), and a PC-relative one
    would be right only until KASLR moves the code.

    A call of an absent weak function, which the program never makes, becomes a call of ud2.

    :return: number of references.
    :raise UklError: ``elf-relocation`` for a PC-relative use that cannot be written as a number.
    """
    count = 0
    traps: list[Symbol] = []
    for section in obj.sections:
        for one in section.relocations:
            if not one.symbol.absolute:
                continue
            count += 1
            try:
                _fold(obj, section, one, traps)
            except RuleError as refusal:
                report(refusal)
                one.r_type = R.R_X86_64_NONE
        _sweep(section)
    obj.symbols = [one for one in obj.symbols if not one.absolute or one.st_type == abi.STT_FILE]
    return count


def _fold(obj: ObjectFile, section: Section, one: Relocation, traps: list[Symbol]) -> None:
    """Write a number where one reference to it is.

    :param traps: the function that ends the program, once there is one.
    """
    # A TLS offset of nothing is as good as 0: the program tests for presence otherwise.
    base = 0 if one.r_type in TLS_TYPES else one.symbol.st_value
    value = base + one.r_addend
    at = one.r_offset
    match one.r_type:
        case R.R_X86_64_64 | R.R_X86_64_TPOFF64 | R.R_X86_64_DTPOFF64:
            section.data[at : at + 8] = (value % (1 << 64)).to_bytes(8, "little")
        case R.R_X86_64_32S | R.R_X86_64_TPOFF32 | R.R_X86_64_DTPOFF32:
            if not -(1 << 31) <= value < 1 << 31:
                raise _refuse(obj, section, one, f"does not hold {value:#x}", "fixed-address")
            section.data[at : at + 4] = value.to_bytes(4, "little", signed=True)
        case R.R_X86_64_32:
            if not 0 <= value < 1 << 32:
                raise _refuse(obj, section, one, f"does not hold {value:#x}", "fixed-address")
            section.data[at : at + 4] = value.to_bytes(4, "little")
        case R.R_X86_64_PC32 | R.R_X86_64_PLT32:
            if _is_branch(section, one):
                if base:
                    raise _refuse(
                        obj, section, one, "is a branch to a fixed address", "fixed-address"
                    )
                if not traps:
                    traps.append(_trap(obj))
                one.symbol = traps[0]
                return
            _lea_to_mov(obj, section, one, value + 4)
        case _:
            raise _refuse(obj, section, one, "is not understood")
    one.r_type = R.R_X86_64_NONE


def _is_branch(section: Section, one: Relocation) -> bool:
    """Whether the displacement belongs to call, jmp or jcc.

    With rip as base ModRM is 00 reg 101, which is none of the opcodes looked for.
    """
    before = bytes(section.data[max(one.r_offset - 2, 0) : one.r_offset])
    if not section.sh_flags & SHF.SHF_EXECINSTR or not before:
        return False
    return before[-1] in (0xE8, 0xE9) or (
        len(before) == 2 and before[0] == 0x0F and before[1] & 0xF0 == 0x80
    )


def _trap(obj: ObjectFile) -> Symbol:
    """Return a function that ends the program, for calls that are never made."""
    section = Section(f"{IPLT}.absent", abi.SHT_PROGBITS, SHF.SHF_ALLOC | SHF.SHF_EXECINSTR)
    section.data += b"\x0f\x0b"  # ud2
    symbol = Symbol("absent", abi.STB_LOCAL, abi.STT_FUNC, section, st_size=2)
    obj.sections.append(section)
    obj.symbols.append(symbol)
    return symbol


def _lea_to_mov(obj: ObjectFile, section: Section, one: Relocation, value: int) -> None:
    """Change lea x(%rip),%reg into mov $value,%reg."""
    at = one.r_offset
    lea = bytes(section.data[max(at - 3, 0) : at])
    new = None
    if section.sh_flags & SHF.SHF_EXECINSTR and len(lea) == 3 and lea[1] == 0x8D:
        new = _to_register(lea[0], lea[2], 0xC7)
    if new is None or not -(1 << 31) <= value < 1 << 31:
        raise _refuse(
            obj, section, one, "reaches a fixed address relative to code that KASLR moves",
            "fixed-address",
        )  # fmt: skip
    section.data[at - 3 : at + 4] = new + value.to_bytes(4, "little", signed=True)


def check_relocations(obj: ObjectFile, report: Report = stop) -> None:
    """Require that only relocations are left that the kernel's link and KASLR understand.

    :raise UklError: ``elf-relocation``, naming type, symbol and place.
    """
    for section in obj.sections:
        _sweep(section)
        allowed = ALLOCATED_TYPES if section.allocated else DEBUG_TYPES
        debug = DEBUG.fullmatch(section.name) is not None
        for one in section.relocations:
            if one.r_type not in allowed:
                report(_refuse(obj, section, one, "cannot be had in the kernel"))
                continue
            target = one.symbol
            thread = target.st_type == abi.STT_TLS or (
                target.section is not None and bool(target.section.sh_flags & SHF.SHF_TLS)
            )
            if thread != (one.r_type in TLS_TYPES) and not debug:
                what = "is no TLS access" if thread else "is a TLS access to an ordinary symbol"
                report(_refuse(obj, section, one, what, "tls-mismatch"))
