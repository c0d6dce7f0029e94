# SPDX-License-Identifier: Apache-2.0
"""ukl-port on small projects: the recipe, and the places of what stands in the way."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT
from ukl_build import port, recipe, toolchain
from ukl_build.errors import UklError
from ukl_build.port import Port
from ukl_build.recipe import AppRecipe, NativeBuild

PYTHON = Path(sys.executable)

MAKEFILE = """\
greet: main.o libio.a
	$(CC) -o $@ main.o $(OPTIONS) libio.a $(LIBS)
libio.a: io.o
	ar rcs $@ $^
clean:
	rm -f greet *.o *.a
two: greet
	$(CC) -o two main.o libio.a
"""
MAIN = """\
int io(void);
int main(void)
{
	return io();
}
"""
IO = "int io(void) { return 42; }\n"
CONFIGURE = """\
#!/bin/sh
echo 'int main(void) { return 0; }' > conftest.c
$CC conftest.c -o conftest && ./conftest || exit 1
rm conftest conftest.c
test "$1" = --io=yes && test "$CFLAGS" = "$2" || exit 1
mv Makefile.in Makefile
"""
CMAKE = """\
#!/bin/sh
# As CMake does: a program that it tries, and keeps.
mkdir -p CMakeFiles/1/CompilerIdC
echo 'int main(void) { return 0; }' > CMakeFiles/1/CompilerIdC/id.c
gcc -o CMakeFiles/1/CompilerIdC/a.out CMakeFiles/1/CompilerIdC/id.c || exit 1
test "$*" = "-DIO=yes ." && mv CMakeLists.txt Makefile
"""


class Project:
    """A project that has no recipe."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "greet"
        self.tree.mkdir()
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.place = folder / "place"
        for name, text in (("Makefile", MAKEFILE), ("main.c", MAIN), ("io.c", IO)):
            self.write(name, text)

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.tree / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def port(self, *words: str, program: str | None = None, licence: str | None = "MIT") -> Port:
        env = {"PATH": f"{self.programs}:/usr/bin:/bin", "LC_ALL": "C"}
        return port.port(
            self.tree,
            port.read_commands(words, self.tree),
            self.place,
            program=program,
            own_licence=licence,
            jobs=2,
            compiler=toolchain.Compiler((), env),
            shown="../greet",
            said="words",
        )

    def recipe(self, found: Port) -> AppRecipe:
        (self.tree / "recipe.toml").write_text(found.recipe)
        loaded = recipe.load(self.tree)
        assert isinstance(loaded, AppRecipe)
        return loaded


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def obstacles(found: Port) -> list[str]:
    """Return what stands in the way as `PLACE: SEVERITY: ` and the first words."""
    return [str(one).split(";")[0] for one in found.obstacles]


def test_a_project_of_make_has_a_recipe_and_nothing_in_its_way(project: Project) -> None:
    found = project.port("make", "greet", "-j3", "OPTIONS=-Wl,-O1")
    assert obstacles(found) == []
    loaded = project.recipe(found)
    assert (loaded.name, loaded.licence, loaded.source.folder) == ("greet", "MIT", ".")
    make = ("greet", "OPTIONS=-Wl,-O1")
    assert loaded.build == NativeBuild(system="make", program="greet", make=make)
    assert loaded.kconfig.fragments == ()
    # Nothing was done in the project's own folder.
    assert {path.name for path in project.tree.iterdir()} == {
        *("Makefile", "main.c", "io.c", "recipe.toml")
    }


def test_a_project_below_the_folder_is_built_there(project: Project) -> None:
    for name in ("Makefile", "main.c", "io.c"):
        project.write(f"src/{name}", (project.tree / name).read_text())
        (project.tree / name).unlink()
    project.write("src/io.c", "#include <sys/socket.h>\nint io(void) { return socket(1, 1, 0); }\n")
    loaded = project.recipe(project.port("make", "-C", "src"))
    assert loaded.build == NativeBuild(system="make", program="greet", folder="src")
    assert loaded.kconfig.fragments == ("virtio-net",)


def test_a_program_elsewhere_is_built_from_above(project: Project) -> None:
    project.write("sub/Makefile", "../greet: ../main.c ../io.c\n\t$(CC) -o $@ $^\n")
    loaded = project.recipe(project.port("make", "-C", "sub"))
    assert loaded.build == NativeBuild(system="make", program="greet", make=("-C", "sub"))


def test_a_configure_script_runs_before_make(project: Project) -> None:
    (project.tree / "Makefile").rename(project.tree / "Makefile.in")
    project.write("configure", CONFIGURE, 0o755)
    words = ("./configure", "--io=yes", "CFLAGS=", "--", "make", "greet")
    with pytest.raises(UklError, match="configure"):
        project.port("make")  # it is found, and has not got its words
    loaded = project.recipe(project.port("./configure", "--io=yes", "--", "make", "greet"))
    assert loaded.build == NativeBuild(
        system="configure", program="greet", configure=("--io=yes",), make=("greet",)
    )
    assert port.read_commands(words, project.tree).configure == ("--io=yes", "CFLAGS=")


def test_cmake_runs_before_make_and_its_own_programs_do_not_count(project: Project) -> None:
    (project.tree / "Makefile").unlink()
    project.write("CMakeLists.txt", MAKEFILE.replace("greet", "program"))
    project.write("../bin/cmake", CMAKE, 0o755)
    loaded = project.recipe(project.port("cmake", "-DIO=yes", ".", "--", "make"))
    assert loaded.build == NativeBuild(system="cmake", program="program", configure=("-DIO=yes",))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("make -j", "make"),
        ("make -j 4 a --jobs=3 --directory=src -k", "make folder=src make=a,-k"),
        ("CFLAGS=-O3 make a", "make make=CFLAGS=-O3,a"),
        ("CC=x ./src/configure -q -- make", "configure folder=src configure=CC=x,-q"),
        ("./configure -- make -j2 -C src a", "configure make=-C,src,a"),
        ("cmake -- make -C src", "cmake make=-C,src"),
    ],
)
def test_commands_are_read(tmp_path: Path, words: str, expected: str) -> None:
    for folder in (tmp_path, tmp_path / "src"):
        folder.mkdir(exist_ok=True)
        (folder / "Makefile").touch()
    build = port.read_commands(words.split(), tmp_path)
    said: str = build.system
    for key in ("folder", "configure", "make"):
        value = getattr(build, key)
        if value not in (".", ()):
            said += f" {key}={value if isinstance(value, str) else ','.join(value)}"
    assert said == expected


@pytest.mark.parametrize(
    "words",
    [
        *("ninja", "make -- make", "./configure", "./configure -- cmake -- make", "A=1", ""),
        *("cmake -B out -- make", "cmake -GNinja . -- make", "./autogen.sh -- make"),
    ],
)
def test_other_commands_are_refused(tmp_path: Path, words: str) -> None:
    (tmp_path / "Makefile").touch()
    with pytest.raises(UklError) as caught:
        port.read_commands(words.split(), tmp_path)
    assert caught.value.code == "port-invalid"


def test_a_folder_without_anything_to_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UklError, match="no makefile, no configure and no CMakeLists"):
        port.read_commands(["make"], tmp_path)


def test_what_the_lint_finds_is_named_by_file_and_line(project: Project) -> None:
    header = "static inline int in(int port)\n{\n\tint c;\n\tasm volatile"
    project.write("in.h", header + '("in %%dx, %%eax" : "=a"(c) : "d"(port));\n\treturn c;\n}\n')
    project.write("main.c", MAIN.replace("return", 'asm volatile("mov $main, %eax");\n\treturn'))
    code = '#include "in.h"\nint io(void)\n{\n\treturn in(1);\n}\n'
    project.write("io.c", code)
    found = project.port("make", "CFLAGS=-O2 -g0")
    assert obstacles(found) == [
        "../greet/main.c:4: error: R_X86_64_32 against main cannot be had in the kernel",
        "../greet/in.h:4: warning: in (%dx),%eax uses a port of a device",
    ]
    # A header of the machine is not the place: who includes it is.
    project.write("io.c", "#include <sys/io.h>\nint io(void)\n{\n\treturn inb(1);\n}\n")
    assert obstacles(project.port("make", "CFLAGS=-O2"))[1].startswith("../greet/io.c:4: warning")


def test_options_of_the_link_are_named_by_the_line_of_the_makefile(project: Project) -> None:
    text = MAKEFILE.replace("$(OPTIONS)", "-Wl,--wrap,malloc -Wl,--defsym=x=1")
    project.write("Makefile", text)
    assert obstacles(project.port("make")) == [
        "../greet/Makefile:2: error: it is linked with -wrap malloc",
        "../greet/Makefile:2: error: it is linked with -defsym x=1",
    ]
    project.write("Makefile", MAKEFILE)
    words = "OPTIONS=-Wl,--wrap,malloc"
    assert obstacles(project.port("make", words)) == [
        "../greet/greet: error: it is linked with -wrap malloc"
    ]


def test_a_library_of_the_machine_is_named_by_its_package(project: Project) -> None:
    """The one -dev package that is surely here is the C library's own."""
    project.write("Makefile", MAKEFILE.replace("$(LIBS)", "-l:libBrokenLocale.a"))
    found = project.port("make")
    # Its copyright file is none that tells in one word.
    unknown = 'licence = ""  # see /usr/share/doc/libc6-dev/copyright'
    line = found.recipe.splitlines().index(unknown) + 1
    assert obstacles(found) == [f"../greet/recipe.toml:{line}: error: the licence is not known"]
    version = ["dpkg-query", "--show", "--showformat=${Version}", "libc6-dev"]
    said = subprocess.run(version, check=True, capture_output=True, text=True).stdout
    known = found.recipe.replace(unknown, 'licence = "LGPL-2.1-or-later"')
    assert project.recipe(Port(known, ())).debian == (
        recipe.DebianArchives(
            package="libc6-dev",
            tested=said,
            licence="LGPL-2.1-or-later",
            archives=("libBrokenLocale.a",),
        ),
    )


def test_a_library_that_cannot_be_linked_is_named(project: Project, tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    machine.mkdir()
    for words in (("-shared", "-o", machine / "libshared.so"), ("-c", "-o", machine / "io.o")):
        subprocess.run(["gcc", project.tree / "io.c", *words], check=True)
    subprocess.run(["ar", "rcs", machine / "libown.a", machine / "io.o"], check=True)
    libs = f"-L{machine} -lshared -lown -lnothere"
    project.write("Makefile", MAKEFILE.replace("$(LIBS)", libs))
    # Its link fails, and what it was to be linked from is known all the same.
    assert obstacles(project.port("make")) == [
        f"../greet/Makefile:2: error: -lshared is {machine}/libshared.so, and there is no static"
        " archive of it",
        f"../greet/Makefile:2: error: {machine}/libown.a is of no Debian package",
        "../greet/Makefile:2: error: -lnothere is not on this machine",
    ]


def test_a_shared_library_of_the_project_is_named(project: Project) -> None:
    text = MAKEFILE.replace("libio.a", "libio.so").replace("ar rcs $@ $^", "ld -shared -o $@ $^")
    project.write("Makefile", text)
    assert obstacles(project.port("make")) == [
        "../greet/Makefile:1: error: libio.so is a shared library of the project"
    ]


def test_a_build_that_fails_for_another_reason_is_shown(project: Project) -> None:
    project.write("io.c", "int io(void) { return nothing; }\n")
    with pytest.raises(UklError, match="make ended with") as caught:
        project.port("make")
    assert "'nothing' undeclared" in caught.value.detail
    project.write("io.c", IO)
    with pytest.raises(UklError, match="make ended with") as caught:
        project.port("make", "OPTIONS=-Wl,--no-such-option")
    assert "unrecognized option" in caught.value.detail


def test_a_name_that_nothing_defines_is_named_by_its_line(project: Project) -> None:
    project.write("io.c", "int nothing(void);\nint io(void)\n{\n\treturn nothing();\n}\n")
    found = project.port("make")
    assert obstacles(found) == ["../greet/io.c:4: error: nothing is not defined"]
    assert found.failed == "make ended with status 2"


def test_a_build_that_fails_behind_the_link_is_shown(project: Project) -> None:
    project.write(
        "Makefile", MAKEFILE.replace("$(OPTIONS)", "-Wl,--wrap,x") + "all: greet; false\n"
    )
    with pytest.raises(UklError, match="make ended with"):
        project.port("make", "all")


def test_several_programs_are_a_question(project: Project) -> None:
    project.write("Makefile", MAKEFILE.replace("greet:", "one:").replace("two: greet", "two: one"))
    with pytest.raises(UklError) as caught:
        project.port("make", "one", "two")
    assert (caught.value.code, caught.value.detail) == ("port-invalid", "one\ntwo")
    build = project.recipe(project.port("make", "one", "two", program="two")).build
    assert isinstance(build, NativeBuild)
    assert build.program == "two"
    build = project.recipe(project.port("make", "two")).build
    assert isinstance(build, NativeBuild)
    assert build.program == "two"
    with pytest.raises(UklError, match="has not linked twoo; did you mean 'two'"):
        project.port("make", "two", program="twoo")


def test_what_is_up_to_date_is_not_linked(project: Project) -> None:
    subprocess.run(["make", "-C", project.tree], check=True, stdout=subprocess.DEVNULL)
    with pytest.raises(UklError) as caught:
        project.port("make")
    assert caught.value.code == "link-missing"
    assert "make clean" in caught.value.hint


def ukl_port(*words: str | Path) -> tuple[int, str, str]:
    """Run the tool; return exit status, standard output and standard error."""
    done = subprocess.run(
        [PYTHON, ROOT / "tools" / "ukl-port", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    shutil.rmtree(ROOT / "build" / "port" / "greet", ignore_errors=True)
    return done.returncode, done.stdout, done.stderr


def test_the_tool_writes_a_recipe_and_does_not_replace_one(project: Project) -> None:
    path = project.tree / "recipe.toml"
    status, out, err = ukl_port(project.tree, "--", "make")
    assert (status, out.splitlines()) == (
        1,
        [
            f"{path}:6: error: the licence is not known; write its SPDX expression, such as"
            " BSD-3-Clause"
        ],
    ), err
    assert f"wrote {path}; next: scons app={project.tree}" in err
    before = path.read_text()
    status, _, err = ukl_port("--licence", "ISC", project.tree, "--", "make")
    assert (status, "is there already" in err) == (2, True)
    status, out, _ = ukl_port("-n", "--licence", "ISC", project.tree, "--", "make")
    assert (status, path.read_text()) == (0, before)
    assert out == before.replace('licence = ""', 'licence = "ISC"')
    status, out, _ = ukl_port("--force", "--licence", "ISC", project.tree)
    assert (status, out) == (0, "")
    assert recipe.load(project.tree).licence == "ISC"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--licence", "BSD", "."), "there is no SPDX licence 'BSD'"),
        (("/no/such",), "/no/such is no folder"),
        (("/",), "cannot be called ''"),
        ((str(ROOT),), "holds the folder that it would be built in"),
    ],
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], complaint: str) -> None:
    status, _, err = ukl_port(*words)
    assert (status, complaint in err) == (2, True), err


def test_the_commands_of_the_document_write_a_recipe(tmp_path: Path) -> None:
    """All but the last, which builds a kernel: that is done in tests/long."""
    text = (ROOT / "docs" / "recipes.md").read_text()
    section = text.split("## The recipe of a project that is there\n", 1)[1]
    section = section.split("\n\nThe command", 1)[0]
    *commands, last = re.findall(r"^(?:    (.*)|)$", section, re.MULTILINE)
    assert last == "./bootstrap scons app=../words smoke"
    script = "\n".join(commands).replace("../words", str(tmp_path / "words"))
    assert "./bootstrap tools/ukl-port" in script
    done = subprocess.run(
        ["bash", "-e", "-c", script.replace("./bootstrap ", "")],
        cwd=ROOT,
        env={"PATH": f"{PYTHON.parent}:/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(ROOT / "build" / "port" / "words", ignore_errors=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    found = recipe.load(tmp_path / "words")
    assert isinstance(found, AppRecipe)
    assert (found.licence, len(found.guest.smoke_runs)) == ("MIT", 1)
