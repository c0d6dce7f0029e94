# SPDX-License-Identifier: Apache-2.0
"""Kernel configurations: the only importer of kconfiglib.

Two things are here: fragments, which say what is asked for, each line with its reason, and the
adapter that makes a kernel's Kconfig answer what it makes of that.

The adapter runs as a program of its own (``python -m ukl_build.dotconfig REQUEST``), since Kconfig
files read their settings from the environment and run the compiler in the current folder, leaving
files there; a build with several threads can change neither for itself.  Its answer is data, not
an exception, see :class:`Answer`.

kconfiglib 14.1.0 lacks one thing that kernels from 5.13 on use: the attribute ``modules`` without
``option`` before it (commit 6dd85ff178cd, "kconfig: change "modules" from sub-option to first-level
attribute").  :class:`_Kconfig` adds the word while reading.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kconfiglib
import menuconfig
from pydantic import TypeAdapter

from ukl_build import files
from ukl_build.errors import UklError
from ukl_build.model import Model, nearest

_LINE = re.compile(
    r"^CONFIG_(?P<name>[A-Za-z0-9_]+)=(?P<value>\"(?:[^\"\\]|\\.)*\"|[^\s\"#]+)"
    r"(?:\s+#\s*(?P<reason>\S.*))?$"
)
_OVERRIDES = re.compile(r"^overrides (?P<fragment>[a-z0-9_-]+): \S")


class Asked(Model):
    """One line of a fragment."""

    name: str
    """Without ``CONFIG_``."""
    value: str
    """As in a .config, but a string without its quotes, and ``n`` for "is not set"."""
    reason: str
    where: str
    """Fragment and line, for messages."""

    @property
    def overridden(self) -> str | None:
        """The fragment whose setting this line says it overrides."""
        match = _OVERRIDES.match(self.reason)
        return match["fragment"] if match else None


class Request(Model):
    """What the adapter is asked to do."""

    asked: tuple[Asked, ...]
    out: str
    """The .config to be written."""


class Problem(Model):
    """A line of a fragment that the kernel does not follow."""

    asked: Asked
    got: str | None
    """What the option is instead; ``None`` if there is no such option."""
    why: str


class Answer(Model):
    """What the kernel's Kconfig made of a request."""

    problems: tuple[Problem, ...]


class Setting(Model):
    """An option that is set in a configuration, and what Kconfig knows of it."""

    name: str
    """Without ``CONFIG_``."""
    value: str
    prompt: str | None
    """What menus call it; None for one that nobody can set by hand."""
    selected_by: tuple[str, ...]
    """Options that force it on."""
    where: str
    """File and line that define it."""


Settings = TypeAdapter(tuple[Setting, ...])


# --- Fragments ----------------------------------------------------------------------------------


def parse_fragment(path: Path) -> list[Asked]:
    """Read a fragment: ``CONFIG_NAME=value  # reason`` on each line, comments, empty lines.

    :raise UklError: ``fragment-invalid``, for a line of another form or without a reason.
    :raise OSError: if it cannot be read.
    """
    asked: list[Asked] = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UklError("fragment-invalid", f"{path}: {error}", hint=f"correct {path}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{path.name}:{number}"
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.match(line.rstrip())
        if match is None or not match["reason"]:
            raise UklError(
                "fragment-invalid",
                f"{path}:{number}: {'no reason is given' if match else 'not understood'}: {line}",
                hint="write CONFIG_NAME=value  # reason (n instead of 'is not set')",
            )
        value = _unquote(match["value"])
        asked.append(Asked(name=match["name"], value=value, reason=match["reason"], where=where))
    return asked


def merge(fragments: Iterable[tuple[str, Sequence[Asked]]]) -> tuple[Asked, ...]:
    """Put fragments together; a later line wins if its reason says which one it overrides.

    :param fragments: names and lines, in order.
    :raise UklError: ``fragment-conflict`` if two lines differ and the later one does not begin its
        reason with ``overrides NAME:``.
    """
    chosen: dict[str, tuple[str, Asked]] = {}
    for fragment, lines in fragments:
        for line in lines:
            before = chosen.get(line.name)
            if before and before[1].value != line.value and line.overridden != before[0]:
                raise UklError(
                    "fragment-conflict",
                    f"{line.where} wants CONFIG_{line.name}={line.value}, "
                    f"{before[1].where} wants {before[1].value}",
                    detail=f"{before[1].where}: {before[1].reason}\n{line.where}: {line.reason}",
                    hint=f"begin the later reason with 'overrides {before[0]}:' if it shall win",
                )
            chosen[line.name] = (fragment, line)
    return tuple(line for _, line in chosen.values())


def read_settings(text: str) -> dict[str, str]:
    """Return the settings of a .config, without those that are not set.

    Names are without ``CONFIG_``, strings without their quotes.
    """
    return {name: _unquote(value) for name, value in _read_lines(text).items()}


def changed_lines(before: str, after: str) -> list[str]:
    """Return what changed from one .config to another as lines for a fragment."""
    old, new = _read_lines(before), _read_lines(after)
    return [
        f"CONFIG_{name}={new.get(name, 'n')}  # reason (was {old.get(name, 'n')})"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]


def _read_lines(text: str) -> dict[str, str]:
    pairs = (
        line.removeprefix("CONFIG_").partition("=")
        for line in text.splitlines()
        if line.startswith("CONFIG_")
    )
    return {name: value for name, _, value in pairs}


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


# --- The adapter --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tools:
    """The programs that Kconfig's macros ask for their versions and abilities."""

    cc: str = "gcc"
    ld: str = "ld"


def environment(
    tree: Path, version: str, tools: Tools, cc_version: str, base: Mapping[str, str]
) -> dict[str, str]:
    """Return what the kernel's Makefile would export to its own conf.

    :param version: KERNELVERSION.
    :param cc_version: first line of ``cc --version``, without ``#``.
    """
    return {
        **base,
        "srctree": str(tree),
        "ARCH": "x86",
        "SRCARCH": "x86",
        "KERNELVERSION": version,
        "CC": tools.cc,
        "LD": tools.ld,
        "CC_VERSION_TEXT": cc_version,
        "CLANG_FLAGS": "",
        "AR": "ar",
        "NM": "nm",
        "OBJCOPY": "objcopy",
        "PAHOLE": "pahole",
        "RUSTC": "rustc",
        "BINDGEN": "bindgen",
    }


class _Kconfig(kconfiglib.Kconfig):  # type: ignore[misc]
    """kconfiglib with what newer kernels need."""

    def _open(self, filename: str, mode: str) -> Any:
        if mode != "r":
            return super()._open(filename, mode)
        with super()._open(filename, mode) as file:
            text = file.read()
        return io.StringIO(re.sub(r"^(\s+)modules[ \t]*$", r"\1option modules", text, flags=re.M))


def open_kconfig() -> Any:
    """Parse the Kconfig of the tree that the environment names, see :func:`environment`.

    :raise kconfiglib.KconfigError: if it cannot be parsed.
    """
    # Its warnings are about the kernel's own Kconfig files; what concerns us becomes a Problem.
    return _Kconfig("Kconfig", warn=False)


def answer(request: Request) -> Answer:
    """Start from "everything no", set what is asked, write the .config and compare.

    Starting from no (the kernel's allnoconfig) instead of the defaults is what makes every option
    of the image one that somebody gave a reason for, or a dependency of one.
    """
    kconf = open_kconfig()
    for symbol in kconf.unique_defined_syms:
        if symbol.orig_type in (kconfiglib.BOOL, kconfiglib.TRISTATE):
            # Like conf's allnoconfig, which spares options marked so (EXPERT is one).
            symbol.set_value(2 if symbol.is_allnoconfig_y else 0)
    problems = []
    known = []
    for asked in request.asked:
        symbol = kconf.syms.get(asked.name)
        if symbol is None or not symbol.nodes:
            why = f"this kernel has no such option{nearest(asked.name, _defined(kconf))}"
            problems.append(Problem(asked=asked, got=None, why=why))
            continue
        known.append((asked, symbol))
        if not symbol.set_value(asked.value):
            why = f"{asked.value!r} is no value for an option of type {_type(symbol)}"
            problems.append(Problem(asked=asked, got=symbol.str_value, why=why))
    for asked, symbol in known:
        got = symbol.str_value
        if got != asked.value and not any(problem.asked is asked for problem in problems):
            problems.append(Problem(asked=asked, got=got, why=explain(symbol, asked.value)))
    # To a file beside it first: kconfiglib would write in place.
    out = Path(request.out)
    draft = out.with_name(f".{out.name}.draft")
    kconf.write_config(str(draft), save_old=False)
    files.write(out, draft.read_bytes())
    draft.unlink()
    return Answer(problems=tuple(problems))


def settings(config: str) -> tuple[Setting, ...]:
    """Return what is set in a configuration of the tree that the environment names.

    :param config: path of the .config.
    """
    kconf = open_kconfig()
    kconf.load_config(config)
    return tuple(
        _setting(symbol)
        for symbol in kconf.unique_defined_syms
        if symbol.config_string and symbol.str_value not in ("n", "")
    )


def _setting(symbol: Any) -> Setting:
    prompts = [node.prompt[0] for node in symbol.nodes if node.prompt]
    selecting = {
        _selecting(term)
        for term in kconfiglib.split_expr(symbol.rev_dep, kconfiglib.OR)
        if kconfiglib.expr_value(term) and not getattr(term, "is_constant", False)
    }
    first = symbol.nodes[0]
    return Setting(
        name=symbol.name,
        value=symbol.str_value,
        prompt=prompts[0] if prompts else None,
        selected_by=tuple(sorted(selecting)),
        where=f"{first.filename}:{first.linenr}",
    )


def explain(symbol: Any, wanted: str) -> str:
    """Say why an option does not have the value that was asked for."""
    tristate = symbol.orig_type in (kconfiglib.BOOL, kconfiglib.TRISTATE)
    if tristate and wanted == "n":
        forcing = [
            term
            for term in kconfiglib.split_expr(symbol.rev_dep, kconfiglib.OR)
            if kconfiglib.expr_value(term)
        ]
        if forcing:
            return "it is selected by " + ", ".join(_selecting(term) for term in forcing)
    if kconfiglib.expr_value(symbol.direct_dep) == 0:
        return "unmet dependency: " + _unmet(symbol.direct_dep)
    prompts = [node.prompt[1] for node in symbol.nodes if node.prompt]
    if not prompts:
        selecting = sorted(_selectors(symbol))
        by = f"; these options select it: {', '.join(selecting[:8])}" if selecting else ""
        return f"it cannot be set by hand{by}"
    if all(kconfiglib.expr_value(prompt) == 0 for prompt in prompts):
        return "it cannot be set by hand unless " + " or ".join(_unmet(one) for one in prompts)
    if symbol.choice is not None:
        chosen = symbol.choice.selection
        return f"it is one of a choice, and {chosen.name if chosen else 'none'} is chosen"
    for low, high, condition in symbol.ranges:
        if kconfiglib.expr_value(condition):
            return f"it must be between {low.str_value} and {high.str_value}"
    return "the kernel's Kconfig says otherwise"


def _unmet(expression: Any) -> str:
    """Show an expression and the value of every option in it that is the reason for "no"."""
    shown = kconfiglib.expr_str(expression, _named)
    guilty = sorted(
        item.name
        for term in kconfiglib.split_expr(expression, kconfiglib.AND)
        if kconfiglib.expr_value(term) == 0
        for item in kconfiglib.expr_items(term)
        if isinstance(item, kconfiglib.Symbol) and not item.is_constant
    )
    values = [f"{name} is {_value(expression, name)}" for name in guilty]
    return f"{shown} ({', '.join(values)})" if values else shown


def _named(item: Any) -> str:
    """Show an option by its name alone, without the markers of kconfiglib's default."""
    if item.__class__ is kconfiglib.Symbol and not item.is_constant:
        return str(item.name)
    return str(kconfiglib.standard_sc_expr_str(item))


def _value(expression: Any, name: str) -> str:
    (found,) = {
        item for item in kconfiglib.expr_items(expression) if getattr(item, "name", None) == name
    }
    return str(found.str_value) or '""'


def _selecting(term: Any) -> str:
    return str(kconfiglib.split_expr(term, kconfiglib.AND)[0].name)


def _selectors(symbol: Any) -> set[str]:
    return {
        _selecting(term)
        for term in kconfiglib.split_expr(symbol.rev_dep, kconfiglib.OR)
        if not getattr(term, "is_constant", False)
    }


def _type(symbol: Any) -> str:
    return str(kconfiglib.TYPE_TO_STR[symbol.orig_type])


def _defined(kconf: Any) -> list[str]:
    return [symbol.name for symbol in kconf.unique_defined_syms]


def main(argv: Sequence[str]) -> int:
    """Do one of: answer REQUEST, settings CONFIG, savedefconfig CONFIG OUT, menuconfig CONFIG."""
    try:
        match list(argv):
            case ["answer", request]:
                text = Path(request).read_text(encoding="utf-8")
                print(answer(Request.model_validate_json(text)).model_dump_json(indent=2))
            case ["settings", config]:
                print(Settings.dump_json(settings(config)).decode())
            case ["savedefconfig", config, out]:
                kconf = open_kconfig()
                kconf.load_config(config)
                kconf.write_min_config(out)
            case ["menuconfig", config]:
                os.environ["KCONFIG_CONFIG"] = config  # where kconfiglib's menus load and save
                menuconfig.menuconfig(open_kconfig())
            case _:
                print(main.__doc__, file=sys.stderr)
                return 2
    except kconfiglib.KconfigError as error:
        print(f"Kconfig: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
