# SPDX-License-Identifier: Apache-2.0
"""Debian packages that an application links: where they come from and what is taken of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.debs import LIBRARIES, deb
from ukl_build import apt, files, manifest, packages
from ukl_build.cache import Cache
from ukl_build.errors import UklError
from ukl_build.recipe import DebianArchives
from ukl_build.stages import debian

TESTED = "1:2.0-1"
ONE = {f"{LIBRARIES}/libone.a": "archive", "usr/include/one.h": "header"}
TWO = {
    "usr/lib/libtwo.a": "archive",
    f"{LIBRARIES}/sub/libmore.a": "more",
    "usr/include/x86_64-linux-gnu/two/two.h": "header",
}


def wanted(
    package: str, archives: Sequence[str], headers: Sequence[str] = (), tested: str = TESTED
) -> DebianArchives:
    return DebianArchives(
        package=package,
        tested=tested,
        licence="Zlib",
        archives=tuple(archives),
        headers=tuple(headers),
    )


WANTED = (
    wanted("libone-dev", ["libone.a"], ["one.h"]),
    wanted("libtwo+x-dev", ["libtwo.a", "sub/libmore.a"], ["two/two.h"]),
)


@dataclass
class World:
    """Debian's archive, a user's folder and a cache, all in one temporary folder."""

    root: Path
    said: list[str] = field(default_factory=list)
    asked: list[list[str]] = field(default_factory=list)
    """What apt was asked for, each time."""

    def __post_init__(self) -> None:
        self.cache = Cache(self.root / "cache")
        self.mirror = self.root / "mirror"
        self.place = self.root / "build" / "debian"
        self.publish_deb("libone-dev", TESTED, ONE)
        self.publish_deb("libtwo+x-dev", TESTED, TWO)

    def publish_deb(self, name: str, version: str, content: dict[str, str]) -> Path:
        """Put a package into the archive, in place of its other versions."""
        self.mirror.mkdir(exist_ok=True)
        for old in self.mirror.glob(f"{name}_*.deb"):
            old.unlink()
        return deb(self.mirror, name, version, content)

    def admit(self, file: Path, version: str) -> Path:
        """Put a package of libone-dev into the cache, as if it had been fetched."""
        plain = file.rename(file.with_name("libone-dev.deb"))
        return packages.admit(plain, "libone-dev", version, self.cache).file

    def download(
        self, names: Sequence[str], folder: Path, sources: Iterable[apt.Source], *, log: Path
    ) -> list[Path]:
        """Stand in for apt."""
        self.asked.append(list(names))
        found = []
        for name in names:
            there = list(self.mirror.glob(f"{name}_*.deb"))
            if not there:
                raise UklError("tool-failed", "apt-get ended with status 100", hint="?", detail="E")
            found.append(Path(shutil.copy(there[0], folder)))
        return found

    def prepare(
        self, folder: Path | None = None, want: Sequence[DebianArchives] = WANTED
    ) -> list[packages.Package]:
        return debian.prepare(
            want, folder, self.cache, logs=self.root / "logs", say=self.said.append
        )

    def publish(self, folder: Path | None = None) -> manifest.Manifest:
        out = self.place.with_suffix(".manifest.json")
        packages.publish(self.prepare(folder), self.place, out, stage="debian", repeat="scons")
        return manifest.load(out)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    monkeypatch.setattr(apt, "download", world.download)
    return world


def refuse(code: str, prepare: object) -> UklError:
    assert callable(prepare)
    with pytest.raises(UklError) as caught:
        prepare()
    assert caught.value.code == code, str(caught.value)
    return caught.value


# --- What is taken ------------------------------------------------------------------------------


def test_archives_and_headers_are_found_by_paths_of_the_application(world: World) -> None:
    record = world.publish()
    assert packages.archives(WANTED, world.place) == [
        world.place / "libone-dev" / LIBRARIES / "libone.a",
        world.place / "libtwo+x-dev" / "usr/lib/libtwo.a",
        world.place / "libtwo+x-dev" / LIBRARIES / "sub/libmore.a",
    ]
    words = packages.include_flags(WANTED, str(world.place))
    *words, one, two = words
    assert one == f"-ffile-prefix-map={world.place}/libone-dev="
    assert two == f"-ffile-prefix-map={world.place}/libtwo+x-dev="
    assert set(words[::2]) == {"-isystem"}
    found = [Path(folder) / name for folder in words[1::2] for name in ("one.h", "two/two.h")]
    assert [path.name for path in found if path.is_file()] == ["one.h", "two.h"]
    assert record.inputs == {"libone-dev": TESTED, "libtwo+x-dev": TESTED}
    assert record.outputs == {
        f"debian/{path.name.partition('_')[0]}": files.sha256(path)
        for path in world.mirror.glob("*.deb")
    }


def test_a_package_that_is_no_longer_named_is_no_longer_linked(world: World) -> None:
    world.publish()
    out = world.place.with_suffix(".manifest.json")
    packages.publish(
        world.prepare(want=WANTED[:1]), world.place, out, stage="debian", repeat="scons"
    )
    assert [path.name for path in world.place.iterdir()] == ["libone-dev"]


def test_a_header_is_never_away_while_packages_are_linked_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCons asks for headers while the stage runs; one that was away for a moment is an error."""
    world.publish()
    header = world.place / "libone-dev" / "usr/include/one.h"
    there = []
    change = Path.symlink_to

    def symlink_to(self: Path, target: Path) -> None:
        there.append(header.is_file())
        change(self, target)
        there.append(header.is_file())

    monkeypatch.setattr(Path, "symlink_to", symlink_to)
    world.publish()
    assert there == []
    replaced = shutil.copytree(header.parents[2], world.root / "other")
    files.link(world.place / "libone-dev", replaced)
    assert header.resolve() == replaced / "usr/include/one.h"
    world.publish()
    assert there == [True] * 4
    assert header.resolve() != replaced / "usr/include/one.h"


@pytest.mark.parametrize(
    ("what", "archives", "headers", "expected"),
    [
        ("archive", ["libon.a"], [], "no archive libon.a; did you mean 'libone.a'?"),
        ("header", ["libone.a"], ["on.h"], "no header on.h; did you mean 'one.h'?"),
        ("archive", ["one.h"], [], "no archive one.h"),
        ("header", [], ["libone.a"], "no header libone.a"),
    ],
)
def test_what_a_package_lacks_is_named_with_what_it_has(
    world: World, what: str, archives: list[str], headers: list[str], expected: str
) -> None:
    want = [wanted("libone-dev", archives, headers)]
    error = refuse("source-missing", lambda: world.prepare(want=want))
    assert f"libone-dev {TESTED} has {expected}" in error.message
    assert "[[debian]]" in error.hint
    known = {"archive": "libone.a", "header": "one.h"}[what]
    assert known in error.detail or "it has none at all" in error.detail


def test_another_version_than_the_tested_one_is_pointed_out(world: World) -> None:
    world.publish_deb("libone-dev", "1:2.1-1", ONE)
    (package, _) = world.prepare()
    assert package.version == "1:2.1-1"
    (warning,) = [line for line in world.said if line.startswith("warning: ")]
    assert warning == f"warning: libone-dev 1:2.1-1 is used, {TESTED} was tested last"


# --- Debian's archive and the cache -------------------------------------------------------------


def test_apt_is_asked_once_for_all_that_is_missing_and_then_no_more(world: World) -> None:
    world.prepare(want=WANTED[:1])
    first = world.prepare()
    assert world.asked == [["libone-dev"], ["libtwo+x-dev"]]
    shutil.rmtree(world.mirror)
    shutil.rmtree(world.cache.packages)
    assert world.prepare() == first
    assert len(world.asked) == 2
    shutil.rmtree(world.cache.root)
    assert refuse("source-unavailable", world.prepare).message.endswith("libone-dev, libtwo+x-dev")
    assert world.asked[2:] == [["libone-dev", "libtwo+x-dev"]]


def test_of_the_cached_versions_the_tested_one_comes_first_then_the_newest(world: World) -> None:
    """Debian's order, not that of the letters: security updates differ behind a plus sign."""
    for version in ("1:2.0-1+deb12u9", "1:2.0-1+deb12u10", "1:2.0~rc1-1"):
        world.admit(world.publish_deb("libone-dev", version, ONE), version)
    (package,) = world.prepare(want=WANTED[:1])
    assert package.version == "1:2.0-1+deb12u10"
    (package,) = world.prepare(want=[wanted("libone-dev", ["libone.a"], tested="1:2.0~rc1-1")])
    assert package.version == "1:2.0~rc1-1"
    assert world.asked == []


def test_a_cached_package_that_is_damaged_is_named_removed_and_fetched_again(world: World) -> None:
    (package, _) = world.prepare()
    package.found.file.write_bytes(b"damaged")
    shutil.rmtree(world.cache.packages)
    assert world.prepare()[0] == package
    assert world.asked[1:] == [["libone-dev"]]
    assert any(str(package.found.file) in line for line in world.said)


def test_a_package_that_debian_does_not_have_is_named_with_what_to_do(world: World) -> None:
    want = [wanted("no-such-dev", ["libno.a"])]
    error = refuse("source-unavailable", lambda: world.prepare(want=want))
    assert "no-such-dev" in error.message
    assert "apt-get ended with status 100" in error.detail
    assert "debs=FOLDER" in error.hint


def test_a_package_is_unpacked_whole_or_not_at_all(world: World) -> None:
    file = next(world.mirror.glob("libone-dev_*.deb"))
    file.write_bytes(file.read_bytes()[:-2000])
    place = world.admit(file, TESTED)
    error = refuse("source-corrupt", world.prepare)
    assert str(place) in error.message
    assert not any(world.cache.packages.glob("*"))


def test_what_a_killed_build_left_is_removed(world: World) -> None:
    left = world.cache.root / "tmp" / "dead" / "half"
    left.mkdir(parents=True)
    world.prepare()
    assert not left.exists()


# --- The user's folder --------------------------------------------------------------------------


def test_a_folder_with_the_packages_needs_no_network(world: World) -> None:
    record = world.publish(world.mirror)
    assert world.asked == []
    assert record.inputs["libone-dev"] == TESTED
    assert packages.archives(WANTED, world.place)[0].read_text() == "archive"


def test_a_folder_that_lacks_packages_is_refused_with_their_names(world: World) -> None:
    empty = world.root / "empty"
    error = refuse("source-missing", lambda: world.prepare(empty))
    assert error.message == f"{empty} is not a folder"
    empty.mkdir()
    error = refuse("source-missing", lambda: world.prepare(empty))
    assert "libone-dev_*.deb" in error.detail
    assert "libtwo+x-dev_*.deb" in error.detail
    assert world.asked == []


def test_a_folder_with_two_versions_is_refused_with_both(world: World) -> None:
    other = deb(world.mirror, "libone-dev", "1:2.1-1", ONE)
    error = refuse("source-missing", lambda: world.prepare(world.mirror))
    assert other.name in error.detail
    assert len(error.detail.splitlines()) == 2


@pytest.mark.parametrize("keep", [0, 100, -2000])
def test_a_damaged_file_of_a_folder_is_named(world: World, keep: int) -> None:
    (file,) = world.mirror.glob("libone-dev_*.deb")
    file.write_bytes(file.read_bytes()[:keep])
    error = refuse("source-corrupt", lambda: world.prepare(world.mirror))
    assert str(file) in error.message
    assert files.sha256(file) in error.message
