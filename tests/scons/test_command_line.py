# SPDX-License-Identifier: Apache-2.0
"""SCons as people expect it."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project import APP_RECIPE, ROOT, Project
from ukl_build import scons_tool


def processor_s() -> float:
    """Return the processor time of all programs that have ended, in seconds.

    The time of the clock is the machine's: a busy one takes five seconds for what takes one alone.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_second_run_does_nothing_and_is_quick(project: Project) -> None:
    project.build()
    project.calls()
    before = {path: path.stat().st_mtime_ns for path in project.out.rglob("*") if path.is_file()}
    times = []
    for _ in range(3):  # the best of them: the machine may do something else as well
        start = processor_s()
        said = project.build()
        times.append(processor_s() - start)
        assert "up to date" in said
        assert "[" not in said.partition("SConscript files ...")[2]
    after = {path: path.stat().st_mtime_ns for path in project.out.rglob("*") if path.is_file()}
    changed = {str(path.name) for path in after if after[path] != before.get(path)}
    assert changed <= {"lock", "sconsign.dblite"}
    assert min(times) < 2


def test_question_mode_tells_whether_all_is_up_to_date(project: Project) -> None:
    project.build("-q", status=1)
    project.build()
    project.build("-q")
    project.edit()
    project.build("-q", status=1)


def test_help_lists_every_variable_and_target(project: Project) -> None:
    said = project.scons("-h")
    for variable in scons_tool.variables(["hello"]):
        assert re.search(rf"^  {variable.name} .*default: ", said, re.M), variable.name
    for target in scons_tool.TARGETS:
        assert re.search(rf"^  {target.name} ", said, re.M), target.name
    assert "application to build: hello; or a folder" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ap=hello"], "there is no variable 'ap'; did you mean 'app'?"),
        (["app=helo"], "there is no application 'helo'; did you mean 'hello'?"),
        (["app=hello", "init=direkt"], "init=direkt is unknown; did you mean 'direct'?"),
        (["app=hello", "fragments=nett"], "there is no fragment 'nett'; did you mean 'net'?"),
        (["app=hello", "linux_sha256=ABC"], "linux_sha256=ABC is not understood"),
        (["app=hello", "linux_version=6.1/.."], "linux_version=6.1/.. is not understood"),
        (["app=hello", "linux_version=6.1.9"], "has no effect without linux_sha256"),
        (["app=hello", "accel=tcg"], "accel has no effect without bench"),
        (["app=hello", "bench", "accel=tgc"], "accel=tgc is unknown; did you mean 'tcg'?"),
        (["test", "tests=-k 'x"], "No closing quotation"),
        ([], "which application?"),
        (["image"], "which application?"),
        (["app=hello", "image", "test"], "test cannot be combined with other targets"),
    ],
)
def test_a_mistake_is_an_error_that_names_the_nearest(
    project: Project, words: list[str], expected: str
) -> None:
    said = project.scons(*words, status=2)
    assert expected in said
    assert "hint: " in said
    assert "Traceback" not in said


def test_what_the_system_refuses_is_an_error_with_a_hint(project: Project) -> None:
    (project.root / "file").touch()
    said = project.build("build=file", status=3)
    assert "error[system]: " in said
    assert "hint: " in said
    (project.out / "UKL.a").mkdir(parents=True)
    (project.out / "UKL.a" / "x").touch()
    said = project.build(status=2)
    assert "error[system]: " in said
    assert "Traceback" not in said


def test_an_empty_variable_is_as_good_as_none(project: Project) -> None:
    project.build("build=", "init=", "fragments=")
    assert (project.out / "hello.bzImage").exists()


def test_a_damaged_record_of_the_sources_is_made_again(project: Project) -> None:
    project.build()
    record = project.out / "sources.manifest.json"
    whole = record.read_bytes()
    record.write_text("{")
    project.build()
    assert record.read_bytes() == whole


def test_an_unknown_target_is_an_error(project: Project) -> None:
    assert "Do not know how to make" in project.build("imag", status=2)


def test_dry_run_says_what_would_be_done_and_does_nothing(project: Project) -> None:
    said = project.build("-n")
    assert "[linux] build/hello/hello.bzImage" in said
    assert not (project.root / "build").exists()
    assert not project.cache.exists()


def test_clean_removes_the_outputs_and_nothing_else(project: Project) -> None:
    project.build()
    project.build("-c")
    assert not project.out.exists() or not any(project.out.rglob("*.o"))
    assert not (project.out / "linux").exists()
    assert project.source.exists()
    assert any((project.cache / "ukl-build" / "trees").iterdir())


def test_keep_going_builds_what_does_not_need_the_failed_part(project: Project) -> None:
    project.edit("mistake\n")
    project.build("-j1", status=2)
    project.build("-k", "-j1", status=2)
    assert (project.out / "initramfs.cpio").exists()
    assert (project.out / "kconfig" / "config").exists()
    assert not (project.out / "hello.bzImage").exists()


def test_quiet_says_nothing_of_scons_itself(project: Project) -> None:
    assert "scons: Reading" not in project.build("-Q")


def test_silent_says_nothing_but_warnings_and_errors(project: Project) -> None:
    said = project.build("-s")
    assert [line for line in said.splitlines() if not line.startswith("warning: ")] == []
    assert (project.out / "hello.bzImage").is_file()
    project.edit("mistake\n")
    assert "error: " in project.build("-s", status=2)


def test_built_files_come_out_of_scons_cache(project: Project, tmp_path: Path) -> None:
    words = (f"cache_dir={tmp_path / 'scons-cache'}",)
    project.build(*words)
    built = (project.out / "hello.bzImage").read_bytes()
    project.calls()
    shutil.rmtree(project.root / "build")
    said = project.build(*words)
    assert "Retrieved" in said
    assert project.calls() == []
    assert (project.out / "hello.bzImage").read_bytes() == built


def test_durations_of_the_last_run_are_shown(project: Project) -> None:
    project.build()
    project.edit()
    assert re.search(r"\[archive\] build/hello/UKL\.a: \d+\.\d s", project.build())
    assert (project.root / "build" / "durations.json").exists()


def test_nothing_of_the_environment_reaches_the_compiler(project: Project, tmp_path: Path) -> None:
    trap = tmp_path / "include"
    (trap / "asm").mkdir(parents=True)
    (trap / "asm" / "unistd.h").write_text("#error the environment was inherited\n")
    env = {**project.env(), "CPATH": str(trap), "CFLAGS": "-mistake", "MAKEFLAGS": "-mistake"}
    done = subprocess.run(
        project.argv(["app=hello", f"linux_src={project.root / 'dist'}"]),
        cwd=project.root,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_applications_are_built_beside_each_other(project: Project) -> None:
    recipe = project.root / "recipes" / "other" / "recipe.toml"
    recipe.parent.mkdir()
    recipe.write_text(APP_RECIPE.replace('name = "hello"', 'name = "other"'))
    project.build()
    project.scons("app=other", f"linux_src={project.root / 'dist'}")
    assert (project.root / "build" / "other" / "other.bzImage").exists()
    assert "up to date" in project.build()


def test_savedefconfig_writes_what_differs_from_the_defaults(project: Project) -> None:
    project.build("savedefconfig")
    text = (project.out / "kconfig" / "defconfig").read_text()
    assert "CONFIG_NET=y" in text
    assert "# CONFIG_DEFAULT_ON is not set" in text
    assert "CONFIG_UKL_ARCHIVE_PATH" not in text  # it has its default value


@pytest.mark.parametrize(("body", "status"), [("pass", 0), ("raise AssertionError", 1)])
def test_pytests_summary_is_the_last_line_of_the_target_test(
    project: Project, body: str, status: int
) -> None:
    (project.root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    tests = project.root / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text(f"def test_it() -> None:\n    {body}\n")
    last = project.scons("app=hello", "test", status=status).splitlines()[-1]
    assert re.search(r"\b1 (passed|failed)\b.* in [0-9.]+s", last)
