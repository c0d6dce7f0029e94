# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from ukl_build import apt, proc
from ukl_build.errors import UklError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

LIST = f"""\
# deb http://comment.example/debian bookworm main
deb http://one.example/debian bookworm main contrib  # why
deb [arch=amd64 signed-by={KEYRING} trusted=yes] http://two.example/debian bookworm-updates main
deb-src http://one.example/debian bookworm main
deb http://broken.example
deb-mistake http://one.example/debian bookworm main
"""

DEB822 = f"""\
# a comment
Types: deb deb-src
URIs: http://one.example/debian http://two.example/debian
Suites: bookworm
# in the middle
  bookworm-updates
Components: main
Signed-By: {KEYRING}

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://key.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcdef
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_the_one_line_format_is_understood() -> None:
    assert apt.parse_list(LIST) == [
        apt.Source("http://one.example/debian", "bookworm", ("main", "contrib")),
        apt.Source("http://two.example/debian", "bookworm-updates", ("main",), KEYRING),
    ]


def test_an_option_that_switches_signatures_off_is_not_taken_over() -> None:
    (source,) = apt.parse_list("deb [trusted=yes] http://one.example/debian bookworm main")
    assert source.line == "deb http://one.example/debian bookworm main"


def test_the_deb822_format_is_understood() -> None:
    found = apt.parse_deb822(DEB822)
    assert found[:4] == [
        apt.Source(f"http://{host}.example/debian", suite, ("main",), KEYRING)
        for host in ("one", "two")
        for suite in ("bookworm", "bookworm-updates")
    ]
    assert found[4:] == [apt.Source("http://key.example/debian", "bookworm", ("main",))]


def test_both_formats_of_a_machine_are_read_and_other_files_are_not(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example bookworm main\n")
    (parts / "b.list").write_text("deb http://b.example bookworm main\n")
    (parts / "c.sources").write_text(
        "Types: deb\nURIs: http://c.example\nSuites: bookworm\nComponents: main\n"
    )
    (parts / "d.list.save").write_text("deb http://d.example bookworm main\n")
    assert [source.uri for source in apt.machine_sources(tmp_path)] == [
        f"http://{name}.example" for name in "abc"
    ]


def test_only_the_running_release_is_kept_with_updates_and_security() -> None:
    suites = ("bookworm", "bookworm-updates", "bookworm-security", "trixie", "bookworm-backports")
    wanted = [apt.Source("http://d.example", suite, ("main", "non-free")) for suite in suites]
    third_party = apt.Source("http://docker.example/linux/debian", "bookworm", ("stable",))
    found = apt.debian_only([*wanted, third_party, *wanted], "bookworm")
    assert [source.suite for source in found] == list(suites[:3])
    assert {source.components for source in found} == {("main",)}


def test_another_distribution_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text('ID=ubuntu\nVERSION_CODENAME="noble"\n')
    with pytest.raises(UklError, match="not a Debian release"):
        apt.codename(path)
    path.write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    assert apt.codename(path) == "bookworm"


def test_downloading_without_any_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UklError) as caught:
        apt.download(["hello"], tmp_path / "apt", [], log=tmp_path / "log")
    assert caught.value.code == "apt-unusable"


def test_a_program_that_downloads_sees_proxies_and_nothing_else() -> None:
    environ = {"http_proxy": "http://p.example", "SECRET": "x", "PATH": "/tmp"}
    env = apt.network_env(environ)
    assert env["http_proxy"] == "http://p.example"
    assert "SECRET" not in env
    assert env["PATH"] != "/tmp"


@pytest.mark.parametrize("conf", ["", 'Acquire::AllowInsecureRepositories "true";'])
def test_a_repository_without_a_signature_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str
) -> None:
    """With the machine's real apt and a repository on disk that nobody signed."""
    (tmp_path / "apt.conf").write_text(conf)
    env = {**proc.BASE_ENV, "APT_CONFIG": str(tmp_path / "apt.conf")}
    monkeypatch.setattr(apt, "network_env", lambda: env)
    repository = tmp_path / "repository"
    index = repository / "dists" / "bookworm" / "main" / "binary-amd64"
    index.mkdir(parents=True)
    (index / "Packages").write_text("Package: hello\nVersion: 1\nArchitecture: all\n")
    (repository / "dists" / "bookworm" / "Release").write_text("Origin: Debian\nSuite: bookworm\n")
    place = apt.Source(repository.as_uri(), "bookworm", ("main",))
    folder = tmp_path / "apt"
    folder.mkdir()
    with pytest.raises(UklError) as caught:
        apt.download(["hello"], folder, [place], log=tmp_path / "apt.log")
    assert caught.value.code == "tool-failed"
    assert "not signed" in caught.value.detail
