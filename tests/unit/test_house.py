# SPDX-License-Identifier: Apache-2.0
"""The rules of the house, each with its remedy in the message."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT
from ukl_build import scons_tool
from ukl_build.elf.rules import RULES
from ukl_build.errors import CODES
from ukl_build.run import outcome

PACKAGE = sorted((ROOT / "ukl_build").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def tracked() -> list[Path]:
    """Return the project's files, without what is built or fetched."""
    found = []
    for parent, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in ("build", "__pycache__")]
        folders[:] = [name for name in folders if not name.startswith(".") or name == ".ci"]
        found += [Path(parent) / name for name in names]
    return found


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("kconfiglib", {"dotconfig.py"}),
        ("menuconfig", {"dotconfig.py"}),
        ("elftools", {"elf/"}),
        ("lief", {"elf/"}),
        ("pygal", {"measure/plot.py"}),
        ("SCons", {"scons_tool.py"}),
        ("subprocess", {"proc.py", "run/"}),
    ],
)
def test_a_library_has_one_home(library: str, homes: set[str]) -> None:
    for path in PACKAGE:
        name = str(path.relative_to(ROOT / "ukl_build"))
        if any(name == home or (home.endswith("/") and name.startswith(home)) for home in homes):
            continue
        used = {module for module in imports(path) if module.split(".")[0] == library}
        assert not used, f"{name} imports {used}: call a function of {homes} instead"


def test_a_stage_imports_no_other_stage() -> None:
    for path in (ROOT / "ukl_build" / "stages").glob("*.py"):
        used = {name for name in imports(path) if name.startswith("ukl_build.stages.")}
        assert not used, f"{path.name} imports {used}: read what the other stage wrote instead"


SHARED = {"cache", "errors", "files", "image", "manifest", "model", "proc", "recipe"}
"""Modules that decide nothing of what a stage writes, or only hold its inputs' types."""


@pytest.mark.parametrize("stage", scons_tool.CODE)
def test_all_code_that_a_stage_imports_is_among_its_inputs(stage: str) -> None:
    package = ROOT / "ukl_build"
    code = {path for pattern in scons_tool.CODE[stage] for path in package.glob(pattern)}
    used = set().union(*(imports(path) for path in code if path.parent.name == "stages"))
    files = {
        ROOT / f"{name.replace('.', '/')}.py" for name in used if name.startswith("ukl_build.")
    }
    missing = {path.stem for path in files - code if path.is_file()} - SHARED
    assert not missing, f"add them to scons_tool.CODE: {missing}"


def test_every_error_code_is_raised_and_every_one_raised_is_known() -> None:
    # A code stands alone between quotes; docstrings have it between back-quotes.
    text = "\n".join(p.read_text() for p in PACKAGE if p.name != "errors.py")
    text += "\n".join(p.read_text() for p in (ROOT / "guest").rglob("*.py"))
    unused = {code for code in CODES if f'"{code}"' not in text}
    assert not unused, f"take them out of errors.CODES: {unused}"
    raised = set(re.findall(r'UklError\(\s*"([a-z-]+)"', text))
    assert raised <= CODES.keys(), f"add them to errors.CODES: {raised - CODES.keys()}"


def literals(node: ast.expr) -> str:
    """Return the text of an expression, with X for whatever is not literal."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(literals(part) for part in parts)
        case ast.BinOp(left=left, right=right):
            return literals(left) + literals(right)
        case ast.IfExp(body=one, orelse=other):
            return f"{literals(one)}; {literals(other)}"
    return "X"


def said() -> list[tuple[str, str, str]]:
    """Return the place, message and hint of each error that is made."""
    found = []
    for path in [*PACKAGE, *sorted((ROOT / "guest").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "UklError":
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                (hint,) = [word.value for word in node.keywords if word.arg == "hint"]
                found.append((where, literals(node.args[1]), literals(hint)))
    return found


def test_errors_are_one_sentence_of_what_happened_and_one_of_what_to_do() -> None:
    errors = said()
    assert len(errors) > 100, "they are made in another way now: look for that"
    hints = [(f"Kind.{kind}", hint) for kind, hint in outcome._HINTS.items()]
    hints += [(f"RULES[{name}]", rule.do) for name, rule in RULES.items()]
    texts = [(where, text) for where, *both in errors for text in both]
    for where, text in [*texts, *hints, *((code, CODES[code][1][:-1]) for code in CODES)]:
        assert text.strip() and "\n" not in text, where
        assert not text.endswith((".", "!", ":", " ")), f"{where}: no full stop: {text}"
        assert not re.search(r"[a-z)]\. [A-Z]", text), f"{where}: two sentences: {text}"
    for where, text in [*((where, hint) for where, _, hint in errors), *hints]:
        # What is so belongs to the message, or behind what to do.
        assert not re.match(r"(the|it|this|there) ", text), f"{where}: say what to do: {text}"


def test_every_file_of_code_says_its_licence() -> None:
    suffixes = {".py", ".c", ".h", ".S", ".sh", ".toml", ".config", ".lds"}
    names = {"SConstruct", "Makefile", "bootstrap", "run"}
    for path in tracked():
        if path.suffix in suffixes or path.name in names or path.parent == ROOT / "tools":
            head = path.read_text(errors="replace")[:400]
            said = not head or "SPDX-License-Identifier: " in head
            assert said, f"{path}: add an SPDX header"


def test_the_readme_lists_every_variable_and_target() -> None:
    text = (ROOT / "README.md").read_text()
    for variable in scons_tool.variables(["x"]):
        assert f"| `{variable.name}` |" in text, f"README.md: add {variable.name}"
    for target in scons_tool.TARGETS[1:]:  # the first is the default
        assert re.search(rf"^\| `scons (app=NAME )?{target.name}` \|", text, re.M), target.name


def test_ci_runs_exactly_the_second_command_of_the_readme() -> None:
    commands = re.findall(r"^    (\./bootstrap .*)$", (ROOT / "README.md").read_text(), re.M)
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert script[-1].endswith(f"exec {commands[1]}")


def test_every_package_to_install_has_a_reason() -> None:
    for name in ("packages.txt", "packages-tests.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith("#"):
                assert len(line.split(None, 1)) == 2, f"{name}: why {line}?"


@pytest.mark.parametrize(
    "argv",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
    ],
    ids=" ".join,
)
def test_the_linters_are_content(argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
