# SPDX-License-Identifier: Apache-2.0
"""``ukl``: its commands are found, and tell what an error is about."""

from __future__ import annotations

import pytest

from ukl_build import ukl
from ukl_build.errors import CODES, Fault


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
