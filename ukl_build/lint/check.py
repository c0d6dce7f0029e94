# SPDX-License-Identifier: Apache-2.0
"""The lint: reads what is given, finds out what goes in, and looks at all of that."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache

from ukl_build import proc
from ukl_build.elf import abi, access, layout, names, unwind
from ukl_build.elf.model import ObjectFile, Section, Symbol
from ukl_build.elf.names import ENTRY, Tables
from ukl_build.elf.reader import parse_object
from ukl_build.elf.rules import RULES, RuleError
from ukl_build.errors import UklError
from ukl_build.lint import inputs, libraries
from ukl_build.lint.code import GATE, Site, function_at, sites
from ukl_build.lint.findings import Finding, Report, finding
from ukl_build.lint.inputs import Inputs, Unit
from ukl_build.lint.symbols import Definition, Loaded, Names, resolve

MAIN = "main"
_IFUNC_BOUND = "__rela_iplt_start"
_NO_GATE = (
    "define it weakly as `syscall; ret`, as samples/tcp_server/start.S and the rebuilt C library do"
)
"""What to do about a gate that is not defined."""
_SHOWN = 3
"""Names of one archive, or archives that have one name, that a finding shows."""

_NOTE = struct.Struct("<III")
_GNU_PROPERTY = ".note.gnu.property"
_NT_GNU_PROPERTY_TYPE_0 = 5
_GNU_PROPERTY_X86_FEATURE_1_AND = 0xC0000002
_CET = {1: "IBT", 2: "SHSTK"}
"""Bits of that property: psABI, "Program Property"."""


def lint(found: Inputs, tables: Tables, *, program: bool) -> Report:
    """Look at files.

    :param program: they are the link of a whole program: of archives only the members that the
        others need go in, and a name that nothing defines is an error.  Otherwise each member is
        looked at, and such a name is a note.
    :raise UklError: ``tool-missing`` or ``tool-failed`` if a tool of the host does not work.
    """
    return _Lint(tables, program, Names(whole=program)).run(found)


@dataclass
class _Lint:
    tables: Tables
    program: bool
    globals: Names
    findings: list[Finding] = field(default_factory=list)
    libraries: libraries.Libraries = field(default_factory=libraries.Libraries)

    def run(self, found: Inputs) -> Report:
        self.findings += found.findings
        for unit in found.objects if self.program else found.units():
            obj = self._read(unit)
            if obj is not None:
                self.globals.add(Loaded(unit, obj))
        if self.program:
            resolve(self.globals, found.archives, self._read)
        self._look_at_code()
        self._look_at_marks()
        if self.program:
            self._look_at_program()
        # From here on the objects are changed, as they will be in the archive.
        relaxed: Counter[str] = Counter()
        for loaded in self.globals.loaded:
            self._settle(loaded)
            relaxed[loaded.unit.file] += self._look_at_object(loaded)
        for file, count in relaxed.items():
            if count:
                what = f"has {count} TLS accesses of other models than local-exec"
                self.findings.append(finding("tls", file, what, count=count))
        if self.program:
            self._look_at_size()
        self._look_at_undefined()
        return Report.of(self.findings, program=self.program, units=len(self.globals.loaded))

    # --- Reading

    def _read(self, unit: Unit) -> ObjectFile | None:
        try:
            return parse_object(unit.data, unit.name)
        except UklError as error:
            damage = error.message.removeprefix(f"{unit.name} ")
            self.findings.append(inputs.problem(unit, damage))
            return None

    # --- Code

    def _look_at_code(self) -> None:
        found = sites([(one.unit.data, one.obj) for one in self.globals.loaded])
        for loaded, places in zip(self.globals.loaded, found, strict=True):
            kinds: dict[tuple[str, str, str], list[Site]] = {}
            for site in places:
                if id(site.section) not in loaded.discarded:
                    function = function_at(loaded.obj, site.section, site.offset)
                    if site.rule == "syscall" and function and _is_weak_gate(function):
                        continue  # in vmlinux there is the kernel's instead
                    key = (site.rule, function.name if function else "", site.what)
                    if site.rule == "table":
                        key = (site.rule, site.section.name, "")
                    kinds.setdefault(key, []).append(site)
            for (rule, _, what), same in kinds.items():
                where, count = (same[0].section, same[0].offset), len(same)
                words = _words(one.mnemonic for one in same)
                said = what or f"holds bytes that read as {words}"
                self._add(rule, loaded, _times(said, count), where, count=count)

    def _look_at_marks(self) -> None:
        files: dict[str, Counter[str]] = {}
        for loaded in self.globals.loaded:
            for mark in _cet_marks(loaded.obj):
                files.setdefault(loaded.unit.file, Counter())[mark] += 1
        for file, marks in files.items():
            said = " and ".join(f"{count} for {mark}" for mark, count in sorted(marks.items()))
            what = f"is marked for CET: objects: {said}"
            self.findings.append(finding("cet", file, what, count=max(marks.values())))

    # --- Objects

    def _settle(self, loaded: Loaded) -> None:
        """Tell an object's undefined symbols what the others say about them."""
        for symbol in loaded.obj.symbols:
            if not symbol.undefined:
                continue
            known = self.globals.defined.get(symbol.name)
            if known is not None:
                symbol.st_type = known.symbol.st_type
                if known.symbol.absolute:
                    names.make_number(symbol, known.symbol.st_value)
            elif self.program and names.may_be_zero(symbol, self.tables):
                names.make_number(symbol, 0)

    def _look_at_object(self, loaded: Loaded) -> int:
        """Run the archive's passes over an object; return how many TLS accesses were changed."""
        obj = loaded.obj
        found: dict[tuple[str, str, str], list[RuleError]] = {}

        def report(error: RuleError) -> None:
            if error.section is not None and id(error.section) in loaded.discarded:
                return
            function = None
            if error.section is not None and error.offset is not None:
                function = function_at(obj, error.section, error.offset)
            kind = "" if function else error.what
            key = (error.rule, function.name if function else "", kind)
            found.setdefault(key, []).append(error)

        _check_bytecode(obj, report)
        layout.select_sections(obj, report)
        names.check_unprefixed(obj, self.tables, report)
        layout.allot_commons(obj, report)
        layout.define_bounds(obj, report)
        relaxed = access.relax_tls(obj, report)
        access.relax_got(obj)
        access.make_got_slots(obj, report)
        access.fold_constants(obj, report)
        access.check_relocations(obj, report)
        layout.group_sections(obj, report)
        for section in obj.sections:
            if section.name == ".eh_frame":
                try:
                    list(unwind.entries(section))
                except RuleError as error:
                    report(error)
        for errors in found.values():
            first, count = errors[0], len(errors)
            where = None
            if first.section is not None:
                where = (first.section, first.offset)
            what = _times(first.what, count)
            self._add(first.rule, loaded, what, where, do=first.do, why=first.why, count=count)
        return relaxed

    def _look_at_size(self) -> None:
        kept = [section for loaded in self.globals.loaded for section in loaded.sections()]
        needed = layout.oversize(kept)
        if needed:
            largest = max(self.globals.loaded, key=_allocated)
            self._add("size", largest, layout.says_size(needed), None)

    # --- Names

    def _look_at_program(self) -> None:
        for old, new in self.globals.duplicates:
            self._say_duplicate(old, new)
        entry = self.globals.defined.get(ENTRY)
        if entry is None or not names.is_entry(entry.symbol):
            main = self.globals.defined.get(MAIN)
            if main is not None:
                self._add("no-entry", main.loaded, names.NO_ENTRY, _where(main.symbol))
            elif self.globals.loaded:
                self._add("no-entry", self.globals.loaded[0], names.NO_ENTRY, None)
        resolved = any(
            one.undefined and one.name == _IFUNC_BOUND
            for loaded in self.globals.loaded
            for one in loaded.obj.symbols
        )
        for loaded in self.globals.loaded:
            for symbol in loaded.obj.symbols:
                if symbol.st_type == abi.STT_GNU_IFUNC and symbol.section and not resolved:
                    what = f"{symbol.name} is an indirect function (IFUNC)"
                    self._add("ifunc", loaded, what, _where(symbol))

    def _say_duplicate(self, old: Definition, new: Definition) -> None:
        what = f"{_readable(new.symbol.name)} is defined here and in {old.loaded.unit.name}"
        for one in (old, new):
            if one.loaded.wanted is not None:
                wanted = _readable(one.loaded.wanted)
                what += f"; {one.loaded.unit.name} goes in for {wanted}"
        self._add("duplicate", new.loaded, what, _where(new.symbol))

    def _look_at_undefined(self) -> None:
        bounds = {
            f"__{end}_{section.name}"
            for loaded in self.globals.loaded
            for section in loaded.sections()
            for end in ("start", "stop")
            if section.allocated
        }
        uses: dict[str, list[tuple[Loaded, Symbol, Section, int]]] = {}
        for loaded in self.globals.loaded:
            for section in loaded.sections():
                for one in section.relocations:
                    name = one.symbol.name
                    if (
                        one.symbol.undefined
                        and name not in self.globals.defined
                        and name not in self.tables.provided
                        and name not in bounds
                    ):
                        uses.setdefault(name, []).append(
                            (loaded, one.symbol, section, one.r_offset)
                        )
        if self.program:
            for name, found in uses.items():
                self._say_undefined(name, found)
        else:
            self._say_needs(uses)

    def _say_undefined(self, name: str, uses: list[tuple[Loaded, Symbol, Section, int]]) -> None:
        strong = [use for use in uses if use[1].st_bind != abi.STB_WEAK]
        loaded, _, section, offset = (strong or uses)[0]
        where = (section, offset)
        if name == MAIN:
            self._add("no-main", loaded, f"the program has no function {MAIN}", where)
            return
        others = len({id(use[0]) for use in uses}) - 1
        what = f"{_readable(name)} is not defined"
        if others:
            what += f" (used in {others} more object{'s' if others > 1 else ''})"
        do = _NO_GATE if GATE.fullmatch(name) else ""
        known = " or ".join(
            libraries.shown(path) for path in self.libraries.defining(name)[:_SHOWN]
        )
        if known:
            do = f"add {known}"
        if known and not strong:
            do = f"{RULES['undefined-weak'].do} ({known} has it, and a weak name takes nothing out)"
        self._add("undefined" if strong else "undefined-weak", loaded, what, where, do=do)

    def _say_needs(self, uses: dict[str, list[tuple[Loaded, Symbol, Section, int]]]) -> None:
        """Say for each archive what is needed of it, and for each name that none has."""
        by_file: dict[str, list[str]] = {}
        for name, found in uses.items():
            if any(symbol.st_bind != abi.STB_WEAK for _, symbol, _, _ in found):
                paths = self.libraries.defining(name)
                known = libraries.shown(paths[0]) if paths else ""
                by_file.setdefault(known, []).append(name)
        for file, wanted in by_file.items():
            for group in [wanted] if file else [[name] for name in wanted]:
                loaded, _, section, offset = uses[group[0]][0]
                what = f"{', '.join(map(_readable, group[:_SHOWN]))} {_not_here(len(group))}"
                do = f"link {file} as well" if file else ""
                self._add("needs", loaded, what, (section, offset), do=do, count=len(group))

    # --- Findings

    def _add(
        self,
        rule: str,
        loaded: Loaded,
        what: str,
        where: tuple[Section, int | None] | None,
        *,
        do: str = "",
        why: str = "",
        count: int = 1,
    ) -> None:
        """Add a finding of an object.

        :param where: section and offset.
        """
        function = section = offset = None
        if where is not None:
            section, offset = where
            if offset is not None:
                function = function_at(loaded.obj, section, offset)
        made = finding(
            rule, loaded.unit.file, what, member=loaded.unit.member, do=do, why=why, count=count
        )
        self.findings.append(
            made.model_copy(
                update={
                    "section": section.name if section else None,
                    "section_offset": offset,
                    "function": function.name if function else None,
                    "offset": offset - function.st_value
                    if function and offset is not None
                    else None,
                }
            )
        )


def _is_weak_gate(symbol: Symbol) -> bool:
    return symbol.st_bind == abi.STB_WEAK and GATE.fullmatch(symbol.name) is not None


def _check_bytecode(obj: ObjectFile, report: Callable[[RuleError], object]) -> None:
    """Report an object that only the compiler's plugin could link (gcc -fno-fat-lto-objects)."""
    bytecode = [one for one in obj.sections if one.name.startswith(".gnu.lto_")]
    if bytecode and not any(one.sh_size for one in obj.sections if one.allocated):
        report(RuleError("lto", "holds nothing but LTO bytecode"))


def _cet_marks(obj: ObjectFile) -> set[str]:
    """Return the names of the CET features that an object says it can do with."""
    found: set[str] = set()
    for section in obj.sections:
        if section.name != _GNU_PROPERTY:
            continue
        data, at = bytes(section.data), 0
        while at + _NOTE.size + 4 <= len(data):
            namesz, descsz, kind = _NOTE.unpack_from(data, at)
            start = at + _NOTE.size + -(-namesz // 4) * 4
            at = start + -(-descsz // 8) * 8
            if kind != _NT_GNU_PROPERTY_TYPE_0:
                continue
            while start + 12 <= min(at, len(data)):
                pr_type, pr_datasz, value = _NOTE.unpack_from(data, start)
                if pr_type == _GNU_PROPERTY_X86_FEATURE_1_AND:
                    found |= {name for bit, name in _CET.items() if value & bit}
                start += 8 + -(-pr_datasz // 8) * 8
    return found


def _allocated(loaded: Loaded) -> int:
    return sum(one.sh_size for one in loaded.sections() if one.allocated)


def _where(symbol: Symbol) -> tuple[Section, int] | None:
    return None if symbol.section is None else (symbol.section, symbol.st_value)


def _times(what: str, count: int) -> str:
    return what if count == 1 else f"{what} ({count} places)"


def _words(mnemonics: Iterable[str]) -> str:
    """Return the most frequent mnemonics, for people."""
    common = Counter(mnemonics).most_common(_SHOWN)
    return ", ".join(word for word, _ in common)


def _not_here(count: int) -> str:
    more = f"and {count - _SHOWN} more " if count > _SHOWN else ""
    return f"{more}{'are' if count > 1 else 'is'} not defined here"


@cache
def _readable(name: str) -> str:
    """Return a name as its source has it: without C++'s mangling."""
    return proc.run(["c++filt", "--", name]).stdout.strip() if name.startswith("_Z") else name
