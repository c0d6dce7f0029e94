# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.project import FAKE_LINUX, LINUX_RECIPE, SERIES_PATCH, tarball
from ukl_build import files, recipe
from ukl_build.cache import Cache
from ukl_build.errors import UklError
from ukl_build.stages import sources

NAME = "linux-6.1.999.tar.xz"


@dataclass
class World:
    """A recipe, its places and a cache, all in one temporary folder."""

    root: Path
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mirror = self.root / "mirror"
        self.file = tarball(FAKE_LINUX, self.mirror / NAME)
        self.sha256 = files.sha256(self.file)
        self.cache = Cache(self.root / "cache")
        self.recipe_folder = self.root / "recipes" / "linux"
        self.recipe_folder.mkdir(parents=True)
        text = LINUX_RECIPE.replace("file:///nowhere", self.mirror.as_uri())
        (self.recipe_folder / "recipe.toml").write_text(text)

    def patch(self, *patches: str) -> None:
        folder = self.recipe_folder / "patches"
        folder.mkdir(exist_ok=True)
        names = [f"{number:04}-p.patch" for number, _ in enumerate(patches, 1)]
        for name, text in zip(names, patches, strict=True):
            (folder / name).write_text(text)
        (folder / "series").write_text("".join(f"{name}\n" for name in names))

    def prepare(
        self, folder: Path | None = None, *, sha256: str | None = None, version: str | None = None
    ) -> sources.Tree:
        found = recipe.load(self.recipe_folder)
        assert isinstance(found, recipe.SourcesRecipe)
        return sources.prepare(
            found,
            self.recipe_folder,
            sources.Options(folder, sha256, version),
            self.cache,
            logs=self.root / "logs",
            say=self.said.append,
        )

    def cached(self) -> list[str]:
        return sorted(path.name for path in self.cache.root.rglob("*.tar.xz"))

    def refuse(self, code: str, prepare: Callable[[], object]) -> UklError:
        with pytest.raises(UklError) as caught:
            prepare()
        assert caught.value.code == code, str(caught.value)
        return caught.value


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- Places -------------------------------------------------------------------------------------


def test_a_place_without_a_verified_digest_is_disabled(world: World) -> None:
    error = world.refuse("source-unavailable", world.prepare)
    assert "linux_src=FOLDER" in error.hint
    assert not any("downloading file:" in line for line in world.said)


def test_the_users_digest_enables_the_upstream_place(world: World) -> None:
    tree = world.prepare(sha256=world.sha256)
    assert tree.version == "6.1.999"
    assert tree.source_sha256 == world.sha256
    assert (tree.path / "a.c").is_file()


def test_the_recipes_digest_does_not_hold_for_another_version(world: World) -> None:
    place = recipe.UpstreamPlace(url="file:///x-{version}", version="6.1.1", sha256="0" * 64)
    assert sources.enabled(place, sources.Options()) == place
    assert sources.enabled(place, sources.Options(version="6.1.2")) is None
    chosen = sources.enabled(place, sources.Options(version="6.1.2", sha256="1" * 64))
    assert chosen is not None
    assert (chosen.resolved_url, chosen.sha256) == ("file:///x-6.1.2", "1" * 64)


def test_a_file_that_is_cached_is_not_fetched_again(world: World) -> None:
    world.prepare(sha256=world.sha256)
    shutil.rmtree(world.mirror)
    shutil.rmtree(world.cache.trees)
    assert (world.prepare(sha256=world.sha256).path / "a.c").is_file()


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "other"])
def test_a_wrong_file_is_refused_with_both_digests_and_not_kept(world: World, damage: str) -> None:
    content = world.file.read_bytes()
    match damage:
        case "truncated":
            world.file.write_bytes(content[: len(content) // 2])
        case "corrupt":
            world.file.write_bytes(content[:-9] + b"?" + content[-8:])
        case "other":
            world.file.write_bytes(b"<html>not found</html>")
    error = world.refuse("source-unavailable", lambda: world.prepare(sha256=world.sha256))
    assert NAME in error.detail
    assert f"expected {world.sha256}" in error.detail
    assert f"actual {files.sha256(world.file)}" in error.detail
    # Also where Debian's package is then used and there is no error.
    (warning,) = [line for line in world.said if "is not the file that is expected" in line]
    assert f"expected {world.sha256}, actual {files.sha256(world.file)}" in warning
    assert world.cached() == []


def test_a_cached_file_that_is_damaged_is_named_removed_and_fetched_again(world: World) -> None:
    world.prepare(sha256=world.sha256)
    shutil.rmtree(world.cache.trees)
    cached = world.cache.download(world.sha256, NAME)
    cached.write_bytes(b"damaged")
    actual = files.sha256(cached)
    world.prepare(sha256=world.sha256)
    (warning,) = [line for line in world.said if str(cached) in line]
    assert world.sha256 in warning
    assert actual in warning
    assert files.sha256(cached) == world.sha256


def test_a_damaged_file_does_not_stay_in_the_cache_when_it_cannot_be_replaced(
    world: World,
) -> None:
    world.prepare(sha256=world.sha256)
    shutil.rmtree(world.cache.trees)
    world.cache.download(world.sha256, NAME).write_bytes(b"damaged")
    shutil.rmtree(world.mirror)
    world.refuse("source-unavailable", lambda: world.prepare(sha256=world.sha256))
    assert world.cached() == []


def test_a_cached_package_is_used_without_asking_debian(world: World) -> None:
    place = world.cache.download(world.sha256, "nothing.tar.xz")
    place.parent.mkdir(parents=True)
    shutil.copy(world.file, place)
    for version in ("6.1.998-1", "5.10.1-1"):
        index = world.cache.index(f"no-such-package-in-debian_{version}")
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(json.dumps({"sha256": world.sha256}))
    assert "6.1.998-1" in world.prepare().origin
    assert any("6.1.999-1 was tested last" in line for line in world.said)


def test_an_installed_package_with_a_damaged_file_is_not_used(world: World, tmp_path: Path) -> None:
    """With the machine's real dpkg: a file that no package owns is no place either."""
    stray = tmp_path / "stray.tar.xz"
    shutil.copy(world.file, stray)
    place = recipe.DebianPlace(package="dpkg", file=str(stray.relative_to("/")), tested="1")
    assert sources.debian_installed(place, world.said.append) is None
    owned = recipe.DebianPlace(package="dpkg", file="usr/bin/dpkg", tested="1")
    found = sources.debian_installed(owned, world.said.append)
    assert found is not None
    assert found[0].sha256 == files.sha256(Path("/usr/bin/dpkg"))


@pytest.mark.parametrize(
    ("version", "belongs"),
    [
        ("6.1.192-2", True),
        ("1:6.1.1-1", True),
        ("6.10.1-1", False),
        ("6.1-1", True),
        ("6.11-1", False),
    ],
)
def test_series_of_a_debian_version(version: str, belongs: bool) -> None:
    assert sources.debian_version_in_series(version, "6.1") is belongs


# --- Folders that the user names ----------------------------------------------------------------


def test_a_folder_with_a_tarball_comes_first(world: World) -> None:
    tree = world.prepare(world.mirror, sha256=None)
    assert str(world.file) in tree.origin


def test_a_folder_with_several_tarballs_needs_a_digest(world: World) -> None:
    other = world.mirror / "linux-6.1.998.tar.xz"
    other.write_bytes(b"other")
    error = world.refuse("source-missing", lambda: world.prepare(world.mirror))
    assert other.name in error.detail
    assert world.prepare(world.mirror, sha256=world.sha256).version == "6.1.999"


def test_a_folder_whose_file_has_another_digest_is_refused(world: World) -> None:
    error = world.refuse("source-corrupt", lambda: world.prepare(world.mirror, sha256="0" * 64))
    assert "0" * 64 in error.message
    assert f"{world.sha256}  {world.file}" in error.detail


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_folder_without_sources_is_refused(world: World, kind: str) -> None:
    folder = world.root / "nothing"
    if kind == "empty":
        folder.mkdir()
    assert str(folder) in world.refuse("source-missing", lambda: world.prepare(folder)).message


def test_a_tarball_that_cannot_be_unpacked_is_refused_by_name(world: World) -> None:
    content = world.file.read_bytes()
    world.file.write_bytes(content[: len(content) // 2])
    error = world.refuse("source-corrupt", lambda: world.prepare(world.mirror))
    assert str(world.file) in error.message
    assert files.sha256(world.file) in error.message
    assert not world.cache.trees.exists()


def test_a_package_that_cannot_be_unpacked_is_refused_by_name(world: World) -> None:
    package = world.root / "debs" / "linux-source-6.1_6.1.999-1_all.deb"
    package.parent.mkdir()
    package.write_bytes(b"!<arch>\ntruncated")
    error = world.refuse("source-corrupt", lambda: world.prepare(package.parent))
    assert str(package) in error.message
    assert files.sha256(package) in error.message


def test_a_url_that_is_none_is_a_place_that_cannot_deliver(world: World) -> None:
    place = recipe.UpstreamPlace(url="https://x.example/{version}", version="a b", sha256="0" * 64)
    with pytest.raises(UklError) as caught, world.cache.locked(world.said.append):
        sources.from_upstream(place, world.cache, say=world.said.append)
    assert caught.value.code == "source-unavailable"


def test_a_tarball_of_something_else_is_refused(world: World) -> None:
    tarball(world.root / "recipes", world.file)
    error = world.refuse("source-corrupt", lambda: world.prepare(world.mirror))
    assert "does not hold one tree of Linux" in error.message


def test_another_series_is_refused(world: World) -> None:
    tree = world.root / "tree"
    shutil.copytree(FAKE_LINUX, tree)
    makefile = tree / "Makefile"
    makefile.write_text(makefile.read_text().replace("PATCHLEVEL = 1", "PATCHLEVEL = 2"))
    tarball(tree, world.root / "dist" / NAME)
    for folder in (tree, world.root / "dist"):
        with pytest.raises(UklError) as caught:
            world.prepare(folder)
        assert caught.value.code == "source-series"
        assert "Linux 6.2.999, the recipe accepts 6.1.y" in caught.value.message


# --- The tree -----------------------------------------------------------------------------------


def test_a_tree_is_named_by_all_that_went_in(world: World) -> None:
    first = world.prepare(world.mirror)
    assert world.prepare(world.mirror) == first
    world.patch(SERIES_PATCH)
    second = world.prepare(world.mirror)
    new = world.recipe_folder / "files" / "new.c"
    new.parent.mkdir()
    new.write_text("int c;\n")
    third = world.prepare(world.mirror)
    new.chmod(0o755)
    fourth = world.prepare(world.mirror)
    assert len({tree.digest for tree in (first, second, third, fourth)}) == 4
    assert "int patched" not in (first.path / "a.c").read_text()
    assert "int patched" in (second.path / "a.c").read_text()


def test_patches_are_applied_in_the_order_of_the_series(world: World) -> None:
    second = SERIES_PATCH.replace("@@ -1,2 +1,3 @@", "@@ -1,3 +1,4 @@").replace(
        "+int patched;", " int patched;\n+int twice;"
    )
    world.patch(SERIES_PATCH, second)
    text = (world.prepare(world.mirror).path / "a.c").read_text()
    assert text.splitlines()[-2:] == ["int patched;", "int twice;"]


def test_a_patch_that_fails_is_named_with_file_hunk_and_reject(world: World) -> None:
    world.patch(SERIES_PATCH, SERIES_PATCH.replace("int a;", "int other;"))
    error = world.refuse("patch-failed", lambda: world.prepare(world.mirror))
    assert error.message == "0002-p.patch does not apply to Linux 6.1.999"
    assert "a.c" in error.detail
    assert "Hunk #1 FAILED" in error.detail
    assert "int other;" in error.detail
    assert not world.cache.trees.exists() or not any(world.cache.trees.iterdir())


def test_lines_may_have_moved_but_not_changed(world: World) -> None:
    """An offset is fine; fuzz is not, even where only an outer line of the context differs."""
    tree = world.root / "tree"
    shutil.copytree(FAKE_LINUX, tree)
    above = [f"int line{number};" for number in (2, 3, 4)]
    below = [f"int line{number};" for number in (5, 6, 7)]
    hunk = [*(f" {line}" for line in above), "+int new;", *(f" {line}" for line in below)]
    world.patch("--- a/a.c\n+++ b/a.c\n@@ -2,6 +2,7 @@\n" + "\n".join(hunk) + "\n")
    moved = [*["int moved;"] * 5, *above, *below, "int end;"]
    (tree / "a.c").write_text("\n".join(moved))
    assert "int new;" in (world.prepare(tree).path / "a.c").read_text()
    (tree / "a.c").write_text("\n".join(moved).replace("line2", "lineX"))
    world.refuse("patch-failed", lambda: world.prepare(tree))


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ("", "0001-p.patch: there but not listed"),
        ("0001-p.patch\n0002-p.patch\n", "0002-p.patch: listed but not there"),
        ("0001-p.patch\n0001-p.patch\n", "0001-p.patch: listed twice"),
    ],
)
def test_a_series_that_does_not_agree_with_its_folder_is_refused(
    world: World, series: str, expected: str
) -> None:
    world.patch(SERIES_PATCH)
    (world.recipe_folder / "patches" / "series").write_text(series)
    error = world.refuse("recipe-invalid", lambda: world.prepare(world.mirror))
    assert expected in error.detail


def test_a_new_file_that_the_tree_has_already_is_refused(world: World) -> None:
    new = world.recipe_folder / "files" / "a.c"
    new.parent.mkdir()
    new.write_text("int mine;\n")
    error = world.refuse("patch-failed", lambda: world.prepare(world.mirror))
    assert "a file a.c already" in error.message


def test_what_a_killed_build_left_is_removed(world: World) -> None:
    left = world.cache.root / "tmp" / "dead" / "unpacked"
    left.mkdir(parents=True)
    (left / "half").touch()
    world.prepare(world.mirror)
    assert not left.exists()


def test_two_builds_do_not_fill_the_cache_at_once(world: World) -> None:
    order: list[str] = []

    def second() -> None:
        with world.cache.locked(order.append):
            order.append("second")

    with world.cache.locked(world.said.append):
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 30
        while not order:
            assert time.monotonic() < deadline, "the second does not even say that it waits"
            time.sleep(0.01)
        thread.join(0.3)  # time to do what it must not
        assert [line.split()[0] for line in order] == ["waiting"]
        order.append("first ends")
    thread.join(10)
    assert order[1:] == ["first ends", "second"]


def test_a_tree_made_again_has_the_same_times(world: World) -> None:
    """Otherwise make would compile everything that includes a patched header."""
    world.patch(SERIES_PATCH)
    tree = world.prepare(world.mirror)
    before = files.stat_digest(tree.path)
    shutil.rmtree(tree.path)
    assert files.stat_digest(world.prepare(world.mirror).path) == before


def test_the_record_of_a_tree_survives_a_round_trip(world: World) -> None:
    tree = world.prepare(world.mirror)
    sources.record(tree, world.root / "m.json", repeat="scons")
    assert sources.read_tree(world.root / "m.json") == tree
