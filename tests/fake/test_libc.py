# SPDX-License-Identifier: Apache-2.0
"""Applications with a C library, of C and of C++: what is built when, around fakes of both."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fake.test_debian import stages
from tests.project import APP_RECIPE, FAKE_GLIBC, Project, tarball

NO_LIBC = """\
libc = false
sources = ["start.S", "tcp_server.c"]
cflags = ["-std=gnu11", "-ffreestanding"]
"""
C = 'sources = ["tcp_server.c"]\n'
CXX = """\
sources = ["main.cc", "tcp_server.c"]
cflags = ["-std=gnu11"]
cxxflags = ["-std=c++20"]
"""
MAIN_CC = """\
extern "C" int answer();
int main() { auto get = [] { return answer(); }; return get(); }
"""
STEPS = ["configure", "headers", "make", "others"]
"""Of which building the library consists."""


def write_recipe(project: Project, build: str) -> None:
    assert NO_LIBC in APP_RECIPE
    recipe = project.root / "recipes" / "hello" / "recipe.toml"
    recipe.write_text(APP_RECIPE.replace(NO_LIBC, build))


@pytest.fixture
def plain(project: Project) -> Project:
    """Return a project whose application is a program with a main function."""
    write_recipe(project, C)
    project.source.write_text("int main(void) { return 42; }\n")
    return project


@pytest.fixture
def cxx(project: Project) -> Project:
    """Return a project whose application is of C and C++."""
    write_recipe(project, CXX)
    project.source.write_text("int answer(void);\nint answer(void) { return 42; }\n")
    project.source.with_name("main.cc").write_text(MAIN_CC)
    return project


def steps(project: Project) -> list[str]:
    """Take the steps of building a library since the last time, known by their logs."""
    logs = sorted(project.root.glob("*/logs/*/libc-*.log"))
    for log in logs:
        log.unlink()
    return [log.stem.removeprefix("libc-") for log in logs]


def run(project: Project) -> int:
    """Return the exit status of the application as an ordinary program."""
    program = project.root / "program"
    app = project.out / "objects" / "app.o"
    subprocess.run(["ld", "-static", "-o", program, app], check=True)
    return subprocess.run([program], check=False, timeout=10).returncode


def test_the_library_is_built_once_and_not_for_a_changed_application(plain: Project) -> None:
    plain.build()
    assert steps(plain) == STEPS
    assert run(plain) == 42
    plain.source.write_text("int main(void) { return 43; }\n")
    assert stages(plain.build()) == ["lint", "link", "archive", "linux", "image"]
    assert steps(plain) == []
    assert run(plain) == 43
    # Neither for another one, nor for one whose outputs are gone.
    other = plain.root / "recipes" / "other" / "recipe.toml"
    shutil.copytree(other.parents[1] / "hello", other.parent)
    other.write_text(other.read_text().replace('name = "hello"', 'name = "other"'))
    shutil.rmtree(plain.out)
    origin = f"glibc_src={plain.root / 'dist'}"
    for name in ("hello", "other"):
        said = plain.scons(f"app={name}", origin, f"build/{name}/UKL.a")
        assert stages(said) == ["libc", "lint", "link", "archive"]
    assert steps(plain) == []
    assert len(list((plain.cache / "ukl-build" / "libc").glob("*/libc.a"))) == 1


def test_the_library_is_built_again_when_what_it_is_made_of_changes(plain: Project) -> None:
    words = ("app=hello", f"glibc_src={plain.root / 'dist'}", "build/hello/UKL.a")
    plain.scons(*words)
    assert steps(plain) == STEPS

    tree = plain.root / "tree"
    shutil.copytree(FAKE_GLIBC, tree)
    with (tree / "nptl" / "crtn.S").open("a") as file:
        file.write("/* changed */\n")
    tarball(tree, plain.root / "dist" / "glibc-2.36.tar.xz", top="glibc-2.36")
    plain.scons(*words)
    assert steps(plain) == STEPS

    new = plain.root / "recipes" / "glibc" / "files" / "new.c"
    new.parent.mkdir()
    new.write_text("int added;\n")
    plain.scons(*words)
    assert steps(plain) == STEPS

    shutil.rmtree(plain.cache / "ukl-build" / "libc")
    said = plain.scons(*words)
    assert steps(plain) == STEPS
    assert stages(said) == ["libc"], "the same library, and still it was linked"


def commands(project: Project) -> dict[str, list[str]]:
    """Return the words that compile each source."""
    database = json.loads((project.out / "compile_commands.json").read_text())
    return {Path(entry["file"]).name: entry["command"].split() for entry in database}


def test_each_language_has_its_compiler_and_its_flags(cxx: Project) -> None:
    cxx.build()
    assert run(cxx) == 42
    c, other = (commands(cxx)[name] for name in ("tcp_server.c", "main.cc"))
    assert ("gcc" in c, "g++" in other) == (True, True)
    assert ("-std=gnu11" in c, "-std=gnu11" in other) == (True, False)
    assert ("-std=c++20" in c, "-std=c++20" in other) == (False, True)
    for words in (c, other):
        assert words.index("-O2") < words.index("-mcmodel=kernel")
    write_recipe(cxx, CXX.replace("c++20", "c++17"))
    said = cxx.build()
    assert "main.cc.o" in said
    assert "tcp_server.c.o" not in said
    assert "-std=c++17" in commands(cxx)["main.cc"]


def test_the_library_of_c_plus_plus_is_linked_where_there_is_c_plus_plus(cxx: Project) -> None:
    """The fake C library lacks what libstdc++ asks for, by which it is known to be there."""
    main = cxx.source.with_name("main.cc")
    main.write_text("#include <exception>\nint main() { std::terminate(); }\n")
    words = ("app=hello", f"glibc_src={cxx.root / 'dist'}", "build/hello/UKL.a")
    said = cxx.scons(*words, status=2)
    assert "error[elf-lint]" in said
    assert "error: abort is not defined" in said
    write_recipe(cxx, C)
    cxx.source.write_text("void _ZSt9terminatev(void);\nint main(void) { _ZSt9terminatev(); }\n")
    assert "error: std::terminate() is not defined" in cxx.scons(*words, status=2)
