# SPDX-License-Identifier: Apache-2.0
"""An application with a Debian package: made by SCons, offline, around a fake kernel."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.debs import LIBRARIES, deb, library
from tests.project import APP_RECIPE, Project
from ukl_build import manifest

HEADER = "#define ANSWER 42\nint answer(void);\n"
USE = "#include <answer.h>\nint used(void);\nint used(void) { return answer() + ANSWER; }\n"
DEBIAN = """\
[[debian]]
package = "libanswer-dev"
tested = "1-1"
licence = "Zlib"
archives = ["libanswer.a"]

[guest]
"""


def publish(project: Project, version: str = "1-1", header: str = HEADER, code: int = 42) -> Path:
    """Put a package into the user's folder, in place of the one before."""
    folder = project.root / "debs"
    shutil.rmtree(folder, ignore_errors=True)
    archive = library(
        folder / "made", f"int answer(void);\nint answer(void) {{ return {code}; }}\n"
    )
    content: dict[str, bytes | str] = {"usr/include/answer.h": header}
    content[f"{LIBRARIES}/libanswer.a"] = archive
    return deb(folder, "libanswer-dev", version, content)


@pytest.fixture
def linking(project: Project) -> Project:
    """Return a project whose application links a package."""
    recipe = project.root / "recipes" / "hello" / "recipe.toml"
    recipe.write_text(APP_RECIPE.replace("[guest]\n", DEBIAN))
    project.edit(USE)
    publish(project)
    return project


def build(project: Project, *words: str, status: int = 0) -> str:
    return project.build(f"debs={project.root / 'debs'}", *words, status=status)


def stages(said: str) -> list[str]:
    """Return the stages that ran to their end."""
    return re.findall(r"^\[(\w+)\] \S+: \d", said, re.M)


def test_headers_and_archive_of_a_package_are_used_and_recorded(linking: Project) -> None:
    build(linking)
    assert b"ukl.answer" in (linking.out / "UKL.a").read_bytes()
    record = manifest.load(linking.out / "debian.manifest.json")
    assert record.inputs == {"libanswer-dev": "1-1"}
    link = manifest.load(linking.out / "link.manifest.json")
    assert "build/hello/debian.manifest.json" in link.inputs
    (database,) = [
        entry
        for entry in json.loads((linking.out / "compile_commands.json").read_text())
        if entry["file"].endswith("tcp_server.c")
    ]
    assert "-isystem build/hello/debian/libanswer-dev/usr/include" in database["command"]
    assert "up to date" in build(linking)


def test_another_package_is_compiled_with_and_linked(linking: Project) -> None:
    build(linking)
    before = (linking.out / "UKL.a").read_bytes()
    publish(linking, "1-2", code=43)
    said = build(linking)
    assert "warning: libanswer-dev 1-2 is used, 1-1 was tested last" in said
    after = (linking.out / "UKL.a").read_bytes()
    assert after != before
    publish(linking, "1-3", header=HEADER.replace("42", "44"), code=43)
    assert "tcp_server.c.o" in build(linking)
    assert (linking.out / "UKL.a").read_bytes() not in (before, after)


def test_the_same_package_from_another_place_leaves_the_kernel_alone(linking: Project) -> None:
    build(linking)
    linking.calls()
    (linking.root / "debs").rename(linking.root / "moved")
    said = linking.build(f"debs={linking.root / 'moved'}")
    assert "debian" in stages(said)
    assert "archive" not in stages(said)
    assert linking.calls() == []


@pytest.mark.parametrize("what", ["cache", "link"])
def test_packages_that_are_gone_are_there_again_and_nothing_else_is_done(
    linking: Project, what: str
) -> None:
    build(linking)
    link = linking.out / "debian" / "libanswer-dev"
    if what == "cache":
        shutil.rmtree(link.resolve())
    else:
        link.unlink()
    assert stages(build(linking)) == ["debian"]
    linking.edit()
    build(linking)  # which needs it


def test_a_header_that_is_not_there_ends_the_build_before_the_compiler(linking: Project) -> None:
    recipe = linking.root / "recipes" / "hello" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("archives =", 'headers = ["anser.h"]\narchives ='))
    said = build(linking, status=2)
    assert "libanswer-dev 1-1 has no header anser.h; did you mean 'answer.h'?" in said
    assert "error[source-missing]" in said
    assert "gcc -o build/hello/objects/tcp_server.c.o" not in said


def test_another_archive_of_the_same_package_is_linked(linking: Project) -> None:
    recipe = linking.root / "recipes" / "hello" / "recipe.toml"
    text = recipe.read_text()
    recipe.write_text(text.replace('archives = ["libanswer.a"]', 'headers = ["answer.h"]'))
    said = build(linking, status=2)
    assert "answer is not defined" in said
    recipe.write_text(text)
    build(linking)


def test_an_archive_that_does_not_fit_the_kernel_half_is_refused(linking: Project) -> None:
    """Compiled for addresses of 32 bits, as no library of Debian is."""
    source = "int kept;\nint *answer(void);\nint *answer(void) { return &kept; }\n"
    archive = library(linking.root / "made", source, "-fno-pie")
    content: dict[str, bytes | str] = {"usr/include/answer.h": HEADER}
    content[f"{LIBRARIES}/libanswer.a"] = archive
    shutil.rmtree(linking.root / "debs")
    deb(linking.root / "debs", "libanswer-dev", "1-1", content)
    said = build(linking, status=2)
    assert "error[elf-lint]: one finding stops the link" in said
    assert "libanswer.a(one.o):answer+" in said
    assert "R_X86_64_32 against kept" in said


def test_a_weak_name_of_an_archive_may_be_0_if_the_recipe_says_why(linking: Project) -> None:
    linking.edit("int extra(void) __attribute__((weak));\nint more(void);\n")
    linking.edit("int more(void) { return extra ? extra() : 0; }\n")
    said = build(linking, status=2)
    assert "extra is not defined" in said
    assert "[zero] in the recipe" in said
    recipe = linking.root / "recipes" / "hello" / "recipe.toml"
    text = recipe.read_text()
    recipe.write_text(text + '\n[zero]\nextra = "a test"\n')
    build(linking)
    recipe.write_text(text)
    build(linking, status=2)


def test_a_package_is_gone_with_the_outputs_and_stays_in_the_cache(linking: Project) -> None:
    build(linking)
    unpacked = (linking.out / "debian" / "libanswer-dev").resolve()
    build(linking, "-c")
    assert not (linking.out / "debian").exists()
    assert (unpacked / "usr/include/answer.h").is_file()
