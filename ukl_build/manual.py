# SPDX-License-Identifier: Apache-2.0
"""Manual pages and completion, both made from the parsers of the command lines."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from argcomplete.shell_integration import shellcode
from argparse_manpage.manpage import Manpage

from ukl_build import files, proc
from ukl_build.commands import Command

PROGRAMS = {
    "ukl": ("ukl_build.ukl", "look after unikernels"),
    "ukl-run": ("ukl_build.run.cli", "run a unikernel in a virtual machine"),
    "ukl-lint": ("ukl_build.lint.cli", "say what of objects cannot work in ring 0"),
    "ukl-port": ("ukl_build.port", "write the recipe of a project"),
}
"""The module of each program, whose ``parser()`` describes it, and what it does."""

SHELLS = ("bash", "zsh", "fish")


def parser(program: str) -> argparse.ArgumentParser:
    """Return the parser of a program."""
    made = importlib.import_module(PROGRAMS[program][0]).parser()
    assert isinstance(made, argparse.ArgumentParser)
    return made


def page(program: str) -> str:
    """Return the manual page of a program, for groff's man macros (groff_man(7))."""
    made = Manpage(parser(program))
    made.source = made.manual = "ukl-build"
    made.date = ""  # the same text gives the same page
    made.description = PROGRAMS[program][1]
    # What is set in lines stays in lines.
    return re.sub(r"(?:^ +\S.*\n)+", r".nf\n\g<0>.fi\n", str(made), flags=re.MULTILINE)


def _man_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", nargs="?", choices=PROGRAMS, default="ukl")
    parser.add_argument(
        "--write", metavar="DIR", type=Path, help="write all pages to DIR/man1, for man -M DIR"
    )


def _man(options: argparse.Namespace) -> int:
    if options.write is not None:
        for program in PROGRAMS:
            files.write(options.write / "man1" / f"{program}.1", page(program))
        return 0
    if not sys.stdout.isatty() or shutil.which("man") is None:
        parser(options.program).print_help()
        return 0
    with tempfile.TemporaryDirectory(prefix="ukl-man-") as scratch:
        path = Path(scratch) / f"{options.program}.1"
        path.write_text(page(options.program), encoding="utf-8")
        return proc.attach(["man", "-l", path], cwd=Path.cwd(), env=os.environ)


MAN = Command(
    "man",
    "show a manual page, or write all",
    _man_arguments,
    _man,
    examples="  ukl man ukl-run\n  ukl man --write ~/.local/share/man\n",
)


def _completion_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def _completion(options: argparse.Namespace) -> int:
    print(shellcode(list(PROGRAMS), shell=options.shell))
    return 0


COMPLETION = Command(
    "completion",
    "print what teaches a shell to complete our commands",
    _completion_arguments,
    _completion,
    examples=(
        '  eval "$(ukl completion bash)"      in ~/.bashrc, likewise zsh\n'
        "  ukl completion fish | source       in ~/.config/fish/config.fish\n"
    ),
)
