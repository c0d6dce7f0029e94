# SPDX-License-Identifier: Apache-2.0
"""An application that is a Debian source package: made by SCons, offline, around a fake kernel."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.debs import source_package
from tests.fake.test_debian import stages
from tests.project import APP_RECIPE, Project
from ukl_build import files, manifest

SOURCE = '[source]\ndebian = "answer"\ntested = "1:2.0-1"\n'
USE = '#include "inner/answer.h"\nint used(void);\nint used(void) { return ANSWER; }\n'
PATCH = """\
--- a/src/inner/answer.h
+++ b/src/inner/answer.h
@@ -1 +1 @@
-#define ANSWER 41
+#define ANSWER 42
"""


def publish(project: Project, version: str = "1:2.0-1", use: str = USE) -> Path:
    """Put a source package into the user's folder, in place of the one before."""
    folder = project.root / "packages"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    sample = project.root / "samples" / "hello"
    content = {f"src/{path.name}": path.read_text() for path in sample.iterdir()}
    content |= {"src/use.c": use, "src/inner/answer.h": "#define ANSWER 41\n"}
    return source_package(folder, "answer", version, content, {"answer.patch": PATCH})


@pytest.fixture
def packaged(project: Project) -> Project:
    """Return a project whose application is a source package."""
    text = APP_RECIPE.replace('[source]\nfolder = "samples/hello"\n', SOURCE)
    names = '["src/start.S", "src/tcp_server.c", "src/use.c"]'
    text = text.replace('["start.S", "tcp_server.c"]', names)
    (project.root / "recipes" / "hello" / "recipe.toml").write_text(text)
    publish(project)
    return project


def build(project: Project, *words: str, status: int = 0) -> str:
    return project.build(f"app_src={project.root / 'packages'}", *words, status=status)


def state(project: Project) -> str:
    """Return what changes with any file of the tree."""
    return files.stat_digest((project.out / "source").resolve())


def test_a_source_package_becomes_an_image_and_is_recorded(packaged: Project) -> None:
    said = build(packaged)
    assert "warning" not in said
    archive = (packaged.out / "UKL.a").read_bytes()
    assert b"ukl.used" in archive
    assert archive in (packaged.out / "hello.bzImage").read_bytes()
    record = manifest.load(packaged.out / "source.manifest.json")
    assert record.inputs["answer"] == "1:2.0-1"
    tree = (packaged.out / "source").resolve()
    assert tree.parent == packaged.cache / "ukl-build" / "trees"
    assert record.outputs == {"source": tree.name}
    before = state(packaged)
    assert "up to date" in build(packaged)
    assert state(packaged) == before


def test_dry_run_says_what_would_be_done_and_does_nothing(packaged: Project) -> None:
    said = build(packaged, "-n")
    assert said.index("[source] build/hello/source.manifest.json") < said.index("use.c.o")
    assert not (packaged.root / "build").exists()
    assert not packaged.cache.exists()


def test_another_version_is_compiled_and_linked(packaged: Project) -> None:
    build(packaged)
    before = (packaged.out / "UKL.a").read_bytes()
    publish(packaged, "1:2.1-1", USE.replace("ANSWER;", "ANSWER + 1;"))
    said = build(packaged)
    assert "warning: answer 1:2.1-1 is used, 1:2.0-1 was tested last" in said
    assert (packaged.out / "UKL.a").read_bytes() != before
    assert "up to date" in build(packaged)


def test_a_header_of_another_version_is_compiled_with(packaged: Project) -> None:
    build(packaged)
    before = (packaged.out / "objects" / "src" / "use.c.o").read_bytes()
    tree = packaged.root / "tree"
    shutil.copytree((packaged.out / "source").resolve(), tree)
    header = tree / "src" / "inner" / "answer.h"
    header.write_text(header.read_text().replace("42", "43"))
    words = ("app=hello", f"linux_src={packaged.root / 'dist'}", f"app_src={tree}")
    packaged.scons(*words)
    assert (packaged.out / "objects" / "src" / "use.c.o").read_bytes() != before
    assert "up to date" in packaged.scons(*words)
    header.write_text(header.read_text().replace("43", "42"))
    packaged.scons(*words)
    assert (packaged.out / "objects" / "src" / "use.c.o").read_bytes() == before


def test_the_same_package_from_another_place_leaves_the_kernel_alone(packaged: Project) -> None:
    build(packaged)
    packaged.calls()
    (packaged.root / "packages").rename(packaged.root / "moved")
    said = packaged.build(f"app_src={packaged.root / 'moved'}")
    assert stages(said) == ["source"]
    assert packaged.calls() == []


@pytest.mark.parametrize("what", ["cache", "link"])
def test_a_tree_that_is_gone_is_there_again_and_nothing_else_is_done(
    packaged: Project, what: str
) -> None:
    build(packaged)
    link = packaged.out / "source"
    if what == "cache":
        shutil.rmtree(link.resolve())
    else:
        link.unlink()
    said = build(packaged)
    assert stages(said) == ["source"]
    assert "gcc" not in said
    assert (link / "src" / "use.c").is_file()


def test_a_tree_stays_whole_in_the_cache_when_the_outputs_are_removed(packaged: Project) -> None:
    build(packaged)
    tree, before = (packaged.out / "source").resolve(), state(packaged)
    build(packaged, "-c")
    assert not (packaged.out / "source").exists()
    assert files.stat_digest(tree) == before


def test_files_of_the_tree_are_not_taken_from_the_cache_of_built_files(packaged: Project) -> None:
    words = f"cache_dir={packaged.root / 'built'}"
    build(packaged, words)
    before = state(packaged)
    shutil.rmtree(packaged.root / "build")
    said = build(packaged, words)
    assert "Retrieved `build/hello/objects/src/use.c.o'" in said
    assert "Retrieved `build/hello/source" not in said
    assert state(packaged) == before


def test_a_file_that_the_package_lacks_is_named_with_the_nearest(packaged: Project) -> None:
    recipe = packaged.root / "recipes" / "hello" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("src/use.c", "src/uses.c"))
    for _ in range(2):
        said = build(packaged, status=2)
        assert "error[source-missing]: the source package answer has no file src/uses.c" in said
        assert "did you mean 'src/use.c'?" in said


def test_a_wrong_file_ends_the_build_with_its_name(packaged: Project) -> None:
    (part,) = (packaged.root / "packages").glob("*.orig.tar.gz")
    part.write_bytes(part.read_bytes()[:-1])
    said = build(packaged, status=2)
    assert f"error[source-corrupt]: {part} is not the file that is expected" in said
    assert not (packaged.out / "source").exists()


def test_a_folder_for_an_application_of_this_project_is_refused(project: Project) -> None:
    said = project.build("app_src=packages", status=2)
    assert "app_src has no effect: hello is built from samples/hello" in said
