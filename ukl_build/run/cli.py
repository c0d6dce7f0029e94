# SPDX-License-Identifier: Apache-2.0
"""``ukl-run``: start a unikernel, talk to it, stop it."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ukl_build.commands import Command
from ukl_build.completion import completed, parse
from ukl_build.errors import Fault, reported
from ukl_build.image import Protocol
from ukl_build.run import attach, background, overview, prepare, records
from ukl_build.run.attend import Asked, talk
from ukl_build.run.outcome import EXIT_STATUS, Kind
from ukl_build.run.session import Ready, run
from ukl_build.run.vm import Forward, Network

GDB_PORT = 1234
"""QEMU's own choice, and the one in everybody's notes."""

WATCHDOG_S = 30
"""What Linux' driver has by itself (drivers/watchdog/i6300esb.c)."""

ENV_NAME = r"[A-Za-z_][A-Za-z0-9_]*"

_OUR_STATUSES: tuple[tuple[int, str], ...] = (
    (Fault.USER, "what was asked for is wrong"),
    (Fault.MACHINE, "this machine could not do it"),
    (Fault.GUEST, "no answer, or a wrong one"),
    (Fault.BUG, "an error of ukl-run itself"),
    (126, "it could not be started"),
    (127, "its file was not found"),
    (EXIT_STATUS[Kind.PANIC], "the guest's kernel panicked"),
    (EXIT_STATUS[Kind.HANG], "running when --timeout was over"),
    (EXIT_STATUS[Kind.RESET], "reset or triple fault"),
    (EXIT_STATUS[Kind.NO_STATUS], "ended without a status"),
    (EXIT_STATUS[Kind.QEMU_FAILED], "QEMU failed"),
    (EXIT_STATUS[Kind.STOPPED], "stopped, without a status"),
)


def _statuses() -> str:
    told = [f"{int(status):3d}  {meaning:31}" for status, meaning in _OUR_STATUSES]
    pairs = zip(told[::2], told[1::2], strict=True)
    return "exit status: the application's own, 128+N if signal N killed it, or\n" + "".join(
        f"  {left} {right}".rstrip() + "\n" for left, right in pairs
    )


EXAMPLES = """\
  ukl-run --qemu redis -p 6379:6379            run build/redis, Ctrl-C stops it
  ukl-run --qemu redis --detach --rm           in the background; see ukl ps, logs, stop
  ukl-run --qemu redis --smoke                 ask it what its recipe asks, and stop it
  ukl-run --qemu build/redis --disk other.img -- --save ''
"""


def forward(text: str) -> Forward:
    """Parse ``HOST:GUEST`` with an optional ``/tcp`` or ``/udp``.

    :raise argparse.ArgumentTypeError: if it is none.
    """
    ports, _, name = text.partition("/")
    host, colon, guest = ports.partition(":")
    try:
        proto = Protocol(name or "tcp")
        numbers = int(host), int(guest)
    except ValueError:
        numbers = (-1, -1)
    if not colon or not (0 <= numbers[0] <= 65535 and 1 <= numbers[1] <= 65535):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:GUEST, such as 8080:80, 0:5555 (any free port) or 53:53/udp"
        )
    return Forward(numbers[0], numbers[1], proto)


def network_option(text: str) -> str:
    """Parse what a network card leads to.

    :raise argparse.ArgumentTypeError: if it is none of what there is.
    """
    kind, colon, name = text.partition(":")
    known = list(Network)
    named = kind == Network.TAP and re.fullmatch(r"[^\s/]{1,15}", name)
    if kind not in known or (colon and not named):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)} and tap:NAME")
    return text


def variable(text: str) -> tuple[str, str]:
    """Parse ``NAME=VALUE``.

    :raise argparse.ArgumentTypeError: if it is none.
    """
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(ENV_NAME, name) or "\0" in value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def memory(text: str) -> int:
    """Parse a number of MiB, or of what ``M`` or ``G`` behind it says; return it in MiB.

    :raise argparse.ArgumentTypeError: if it is none, or none that a machine can have.
    """
    match = re.fullmatch(r"(\d{1,7})(?:([mMgG])(?:[iI]?[bB])?)?", text)
    mib = int(match[1]) << (10 if (match[2] or "").upper() == "G" else 0) if match else 0
    if not 1 <= mib <= 1 << 20:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not MiB between 1 and {1 << 20}, such as 512, 512M or 2G"
        )
    return mib


def machine_name(text: str) -> str:
    """Return a name that a machine can have.

    :raise argparse.ArgumentTypeError: if it can have none such.
    """
    if not re.fullmatch(records.NAME, text) or len(text) > records.MAX_NAME:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name of at most {records.MAX_NAME} letters, digits, '_', '.', '-'"
        )
    return text


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _count(low: int, high: int, what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text.isdecimal() and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} between {low} and {high}")

    return parse


def add_machine(add: Callable[..., object]) -> None:
    """Add the options that say on which machine and in which environment an image is run.

    :param add: as argparse's ``add_argument``.
    """
    add(
        "-e",
        dest="env",
        metavar="NAME=VALUE",
        type=variable,
        action="append",
        default=[],
        help="a variable of its environment",
    )
    add("--append", metavar="WORDS", default="", help="further kernel parameters")
    add("-m", dest="memory", metavar="SIZE", type=memory, help="memory: 512 (MiB), 2G")
    add("--cpus", metavar="N", type=_count(1, 64, "processors"), help="processors")


def add_file(add: Callable[..., object]) -> None:
    """Add the option for files that are laid over an image.

    :param add: as argparse's ``add_argument``.
    """
    add(
        "--file",
        dest="files",
        metavar="HOST:GUEST",
        type=attach.file_option,
        action="append",
        default=[],
        help="a copy of a file",
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="ukl-run",
        usage="ukl-run --qemu APP|IMAGE|DIR [OPTION]... [-- ARGS]",
        description="examples:\n" + EXAMPLES.rstrip(),
        epilog=_statuses(),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=26
        ),
        allow_abbrev=False,
        add_help=False,
    )

    def add(group: argparse._ArgumentGroup, *names: str, **what: Any) -> argparse.Action:
        return group.add_argument(*names, **what)

    what = made.add_argument_group("what runs (without --qemu: list what can)")
    image = add(
        *(what, "--qemu"),
        metavar="APP|IMAGE|DIR",
        help="of build/, or an image's file or folder",
    )
    completed(image, prepare.short_names)
    add(what, "args", nargs="*", metavar="ARGS", help="the application's arguments, behind --")
    add_machine(what.add_argument)
    add(what, "--accel", choices=["auto", "kvm", "tcg"], default="auto")
    with_ = made.add_argument_group("what it is given")
    add(
        *(with_, "-p"),
        dest="forwards",
        metavar="HOST:GUEST",
        type=forward,
        action="append",
        default=[],
        help="a port of this machine; HOST 0 is a free one; /udp",
    )
    network = add(
        *(with_, "--network"),
        metavar="HOW",
        type=network_option,
        default=Network.USER.value,
        help="user (QEMU's own), passt, tap[:NAME] or none",
    )
    completed(network, lambda: list(Network))
    add(
        *(with_, "-v"),
        dest="shares",
        metavar="HOST:GUEST[:ro]",
        type=attach.share_option,
        action="append",
        default=[],
        help="a folder of this machine",
    )
    add(
        *(with_, "--disk"),
        dest="disks",
        metavar="FILE[:GUEST]",
        type=attach.disk_option,
        action="append",
        default=[],
        help="ext4 disk at GUEST, or the recipe's; made if missing",
    )
    add_file(with_.add_argument)
    how = made.add_argument_group("how it runs")
    add(how, "--name", type=machine_name, help="what ukl calls it; otherwise APP-1, APP-2, ...")
    add(how, "--detach", "-d", action="store_true", help="in the background; print its name")
    add(how, "--rm", action="store_true", help="keep neither log nor record of it")
    add(how, "--timeout", metavar="S", type=_positive, help="seconds until it counts as hung")
    add(
        *(how, "--watchdog"),
        metavar="S",
        nargs="?",
        # The most that the device can wait, and what a busy host makes of less.
        type=_count(10, 2046, "seconds"),
        const=WATCHDOG_S,
        help=f"end a guest that does nothing for S seconds ({WATCHDOG_S})",
    )
    for warm in ("--snapshot", "--restore"):  # which are `ukl snapshot` and `ukl restore`
        add(how, warm, action="store_true", help=argparse.SUPPRESS)
    add(how, "--smoke", action="store_true", help="do the recipe's test; 0 if all went well")
    add(
        *(how, "--gdb"),
        metavar="PORT",
        nargs="?",
        type=_count(0, 65535, "a port"),
        const=GDB_PORT,
        help=f"wait for gdb ({GDB_PORT}; 0: a free one), without KASLR",
    )
    add(
        *(how, "--record"),
        metavar="DIR",
        type=Path,
        help="keep all of the run in a new folder",
    )
    add(
        *(how, "--replay"),
        metavar="DIR",
        type=Path,
        help="do what is in there again; with --gdb also backwards",
    )
    add(how, "--dry-run", action="store_true", help="only print QEMU's command line")
    shown = made.add_argument_group("what is shown")
    add(shown, "--json", action="store_true", help="print what ran, and how it ended, as JSON")
    add(shown, "--log-file", metavar="FILE", type=Path, help="where the console goes")
    add(shown, "-q", "--quiet", action="store_true", help="say nothing but errors")
    add(shown, "--verbose", action="store_true", help="say more")
    add(shown, "-h", "--help", action="help", help=argparse.SUPPRESS)
    add(shown, "--no-color", action="store_true", help="as NO_COLOR in the environment")
    return made


def _work(options: argparse.Namespace, ready: Ready = lambda _: None) -> int:
    """Run, and return the exit status whatever happens."""
    try:
        return reported(lambda: run(options, ready))
    except Asked as asked:
        talk.info(f"{asked}: nothing was running yet")
        return EXIT_STATUS[Kind.STOPPED]


def _raise_descriptors() -> None:
    """Let this process and QEMU have as many descriptors as they may.

    Each connection to a guest takes some of one or both; the usual 1,024 are for programs that
    call select(2), and neither does.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = parse(parser(), words)
    options.argv = words
    if options.no_color:
        os.environ["NO_COLOR"] = "1"
    level = logging.WARNING if options.quiet else logging.DEBUG if options.verbose else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ukl-run: %(message)s"))
    talk.handlers[:] = [handler]
    talk.setLevel(level)
    talk.propagate = False
    if options.replay is not None:
        defaults = vars(parser().parse_args([]))
        options.given = [name for name in defaults if vars(options)[name] != defaults[name]]
    elif options.qemu is None:
        if words and not options.json:
            parser().error("the following arguments are required: --qemu")
        return reported(lambda: overview.show(as_json=options.json))
    _raise_descriptors()
    if options.detach and not options.dry_run:
        status, record = background.in_background(lambda ready: _work(options, ready))
        if record:
            print(record if options.json else json.loads(record)["name"])
        return status
    return _work(options)


def _image_and_words(parser: argparse.ArgumentParser) -> None:
    image = parser.add_argument(
        "image", metavar="APP|IMAGE|DIR", help="of build/, or an image's file or folder"
    )
    completed(image, prepare.short_names)
    parser.add_argument(
        "words",
        metavar="...",
        nargs=argparse.REMAINDER,
        help="options of ukl-run, and the application's arguments behind --",
    )


def _as(option: str) -> Callable[[argparse.Namespace], int]:
    return lambda options: main(["--qemu", options.image, option, *options.words])


COMMANDS = (
    Command(
        "snapshot",
        "start an image, and save its state when it first answers",
        _image_and_words,
        _as("--snapshot"),
        "  ukl snapshot redis            another one replaces it\n"
        "  ukl snapshot redis -m 512     a machine with other options has its own\n",
    ),
    Command(
        "restore",
        "start an image from the state that was saved, in a moment",
        _image_and_words,
        _as("--restore"),
        "  ukl restore redis -p 6379:6379\n"
        "  ukl restore redis -m 512 -d   what it writes is gone with the machine\n",
    ),
)


if __name__ == "__main__":
    sys.exit(main())
