# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from tests.project import FAKE_LINUX, ROOT
from ukl_build import dotconfig
from ukl_build.errors import UklError
from ukl_build.stages import kconfig


def fragment(folder: Path, name: str, *lines: str) -> Path:
    path = folder / f"{name}.config"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def configure(folder: Path, *fragments: Path) -> dict[str, str]:
    out = folder / "out" / "config"
    kconfig.configure(
        FAKE_LINUX,
        "6.1.999",
        fragments,
        out,
        report=out.with_name("report.txt"),
        log=folder / "log",
    )
    return dotconfig.read_settings(out.read_text())


def refuse(folder: Path, *lines: str) -> str:
    with pytest.raises(UklError) as caught:
        configure(folder, fragment(folder, "asked", *lines))
    assert caught.value.code == "config-unmet"
    assert not (folder / "out" / "config").exists()
    return caught.value.detail


# --- Fragments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "kconfig").glob("*.config")), ids=lambda p: p.stem)
def test_every_fragment_of_the_project_gives_reasons(path: Path) -> None:
    assert dotconfig.parse_fragment(path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("CONFIG_NET=y", "no reason is given"),
        ("CONFIG_NET=y #", "not understood"),
        ("CONFIG_NET = y  # reason", "not understood"),
        ("NET=y  # reason", "not understood"),
        ('CONFIG_S="open  # reason', "not understood"),
        (" CONFIG_NET=y  # reason", "not understood"),
    ],
)
def test_a_line_of_another_form_is_refused_by_number(
    tmp_path: Path, line: str, expected: str
) -> None:
    path = fragment(tmp_path, "f", "# a comment", "", line)
    with pytest.raises(UklError) as caught:
        dotconfig.parse_fragment(path)
    assert caught.value.code == "fragment-invalid"
    assert f"{path}:3: {expected}" in caught.value.message


def test_a_fragment_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.config"
    path.write_bytes(b"CONFIG_NET=y  # \xff\n")
    with pytest.raises(UklError) as caught:
        dotconfig.parse_fragment(path)
    assert caught.value.code == "fragment-invalid"


def test_strings_may_hold_quotes_and_hashes(tmp_path: Path) -> None:
    path = fragment(tmp_path, "f", r'CONFIG_S="a \"b\" # c"  # reason')
    (line,) = dotconfig.parse_fragment(path)
    assert (line.value, line.reason, line.where) == ('a "b" # c', "reason", "f.config:1")


def test_a_later_fragment_wins_only_if_it_says_so(tmp_path: Path) -> None:
    first = fragment(tmp_path, "first", "CONFIG_NET=y  # wanted")
    second = fragment(tmp_path, "second", "CONFIG_NET=n  # not wanted")
    with pytest.raises(UklError) as caught:
        configure(tmp_path, first, second)
    assert caught.value.code == "fragment-conflict"
    assert "second.config:1 wants CONFIG_NET=n, first.config:1 wants y" in caught.value.message
    assert "wanted" in caught.value.detail
    second = fragment(tmp_path, "second", "CONFIG_NET=n  # overrides first: not wanted")
    assert "NET" not in configure(tmp_path, first, second)
    second = fragment(tmp_path, "second", "CONFIG_NET=n  # overrides other: not wanted")
    with pytest.raises(UklError):
        configure(tmp_path, first, second)


def test_two_fragments_may_ask_for_the_same(tmp_path: Path) -> None:
    first = fragment(tmp_path, "first", "CONFIG_NET=y  # wanted")
    second = fragment(tmp_path, "second", "CONFIG_NET=y  # wanted as well")
    assert configure(tmp_path, first, second)["NET"] == "y"


# --- What the kernel makes of them --------------------------------------------------------------


def test_what_nobody_asks_for_is_off(tmp_path: Path) -> None:
    settings = configure(tmp_path, fragment(tmp_path, "f", "CONFIG_NET=y  # wanted"))
    assert settings["NET"] == "y"
    assert not settings.keys() & {"MODULES", "DEFAULT_ON", "INET", "HARDENED", "HELPER"}
    assert settings["LOG_SIZE"] == "17"  # numbers have no off


def test_all_types_of_options_can_be_asked_for(tmp_path: Path) -> None:
    lines = [
        "CONFIG_MODULES=y  # for the tristate",
        "CONFIG_NET=y  # needed",
        "CONFIG_INET=y  # needed",
        "CONFIG_DRIVER=m  # tristate",
        "CONFIG_LOG_SIZE=20  # int",
        "CONFIG_BASE_ADDRESS=0x2000  # hex",
        'CONFIG_INITRAMFS_SOURCE="a b"  # string',
        "CONFIG_LZ4=y  # choice",
        "CONFIG_HARDENED=y  # selects",
        "CONFIG_HELPER=y  # selected",
    ]
    settings = configure(tmp_path, fragment(tmp_path, "f", *lines))
    assert settings["DRIVER"] == "m"
    assert settings["LOG_SIZE"] == "20"
    assert settings["BASE_ADDRESS"] == "0x2000"
    assert settings["INITRAMFS_SOURCE"] == "a b"
    assert "GZIP" not in settings
    assert settings["HELPER"] == "y"


def test_the_compiler_is_asked_for_its_version(tmp_path: Path) -> None:
    settings = configure(tmp_path, fragment(tmp_path, "f", "CONFIG_NET=y  # wanted"))
    assert settings["CC_VERSION"].startswith("gcc ")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["CONFIG_INET=y  # r"], "unmet dependency: NET (NET is n)"),
        (["CONFIG_NETT=y  # r"], "no such option; did you mean 'NET'?"),
        (["CONFIG_HELPER=y  # r"], "cannot be set by hand; these options select it: HARDENED"),
        (["CONFIG_HARDENED=y  # r", "CONFIG_HELPER=n  # r"], "it is selected by HARDENED"),
        (["CONFIG_LZ4=y  # r", "CONFIG_GZIP=y  # r"], "one of a choice, and GZIP is chosen"),
        (["CONFIG_LOG_SIZE=40  # r"], "must be between 12 and 25"),
        (["CONFIG_NET=maybe  # r"], "'maybe' is no value for an option of type bool"),
        (["CONFIG_LOG_SIZE=big  # r"], "'big' is no value for an option of type int"),
        (["CONFIG_NET=m  # r"], "'m' is no value for an option of type bool"),
    ],
)
def test_what_the_kernel_does_not_follow_is_named_with_the_reason(
    tmp_path: Path, lines: list[str], expected: str
) -> None:
    assert expected in refuse(tmp_path, *lines)


def test_every_unmet_line_is_shown_with_its_place(tmp_path: Path) -> None:
    detail = refuse(tmp_path, "CONFIG_INET=y  # r", "CONFIG_LOG_SIZE=1  # r")
    assert "asked.config:1: CONFIG_INET=y" in detail
    assert "asked.config:2: CONFIG_LOG_SIZE=1" in detail


def test_nothing_is_left_in_the_tree_or_beside_the_result(tmp_path: Path) -> None:
    before = sorted(FAKE_LINUX.rglob("*"))
    configure(tmp_path, fragment(tmp_path, "f", "CONFIG_NET=y  # wanted"))
    assert sorted(FAKE_LINUX.rglob("*")) == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config", "report.txt"}


def test_the_report_says_who_asked_for_what_and_why(tmp_path: Path) -> None:
    configure(tmp_path, fragment(tmp_path, "f", "CONFIG_NET=y  # wanted"))
    assert (tmp_path / "out" / "report.txt").read_text() == "f.config:1\tCONFIG_NET=y\twanted\n"


def test_changes_are_shown_as_lines_that_a_fragment_may_have(tmp_path: Path) -> None:
    before = 'CONFIG_A=y\nCONFIG_NAME="one"\nCONFIG_SAME=y\n'
    after = 'CONFIG_NAME="two words"\nCONFIG_SAME=y\nCONFIG_EMPTY=""\n'
    path = fragment(tmp_path, "new", *dotconfig.changed_lines(before, after))
    found = {asked.name: asked.value for asked in dotconfig.parse_fragment(path)}
    assert found == {"A": "n", "NAME": "two words", "EMPTY": ""}
