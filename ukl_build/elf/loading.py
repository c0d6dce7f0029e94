# SPDX-License-Identifier: Apache-2.0
"""What programs, libraries and kernel modules need to be loaded, by what they say themselves.

gABI, chapter 5, "Dynamic Linking"; ld.so(8) for the folders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from ukl_build.errors import UklError


@dataclass(frozen=True)
class Dynamic:
    """What a program or a shared library asks of the dynamic linker."""

    interpreter: str | None
    """Path of the dynamic linker; a library has none, a static program neither."""
    needed: tuple[str, ...]
    """Names of libraries (DT_NEEDED)."""
    folders: tuple[str, ...]
    """Where they are looked for first (DT_RUNPATH, or else DT_RPATH)."""


def dynamic(path: Path) -> Dynamic:
    """Read what a program or a shared library needs.

    :raise UklError: ``elf-format`` if it is neither, for x86-64.
    :raise OSError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            if elf["e_machine"] != "EM_X86_64" or elf["e_type"] not in ("ET_EXEC", "ET_DYN"):
                raise ELFError("of another type or machine")
            interpreter = None
            for segment in elf.iter_segments():
                if isinstance(segment, InterpSegment):
                    interpreter = segment.get_interp_name()
            sections = [one for one in elf.iter_sections() if isinstance(one, DynamicSection)]
            tags: list[Any] = [tag for section in sections for tag in section.iter_tags()]
            needed = tuple(tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED")
            runpath = [tag.runpath for tag in tags if tag.entry.d_tag == "DT_RUNPATH"]
            rpath = [tag.rpath for tag in tags if tag.entry.d_tag == "DT_RPATH"]
    except (ELFError, ValueError) as error:
        raise UklError(
            "elf-format",
            f"{path} is neither a program nor a shared library of x86-64: {error}",
            hint="name the program itself, not a script that starts it",
        ) from error
    folders = tuple(folder for text in runpath or rpath for folder in text.split(":") if folder)
    return Dynamic(interpreter, needed, folders)


def needed_modules(path: Path) -> tuple[str, ...]:
    """Return the names of the modules that a kernel module needs (``depends=`` of .modinfo).

    :raise UklError: ``elf-format`` if it is no kernel module.
    :raise OSError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            section = ELFFile(file).get_section_by_name(".modinfo")
            if section is None:
                raise ELFError("it has no .modinfo")
            texts = bytes(section.data()).split(b"\0")
    except (ELFError, ValueError) as error:
        raise UklError(
            "elf-format",
            f"{path} is no kernel module: {error}",
            hint="fetch the package again, or take that of a kernel that does not pack its modules",
        ) from error
    names = [text.removeprefix(b"depends=") for text in texts if text.startswith(b"depends=")]
    return tuple(name.decode() for text in names for name in text.split(b",") if name)
