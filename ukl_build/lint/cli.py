# SPDX-License-Identifier: Apache-2.0
"""``ukl-lint``: say what of an application cannot work in ring 0, and what else is good to know."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ukl_build.completion import parse
from ukl_build.elf.names import PROVIDED, UNPREFIXED, load_tables
from ukl_build.elf.rules import Severity
from ukl_build.errors import Fault, UklError, reported
from ukl_build.lint import inputs
from ukl_build.lint.check import lint
from ukl_build.lint.findings import Finding, Report

FOUND = 1
"""Exit status if something stops the link."""

EXIT_STATUSES = f"""\
exit status:
    0  nothing that stops the link
    {FOUND}  findings that stop the link; with --strict, warnings as well
    {Fault.USER:d}  what was asked for is wrong
    {Fault.MACHINE:d}  this machine could not do it
   {Fault.BUG:d}  an error of ukl-lint itself
"""
EXAMPLES = """\
examples:
  ukl-lint --part build/app/*.o libfoo.a       objects that are not the whole program
  ukl-lint /usr/lib/x86_64-linux-gnu/libz.a    a library: each of its members
  ukl-lint crt1.o crti.o crtbeginS.o app.o libc.a libgcc.a libgcc_eh.a crtendS.o crtn.o
"""
_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold cyan"}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="ukl-lint",
        description="Look at what an application is linked from. With an object among the files\n"
        "they are the link of a program, and of archives only the members that it needs\n"
        "are looked at; otherwise each member is.\n\n" + EXAMPLES.rstrip(),
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "files", nargs="+", metavar="FILE", help="object, archive, or linker script that names some"
    )
    made.add_argument(
        "--part",
        action="store_true",
        help="the files are not the whole program: names that they do not define are notes",
    )
    made.add_argument("--json", action="store_true", help="print the findings as JSON")
    made.add_argument("--quiet", "-q", action="store_true", help="leave the notes out")
    made.add_argument("--strict", action="store_true", help="let warnings decide the exit status")
    return made


def run(options: argparse.Namespace) -> int:
    """Do what the command line asks for.

    :return: the exit status.
    :raise UklError: if a file is not there or cannot be linted.
    :raise OSError: if one cannot be read.
    """
    for name in options.files:
        if not Path(name).is_file():
            raise UklError(
                "lint-input", f"there is no file {name}", hint="give objects and archives"
            )
    found = inputs.read(options.files)
    program = bool(found.objects) and not options.part
    report = lint(found, load_tables(UNPREFIXED, PROVIDED), program=program)
    if options.quiet:
        report = report.without(Severity.NOTE)
    if options.json:
        sys.stdout.write(report.json_text())
    else:
        _show(report)
    stopping = report.counts.error + (report.counts.warning if options.strict else 0)
    return FOUND if stopping else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = parse(parser(), argv)
    return reported(lambda: run(options))


def _show(report: Report) -> None:
    # On a terminal in colour; never broken into several lines, which are there to be searched.
    console = Console(highlight=False, soft_wrap=True)
    for one in report.findings:
        console.print(_line(one))
    units = f"{report.units} object{'' if report.units == 1 else 's'}"
    print(f"ukl-lint: {units}: {report.counts}", file=sys.stderr)


def _line(one: Finding) -> Text:
    text = Text(str(one))
    start = len(one.place) + 2
    text.stylize(_STYLES[one.severity], start, start + len(one.severity))
    return text


if __name__ == "__main__":
    sys.exit(main())
