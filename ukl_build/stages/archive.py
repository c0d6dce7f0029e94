# SPDX-License-Identifier: Apache-2.0
"""From the application's objects to UKL.a.

:func:`link_application` makes one relocatable object of the application and its libraries,
:func:`make_archive` turns it into the archive that the contract in docs/design.md describes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ukl_build import files, proc
from ukl_build.elf import access, contract, layout, names, unwind
from ukl_build.elf.access import Counts
from ukl_build.elf.names import PROVIDED, UNPREFIXED
from ukl_build.elf.reader import read_object
from ukl_build.elf.writer import encode, replace_file

MEMBER = "app.o"
"""The one member of the archive."""


@dataclass(frozen=True)
class Archive:
    """What went into an archive; for the manifest."""

    path: Path
    sections: Mapping[str, int]
    """Allocated sections and their sizes, in the order of the file."""
    symbols: int
    undefined: tuple[str, ...]
    """Names the kernel's linker script must define, as it must write them."""
    zeroed: tuple[str, ...]
    """Weak names of the application that nothing defines."""
    dropped: tuple[str, ...]
    """Sections of the application that are not in the kernel."""
    counts: Counts


def link_application(
    objects: Sequence[Path],
    out: Path,
    *,
    link_map: Path | None = None,
    before: Sequence[Path] = (),
    libraries: Sequence[Path] = (),
    after: Sequence[Path] = (),
    log: Path | None = None,
) -> None:
    """Link the application partially: ``ld -r``, in the order of an ordinary static link.

    :param link_map: where ld's map of it goes, which tells what of each file is in it.
    :param before: start files: crt1.o, crti.o, crtbeginS.o (crtbeginT.o does not fit the kernel
        half).
    :param libraries: archives, searched until nothing new is found (``--start-group``).
    :param after: end files: crtendS.o, crtn.o.
    :raise UklError: ``tool-failed`` if ld refuses, with its words.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    group: list[str | Path] = ["--start-group", *libraries, "--end-group"]
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        linked, mapped = Path(folder) / out.name, Path(folder) / "map"
        proc.run(
            [
                "ld",
                "-r",
                "-m",
                "elf_x86_64",
                "-d",  # common symbols get their place
                # Section groups are resolved as in a final link, not handed on.
                "--force-group-allocation",
                "--compress-debug-sections=none",
                "--build-id=none",
                f"-Map={mapped}",
                "-o",
                linked,
                *before,
                *objects,
                *group,
                *after,
            ],
            log=log,
            hint="ld names the object at fault; the application's own build must link first",
        )
        if link_map is not None:
            # Its last line names the output, in a folder of a moment.
            text = mapped.read_text(encoding="utf-8").replace(str(linked), str(out))
            files.write(link_map, text)
        linked.replace(out)


def link_program(app_o: Path, out: Path, stripped: Path, *, log: Path | None = None) -> None:
    """Make an ordinary static program of the application's one object, and of nothing else.

    What the kernel replaces in ring 0 is weak there, so that it is whole by itself.

    :param out: the program, with its symbols.
    :param stripped: the same without them.
    :raise UklError: ``tool-failed``.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        linked, small = Path(folder) / "linked", Path(folder) / "stripped"
        proc.run(
            [
                "ld",
                "-static",
                "-m",
                "elf_x86_64",
                "-z",
                "noexecstack",
                # Unwinders find the tables by their header.
                "--eh-frame-hdr",
                "--build-id=none",
                "-o",
                linked,
                app_o,
            ],
            log=log,
            hint="report it: what is linked into a kernel must be a program by itself",
        )
        proc.run(["strip", "-o", small, linked], log=log)
        linked.replace(out)
        small.replace(stripped)


def make_archive(
    app_o: Path,
    out: Path,
    *,
    unprefixed: Path = UNPREFIXED,
    provided: Path = PROVIDED,
    zero: Mapping[str, str] | None = None,
) -> Archive:
    """Turn the application's one object into the archive that the kernel links.

    :param zero: weak names of this application that may be 0, each with its reason.
    :raise UklError: ``elf-format``, ``elf-section``, ``elf-relocation``, ``elf-undefined``,
        ``elf-symbol``, ``elf-size``: the application cannot be linked into the kernel, and why;
        ``linker-table``: a table is damaged; ``elf-contract``: the result is not as it must be.
    """
    tables = names.load_tables(unprefixed, provided, zero=zero)
    obj = read_object(app_o)

    dropped = layout.select_sections(obj)
    names.check_entry(obj)
    names.check_unprefixed(obj, tables)
    layout.allot_commons(obj)
    names.drop_unreferenced(obj)
    ifuncs = access.make_ifunc_stubs(obj)
    layout.define_bounds(obj)
    relaxed = access.relax_tls(obj)
    zeroed = names.settle_undefined(obj, tables)
    relaxed += access.relax_got(obj)
    got_slots, tls_slots = access.make_got_slots(obj)
    constants = access.fold_constants(obj)
    names.drop_unreferenced(obj)
    access.check_relocations(obj)
    layout.gather_sections(obj)
    functions = unwind.make_eh_frame_hdr(obj)
    names.prefix_symbols(obj.symbols, tables)

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        member = Path(folder) / MEMBER
        replace_file(member, encode(obj))
        # A second reading, by another library: what is on disk, not what was meant.
        contract.check_archive_member(member, tables)
        archive = Path(folder) / out.name
        # D: no dates, no owners.  The same application gives the same archive.
        proc.run(["ar", "rcsD", archive, member])
        archive.replace(out)
    return Archive(
        path=out,
        sections={one.name: one.sh_size for one in obj.sections if one.allocated},
        symbols=len(obj.symbols),
        undefined=tuple(sorted(one.name for one in obj.symbols if one.undefined)),
        zeroed=zeroed,
        dropped=dropped,
        counts=Counts(got_slots, tls_slots, ifuncs, relaxed, constants, functions),
    )
