# SPDX-License-Identifier: Apache-2.0
"""The commands of ``ukl`` for machines: ps, logs, wait, stop, kill, rm, stats, inspect, qmp."""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.live import Live
from rich.table import Table

from ukl_build.commands import Command
from ukl_build.completion import completed
from ukl_build.errors import UklError
from ukl_build.run import attach, control, execute
from ukl_build.run.attend import Output
from ukl_build.run.machine import POLITE_S
from ukl_build.run.outcome import GuestError, Kind, Outcome
from ukl_build.run.overview import age, out, table
from ukl_build.run.records import Entry, Record, Store, as_json, is_alive

FOLLOW_S = 0.1
"""Seconds between two looks at a log that is followed."""

STATS_S = 1.0
"""Seconds between two lines of figures."""


def _known(alive: bool | None) -> Callable[[], list[str]]:
    """Return what names all machines, or those that run."""
    return lambda: [one.name for one in Store.default().all() if alive in (None, one.alive)]


def _names(parser: argparse.ArgumentParser, *, least: str = "+", alive: bool | None = True) -> None:
    names = parser.add_argument(
        "names",
        nargs=least,
        metavar="NAME",
        help="a machine, or an image of which there is only one",
    )
    completed(names, _known(alive))


def _name(parser: argparse.ArgumentParser) -> None:
    name = parser.add_argument("name", metavar="NAME", help="a machine, or an image: its last one")
    completed(name, _known(None))


def _running(parser: argparse.ArgumentParser) -> None:
    name = parser.add_argument(
        "name", metavar="NAME", help="a machine, or an image of which one runs"
    )
    completed(name, _known(True))


def _client(entry: Entry) -> control.Client:
    return control.Client(Path(entry.record.socket))


def _each(names: list[str], work: Callable[[str], None]) -> int:
    """Do something for each name, and go on if it fails for one.

    :return: the exit status of the last failure, or 0.
    """
    status = 0
    for name in names:
        try:
            work(name)
        except UklError as error:
            print(error, file=sys.stderr)
            status = error.exit_status
    return status


# --- ps ---


def state(entry: Entry, now_s: float) -> str:
    """Return in a few words whether a machine runs, or how it ended."""
    if entry.alive:
        if entry.record.qemu_pid is None:
            return "starting"
        return f"up {age(now_s - entry.record.started_s)}"
    if entry.ended is None:
        return "lost: ukl-run was killed, or the disk full"
    how = entry.ended
    kind = how.kind.value if how.kind else how.error
    status = f" ({how.status})" if how.kind is not None else ""
    return f"{kind}{status} {age(now_s - how.ended_s)} ago"


def _ps_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="those that have ended as well")
    parser.add_argument("-q", "--quiet", action="store_true", help="names only")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each")


def _ps(options: argparse.Namespace) -> int:
    found, wrong = Store.default().look()
    entries = [one for one in found if options.all or one.alive]
    for error in wrong:
        print(f"warning: {error.message}", file=sys.stderr)
    if options.quiet:
        for one in entries:
            print(one.name)
    elif options.json:
        for one in entries:
            print(_described(one))
    else:
        now = time.time()
        rows = table("NAME", "IMAGE", "STATE", "PORTS", "MEMORY", "CPUS")
        for one in entries:
            ports = " ".join(map(str, one.record.ports)) if one.alive else ""
            size = f"{one.record.memory_mib} MiB"
            rows.add_row(
                *(one.name, one.record.label, state(one, now), ports, size, str(one.record.cpus))
            )
        out().print(rows)
    return 0


def _described(entry: Entry) -> str:
    found = json.loads(as_json(entry.record, entry.ended))
    return json.dumps({**found, "alive": entry.alive})


PS = Command(
    "ps",
    "list the machines that run",
    _ps_arguments,
    _ps,
    examples="  ukl ps\n  ukl ps -a --json | jq -r 'select(.alive | not) | .name'\n",
)


def _inspect(options: argparse.Namespace) -> int:
    entry = Store.default().find(options.name)
    print(json.dumps(json.loads(_described(entry)), indent=2))
    return 0


INSPECT = Command(
    "inspect",
    "print all that is kept of a machine, as JSON",
    _name,
    _inspect,
    examples="  ukl inspect redis-1 | jq .ports\n",
)

# --- logs ---


def _lines(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of lines")
    return int(text)


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    parser.add_argument("-n", "--tail", metavar="N", type=_lines, help="only the last N lines")


def _nobody_reads() -> bool:
    """Return whether the reader of standard output has gone, with nothing to write to find out."""
    poll = select.poll()
    poll.register(1, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _logs(options: argparse.Namespace) -> int:
    entry = Store.default().find(options.name)
    writer = Output()
    with entry.console.open("rb") as file, suppress(KeyboardInterrupt):
        if options.tail is not None:
            lines = file.read().splitlines(keepends=True)
            writer.write(b"".join(lines[len(lines) - options.tail :]))
        while writer.is_open:
            # Asked first: what comes before the end is then read below.
            over = not options.follow or not is_alive(entry.folder)
            while data := file.read(65536):
                writer.write(data)
            if over or _nobody_reads():
                break
            time.sleep(FOLLOW_S)
    return 0


LOGS = Command(
    "logs",
    "print what a machine's console has had",
    _logs_arguments,
    _logs,
    examples="  ukl logs -f redis\n  ukl logs -n 20 redis-1\n",
)

# --- wait, stop, kill, rm ---


def _ending(entry: Entry, client: control.Client, wait_s: float | None) -> bool:
    """Wait until a machine has ended.

    :return: whether it has.
    """
    with client:
        return client.wait(wait_s)


def _wait_arguments(parser: argparse.ArgumentParser) -> None:
    _name(parser)
    parser.add_argument("--timeout", metavar="S", type=float, help="seconds; otherwise for ever")


def _wait(options: argparse.Namespace) -> int:
    entry = Store.default().find(options.name)
    status = entry.ended.status if entry.ended else None
    if entry.alive:
        # Not from the record: with --rm there is none afterwards.
        try:
            with _client(entry) as client:
                status = client.status(options.timeout)
        except TimeoutError as error:
            raise UklError(
                "machine-runs",
                f"{entry.name} still runs after {options.timeout:g} s",
                hint=f"give it more time, or: ukl stop {entry.name}",
            ) from error
    if status is None:
        why = f"the ukl-run of {entry.name} was killed, or the disk full"
        raise GuestError(Outcome(Kind.STOPPED, why=why))
    print(status)
    return status


WAIT = Command(
    "wait",
    "wait for a machine's end, and print and return its exit status",
    _wait_arguments,
    _wait,
    examples="  ukl wait redis-1\n",
)


def _stop_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser)
    parser.add_argument(
        "-t",
        "--time",
        metavar="S",
        type=float,
        default=POLITE_S,
        help=f"seconds that the guest is given to end ({POLITE_S:g})",
    )


def _stop(options: argparse.Namespace) -> int:
    def stop(name: str) -> None:
        entry = Store.default().find(name, alive=True)
        client = _client(entry)
        client.ask("stop", by="ukl stop", wait_s=options.time)
        if not _ending(entry, client, options.time + control.STOP_S):
            raise UklError(
                "machine-silent",
                f"{entry.name} does not end",
                hint=f"end it at once: ukl kill {entry.name}",
            )
        print(entry.name)

    return _each(options.names, stop)


STOP = Command(
    "stop",
    "press a machine's power button, and end it if that does not help",
    _stop_arguments,
    _stop,
    examples="  ukl stop redis-1\n  ukl stop $(ukl ps -q)\n",
)


QUICK_S = 2.0
"""Seconds for an answer of one that is to be killed anyway."""


def end_at_once(entry: Entry) -> None:
    """End a machine, without asking the guest; its ukl-run is killed if it does not answer.

    :raise OSError: if it cannot be killed.
    """
    try:
        client = control.Client(Path(entry.record.socket), QUICK_S)
        client.ask("stop", by="ukl kill", wait_s=0)
        if _ending(entry, client, control.STOP_S):
            return
    except UklError:
        pass
    control.kill(entry.record.pid, lambda: is_alive(entry.folder))


def _signal_number(text: str) -> int:
    """Parse the name or number of a signal.

    :raise argparse.ArgumentTypeError: if it is none.
    """
    try:
        if text.isdecimal():
            return signal.Signals(int(text)).value
        return signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"].value
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is no signal, such as HUP or 1") from None


def _kill_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser)
    parser.add_argument(
        "-s",
        "--signal",
        metavar="SIGNAL",
        type=_signal_number,
        help="send this to the application instead",
    )


def _kill(options: argparse.Namespace) -> int:
    def kill(name: str) -> None:
        entry = Store.default().find(name, alive=True)
        if options.signal is None:
            end_at_once(entry)
        else:
            with _client(entry) as client:
                client.ask("signal", number=options.signal)
        print(entry.name)

    return _each(options.names, kill)


KILL = Command(
    "kill",
    "end a machine at once, as if its power was cut, or send its application a signal",
    _kill_arguments,
    _kill,
    examples="  ukl kill redis-1\n  ukl kill -s HUP nginx\n",
)


def _rm_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser, least="*", alive=None)
    parser.add_argument("-f", "--force", action="store_true", help="end it if it runs")
    parser.add_argument("--ended", action="store_true", help="all that have ended")


def _rm(options: argparse.Namespace) -> int:
    store = Store.default()
    if bool(options.names) == options.ended:
        raise UklError(
            "run-invalid", "either names are needed, or --ended", hint="`ukl ps -a` lists all"
        )

    def remove(name: str) -> None:
        try:
            entry = store.find(name)
            folder = entry.folder
            if entry.alive and options.force:
                end_at_once(entry)
        except UklError as error:
            if error.code != "record-invalid":
                raise
            folder = store.folder / name
        if not store.remove(folder):
            raise UklError(
                "machine-runs",
                f"{folder.name} runs",
                hint=f"stop it first: ukl stop {folder.name}; or ukl rm -f {folder.name}",
            )
        print(folder.name)

    ended = [one.name for one in store.all() if not one.alive]
    return _each(ended if options.ended else options.names, remove)


RM = Command(
    "rm",
    "remove the records and logs of machines that have ended; disks stay",
    _rm_arguments,
    _rm,
    examples="  ukl rm redis-1\n  ukl rm --ended\n",
)

# --- stats ---


@dataclass(frozen=True)
class Stats:
    """What a machine takes of the host."""

    name: str
    cpu_s: float
    """Processor time of QEMU since its start, seconds."""
    cpu_percent: float | None
    """The same between two looks, percent of one processor; None at the first."""
    resident_mib: float
    """Memory of QEMU that is in use, MiB."""
    memory_mib: int
    """Memory of the guest, MiB."""
    read_mib: float
    """Read from its disks, MiB."""
    written_mib: float
    """Written to its disks, MiB."""
    up_s: float


def _process(pid: int) -> tuple[float, float]:
    """Return processor time in seconds and resident memory in MiB of a process (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
    page = os.sysconf("SC_PAGE_SIZE")
    return ticks / os.sysconf("SC_CLK_TCK"), pages * page / (1 << 20)


def measure(entry: Entry, before: Stats | None = None) -> Stats:
    """Look at what a machine takes.

    :param before: what was seen earlier.
    :raise UklError: if it does not answer.
    :raise OSError: if it has ended.
    """
    record: Record = entry.record
    with _client(entry) as client:
        blocks = client.ask("qmp", command="query-blockstats")
    cpu_s, resident = _process(record.qemu_pid or 0)
    up_s = time.time() - record.started_s
    percent = None
    if before is not None and up_s > before.up_s:
        percent = 100 * (cpu_s - before.cpu_s) / (up_s - before.up_s)
    return Stats(
        name=entry.name,
        cpu_s=cpu_s,
        cpu_percent=percent,
        resident_mib=resident,
        memory_mib=record.memory_mib,
        read_mib=sum(one["stats"]["rd_bytes"] for one in blocks) / (1 << 20),
        written_mib=sum(one["stats"]["wr_bytes"] for one in blocks) / (1 << 20),
        up_s=up_s,
    )


def _stats_arguments(parser: argparse.ArgumentParser) -> None:
    _names(parser, least="*")
    parser.add_argument("--once", action="store_true", help="print once, and end")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each, once")


def _looked(names: list[str], before: dict[str, Stats]) -> list[Stats]:
    store = Store.default()
    chosen = [store.find(name, alive=True) for name in names]
    found = []
    for entry in chosen or [one for one in store.all() if one.alive]:
        try:
            found.append(measure(entry, before.get(entry.name)))
        except (UklError, OSError):
            if names:
                raise
    return found


def _stats_table(stats: list[Stats]) -> Table:
    rows = table("NAME", "CPU", "CPU TIME", "MEMORY", "READ", "WRITTEN", "UP")
    for one in stats:
        rows.add_row(
            one.name,
            "" if one.cpu_percent is None else f"{one.cpu_percent:.0f} %",
            f"{one.cpu_s:.1f} s",
            f"{one.resident_mib:.0f} of {one.memory_mib} MiB",
            f"{one.read_mib:.1f} MiB",
            f"{one.written_mib:.1f} MiB",
            age(one.up_s),
        )
    return rows


def _stats(options: argparse.Namespace) -> int:
    stats = _looked(options.names, {})
    if options.json:
        for one in stats:
            print(json.dumps(vars(one)))
        return 0
    console = out()
    if options.once or not console.is_terminal:
        console.print(_stats_table(stats))
        return 0
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while stats:
            live.update(_stats_table(stats), refresh=True)
            time.sleep(STATS_S)
            stats = _looked(options.names, {one.name: one for one in stats})
    return 0


STATS = Command(
    "stats",
    "show what machines take of this one: processor, memory, disks",
    _stats_arguments,
    _stats,
    examples="  ukl stats\n  ukl stats --json redis-1\n",
)

# --- exec ---


def _exec_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    parser.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    parser.add_argument(
        "--put",
        dest="files",
        metavar="HOST:GUEST",
        type=attach.file_option,
        action="append",
        default=[],
        help="write a copy of a file first",
    )
    _running(parser)
    parser.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="PROGRAM [ARG...]", help="what to run there"
    )


def _exec(options: argparse.Namespace) -> int:
    if options.tty and not os.isatty(0):
        raise UklError("run-invalid", "standard input is no terminal", hint="leave -t out")
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv and not options.files:
        raise UklError("run-invalid", "there is no program to run", hint="say which, or --put")
    entry = Store.default().find(options.name, alive=True)
    for file in options.files:
        with _client(entry) as client:
            execute.put(client.channel(), file.path, file.guest)
    if not argv:
        return 0
    with _client(entry) as client:
        return execute.run(client.channel(), argv, stdin=options.interactive, terminal=options.tty)


EXEC = Command(
    "exec",
    "run an ordinary program in a machine's userspace, as root",
    _exec_arguments,
    _exec,
    examples=(
        "  ukl exec --put /bin/busybox:/bin/sh redis-1 sh -c 'cat /proc/meminfo'\n"
        "  ukl exec -it redis-1 sh\n"
    ),
)

# --- qmp ---


def _qmp_arguments(parser: argparse.ArgumentParser) -> None:
    _running(parser)
    parser.add_argument("command_name", metavar="COMMAND", help="of QMP, as query-status")
    parser.add_argument(
        "arguments", nargs="?", default="{}", metavar="JSON", help="its arguments, an object"
    )


def _qmp(options: argparse.Namespace) -> int:
    try:
        arguments = json.loads(options.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise UklError(
            "run-invalid",
            f"{options.arguments!r} is no JSON object",
            hint="""such as '{"command-line": "info network"}'""",
        )
    entry = Store.default().find(options.name, alive=True)
    with _client(entry) as client:
        answer = client.ask("qmp", command=options.command_name, arguments=arguments)
    if isinstance(answer, str):  # of the human monitor
        sys.stdout.write(answer.replace("\r\n", "\n"))
    else:
        print(json.dumps(answer, indent=2))
    return 0


QMP = Command(
    "qmp",
    "ask QEMU something about a machine",
    _qmp_arguments,
    _qmp,
    examples=(
        "  ukl qmp redis query-status\n"
        """  ukl qmp redis human-monitor-command '{"command-line": "info registers"}'\n"""
    ),
)

COMMANDS = (PS, LOGS, STATS, EXEC, STOP, KILL, RM, WAIT, INSPECT, QMP)
