# SPDX-License-Identifier: Apache-2.0
"""Manual pages as man shows them, and completion as shells do it at a terminal."""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project import ROOT
from tests.unit.place import Place
from ukl_build import manual

ENOUGH_S = 60.0

SHELLS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
SET_UP = {
    "bash": 'eval "$(ukl completion bash)"',
    "zsh": 'autoload -U compinit; compinit -u -D; eval "$(ukl completion zsh)"',
    "fish": "ukl completion fish | source",
}


class Terminal:
    """A shell at a terminal of ours."""

    def __init__(self, argv: tuple[str, ...], place: Place) -> None:
        env = place.env | {"PATH": f"{ROOT}/tools:{Path(sys.executable).parent}:{os.defpath}"}
        env |= {"TERM": "dumb", "HOME": str(place.root), "PS1": "> ", "LC_ALL": "C.UTF-8"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(place.root)
            os.execvpe(argv[0], argv, env)
        self.seen = ""

    def send(self, text: str) -> None:
        """Type something."""
        os.write(self.fd, text.encode())

    def until(self, pattern: str) -> None:
        """Wait until something is shown; forgets what was before."""
        end = time.monotonic() + ENOUGH_S
        while not (found := re.search(pattern, self.seen)):
            left = end - time.monotonic()
            assert left > 0, self.seen
            assert select.select([self.fd], [], [], left)[0], self.seen
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen[found.end() :]

    def close(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_and_names(place: Place, shell: str) -> None:
    place.image("power_off", name="redis")
    place.image("power_off", name="memcached")
    terminal = Terminal(SHELLS[shell], place)
    try:
        terminal.send(f"{SET_UP[shell]}; echo re''ady\n")
        terminal.until("ready\r")
        for typed, completed in (
            ("ukl expl", "ain "),
            ("guest-pan", "ic "),
        ):
            terminal.send(f"{typed}\t")
            terminal.until(re.escape(completed))
        terminal.send("\n")
        terminal.until("The guest's kernel gave up")
        terminal.send("ukl-run --qemu mem\t")
        terminal.until("cached ")
        terminal.send("--dry\t")
        terminal.until("-run ")
    finally:
        terminal.close()


@pytest.mark.parametrize("program", manual.PROGRAMS)
def test_a_page_is_what_man_likes_and_has_all_options(tmp_path: Path, program: str) -> None:
    path = tmp_path / f"{program}.1"
    path.write_text(manual.page(program))
    done = subprocess.run(
        ["man", "--warnings", "-P", "cat", "-l", path],
        env={"PATH": os.defpath, "MANWIDTH": "200", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    plain = re.sub(".\x08", "", done.stdout)  # underlined and bold, as on a typewriter
    assert f"{program} - {manual.PROGRAMS[program][1]}" in plain
    assert all(option in plain for option in options(manual.parser(program)))


def parsers(one: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its commands."""
    yield one
    for action in one._actions:
        if isinstance(action, argparse._SubParsersAction):
            for other in action.choices.values():
                yield from parsers(other)


@pytest.mark.parametrize("program", manual.PROGRAMS)
def test_help_fits_a_screen_and_begins_with_examples(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for one in parsers(manual.parser(program)):
        text = one.format_help()
        assert text.count("\n") <= 50, one.prog
        assert max(map(len, text.splitlines())) <= 100, one.prog
        assert 0 < text.index("examples:") < text.index("\n  -"), one.prog


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return all options of a parser and of its commands, but for help."""
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                found |= options(one)
        elif action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
            found |= set(action.option_strings)
    return found


def test_lines_of_a_page_stay_as_they_are(tmp_path: Path) -> None:
    text = manual.page("ukl-run")
    assert re.search(r"^\.nf\n  ukl\\-run .*\n(  ukl.*\n)+\.fi$", text, re.MULTILINE)


def test_all_pages_are_written_and_without_a_terminal_help_is_shown(place: Place) -> None:
    assert place.ukl("man", "--write", "pages")[0] == 0
    written = {path.name for path in (place.root / "pages" / "man1").iterdir()}
    assert written == {f"{program}.1" for program in manual.PROGRAMS}
    code, out, _ = place.ukl("man", "ukl-run")
    assert (code, out.startswith("usage: ukl-run")) == (0, True)


def test_a_reader_that_goes_is_no_error(place: Place) -> None:
    with place.start("explain", module="ukl_build.ukl") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(ENOUGH_S) == 128 + signal.SIGPIPE
