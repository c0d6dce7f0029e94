# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.debs import deb, source_package
from ukl_build import apt, files, proc
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
    assert source.line("deb") == "deb http://one.example/debian bookworm main"


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


Download = Callable[[Path, Sequence[apt.Source]], object]


def binary(root: Path, places: Sequence[apt.Source]) -> list[Path]:
    """Download a package with a state in a new folder."""
    folder = root / "apt"
    folder.mkdir()
    return apt.download(["hello"], folder, places, log=root / "apt.log")


def source(root: Path, places: Sequence[apt.Source], said: list[str] | None = None) -> Path:
    """Download a source package with a state in a new folder."""
    folder = root / "apt"
    folder.mkdir()
    say = (said if said is not None else []).append
    return apt.download_source("hello", folder, places, log=root / "apt.log", say=say)


@pytest.mark.parametrize("download", [binary, source])
def test_downloading_without_any_source_is_refused(tmp_path: Path, download: Download) -> None:
    with pytest.raises(UklError) as caught:
        download(tmp_path, [])
    assert caught.value.code == "apt-unusable"


def test_a_program_that_downloads_sees_proxies_and_nothing_else() -> None:
    environ = {"http_proxy": "http://p.example", "SECRET": "x", "PATH": "/tmp"}
    env = apt.network_env(environ)
    assert env["http_proxy"] == "http://p.example"
    assert "SECRET" not in env
    assert env["PATH"] != "/tmp"


# --- With the machine's real apt, and repositories on disk --------------------------------------


class Trusted(apt.Source):
    """A place without a signature that is believed, as :func:`apt.parse_list` never says."""

    def line(self, kind: str) -> str:
        """Return the entry with the option."""
        return super().line(kind).replace(kind, f"{kind} [trusted=yes]", 1)


def repository(folder: Path, *versions: str, origin: str = "Debian", name: str = "hello") -> Path:
    """Make a repository of versions of a source package that nobody signed."""
    index = folder / "dists" / "bookworm" / "main" / "source" / "Sources"
    index.parent.mkdir(parents=True)
    (folder / "pool").mkdir()
    stanzas = []
    for version in versions:
        dsc = source_package(folder / "pool", name, version, {"a.c": f"int {origin};\n"})
        whole = f" {files.sha256(dsc)} {dsc.stat().st_size} {dsc.name}\n"
        head, _, rest = dsc.read_text().partition("Checksums-Sha1:\n")
        _, mark, sums = rest.partition("Checksums-Sha256:\n")
        head = head.replace("Source: ", "Package: ")
        stanzas.append(f"{head}Directory: pool\n{mark}{whole}{sums.partition('Files:')[0]}")
    index.write_text("\n".join(stanzas))
    digest = f"{files.sha256(index)} {index.stat().st_size} main/source/Sources"
    (folder / "dists" / "bookworm" / "Release").write_text(
        f"Origin: {origin}\nSuite: bookworm\nDate: Sun, 01 Jan 2023 00:00:00 UTC\n"
        f"SHA256:\n {digest}\n"
    )
    return folder


def trusted(folder: Path) -> apt.Source:
    return Trusted(folder.as_uri(), "bookworm", ("main",))


@pytest.mark.parametrize("download", [binary, source])
@pytest.mark.parametrize("conf", ["", 'Acquire::AllowInsecureRepositories "true";'])
def test_a_repository_without_a_signature_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str, download: Download
) -> None:
    (tmp_path / "apt.conf").write_text(conf)
    env = {**proc.BASE_ENV, "APT_CONFIG": str(tmp_path / "apt.conf")}
    monkeypatch.setattr(apt, "network_env", lambda: env)
    place = repository(tmp_path / "repository", "1.0-1")
    with pytest.raises(UklError) as caught:
        download(tmp_path, [apt.Source(place.as_uri(), "bookworm", ("main",))])
    assert caught.value.code == "tool-failed"
    assert "not signed" in caught.value.detail


def test_the_newest_version_of_a_source_package_is_taken_with_all_its_files(
    tmp_path: Path,
) -> None:
    """By Debian's order, not that of the letters."""
    versions = ("1:1.0-1+deb12u9", "1:1.0-1+deb12u10", "1:1.0~rc1-1")
    said: list[str] = []
    found = source(tmp_path, [trusted(repository(tmp_path / "debian", *versions))], said)
    assert {path.name for path in found.parent.iterdir()} == {
        "hello_1.0-1+deb12u10.dsc",
        "hello_1.0-1+deb12u10.debian.tar.gz",
        "hello_1.0.orig.tar.gz",
    }
    assert found.name == "hello_1.0-1+deb12u10.dsc"
    assert said == []


def test_only_an_index_of_debian_counts_for_source_packages(tmp_path: Path) -> None:
    """Neither the newer version that another has, nor its files under the same version."""
    debian = repository(tmp_path / "debian", "1.0-1")
    other = repository(tmp_path / "other", "1.0-1", "2.0-1", origin="Other")
    found = source(tmp_path, [trusted(other), trusted(debian)])
    assert found.read_bytes() == (debian / "pool" / "hello_1.0-1.dsc").read_bytes()
    assert found.read_bytes() != (other / "pool" / "hello_1.0-1.dsc").read_bytes()


def test_a_source_package_that_only_others_have_is_not_debians(tmp_path: Path) -> None:
    other = repository(tmp_path / "other", "1.0-1", origin="Other")
    debian = repository(tmp_path / "debian", "1.0-1", name="other")
    for name, places, code in (
        ("alone", [other], "apt-unusable"),
        ("beside", [other, debian], "source-missing"),
    ):
        (tmp_path / name).mkdir()
        with pytest.raises(UklError) as caught:
            source(tmp_path / name, [trusted(place) for place in places])
        assert caught.value.code == code


def test_a_place_without_source_packages_is_no_hindrance(tmp_path: Path) -> None:
    """Such as one beside Debian's with a suite of the same name."""
    other = repository(tmp_path / "other", origin="Other")
    release = other / "dists" / "bookworm" / "Release"
    release.write_text(release.read_text().replace("source/Sources", "binary-amd64/Packages"))
    debian = repository(tmp_path / "debian", "1.0-1")
    assert source(tmp_path, [trusted(other), trusted(debian)]).name == "hello_1.0-1.dsc"


def test_an_older_version_is_taken_with_a_warning_where_the_mirror_lacks_files(
    tmp_path: Path,
) -> None:
    place = repository(tmp_path / "debian", "1.0-1", "1.0-2", "1.0-3")
    (place / "pool" / "hello_1.0-3.debian.tar.gz").unlink()
    (place / "pool" / "hello_1.0-2.dsc").unlink()
    said: list[str] = []
    assert source(tmp_path, [trusted(place)], said).name == "hello_1.0-1.dsc"
    for line, (newer, older, lacking) in zip(
        said,
        [("1.0-3", "1.0-2", "1.0-3.debian.tar.gz"), ("1.0-2", "1.0-1", "1.0-2.dsc")],
        strict=True,
    ):
        assert line.startswith(f"warning: hello {newer} is in Debian's index but not on the mirror")
        assert f"the older {older} is taken" in line
        assert f"hello_{lacking}" in line


def test_a_mirror_that_lacks_files_of_all_versions_is_an_error(tmp_path: Path) -> None:
    place = repository(tmp_path / "debian", "1.0-1", "1.0-2")
    for path in (place / "pool").glob("*.debian.tar.gz"):
        path.unlink()
    with pytest.raises(UklError) as caught:
        source(tmp_path, [trusted(place)])
    assert caught.value.code == "tool-failed"
    assert "hello_1.0-1.debian.tar.gz" in caught.value.detail


def test_a_file_that_is_not_the_one_of_the_index_is_an_error_and_not_a_reason_for_an_older_one(
    tmp_path: Path,
) -> None:
    place = repository(tmp_path / "debian", "1.0-1", "1.0-2")
    file = place / "pool" / "hello_1.0-2.debian.tar.gz"
    file.write_bytes(bytes(file.stat().st_size))
    said: list[str] = []
    with pytest.raises(UklError) as caught:
        source(tmp_path, [trusted(place)], said)
    assert caught.value.code == "tool-failed"
    assert "Hash Sum mismatch" in caught.value.detail
    assert said == []


def binaries(folder: Path, **fields: str) -> apt.Source:
    """Make a repository of binary packages without contents.

    :param fields: more lines of each package's control file, by its name with ``_`` for ``-``.
    """
    index = folder / "dists" / "bookworm" / "main" / "binary-amd64" / "Packages"
    index.parent.mkdir(parents=True)
    for name, lines in fields.items():
        deb(folder / "pool", name.replace("_", "-"), "1-1", {"empty": ""}, lines)
    argv = ["dpkg-scanpackages", "--multiversion", "pool"]
    done = subprocess.run(argv, cwd=folder, check=True, capture_output=True, text=True)
    index.write_text(done.stdout)
    digest = f"{files.sha256(index)} {index.stat().st_size} main/binary-amd64/Packages"
    (folder / "dists" / "bookworm" / "Release").write_text(
        "Origin: Debian\nSuite: bookworm\nArchitectures: amd64\n"
        f"Date: Sun, 01 Jan 2023 00:00:00 UTC\nSHA256:\n {digest}\n"
    )
    return trusted(folder)


def installable(root: Path, place: apt.Source) -> list[str]:
    """Return the packages that come with another, and with the kernel that a third stands for."""
    folder = root / "apt"
    folder.mkdir()
    log = root / "apt.log"
    found = apt.download_installable("app", "newest-kernel", folder, [place], log=log)
    assert all(path.is_file() for path in found)
    return [path.name.partition("_")[0] for path in found]


def test_a_package_comes_with_what_it_depends_on_and_nothing_else(tmp_path: Path) -> None:
    place = binaries(
        tmp_path / "debian",
        app="Depends: lib (>= 1), one-of-many | other\nRecommends: recommended\n",
        lib="Depends: deep\n",
        deep="",
        one_of_many="",
        other="",
        recommended="",
        newest_kernel="Depends: kernel-6\n",
        kernel_6="Depends: what-installs-it\n",
        what_installs_it="",
    )
    assert installable(tmp_path, place) == ["app", "deep", "kernel-6", "lib", "one-of-many"]


def test_a_package_that_stands_for_no_other_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UklError, match="newest-kernel depends on none") as caught:
        installable(tmp_path, binaries(tmp_path / "debian", app="", newest_kernel=""))
    assert caught.value.code == "source-missing"


def test_what_a_package_depends_on_must_be_there(tmp_path: Path) -> None:
    place = binaries(tmp_path / "debian", app="Depends: lost\n", newest_kernel="Depends: app\n")
    with pytest.raises(UklError) as caught:
        installable(tmp_path, place)
    assert caught.value.code == "tool-failed"
    assert "Depends: lost but it is not installable" in caught.value.detail
