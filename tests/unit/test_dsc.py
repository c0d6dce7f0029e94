# SPDX-License-Identifier: Apache-2.0
"""Applications that are Debian source packages: where they come from and what becomes of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.debs import source_package
from ukl_build import apt, files, manifest, packages
from ukl_build.cache import Cache, Say
from ukl_build.errors import UklError
from ukl_build.stages import dsc

TESTED = "1:2.0-1"
CONTENT = {"a.c": "int a;\n", "sub/b.h": "int b;\n"}
PATCH = """\
--- a/a.c
+++ b/a.c
@@ -1 +1 @@
-int a;
+int safe;
"""


@dataclass
class World:
    """Debian's archive, which is a user's folder as well, and a cache."""

    root: Path
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """What apt was asked for, each time."""

    def __post_init__(self) -> None:
        self.cache = Cache(self.root / "cache")
        self.mirror = self.root / "mirror"
        self.publish_package()

    def publish_package(
        self, version: str = TESTED, name: str = "answer", content: dict[str, str] = CONTENT
    ) -> Path:
        """Put a source package into the archive, in place of its other versions."""
        self.mirror.mkdir(exist_ok=True)
        for old in self.mirror.glob(f"{name}_*"):
            old.unlink()
        shutil.rmtree(self.mirror / "root", ignore_errors=True)
        return source_package(self.mirror, name, version, content, {"safe.patch": PATCH})

    def download_source(
        self, name: str, folder: Path, sources: Iterable[apt.Source], *, log: Path, say: Say
    ) -> Path:
        """Stand in for apt."""
        self.asked.append(name)
        there = list(self.mirror.glob(f"{name}_*"))
        if not there:
            raise UklError("tool-failed", "apt-get ended with status 100", hint="?", detail="E")
        copies = [Path(shutil.copy(path, folder)) for path in there]
        (found,) = [path for path in copies if path.suffix == ".dsc"]
        return found

    def prepare(self, folder: Path | None = None, tested: str = TESTED) -> dsc.Tree:
        return dsc.prepare(
            "answer", tested, folder, self.cache, logs=self.root / "logs", say=self.said.append
        )

    def refuse(self, code: str, folder: Path | None = None) -> UklError:
        with pytest.raises(UklError) as caught:
            self.prepare(folder)
        assert caught.value.code == code, str(caught.value)
        return caught.value

    def warnings(self) -> list[str]:
        return [line for line in self.said if line.startswith("warning: ")]

    def trees(self) -> list[Path]:
        return list(self.cache.trees.glob("*"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    monkeypatch.setattr(apt, "download_source", world.download_source)
    return world


# --- The tree -----------------------------------------------------------------------------------


def test_a_package_is_unpacked_and_debians_patches_are_applied(world: World) -> None:
    tree = world.prepare()
    assert (tree.path / "a.c").read_text() == "int safe;\n"
    assert (tree.path / "sub" / "b.h").read_text() == "int b;\n"
    assert tree.path == world.cache.trees / tree.digest
    assert tree.version == TESTED
    assert world.warnings() == []


def test_a_tree_is_named_by_all_that_went_in(world: World) -> None:
    first = world.prepare(world.mirror)
    assert world.prepare(world.mirror) == first
    world.publish_package(content={**CONTENT, "sub/b.h": "int c;\n"})
    second = world.prepare(world.mirror)
    assert second.version == first.version
    assert second.digest != first.digest
    assert (first.path / "sub" / "b.h").read_text() == "int b;\n"
    assert (second.path / "sub" / "b.h").read_text() == "int c;\n"


def test_a_tree_made_again_has_the_same_times(world: World) -> None:
    """Otherwise make would compile everything again."""
    tree = world.prepare()
    before = files.stat_digest(tree.path)
    for name in CONTENT:
        assert (tree.path / name).stat().st_mtime == 1672531200  # of the changelog
    shutil.rmtree(tree.path)
    assert files.stat_digest(world.prepare().path) == before


def test_the_record_names_the_version_the_tree_and_each_file(world: World) -> None:
    tree = world.prepare()
    link, out = world.root / "build" / "source", world.root / "build" / "source.manifest.json"
    for _ in range(2):
        dsc.publish(tree, link, out, repeat="scons")
        assert link.resolve() == tree.path
    record = manifest.load(out)
    parts = ("answer_2.0-1.dsc", "answer_2.0.orig.tar.gz", "answer_2.0-1.debian.tar.gz")
    sums = {name: files.sha256(world.mirror / name) for name in parts}
    assert record.inputs == {"answer": TESTED, **sums}
    assert record.outputs == {"source": tree.digest}
    dsc.publish(world.prepare(world.mirror), link, out, repeat="scons")
    assert manifest.load(out) == record


def test_the_sources_are_never_away_while_their_link_is_made_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCons asks for headers while the stage runs; one that was away for a moment is an error."""
    link, out = world.root / "build" / "source", world.root / "build" / "source.manifest.json"
    dsc.publish(world.prepare(), link, out, repeat="scons")
    there = []
    change = Path.symlink_to

    def symlink_to(self: Path, target: Path) -> None:
        there.append((link / "a.c").is_file())
        change(self, target)

    monkeypatch.setattr(Path, "symlink_to", symlink_to)
    world.publish_package("1:2.1-1")
    tree = world.prepare(world.mirror)
    dsc.publish(tree, link, out, repeat="scons")
    assert there[-1:] == [True]
    assert link.resolve() == tree.path


def test_another_version_than_the_tested_one_is_pointed_out(world: World) -> None:
    assert world.prepare(tested="1:1.9-1").version == TESTED
    (warning,) = world.warnings()
    assert warning == f"warning: answer {TESTED} is used, 1:1.9-1 was tested last"


def test_a_package_that_dpkg_source_does_not_take_is_an_error_with_what_it_says(
    world: World,
) -> None:
    described = world.mirror / "answer_2.0-1.dsc"
    described.write_text(described.read_text().replace("3.0 (quilt)", "9.0 (none)"))
    error = world.refuse("source-corrupt", world.mirror)
    assert str(described) in error.message
    assert "9.0 (none)" in error.detail
    assert world.trees() == []


def test_what_a_killed_build_left_is_removed(world: World) -> None:
    left = world.cache.root / "tmp" / "dead" / "half"
    left.mkdir(parents=True)
    world.prepare()
    assert not left.exists()


# --- Debian's archive and the cache -------------------------------------------------------------


def test_a_cached_package_is_used_without_asking_debian(world: World) -> None:
    first = world.prepare()
    shutil.rmtree(world.mirror)
    assert world.prepare() == first
    shutil.rmtree(world.cache.trees)
    assert world.prepare() == first
    assert world.asked == ["answer"]


def test_of_the_cached_versions_the_tested_one_comes_first_then_the_newest(world: World) -> None:
    for version in ("1:2.0-1+deb12u9", "1:2.0-1+deb12u10", "1:2.0~rc1-1"):
        world.publish_package(version)
        with world.cache.locked(print):
            dsc._by_apt("answer", world.cache, logs=world.root / "logs", say=print)
    world.asked.clear()
    assert world.prepare().version == "1:2.0-1+deb12u10"
    assert world.prepare(tested="1:2.0~rc1-1").version == "1:2.0~rc1-1"
    assert world.asked == []


def test_a_binary_package_of_the_same_name_is_another_thing(world: World) -> None:
    binary = world.root / "answer.deb"
    binary.write_text("binary")
    packages.admit(binary, "answer", TESTED, world.cache)
    world.prepare()
    found = packages.cached(
        "answer", "answer.deb", tested=TESTED, cache=world.cache, say=world.said.append
    )
    assert found is not None
    assert found[0].file.read_text() == "binary"


@pytest.mark.parametrize("part", [".dsc", ".orig.tar.gz", ".debian.tar.gz"])
@pytest.mark.parametrize("damage", ["truncated", "other", "gone"])
def test_a_cached_file_that_is_damaged_is_named_removed_and_fetched_again(
    world: World, part: str, damage: str
) -> None:
    tree = world.prepare()
    shutil.rmtree(world.cache.trees)
    ((name, digest),) = [item for item in tree.inputs.items() if item[0].endswith(part)]
    file = world.cache.download(digest, "answer.dsc" if part == ".dsc" else name)
    whole = file.read_bytes()
    match damage:
        case "truncated":
            file.write_bytes(whole[:-9])
        case "other":
            file.write_bytes(b"other")
        case "gone":
            file.unlink()
    actual = files.sha256(file) if file.exists() else ""
    kept = world.mirror.rename(world.root / "away")
    world.refuse("source-unavailable")
    assert not file.exists()
    kept.rename(world.mirror)
    assert world.prepare() == tree
    assert file.read_bytes() == whole
    named = [line for line in world.warnings() if str(file) in line]
    assert [f"expected {digest}, actual {actual}" in line for line in named] == (
        [True] if actual else []
    )


def test_what_apt_delivers_is_compared_with_the_dsc_and_not_kept_if_wrong(world: World) -> None:
    file = world.mirror / "answer_2.0.orig.tar.gz"
    expected = files.sha256(file)
    file.write_bytes(file.read_bytes()[:-1])
    error = world.refuse("source-unavailable")
    assert file.name in error.detail
    assert f"expected {expected}, actual {files.sha256(file)}" in error.detail
    assert not [path for path in world.cache.root.rglob("*") if path.name.startswith("answer")]
    assert world.trees() == []


def test_a_package_that_debian_does_not_have_is_named_with_what_to_do(world: World) -> None:
    shutil.rmtree(world.mirror)
    error = world.refuse("source-unavailable")
    assert "the source package answer" in error.message
    assert "apt-get ended with status 100" in error.detail
    assert "app_src=FOLDER" in error.hint


# --- The user's folder --------------------------------------------------------------------------


def test_a_folder_with_the_package_needs_no_network_and_stays_as_it_is(world: World) -> None:
    before = files.stat_digest(world.mirror)
    assert (world.prepare(world.mirror).path / "a.c").read_text() == "int safe;\n"
    assert world.asked == []
    assert files.stat_digest(world.mirror) == before


def test_a_dsc_may_stand_inside_a_signature(world: World) -> None:
    """Debian's archive has them so; who signed is the business of apt's index."""
    file = world.mirror / "answer_2.0-1.dsc"
    begin = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n"
    end = "-----BEGIN PGP SIGNATURE-----\n\niHUE\n-----END PGP SIGNATURE-----\n"
    file.write_text(f"{begin}\n{file.read_text()}\n{end}")
    assert world.prepare(world.mirror).version == TESTED


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def swap(file: Path) -> None:
    file.write_bytes(b"<html>not found</html>")


@pytest.mark.parametrize("damage", [truncate, swap])
@pytest.mark.parametrize("part", ["answer_2.0.orig.tar.gz", "answer_2.0-1.debian.tar.gz"])
def test_a_wrong_file_is_refused_by_name_with_both_digests(
    world: World, part: str, damage: Callable[[Path], None]
) -> None:
    file = world.mirror / part
    expected = files.sha256(file)
    damage(file)
    error = world.refuse("source-corrupt", world.mirror)
    assert str(file) in error.message
    assert error.detail == f"SHA-256 expected {expected}, actual {files.sha256(file)}"
    assert world.trees() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Checksums-Sha256:", "Checksums-Sha257:"),
        ("Version: ", "Veersion: "),
        ("Version: 1:", "Version: ../"),
        ("answer_2.0.orig.tar.gz", "../answer_2.0.orig.tar.gz"),
        (" answer_2.0.orig.tar.gz", ""),
        ("Format: ", "\0"),
    ],
)
def test_a_dsc_that_is_none_is_refused_by_name_with_its_digest(
    world: World, old: str, new: str
) -> None:
    file = world.mirror / "answer_2.0-1.dsc"
    text = file.read_text()
    assert old in text
    file.write_text("" if new == "\0" else text.replace(old, new))
    error = world.refuse("source-corrupt", world.mirror)
    assert str(file) in error.message
    assert files.sha256(file) in error.message


def test_a_dsc_of_another_package_is_refused(world: World) -> None:
    other = world.publish_package(name="other")
    other.rename(world.mirror / "answer_2.0-1.dsc")
    error = world.refuse("source-missing", world.mirror)
    assert "is of the source package other, not of answer" in error.message


def test_a_folder_without_the_package_is_refused(world: World) -> None:
    folder = world.root / "folder"
    error = world.refuse("source-missing", folder)
    assert error.message == f"{folder} is not a folder"
    folder.mkdir()
    expected = f"{folder} is neither an unpacked tree nor holds a answer_*.dsc ({TESTED} was"
    assert expected in world.refuse("source-missing", folder).message
    # Files of a package are no tree, even where the one that lists them is missing.
    shutil.copy(world.mirror / "answer_2.0.orig.tar.gz", folder)
    assert expected in world.refuse("source-missing", folder).message


def test_a_folder_that_lacks_a_part_of_the_package_is_refused_by_its_name(world: World) -> None:
    (world.mirror / "answer_2.0.orig.tar.gz").unlink()
    error = world.refuse("source-missing", world.mirror)
    assert error.detail == "answer_2.0.orig.tar.gz"


def test_a_folder_with_two_versions_is_refused(world: World) -> None:
    shutil.copy(world.mirror / "answer_2.0-1.dsc", world.mirror / "answer_2.0-2.dsc")
    error = world.refuse("source-missing", world.mirror)
    assert "answer_2.0-1.dsc" in error.detail
    assert "answer_2.0-2.dsc" in error.detail


# --- An unpacked tree ---------------------------------------------------------------------------


@pytest.fixture
def unpacked(world: World) -> Path:
    """Return a tree as `apt-get source` leaves it, and its history."""
    folder = world.root / "mine"
    shutil.copytree(world.prepare().path, folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").touch()
    world.said.clear()
    return folder


def test_an_unpacked_tree_is_copied(world: World, unpacked: Path) -> None:
    tree = world.prepare(unpacked)
    assert tree.version == TESTED
    assert world.warnings() == []
    assert tree.path.parent == world.cache.trees
    assert (tree.path / "a.c").read_text() == "int safe;\n"
    assert not (tree.path / ".git").exists()
    assert world.prepare(unpacked) == tree
    (unpacked / "a.c").write_text("int changed;\n")
    other = world.prepare(unpacked)
    assert (other.path / "a.c").read_text() == "int changed;\n"
    assert (tree.path / "a.c").read_text() == "int safe;\n"


def test_a_tree_of_unknown_version_or_without_the_patches_is_pointed_out(
    world: World, unpacked: Path
) -> None:
    shutil.rmtree(unpacked / ".pc")
    world.prepare(unpacked)
    (warning,) = world.warnings()
    assert "the patches of debian/patches/series seem not to be applied" in warning
    shutil.rmtree(unpacked / "debian")
    world.said.clear()
    world.prepare(unpacked)
    (warning,) = world.warnings()
    assert warning == f"warning: answer of unknown version is used, {TESTED} was tested last"


def test_a_tree_of_another_package_is_refused(world: World, unpacked: Path) -> None:
    changelog = unpacked / "debian" / "changelog"
    changelog.write_text(changelog.read_text().replace("answer", "other", 1))
    error = world.refuse("source-missing", unpacked)
    assert error.message == f"{unpacked} has the sources of other, not of answer"
