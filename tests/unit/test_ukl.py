# SPDX-License-Identifier: Apache-2.0
"""``ukl``: its commands are found, and tell what an error is about."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys

import pytest

from tests.project import ROOT
from ukl_build import explain, scons_tool, ukl
from ukl_build.errors import CODES, Fault
from ukl_build.run import cli as run_cli


def test_an_error_is_explained_as_it_is_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("guest-panic", "[guest-panic]", "error[guest-panic]:"):
        assert ukl.main(["explain", text]) == 0
        assert CODES["guest-panic"][1] in capsys.readouterr().out


def test_an_unknown_error_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert ukl.main(["explain", "guest-panik"]) == Fault.USER
    assert "did you mean 'guest-panic'" in capsys.readouterr().err


def test_all_errors_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ukl.main(["explain"]) == 0
    out = capsys.readouterr().out
    assert all(f"{code} " in out for code in CODES)


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ukl.main([])
    assert ended.value.code == 2
    assert "explain" in ukl.parser().format_help()


def test_every_code_has_one_section_and_every_section_a_code() -> None:
    found = explain.sections(explain.DOCUMENT.read_text())
    assert list(found) == sorted(CODES), "docs/errors.md: one section for each code, in order"
    for code, text in found.items():
        assert 3 <= len(text.splitlines()) <= 20, f"docs/errors.md: {code}: too short or too long"
        assert CODES[code][1] not in text, f"docs/errors.md: {code}: errors.CODES says that already"


def test_a_section_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        explain.sections("# all\n## one\na\n## two\nb\n## one\nc\n")
    assert explain.sections("# all\n## one\na\n\n## two\n\nb\n") == {"one": "a", "two": "b"}


def test_links_and_commands_of_the_sections_lead_somewhere() -> None:
    text = explain.DOCUMENT.read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (explain.DOCUMENT.parent / target).is_file(), f"docs/errors.md: {target}"
    for tool in re.findall(r"\btools/([\w-]+)", text):
        assert (ROOT / "tools" / tool).is_file(), f"docs/errors.md: tools/{tool}"
    words = {variable.name for variable in scons_tool.variables(["x"])}
    for line in re.findall(r"^    scons (.*?)(?:  +#.*)?$", text, re.M):
        named = {word.partition("=")[0] for word in line.split("&&")[0].split() if "=" in word}
        assert named <= words, f"docs/errors.md: scons {line}"
    options = set(re.findall(r"--[a-z-]+", run_cli.parser().format_help())) | {"-p", "-m", "--help"}
    for line in re.findall(r"tools/ukl-run (.*?)(?:  +#.*)?$", text, re.M):
        given = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", line))
        assert given <= options, f"docs/errors.md: tools/ukl-run {line}"


def test_a_terminal_gets_it_without_marks_and_a_file_as_it_is() -> None:
    argv = [sys.executable, "-m", "ukl_build.ukl", "explain", "port-taken"]
    plain = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert explain.sections(explain.DOCUMENT.read_text())["port-taken"] in plain
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(argv, cwd=ROOT, stdout=follower, env=env) as shown:
        os.close(follower)
        said = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while data := os.read(leader, 4096):
                said += data
    os.close(leader)
    assert shown.returncode == 0
    assert b"\x1b[" in said and b"tools/ukl-run --qemu NAME -p 0:PORT" in said
