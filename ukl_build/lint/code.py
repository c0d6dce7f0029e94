# SPDX-License-Identifier: Apache-2.0
"""Instructions that mean something else in ring 0, or go another way into the kernel.

In ring 3 a privileged instruction ends in SIGSEGV, so a program that holds one never reaches it, or
catches the signal.  In ring 0 the processor does what it says.  And %gs, which user space hardly
uses, is the kernel's.

objdump disassembles, and begins anew at each symbol.  Hand-written assembly has tables between its
functions and behind their ends, which disassemble into anything, and are told apart by
:func:`_code`.  Rejected: following the control flow from every entry, which took three times the
code and told the same places apart in Debian's archives.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ukl_build import proc
from ukl_build.elf import abi
from ukl_build.elf.abi import SHF
from ukl_build.elf.model import ObjectFile, Section, Symbol
from ukl_build.errors import UklError

GATE = re.compile(r"ukl_sys(?:call|_\d+)")
"""The calls into the kernel, by the names in linker/unprefixed.toml."""
_OBJDUMP = ("objdump", "-d", "-w", "-z", "--no-show-raw-insn", "-M", "att")
_BATCH = 8 << 20
"""Bytes of objects that one objdump gets."""
_PREFIX = (
    r"(?:(?:addr32|bnd|cs|data16|ds|es|fs|gs|lock|notrack|rep[nez]*|ss|xacquire|xrelease"
    r"|rex(?:\.\w+)?|\{\w+\}) +)*"
)
_ROW = re.compile(rf"^ *([0-9a-f]+):\t({_PREFIX}(\S+) *([^#\n]*)).*$", re.MULTILINE)

_BRANCHES = re.compile(r"j\w+|call\w?|loop\w*|xbegin")
_TARGET = re.compile(r"[0-9a-f]+\b")
_ENDS = frozenset(
    ("jmp", "jmpw", "ret", "retw", "retq", "ud2", "iret", "iretq", "lret", "lretq", "sysret",
     "sysretl", "sysretq", "sysexit", "sysexitl", "sysexitq")
)  # fmt: skip
"""Mnemonics behind which the next instruction is not reached."""

_IO = "uses a port of a device"
_SYSTEM = "changes how this processor works, for the whole kernel"
_MSR = "uses a register of the processor model"
_RETURN = "leaves ring 0 for wherever its operands point"
_CACHE = "acts on the caches or the TLB of the machine"
_GS = "changes %gs"

_RING0: Mapping[str, str] = {
    **dict.fromkeys(("cli", "sti"), "switches the interrupts of this processor"),
    **dict.fromkeys(("popf", "popfq", "popfw"), "writes IF, IOPL and AC as well"),
    **dict.fromkeys(("in", "inb", "inw", "inl", "insb", "insw", "insl",
                     "out", "outb", "outw", "outl", "outsb", "outsw", "outsl"), _IO),
    **dict.fromkeys(("rdmsr", "wrmsr", "wrmsrns", "rdmsrlist", "wrmsrlist", "rdpmc"), _MSR),
    **dict.fromkeys(("clts", "lmsw", "lgdt", "lidt", "lldt", "ltr", "xsetbv", "stac", "clac",
                     "setssbsy", "clrssbsy", "wrussd", "wrussq", "xrstors", "xrstors64",
                     "hreset", "pconfig"), _SYSTEM),
    **dict.fromkeys(("invd", "wbinvd", "wbnoinvd", "invlpg", "invlpga", "invlpgb", "invpcid",
                     "tlbsync"), _CACHE),
    **dict.fromkeys(("iret", "iretl", "iretq", "iretw", "sysret", "sysretl", "sysretq", "sysexit",
                     "sysexitl", "sysexitq", "lret", "lretl", "lretq", "lretw", "rsm", "eretu",
                     "erets"), _RETURN),
    **dict.fromkeys(("monitor", "mwait"), "waits for a write, and sleeps"),
    **dict.fromkeys(("vmlaunch", "vmresume", "vmxoff", "vmxon", "vmptrld", "vmptrst", "vmclear",
                     "vmread", "vmwrite", "vmrun", "vmload", "vmsave", "stgi", "clgi", "invept",
                     "invvpid", "skinit"), "belongs to a hypervisor"),
}  # fmt: skip
_OTHERS: Mapping[str, tuple[str, str]] = {
    "hlt": ("hlt", "stops the processor"),
    "syscall": ("syscall", ""),
    "sysenter": ("sysenter", ""),
    "swapgs": ("gs", _GS),
    "wrgsbase": ("gs", _GS),
    "lkgs": ("gs", _GS),
}
_CONTROL_REGISTER = re.compile(r"%(cr|db|dr)\d")
_LOADS_GS = re.compile(r"(mov\w* .*,%gs|pop\w* +%gs|lgs\w* .*)$")
_SUSPECT = re.compile(
    rf"^.*\t{_PREFIX}(?:(?:{'|'.join(map(re.escape, (*_RING0, *_OTHERS, 'lgs')))}|int +\$)\b"
    r"|.*%(?:gs|cr|db|dr)\d*).*$",
    re.MULTILINE,
)
"""The line of every instruction that matters here, and of some others."""
_FUNCTIONS = (abi.STT_FUNC, abi.STT_GNU_IFUNC)
_STORES_BELOW = re.compile(r"-0x([0-9a-f]+)\((%r[sb]p)\)$")
_ONLY_READS = re.compile(
    r"cmp|test|bt[lq]?$|push|call|jmp|i?div|i?mul|nop|prefetch|f(?!i?st|nst|bst)"
)
_MOVES = re.compile(r"(?:\$(-?0x[0-9a-f]+)|(-?0x[0-9a-f]+)\(%rsp\)),%rsp")


@dataclass(frozen=True, slots=True)
class Site:
    """An instruction that is to be looked at."""

    rule: str
    section: Section
    offset: int
    mnemonic: str
    what: str


def judge(mnemonic: str, operands: str) -> tuple[str, str] | None:
    """Return which rule an instruction breaks, and what it does."""
    if effect := _RING0.get(mnemonic):
        return "ring0", effect
    if other := _OTHERS.get(mnemonic):
        return other
    if mnemonic == "int":
        return "int", "calls a gate of the IDT"
    if "%gs:0x28" in operands:
        return "stack-protector", "reads the stack protector's canary at %gs:0x28"
    if "%gs:" in operands:
        return "gs", "reaches memory by %gs"
    if mnemonic.startswith("mov") and _CONTROL_REGISTER.search(operands):
        return "ring0", _SYSTEM
    if _LOADS_GS.fullmatch(f"{mnemonic} {operands}"):
        return "gs", _GS
    return None


def sites(objects: Sequence[tuple[bytes | memoryview, ObjectFile]]) -> Iterator[list[Site]]:
    """Find the instructions that matter here.

    :param objects: the bytes of each file, and what was read of it.
    :return: for each of them, what is in it.
    :raise UklError: ``tool-missing``, ``tool-failed``: objdump cannot disassemble one.
    """
    batch: list[tuple[bytes | memoryview, ObjectFile]] = []
    size = 0
    for one in objects:
        batch.append(one)
        size += len(one[0])
        if size > _BATCH:
            yield from _sites_of_batch(batch)
            batch, size = [], 0
    yield from _sites_of_batch(batch)


def _sites_of_batch(
    batch: Sequence[tuple[bytes | memoryview, ObjectFile]],
) -> Iterator[list[Site]]:
    texts: dict[int, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="ukl-lint-") as folder:
        files = []
        for number, (data, obj) in enumerate(batch):
            if _code_sections(obj):
                files.append(Path(folder) / f"{number}.o")
                files[-1].write_bytes(data)
        if files:
            said = proc.run([*_OBJDUMP, *files]).stdout
            parts = re.split(rf"^{re.escape(folder)}/(\d+)\.o: +file format .*$", said, flags=re.M)
            for name, text in zip(parts[1::2], parts[2::2], strict=True):
                texts[int(name)] = text.split("\nDisassembly of section ")[1:]
    for number, (_, obj) in enumerate(batch):
        sections, found = _code_sections(obj), texts.get(number, [])
        if len(found) != len(sections):
            raise UklError(
                "internal", "objdump shows other sections than there are", hint="report it"
            )
        yield [
            site
            for section, text in zip(sections, found, strict=True)
            for site in (*_instructions(obj, section, text), *_red_zone(obj, section, text))
        ]


def _code_sections(obj: ObjectFile) -> list[Section]:
    """Return the sections that ``objdump -d`` shows, in its order."""
    return [
        one
        for one in obj.sections
        if one.allocated and one.sh_flags & SHF.SHF_EXECINSTR and one.data
    ]


def _functions(obj: ObjectFile, section: Section) -> list[tuple[int, int]]:
    """Return where functions of a section begin and end."""
    found = {
        one.st_value: one.st_size
        for one in sorted(obj.symbols, key=lambda one: one.st_size)
        if one.section is section and one.st_type in _FUNCTIONS
    }
    starts = [*sorted(found), section.sh_size]
    return [
        (start, start + (found[start] or following - start))
        for start, following in pairwise(starts)
    ]


def _code(obj: ObjectFile, section: Section, text: str) -> list[tuple[int, int]]:
    """Return which parts of a section are code: functions, without what nothing can lead to.

    If nothing says what is a function, all is one.  Nothing leads to what stands behind a return or
    a jump, up to where a branch, a relocation or a global symbol leads.  Where an indirect jump or
    an exception may lead cannot be seen, so in such a function all is code.
    """
    functions = _functions(obj, section)
    entries = {
        one.st_value
        for one in obj.symbols
        if one.section is section and (one.st_bind != abi.STB_LOCAL or not functions)
    }
    for _, relocation in obj.all_relocations():
        if relocation.symbol.section is section:
            place = relocation.symbol.st_value + relocation.r_addend
            entries |= {place, place + 4}  # a branch counts from its end
    exceptions = any(one.name.startswith(".gcc_except_table") for one in obj.sections)
    rows = [(int(row[1], 16), row[3], row[4]) for row in _ROW.finditer(text)]
    bodies = [
        (start, end, [row for row in rows if start <= row[0] < end])
        for start, end in functions or [(0, section.sh_size)]
    ]
    while True:
        known = set(entries)
        parts: list[tuple[int, int]] = []
        for start, end, body in bodies:
            everything = exceptions or any(
                mnemonic.startswith("jmp") and operands[:1] == "*" for _, mnemonic, operands in body
            )
            begin: int | None = start
            for offset, mnemonic, operands in body:
                if begin is None and offset in entries:
                    begin = offset
                if begin is None:
                    continue
                if _BRANCHES.fullmatch(mnemonic) and (target := _TARGET.match(operands)):
                    entries.add(int(target[0], 16))
                if mnemonic in _ENDS and not everything:
                    parts.append((begin, offset + 1))
                    begin = None
            if begin is not None:
                parts.append((begin, end))
        if entries == known:
            return parts


def _instructions(obj: ObjectFile, section: Section, text: str) -> Iterator[Site]:
    code: list[tuple[int, int]] | None = None
    for line in _SUSPECT.finditer(text):
        row = _ROW.match(line[0])
        found = judge(row[3], row[4].strip()) if row else None
        if row is None or found is None:
            continue
        if code is None:
            code = _code(obj, section, text)
        offset = int(row[1], 16)
        rule, effect = found
        if not any(start <= offset < end for start, end in code):
            rule = "table"
        words = " ".join(row[2].split())
        yield Site(rule, section, offset, row[3], f"{words} {effect}".rstrip())


def _red_zone(obj: ObjectFile, section: Section, text: str) -> Iterator[Site]:
    """Yield calls of the gate in functions that keep something below their stack pointer.

    The psABI (3.2.2) gives a function the 128 bytes below its stack pointer, as long as it calls
    nothing.  Nothing in ring 0 takes them away: interrupts and exceptions leave the application's
    stack alone, signal frames spare them, and the ``syscall`` instruction writes no memory.  What
    does write there is a call that the compiler does not see: the one of a gate in inline
    assembly.  It pushes its return address, and the kernel's entry the flags below that.  What the
    kernel itself writes there afterwards, by a pointer that it was given, stays, so that functions
    that only read there (glibc's ____longjmp_chk) are right.
    """
    calls = [
        (one.r_offset - len(opcode), one.symbol.name)
        for one in section.relocations
        for opcode in (b"\xe8", b"\xff\x15")  # call, call *…@GOTPCREL(%rip)
        if GATE.fullmatch(one.symbol.name) and section.data[: one.r_offset].endswith(opcode)
    ]
    if not calls:
        return
    rows = [(int(row[1], 16), row[3], row[4]) for row in _ROW.finditer(text)]
    for start, end in _functions(obj, section) or [(0, section.sh_size)]:
        inside = [call for call in calls if start <= call[0] < end]
        if inside and _stores_below([row for row in rows if start <= row[0] < end]):
            call, gate = inside[0]
            what = f"calls {gate} while the function keeps something in its red zone"
            yield Site("red-zone", section, call, "call", what)


def _stores_below(rows: Sequence[tuple[int, str, str]]) -> bool:
    """Tell whether one of a function's instructions stores below the stack pointer.

    The frame only grows here, as if no epilogue were, so that nothing in it is taken for less.
    """
    frame: int | None = None  # bytes from the frame pointer down to the stack pointer
    for _, mnemonic, text in rows:
        operands = text.strip()
        if mnemonic == "mov" and operands == "%rsp,%rbp":
            frame = 0
        elif mnemonic == "and" and operands.endswith(",%rsp"):
            frame = None
        elif frame is not None and mnemonic == "push":
            frame += 8
        elif frame is not None and (moved := _MOVES.fullmatch(operands)):
            frame += max(0, int(moved[1] or moved[2], 16) * (1 if mnemonic == "sub" else -1))
        elif (below := _STORES_BELOW.search(operands)) and not _ONLY_READS.match(mnemonic):
            depth = int(below[1], 16)
            if below[2] == "%rsp" or (frame is not None and depth > frame):
                return True
    return False


def function_at(obj: ObjectFile, section: Section, offset: int) -> Symbol | None:
    """Return the function or variable around a place; the label before it if there is none."""
    before = [
        one for one in obj.symbols if one.section is section and one.name and one.st_value <= offset
    ]
    around = [
        one
        for one in before
        if one.st_type != abi.STT_NOTYPE
        and (not one.st_size or offset < one.st_value + one.st_size)
    ]
    labels = [one for one in before if one.st_type == abi.STT_NOTYPE]
    return max(around or labels, key=lambda one: one.st_value, default=None)
