# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ukl_build import toolchain
from ukl_build.errors import UklError
from ukl_build.recorder import Inputs, Link, Recorder, resolve

MAKEFILE = """\
program: main.o libpart.a
	$(CC) $(LDFLAGS) -o $@ main.o -L. -lpart -lm
libpart.a: part.o
	ar rcs $@ $^
"""
MAIN = """\
#include <stdio.h>
int part(void);
int main(void)
{
	printf("%d\\n", part());
	return 0;
}
"""
CODE = """\
#ifdef ADDED
int global;
#endif
extern int global, other(char *);
int leaf(void) { volatile int on_stack = global; return on_stack; }
int array(void) { char text[32]; return other(text); }
"""
PART = "int part(void) { return 42; }\n"


class Project:
    """A project with a makefile, and the stand-ins for it."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.tree.mkdir()
        self.compiler = toolchain.Compiler((), {"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
        self.recorder = Recorder.install(folder / "recorder", self.compiler, ["-DADDED"])
        self.write("Makefile", MAKEFILE)
        self.write("main.c", MAIN)
        self.write("part.c", PART)

    def write(self, name: str, text: str) -> None:
        (self.tree / name).write_text(text)

    def run(self, *argv: str) -> str:
        env = self.recorder.env(self.compiler.env)
        done = subprocess.run(
            argv,
            cwd=self.tree,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def inputs(self, program: str = "program", *packages: Path) -> Inputs:
        return resolve(self.recorder.program(self.tree / program), self.tree, packages)

    def names(self, program: str = "program") -> tuple[list[str], list[str]]:
        found = self.inputs(program)
        return [one.name for one in found.objects], [one.name for one in found.archives]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_link_of_a_program_is_read_from_what_make_did(project: Project) -> None:
    project.run("make")
    assert project.names() == (["main.o"], ["libpart.a"])
    assert not project.inputs().cxx


def test_what_is_linked_runs_as_an_ordinary_static_program(project: Project) -> None:
    project.run("make")
    assert project.run("./program") == "42\n"
    said = subprocess.run(
        ["readelf", "-lW", project.tree / "program"], capture_output=True, text=True, check=True
    )
    assert "INTERP" not in said.stdout


@pytest.mark.parametrize("name", ["gcc", "cc", "x86_64-linux-gnu-gcc"])
def test_the_compilers_flags_come_behind_the_projects_own(project: Project, name: str) -> None:
    project.write("code.c", CODE)
    own = ["-O2", "-mcmodel=small", "-fPIE", "-fstack-protector-all", "-fcf-protection=full"]
    made = {}
    for compiler, flags in (
        (name, own),
        ("/usr/bin/gcc", own),
        ("/usr/bin/gcc", ["-O2", *toolchain.CODE_FLAGS, "-DADDED"]),
    ):
        project.run(compiler, "-UADDED", *flags, "-S", "code.c")
        made[compiler, *flags] = (project.tree / "code.s").read_text()
    stand_in, real, wanted = made.values()
    assert stand_in == wanted
    assert stand_in != real


def test_objects_that_the_compiler_removes_after_the_link_are_kept(project: Project) -> None:
    project.run("gcc", "-o", "program", "main.c", "part.c")
    found = project.inputs()
    assert len(found.objects) == 2
    defined = "".join(
        subprocess.run(["nm", one], capture_output=True, text=True, check=True).stdout
        for one in found.objects
    )
    assert " T main" in defined
    assert " T part" in defined


def test_the_last_link_of_a_program_counts(project: Project) -> None:
    project.run("gcc", "-o", "program", "main.c", "part.c")
    project.run("make", "-B")
    assert project.names() == (["main.o"], ["libpart.a"])


def test_libstdcxx_is_seen(project: Project) -> None:
    project.write("more.cc", '#include <string>\nint main() { return std::string("").size(); }\n')
    project.run("g++", "-c", "more.cc")
    project.run("g++", "-o", "program", "more.o")
    assert project.inputs().cxx
    assert project.names() == (["more.o"], [])


def test_an_archive_of_a_package_is_taken_and_one_of_the_machine_is_not(
    project: Project, tmp_path: Path
) -> None:
    package, machine = tmp_path / "package", tmp_path / "machine"
    for folder in (package, machine):
        folder.mkdir()
        project.run("gcc", "-c", "part.c")
        project.run("ar", "rcs", str(folder / "libother.a"), "part.o")
    project.run("gcc", "-c", "main.c")
    link = ("gcc", "-o", "program", "main.o")
    project.run(*link, f"-L{package}", "-lother")
    assert project.inputs("program", package).archives == (package / "libother.a",)
    for words in ((f"-L{machine}", "-lother"), (str(machine / "libother.a"),)):
        project.run(*link, *words)
        with pytest.raises(UklError) as caught:
            project.inputs("program", package)
        assert caught.value.code == "link-undeclared"
        assert str(machine / "libother.a") in caught.value.detail


def test_a_program_that_is_not_linked_is_an_error_with_the_nearest(project: Project) -> None:
    project.run("make")
    with pytest.raises(UklError) as caught:
        project.recorder.program(project.tree / "programm")
    assert caught.value.code == "link-missing"
    assert f"did you mean '{project.tree / 'program'}'?" in caught.value.message


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("-Wl,--defsym=x=1",), "-defsym x=1"),
        (("-Wl,--wrap,malloc",), "-wrap malloc"),
        (("-Wl,-u,part",), "-u part"),
        (("-Wl,--whole-archive", "libpart.a", "-Wl,--no-whole-archive"), "-whole-archive"),
    ],
)
def test_a_link_that_cannot_be_followed_is_refused(
    project: Project, words: tuple[str, ...], option: str
) -> None:
    project.run("make")
    project.write("wrap.c", "void *__wrap_malloc(unsigned long n) { return (void *)n; }\n")
    project.run("gcc", "-c", "wrap.c")
    project.run("gcc", "-o", "program", "main.o", "wrap.o", *words, "libpart.a")
    with pytest.raises(UklError) as caught:
        project.inputs()
    assert caught.value.code == "link-unsupported"
    assert caught.value.message.endswith(f"is linked with {option}")


def test_relocatable_and_shared_links_are_no_programs(project: Project) -> None:
    project.run("make")
    project.run("ld", "-r", "-o", "program", "main.o", "part.o")
    assert project.names() == (["main.o"], ["libpart.a"])


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (("-o", "x", "a.o"), "x"),
        (("-ox", "a.o"), "x"),
        (("--output=x",), "x"),
        (("a.o",), "a.out"),
        (("-soname", "-o", "-o", "x"), "x"),
    ],
)
def test_the_output_is_found_in_every_spelling(words: tuple[str, ...], output: str) -> None:
    assert Link(Path("/f"), words, Path("/none")).output == Path("/f") / output
