# SPDX-License-Identifier: Apache-2.0
"""``ukl``: one command for what is there, what runs, and what went wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ukl_build import doctor, explain, manual
from ukl_build.commands import Command
from ukl_build.completion import parse
from ukl_build.errors import reported
from ukl_build.run import lifecycle

COMMANDS: tuple[Command, ...] = (
    *lifecycle.COMMANDS,
    doctor.COMMAND,
    explain.COMMAND,
    manual.MAN,
    manual.COMPLETION,
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="ukl",
        description="Look after unikernels.",
        allow_abbrev=False,
    )
    commands = made.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help[:1].upper() + command.help[1:] + ".",
            epilog=f"examples:\n{command.examples}" if command.examples else None,
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
