# SPDX-License-Identifier: Apache-2.0
"""What an application in ring 0 may not hold, and what is good to know: one home for each rule.

The passes of this package refuse what breaks a rule; :mod:`ukl_build.lint` looks for the same, and
for more, in every input of a link.  docs/ukl-lint.md explains each rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ukl_build.elf.model import Section, Symbol, where
from ukl_build.errors import UklError


class Severity(StrEnum):
    """What a finding means for the build."""

    ERROR = "error"
    """It stops the link: the program could not be linked or would misbehave."""
    WARNING = "warning"
    """The program may do something to the machine that it does not as an ordinary one."""
    NOTE = "note"
    """True and harmless."""


@dataclass(frozen=True)
class Rule:
    """A rule; its name is its key in :data:`RULES`."""

    severity: Severity
    why: str
    """Why it matters in ring 0."""
    do: str
    """What to do."""
    error: str = ""
    """Code of the :class:`UklError` with which a pass refuses it; empty if none does."""


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: Mapping[str, Rule] = {
    # --- Files
    "format": Rule(
        _E,
        "the link takes x86-64 object files and archives of them",
        "give an object file (gcc -c), the output of ld -r, or an archive (ar)",
        "elf-format",
    ),
    "machine": Rule(
        _E,
        "the kernel is x86-64, and so is all that is linked into it",
        "compile for x86-64 (gcc -m64)",
    ),
    "linked": Rule(
        _E,
        "a linked file cannot be linked again",
        "give the object files or the static archive that it was made of",
    ),
    "linker-script": Rule(
        _E,
        "it only names other files",
        "give the archives that it names",
    ),
    "index": Rule(
        _E,
        "the linker finds members by the archive's symbol index",
        "make one: ranlib FILE",
    ),
    "lto": Rule(
        _E,
        "only the compiler's linker plugin understands LTO bytecode, the kernel's link does not",
        "compile without -flto, or with -ffat-lto-objects",
        "elf-section",
    ),
    # --- How code and data reach things
    "code-model": Rule(
        _E,
        "the application is in the kernel half: addresses are 64 bits, or 32 with a sign",
        "compile with -mcmodel=kernel (or as position-independent code); of gcc's own files take"
        " crtbeginS.o and crtendS.o, not crtbeginT.o",
        "elf-relocation",
    ),
    "large-model": Rule(
        _E,
        "code of the medium or large model counts from the address of the GOT, and there is no GOT"
        " in the kernel",
        "compile with -mcmodel=kernel",
        "elf-relocation",
    ),
    "large-data": Rule(
        _E,
        "it is meant to be further away than 2 GiB, which is all that the kernel half has",
        "compile with -mcmodel=kernel",
        "elf-section",
    ),
    "relocation": Rule(
        _E,
        "the kernel's link and KASLR would not do what is meant",
        "compile for the kernel code model: -mcmodel=kernel -fno-pic",
        "elf-relocation",
    ),
    "fixed-address": Rule(
        _E,
        "KASLR moves the code, and the symbol is a number that stays",
        "define the symbol as code or data, or compile with -mcmodel=kernel -fno-pic",
        "elf-relocation",
    ),
    "tls-sequence": Rule(
        _E,
        "dynamic TLS accesses become local-exec ones, and only the sequences of the TLS ABI can",
        "compile instead of writing it by hand; the sequence is fixed by the TLS ABI",
        "elf-relocation",
    ),
    "tls-mismatch": Rule(
        _E,
        "an offset in the TLS block is no address, and an address no offset",
        "declare the variable alike everywhere (__thread)",
        "elf-relocation",
    ),
    "tls": Rule(
        _N,
        "the application is one program with one TLS block, so that every access is local-exec",
        "nothing to do: the archive stage changes the instructions",
    ),
    # --- Sections
    "exec-stack": Rule(
        _E,
        "ring 0 never executes user memory (SMEP)",
        "avoid nested functions whose address is taken; assembler sources need"
        ' .section .note.GNU-stack,"",@progbits',
        "elf-section",
    ),
    "writable-code": Rule(
        _E,
        "no page of the kernel is writable and executable",
        "put code and data into different sections",
        "elf-section",
    ),
    "constructors": Rule(
        _E,
        "nothing calls constructors that are not in .init_array",
        "compile with a gcc that uses .init_array (4.7 and later)",
        "elf-section",
    ),
    "alignment": Rule(
        _E,
        "the kernel moves in steps of 2 MiB, more cannot be kept",
        "ask for no more than 2 MiB",
        "elf-section",
    ),
    "section": Rule(
        _E,
        "the kernel's image has no place for it as it is",
        "change the section's name, flags or contents",
        "elf-section",
    ),
    "unwind-table": Rule(
        _E,
        "what follows is lost to the unwinder, and an exception through it ends the program",
        "link crtendS.o last, and every object only once",
        "elf-section",
    ),
    "size": Rule(
        _E,
        "the kernel image, application included, must fit into 1 GiB and leave room for KASLR",
        "allocate large tables at run time (mmap) instead of statically",
        "elf-size",
    ),
    # --- Instructions
    "gs": Rule(
        _E,
        "in ring 0 it is the base of the kernel's per-CPU data",
        "keep thread-local data at %fs (__thread)",
    ),
    "stack-protector": Rule(
        _E,
        "-mcmodel=kernel moves the canary there, and that is the kernel's per-CPU data",
        "compile with -fno-stack-protector, or -mstack-protector-guard-reg=fs"
        " -mstack-protector-guard-offset=40",
    ),
    "int": Rule(
        _E,
        "ring 0 passes every gate of the IDT: the handler of a device or of an exception runs; no"
        " 32-bit system call is behind any",
        "use the C library, ukl_syscall or the syscall instruction",
    ),
    "sysenter": Rule(
        _E,
        "it is the way of 32-bit programs into the kernel, and this kernel has none: SIGSEGV",
        "use the C library, ukl_syscall or the syscall instruction",
    ),
    "ring0": Rule(
        _W,
        "ring 3 gets SIGSEGV for it or sees no effect, ring 0 does it",
        "make sure that it is never reached, or leave it out",
    ),
    "hlt": Rule(
        _N,
        "ring 3 gets SIGSEGV for it; here the processor sleeps until an interrupt and goes on",
        "nothing to do behind a call that never returns; __builtin_trap() would end the program",
    ),
    "syscall": Rule(
        _N,
        "it works, by a way into the kernel that is longer than a call",
        "nothing to do, or call ukl_syscall where it is hot",
    ),
    "table": Rule(
        _N,
        "no control flow that can be seen leads there, so it is probably a table",
        "nothing to do if it is one",
    ),
    "red-zone": Rule(
        _E,
        "the call into the kernel writes its return address and the flags into the 16 bytes below"
        " the stack pointer",
        "compile with -mno-red-zone",
    ),
    "cet": Rule(
        _N,
        "nothing of it is in effect: this kernel has neither IBT nor shadow stacks, the mark is"
        " dropped, endbr64 does nothing",
        "nothing to do; -fcf-protection=none would save the space",
    ),
    # --- Symbols
    "no-entry": Rule(
        _E,
        "the program would have no beginning",
        "link the C library's crt1.o first (a recipe has it unless it says libc = false), or define"
        " the entry point as samples/tcp_server does",
        "elf-symbol",
    ),
    "no-main": Rule(
        _E,
        "crt1.o calls it",
        "add the object that defines main, or link without crt1.o if the program has a _start of"
        " its own",
    ),
    "undefined": Rule(
        _E,
        "nothing that is linked defines it, and the kernel's own names are not the application's",
        "add the missing object or library to the application's link",
        "elf-undefined",
    ),
    "undefined-weak": Rule(
        _E,
        "it would silently be 0",
        "link what defines it, or list the weak name with the reason why it may be 0, under"
        " [zero] in the recipe",
        "elf-undefined",
    ),
    "needs": Rule(
        _N,
        "these files alone are no program",
        "link what defines it as well",
    ),
    "duplicate": Rule(
        _E,
        "a program has one definition of each name",
        "take one of the two out, make one static or weak",
    ),
    "gate": Rule(
        _E,
        "the kernel defines it as well",
        "declare it weak, so that the kernel's definition takes its place",
        "elf-symbol",
    ),
    "ifunc": Rule(
        _E,
        "nothing in the application applies IRELATIVE relocations",
        "link a C library whose start code does (glibc), or do without the attribute",
        "elf-symbol",
    ),
}
"""All rules, by the code that a finding shows."""


class RuleError(UklError):
    """An object breaks a rule."""

    def __init__(
        self,
        rule: str,
        what: str,
        *,
        section: Section | None = None,
        offset: int | None = None,
        symbols: list[Symbol] | None = None,
        why: str = "",
        do: str = "",
        detail: str = "",
    ) -> None:
        """Say what is wrong.

        :param what: without the place.
        :param section: where it is, and ``offset`` where in it.
        :param symbols: of the object, to name the function around the place.
        :param why: in place of the rule's; ``do`` as well.
        """
        found = RULES[rule]
        self.rule = rule
        self.what = what
        self.section = section
        self.offset = offset
        self.why = why or found.why
        self.do = do or found.do
        place = ""
        if section is not None and offset is not None:
            place = f", at {where(section, offset, symbols or [])}"
        super().__init__(found.error, what + place, hint=f"{self.why}: {self.do}", detail=detail)


Report = Callable[[RuleError], object]
"""What a pass does with a refusal.  If it returns, the pass goes on as if nothing had been there,
so that the next one can be found."""


def stop(refusal: RuleError) -> None:
    """Refuse the object."""
    raise refusal
