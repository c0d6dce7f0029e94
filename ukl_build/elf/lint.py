# SPDX-License-Identifier: Apache-2.0
"""Instructions that mean something else in ring 0.

In ring 3 a privileged instruction ends in SIGSEGV, so a program that holds one never reaches it, or
catches the signal.  In ring 0 the processor does what it says.  And %gs, which user space hardly
uses, is the kernel's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ukl_build import proc

_OBJDUMP = ("objdump", "-d", "-w", "-z", "--no-show-raw-insn", "-M", "att")
_FUNCTION = re.compile(r"[0-9a-f]+ <(.+)>:")
_INSTRUCTION = re.compile(r" *([0-9a-f]+):\t(.+)")
_PREFIXES = frozenset(
    ("addr32", "bnd", "cs", "data16", "ds", "es", "fs", "gs", "lock", "notrack", "rep", "repe",
     "repne", "repnz", "repz", "ss", "xacquire", "xrelease")
)  # fmt: skip


class Severity(StrEnum):
    """What a finding asks for."""

    ERROR = "error"
    """The program is compiled wrongly for the kernel and will misbehave."""
    WARNING = "warning"
    """The instruction does something to the machine, if it is ever reached."""


@dataclass(frozen=True)
class Finding:
    """An instruction that is to be looked at."""

    severity: Severity
    function: str
    section: str
    offset: int
    instruction: str
    effect: str
    """What it does in ring 0, and what to do about it."""

    def __str__(self) -> str:
        place = f"{self.function} ({self.section}+{self.offset:#x})"
        return f"{self.severity}: {self.instruction} in {place}: {self.effect}"


_IO = "reads or writes a device's port; in ring 3 it is SIGSEGV unless ioperm allowed it"
_SYSTEM = "changes how this processor works, for the whole kernel"
_MSR = "reads or writes a register of the processor model"
_RETURN = "leaves ring 0 for wherever its operands point"
_INTERRUPTS = "switches interrupts on this processor"
_CACHE = "acts on the caches or TLB of the whole machine"

_MNEMONICS: dict[str, str] = {
    "hlt": "stops the processor until the next interrupt instead of raising SIGSEGV; harmless"
    " where it only stands behind a call that never returns",
    **dict.fromkeys(("cli", "sti"), _INTERRUPTS),
    **dict.fromkeys(("popf", "popfq", "popfw"), "writes IF and IOPL too; the kernel's way back to"
                    " the application corrects them only at the next entry"),
    **dict.fromkeys(("in", "inb", "inw", "inl", "insb", "insw", "insl",
                     "out", "outb", "outw", "outl", "outsb", "outsw", "outsl"), _IO),
    **dict.fromkeys(("rdmsr", "wrmsr", "rdpmc"), _MSR),
    **dict.fromkeys(("swapgs", "wrgsbase"), "takes the kernel's per-CPU data away"),
    **dict.fromkeys(("clts", "lmsw", "lgdt", "lidt", "lldt", "ltr", "xsetbv", "stac", "clac",
                     "setssbsy", "wrss", "wrssd", "wrssq"), _SYSTEM),
    **dict.fromkeys(("invd", "wbinvd", "wbnoinvd", "invlpg", "invlpga", "invpcid"), _CACHE),
    **dict.fromkeys(("iret", "iretl", "iretq", "iretw", "sysret", "sysretl", "sysretq", "sysexit",
                     "sysexitl", "sysexitq", "lret", "lretl", "lretq", "rsm", "eretu", "erets",
                     "uiret"), _RETURN),
    **dict.fromkeys(("sysenter",), "enters the kernel as a 32-bit program would, from ring 0"),
    **dict.fromkeys(("monitor", "mwait", "monitorx", "mwaitx"), "waits for a write, and sleeps"),
    **dict.fromkeys(("vmlaunch", "vmresume", "vmxoff", "vmxon", "vmptrld", "vmclear", "vmrun",
                     "vmload", "vmsave", "stgi", "clgi"), "belongs to a hypervisor"),
}  # fmt: skip
_CONTROL_REGISTER = re.compile(r"%(cr|db|dr)\d")
_LOADS_GS = re.compile(r"(mov\w* .*,%gs|pop\w* +%gs|lgs\w* .*)$")


def lint_object(path: Path) -> tuple[Finding, ...]:
    """Find instructions of an object that act in ring 0 where they would trap in ring 3.

    Data between functions is disassembled like code and may look like such an instruction.

    :raise UklError: ``tool-missing``, ``tool-failed``: objdump cannot disassemble the file.
    """
    found = []
    function = section = ""
    for line in proc.run([*_OBJDUMP, path]).stdout.splitlines():
        if match := _INSTRUCTION.match(line):
            instruction = " ".join(match[2].split("#")[0].split())
            if judged := _judge(instruction):
                severity, effect = judged
                found.append(
                    Finding(severity, function, section, int(match[1], 16), instruction, effect)
                )
        elif match := _FUNCTION.fullmatch(line):
            function = match[1]
        elif line.startswith("Disassembly of section "):
            section = line.removeprefix("Disassembly of section ").rstrip(":")
    return tuple(found)


def _judge(instruction: str) -> tuple[Severity, str] | None:
    """Return what is wrong with an instruction."""
    words = instruction.split()
    while words and (words[0] in _PREFIXES or words[0].startswith("rex")):
        del words[0]
    if not words:
        return None
    if effect := _MNEMONICS.get(words[0]):
        return Severity.WARNING, effect
    operands = "".join(words[1:])
    if "%gs:" in operands:
        return (
            Severity.ERROR,
            "reaches the kernel's per-CPU data, not the thread's; a stack protector under"
            " -mcmodel=kernel needs -mstack-protector-guard-reg=fs"
            " -mstack-protector-guard-offset=40, or -fno-stack-protector",
        )
    if words[0].startswith("mov") and _CONTROL_REGISTER.search(operands):
        return Severity.WARNING, _SYSTEM
    if _LOADS_GS.fullmatch(" ".join(words)):
        return Severity.WARNING, "takes the kernel's per-CPU data away"
    return None
