# SPDX-License-Identifier: Apache-2.0
"""``ukl``: one command for what is there, what runs, and what went wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ukl_build import differ, doctor, explain, manual
from ukl_build.commands import Command
from ukl_build.completion import parse
from ukl_build.errors import reported
from ukl_build.export import cli as export
from ukl_build.report import cli as report
from ukl_build.run import cli, lifecycle

COMMANDS: tuple[Command, ...] = (
    *cli.COMMANDS,
    *lifecycle.COMMANDS,
    differ.COMMAND,
    report.COMMAND,
    export.COMMAND,
    doctor.COMMAND,
    explain.COMMAND,
    manual.MAN,
    manual.COMPLETION,
)


EXAMPLES = """\
  ukl ps                        what runs
  ukl logs -f redis             what it says
  ukl stop redis
  ukl explain guest-panic       what an error means, and what to do
  ukl doctor                    what this machine lacks
"""


def _description(command: Command) -> str:
    text = f"{command.help[:1].upper()}{command.help[1:]}."
    return f"{text}\n\nexamples:\n{command.examples.rstrip()}" if command.examples else text


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="ukl",
        description="Look after unikernels.\n\nexamples:\n" + EXAMPLES.rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.help,
            description=_description(command),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.arguments(one)
        one.set_defaults(command=command)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = parse(parser(), argv)
    return reported(lambda: options.command.run(options))


if __name__ == "__main__":
    sys.exit(main())
