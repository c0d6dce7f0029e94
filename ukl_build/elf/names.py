# SPDX-License-Identifier: Apache-2.0
"""Symbol names: which stay as they are, which come from outside, which are zero.

The application and the kernel are one link.  Every symbol of the application, local ones too (they
show in kallsyms, in stack traces and in the debugger), gets :data:`PREFIX`; the tables under
linker/ name the exceptions, each with its reason.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ukl_build.elf import abi
from ukl_build.elf.model import ObjectFile, Section, Symbol, where
from ukl_build.elf.rules import Report, RuleError, stop
from ukl_build.errors import UklError

LINKER = Path(__file__).resolve().parents[2] / "linker"
UNPREFIXED = LINKER / "unprefixed.toml"
PROVIDED = LINKER / "provided.toml"

PREFIX = "ukl."
"""In front of every symbol of the application.  No C identifier holds a dot, so no symbol that a
kernel source can define ever begins like this, whatever is added to the kernel later."""

ENTRY = "_start"
"""The application's entry point, before the prefix."""
NO_ENTRY = f"the application has no global function {ENTRY}"


@dataclass(frozen=True)
class Tables:
    """What linker/unprefixed.toml and linker/provided.toml say."""

    unprefixed: tuple[str, ...]
    """Patterns (fnmatch) of names that stay as they are: the application and the kernel mean the
    same thing."""
    provided: frozenset[str]
    """Names the application may leave undefined, because the kernel's linker script defines them
    (with the prefix, unless they are unprefixed as well)."""
    zero: tuple[str, ...]
    """Patterns (fnmatch) of weak names that are 0 when nothing defines them."""

    def shared(self, name: str) -> bool:
        """Tell whether a name is the same in the application and in vmlinux."""
        return any(fnmatchcase(name, pattern) for pattern in self.unprefixed)


def load_tables(
    unprefixed: Path, provided: Path, *, zero: Mapping[str, str] | None = None
) -> Tables:
    """Read the two tables.

    :param zero: more weak names that may be 0, each with its reason: a recipe's.
    :raise UklError: ``linker-table`` for a file that is not as the existing ones are.
    """
    first = _groups(unprefixed, ("unprefixed",))
    second = _groups(provided, ("provided", "zero"))
    for name, reason in (zero or {}).items():
        if not reason.strip():
            raise UklError(
                "linker-table",
                f"the weak name {name} is allowed to be 0 without a reason",
                hint="say why the application does without it",
            )
    return Tables(
        tuple(first["unprefixed"]),
        frozenset(second["provided"]),
        (*second["zero"], *(zero or ())),
    )


def _groups(path: Path, kinds: tuple[str, ...]) -> dict[str, list[str]]:
    def refuse(what: str) -> UklError:
        return UklError(
            "linker-table",
            f"{path} {what}",
            hint=f"write [[{kinds[0]}]] groups, each with names = […] and reason = '…'",
        )

    try:
        document: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise refuse(f"cannot be read: {error}") from error
    if unknown := sorted(set(document) - set(kinds)):
        raise refuse(f"has a group {unknown[0]!r}")
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    seen: set[str] = set()
    for kind in kinds:
        groups = document.get(kind, [])
        if not isinstance(groups, list):
            raise refuse(f"has {kind} as something else than groups")
        for group in groups:
            if not isinstance(group, dict) or set(group) != {"names", "reason"}:
                raise refuse(f"has a {kind} group without exactly names and reason")
            names, reason = group["names"], group["reason"]
            if not isinstance(reason, str) or not reason.strip():
                raise refuse(f"has a {kind} group without a reason")
            if not isinstance(names, list) or not names:
                raise refuse(f"has a {kind} group without names")
            for name in names:
                if not isinstance(name, str) or not name:
                    raise refuse(f"has {name!r} as a name")
                if name in seen:
                    raise refuse(f"names {name} twice")
                seen.add(name)
                found[kind].append(name)
    return found


def drop_unreferenced(obj: ObjectFile) -> None:
    """Remove undefined symbols that no relocation names.

    The assembler makes such ones (``_GLOBAL_OFFSET_TABLE_`` for every use of the GOT); left in,
    they would ask the kernel for a definition that nobody needs.
    """
    used = obj.referenced()
    obj.symbols = [one for one in obj.symbols if not one.undefined or id(one) in used]


def settle_undefined(obj: ObjectFile, tables: Tables) -> tuple[str, ...]:
    """Decide about every undefined symbol; afterwards only provided ones are left undefined.

    A weak name that may be 0 becomes an absolute symbol of value 0, as the gABI ("Symbol Binding")
    has it for unresolved weak symbols.  ``__start_X`` and ``__stop_X`` of a section that the
    application does not have are such ones as well.  ld would make any other weak name 0 too, and
    silently: prefixed, names that the linker itself provides are no longer known to it.

    :return: the names that became 0.
    :raise UklError: ``elf-undefined``, naming all the others with one place that uses each.
    """
    drop_unreferenced(obj)
    zeroed: list[str] = []
    missing: list[Symbol] = []
    for symbol in obj.symbols:
        if not symbol.undefined or symbol.name in tables.provided:
            continue
        if may_be_zero(symbol, tables):
            make_number(symbol, 0)
            zeroed.append(symbol.name)
        else:
            missing.append(symbol)
    if missing:
        raise _undefined(obj, missing)
    return tuple(sorted(zeroed))


def may_be_zero(symbol: Symbol, tables: Tables) -> bool:
    """Tell whether an undefined symbol is 0 if nothing defines it, and rightly so."""
    return symbol.st_bind == abi.STB_WEAK and (
        symbol.name.startswith(("__start_", "__stop_"))
        or any(fnmatchcase(symbol.name, pattern) for pattern in tables.zero)
    )


def make_number(symbol: Symbol, value: int) -> None:
    """Make an undefined symbol an absolute one, for :func:`ukl_build.elf.access.fold_constants`."""
    symbol.st_bind = abi.STB_LOCAL
    symbol.st_shndx = abi.SHN_ABS
    symbol.st_value = value


def _undefined(obj: ObjectFile, missing: list[Symbol]) -> RuleError:
    users: dict[int, tuple[Section, int]] = {}
    for section, relocation in obj.all_relocations():
        users.setdefault(id(relocation.symbol), (section, relocation.r_offset))
    lines = []
    for symbol in sorted(missing, key=lambda one: one.name):
        section, offset = users[id(symbol)]
        weak = "weak, " if symbol.st_bind == abi.STB_WEAK else ""
        lines.append(f"{symbol.name} ({weak}used at {where(section, offset, obj.symbols)})")
    count = f"{len(missing)} symbols are" if len(missing) > 1 else f"{missing[0].name} is"
    weak_only = all(symbol.st_bind == abi.STB_WEAK for symbol in missing)
    rule = "undefined-weak" if weak_only else "undefined"
    return RuleError(rule, f"{count} not defined", detail="\n".join(lines))


def is_entry(symbol: Symbol) -> bool:
    """Tell whether a symbol could be the entry point: a global one in executable memory."""
    section = symbol.section
    return (
        symbol.st_bind == abi.STB_GLOBAL
        and section is not None
        and bool(section.sh_flags & abi.SHF.SHF_EXECINSTR)
    )


def check_entry(obj: ObjectFile) -> None:
    """Require the entry point.

    :raise UklError: ``elf-symbol`` if ``_start`` is not a global symbol in executable memory.
    """
    if not any(one.name == ENTRY and is_entry(one) for one in obj.symbols):
        raise RuleError("no-entry", NO_ENTRY)


def check_unprefixed(obj: ObjectFile, tables: Tables, report: Report = stop) -> None:
    """Require that the application leaves the last word on shared names to the kernel.

    :raise UklError: ``elf-symbol`` if it defines an unprefixed name other than weakly: the link of
        vmlinux would find two definitions and name neither reason.
    """
    for symbol in obj.symbols:
        if (
            symbol.st_bind not in (abi.STB_WEAK, abi.STB_LOCAL)
            and not symbol.undefined
            and tables.shared(symbol.name)
        ):
            report(
                RuleError(
                    "gate",
                    f"the application defines {symbol.name}",
                    section=symbol.section,
                    offset=symbol.st_value,
                )
            )


def prefixed(name: str, tables: Tables) -> str:
    """Return the name a symbol of the application has in vmlinux."""
    return name if tables.shared(name) else PREFIX + name


def prefix_symbols(symbols: Iterable[Symbol], tables: Tables) -> None:
    """Put the prefix before every symbol that the tables do not except.

    Symbols of sections have no name, those of files (STT_FILE) are names of sources, not of
    anything that is linked: both stay.
    """
    for symbol in symbols:
        if symbol.st_type in (abi.STT_SECTION, abi.STT_FILE):
            continue
        if symbol.st_bind == abi.STB_LOCAL:
            # Seen by nobody else, whatever it is called.
            symbol.name = PREFIX + symbol.name
        else:
            symbol.name = prefixed(symbol.name, tables)
