# SPDX-License-Identifier: Apache-2.0
"""Applications that their own makefiles build: driven by SCons, around fakes of kernel and libc."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fake.test_debian import stages
from tests.fake.test_libc import NO_LIBC, run, write_recipe
from tests.project import APP_RECIPE, Project, make
from ukl_build import port, toolchain

MAKE = 'system = "make"\nprogram = "hello"\nmake = ["hello", "ANSWER=42"]\n'
CONFIGURE = (
    'system = "configure"\nfolder = "src"\nprogram = "out/hello"\nconfigure = ["--answer=42"]\n'
)
MAKEFILE = """\
CFLAGS = -O2 -g
hello: main.o part/libpart.a
	$(CC) -o $@ $^
main.o: main.c part/part.h
part/libpart.a: part/part.c
	cd part && $(CC) $(CFLAGS) -DANSWER=$(ANSWER) -c part.c && ar rcs libpart.a part.o
never: ; false
"""
CONFIGURED = """\
#!/bin/sh
# As autoconf does: whether the compiler works, by running what it makes.
echo 'int main(void) { return 7; }' > conftest.c
$CC conftest.c -o conftest && { ./conftest; test $? = 7; } || exit 1
rm conftest conftest.c
echo "ANSWER = ${1#--answer=}" > Makefile
cat Makefile.in >> Makefile
"""
MAIN = '#include "part/part.h"\nint main(void) { return part(); }\n'
PART = '#include "part.h"\nint part(void) { return ANSWER; }\n'


def native(project: Project, build: str) -> Project:
    """Give a project an application with makefiles."""
    write_recipe(project, build)
    text = project.root / "recipes" / "hello" / "recipe.toml"
    text.write_text(text.read_text().replace('system = "plain"\n', ""))
    folder = project.source.parent
    shutil.rmtree(folder)
    (folder / "part").mkdir(parents=True)
    for name, content in (
        ("Makefile", MAKEFILE),
        ("main.c", MAIN),
        ("part/part.c", PART),
        ("part/part.h", "int part(void);\n"),
    ):
        (folder / name).write_text(content)
    return project


@pytest.fixture
def made(project: Project) -> Project:
    """Return a project whose application is built by make."""
    assert NO_LIBC in APP_RECIPE
    return native(project, MAKE)


def static(project: Project) -> int:
    """Return the exit status of the program as its makefiles link it."""
    return subprocess.run([project.out / "hello.static"], check=False, timeout=10).returncode


def test_what_make_links_becomes_the_application(made: Project) -> None:
    made.build()
    record = json.loads((made.out / "program.json").read_text())
    assert record["objects"] == ["native/source/main.o"]
    assert record["archives"] == ["native/source/part/libpart.a"]
    assert run(made) == static(made) == 42
    assert (made.out / "UKL.a").read_bytes() in (made.out / "hello.bzImage").read_bytes()
    assert "up to date" in made.build()


@pytest.mark.parametrize("words", [["part/libpart.a", "ANSWER=1"], ["hello", "ANSWER=1"]])
def test_what_somebody_built_before_is_not_linked(made: Project, words: list[str]) -> None:
    """Without the flags for ring 0; make takes it for finished."""
    folder = made.source.parent
    subprocess.run(["make", "-C", folder, "CC=gcc", *words], check=True, capture_output=True)
    said = made.build(status=2)
    assert "make clean" in said or f"make -C {folder} clean" in said
    if "hello" in words:
        assert "error[link-missing]" in said
    else:
        assert "error[link-stale]" in said
        assert "part/libpart.a" in said
    for name in ("hello", "main.o", "part/part.o", "part/libpart.a"):
        (folder / name).unlink(missing_ok=True)
    made.build()
    assert run(made) == 42


@pytest.mark.parametrize("name", ["part/part.c", "part/part.h", "Makefile"])
def test_an_edit_without_effect_is_built_and_no_more(made: Project, name: str) -> None:
    made.build()
    with (made.source.parent / name).open("a") as file:
        file.write("\n")  # at the end, so that no line has another number
    assert stages(made.build()) == ["native"]


def test_a_changed_application_is_linked_again(made: Project) -> None:
    made.build()
    path = made.source.with_name("part") / "part.c"
    path.write_text(PART.replace("ANSWER;", "ANSWER + 1;"))
    assert stages(made.build()) == ["native", "lint", "link", "archive", "linux", "image"]
    assert run(made) == static(made) == 43


def test_a_configure_script_finds_out_what_the_program_can(project: Project) -> None:
    native(project, CONFIGURE)
    folder = project.source.parent
    (folder / "src" / "out").mkdir(parents=True)
    (folder / "Makefile").rename(folder / "src" / "Makefile.in")
    for name in ("main.c", "part"):
        (folder / name).rename(folder / "src" / name)
    text = (folder / "src" / "Makefile.in").read_text()
    (folder / "src" / "Makefile.in").write_text(text.replace("hello:", "out/hello:"))
    script = folder / "src" / "configure"
    script.write_text(CONFIGURED)
    script.chmod(0o755)
    (folder / "src" / "out" / "keep").touch()
    project.build()
    assert run(project) == static(project) == 42


def test_what_a_killed_build_left_is_not_used(made: Project) -> None:
    made.build()
    source = made.out / "native" / "source"
    (source / "main.o").write_bytes(b"half")
    (made.out / "program.json").unlink()
    made.build()
    assert run(made) == 42


def test_two_folders_make_the_same_application(tmp_path: Path) -> None:
    apps = []
    for name in ("one", "another"):
        (tmp_path / name).mkdir()
        project = native(make(tmp_path / name), MAKE)
        project.build()
        apps.append((project.out / "objects" / "app.o").read_bytes())
    assert apps[0] == apps[1]


def test_a_failed_build_shows_its_end_and_how_to_repeat_it(made: Project) -> None:
    write = made.source.with_name("main.c")
    write.write_text(MAIN.replace("return", "retrun"))
    said = made.build(status=2)
    assert "error[tool-failed]" in said
    assert "retrun" in said
    assert "native-make.log" in said
    write.write_text(MAIN)
    made.build()
    assert run(made) == 42


def test_a_program_that_make_does_not_link_is_named(made: Project) -> None:
    recipe = made.root / "recipes" / "hello" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('program = "hello"', 'program = "helo"'))
    said = made.build(status=2)
    assert "error[link-missing]" in said
    assert "did you mean" in said


def test_a_library_of_the_machine_is_refused(made: Project) -> None:
    makefile = made.source.with_name("Makefile")
    makefile.write_text(MAKEFILE.replace("-o $@ $^", "-o $@ $^ -lz"))
    said = made.build(status=2)
    # Without zlib's package on this machine its link fails already.
    assert "error[link-undeclared]" in said or "cannot find -lz" in said


def test_an_application_may_be_anywhere(made: Project) -> None:
    own = made.root / "mine" / "own"
    shutil.copytree(made.source.parent, own)
    text = (made.root / "recipes" / "hello" / "recipe.toml").read_text()
    for old, new in (('name = "hello"', 'name = "own"'), ("samples/hello", ".")):
        assert old in text
        text = text.replace(old, new)
    (own / "recipe.toml").write_text(text)
    origins = [f"{name}_src={made.root / 'dist'}" for name in ("linux", "glibc")]
    said = made.scons("app=mine/own", *origins)
    assert "build/own/image.json" in said
    program = made.root / "build" / "own" / "own.static"
    assert subprocess.run([program], check=False, timeout=10).returncode == 42
    assert "up to date" in made.scons(f"app={own}", *origins)


def test_the_recipe_that_ukl_port_writes_is_built(made: Project) -> None:
    own = made.root / "mine" / "own"
    shutil.copytree(made.source.parent, own)
    found = port.port(
        own,
        port.read_commands(["make", "hello", "ANSWER=42"], own),
        made.root / "place",
        program=None,
        own_licence="MIT",
        jobs=2,
        compiler=toolchain.compiler(made.root / "ccache"),
        shown="mine/own",
        said="make hello",
    )
    assert found.obstacles == ()
    (own / "recipe.toml").write_text(found.recipe)
    origins = [f"{name}_src={made.root / 'dist'}" for name in ("linux", "glibc")]
    made.scons("app=mine/own", *origins)
    program = made.root / "build" / "own" / "own.static"
    assert subprocess.run([program], check=False, timeout=10).returncode == 42
