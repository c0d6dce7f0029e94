# SPDX-License-Identifier: Apache-2.0
"""The whole way from a recipe to an image, with a fake kernel that is made in seconds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.project import FAKE_LINUX, Project, tarball
from tests.waiting import wait_for
from ukl_build import files, image, manifest


def test_an_image_holds_the_kernel_the_application_and_the_initramfs(project: Project) -> None:
    project.build()
    content = (project.out / "hello.bzImage").read_bytes()
    assert (project.out / "UKL.a").read_bytes() in content
    assert (project.out / "initramfs.cpio").read_bytes() in content
    described = image.load(project.out / "image.json")
    assert described.kernel == "hello.bzImage"
    assert described.ports == (image.Port(guest=5555),)


def test_new_files_and_patches_are_in_the_tree_that_is_built(project: Project) -> None:
    new = project.root / "recipes" / "linux" / "files" / "c.c"
    new.parent.mkdir()
    new.write_text("int c;\n")
    project.build()
    tree = Path(next(iter(manifest.load(project.out / "sources.manifest.json").outputs)))
    assert "int patched;" in (tree / "a.c").read_text()
    assert (tree / "c.c").read_text() == "int c;\n"
    assert tree.parent == project.cache / "ukl-build" / "trees"


def test_a_changed_application_is_relinked_and_nothing_is_compiled(project: Project) -> None:
    project.build()
    assert sorted(project.calls()) == ["CC a", "CC b", "LD"]
    project.edit()
    project.build()
    assert project.calls() == ["LD"]


def test_it_is_said_what_the_compiler_cache_had(project: Project) -> None:
    assert re.search(r"\[linux\] \S+: \d+\.\d s, 0 of 2 cached\n", project.build())
    shutil.rmtree(project.out)
    assert re.search(r"\[linux\] \S+: \d+\.\d s, 2 of 2 cached\n", project.build())


def test_a_change_that_leaves_the_object_as_it_was_stops_there(project: Project) -> None:
    project.build()
    project.calls()
    # Behind the last line, so that not even a line number moves.
    project.edit("/* only a comment */\n")
    said = project.build()
    assert "tcp_server.c" in said
    assert "[archive]" not in said
    assert project.calls() == []


def test_a_file_beside_the_recipe_is_in_the_guest(project: Project) -> None:
    path = project.root / "recipes" / "hello" / "recipe.toml"
    files = 'files = [{ source = "a.conf", path = "/etc/a.conf" }]'
    path.write_text(path.read_text().replace("[guest]", f"[guest]\n{files}"))
    assert "there is no file" in project.build(status=2)
    for text in ("first content", "other content"):
        (path.parent / "a.conf").write_text(text)
        project.build()
        assert text.encode() in (project.out / "hello.bzImage").read_bytes()
        assert project.calls()[-1] == "LD"


def test_what_could_not_be_run_is_not_built(project: Project) -> None:
    path = project.root / "recipes" / "hello" / "recipe.toml"
    disk = 'disks = [{ name = "data", size_mib = 64, mount = "/data" }]'
    path.write_text(path.read_text().replace("[guest]", f"[guest]\n{disk}"))
    said = project.build("init=direct", status=2)
    assert "hello has disks or shares, and without our init nobody mounts them" in said
    assert not project.out.exists()


@pytest.mark.parametrize(
    ("text", "code", "what"),
    [
        ('void edited(void) { asm("sysenter"); }', "sysenter", "sysenter"),
        ("int nosuch(void); int edited(void) { return nosuch(); }", "undefined", "nosuch is not"),
    ],
)
def test_an_error_of_the_lint_ends_the_build_before_the_link(
    project: Project, text: str, code: str, what: str
) -> None:
    project.edit(text)
    for _ in range(2):  # what was left the first time is not taken for a result
        said = project.build(status=2)
        assert "error[elf-lint]: one finding stops the link" in said
        place = "build/hello/objects/tcp_server.c.o:edited+0x"
        (line,) = [one[4:] for one in said.splitlines() if one.startswith(f"  | {place}")]
        assert f": error: {what}" in line
        assert line.endswith(f"[{code}]")
        assert line in (project.root / "build" / "logs" / "hello" / "lint.log").read_text()
        assert "[link]" not in said
        assert not (project.out / "objects" / "app.o").exists()


def test_a_warning_of_the_lint_is_said_and_the_build_goes_on(project: Project) -> None:
    project.edit('void edited(void) { asm("cli"); }\n')
    said = project.build()
    assert "warning: lint: 0 errors, 1 warning" in said
    assert "[ring0]" in (project.root / "build" / "logs" / "hello" / "lint.log").read_text()
    assert said.index("[lint]") < said.index("[link]")
    found = json.loads((project.out / "lint.json").read_text())["findings"]
    assert ("ring0", "edited") in {(one["code"], one["function"]) for one in found}


def test_a_changed_patch_gives_another_tree_and_another_kernel(project: Project) -> None:
    project.build()
    project.calls()
    patch = project.root / "recipes" / "linux" / "patches" / "0001-a.patch"
    patch.write_text(patch.read_text().replace("int patched", "int changed"))
    project.build()
    assert "LD" in project.calls()
    assert len(list((project.cache / "ukl-build" / "trees").iterdir())) == 2


def test_an_emptied_cache_is_filled_again_and_nothing_else_is_done(project: Project) -> None:
    project.build()
    project.calls()
    shutil.rmtree(project.cache / "ukl-build" / "trees")
    said = project.build()
    assert "[sources]" in said
    assert "[linux]" not in said
    project.edit()
    project.build()  # which needs the tree
    assert project.calls() == ["LD"]


def test_an_option_that_cannot_be_had_ends_the_build_and_says_why(project: Project) -> None:
    said = project.build("fragments=unmet", status=2)
    assert "error[config-unmet]" in said
    assert "CONFIG_INET=y" in said
    assert "unmet dependency: NET (NET is n)" in said
    assert "net.config:2" in said
    assert not (project.out / "hello.bzImage").exists()


def test_a_configuration_that_the_kernel_changes_is_refused(project: Project) -> None:
    project.linux.mkdir(parents=True)
    (project.linux / "disagree").touch()
    said = project.build(status=2)
    assert "error[config-differs]" in said
    assert "CONFIG_SURPRISE: 'n' became 'y'" in said


def test_a_patch_that_does_not_apply_is_named_with_what_was_rejected(project: Project) -> None:
    tree = project.root / "other"
    shutil.copytree(FAKE_LINUX, tree)
    (tree / "a.c").write_text("/* other */\nint other;\n")
    tarball(tree, next((project.root / "dist").iterdir()))
    said = project.build(status=2)
    assert "error[patch-failed]: 0001-a.patch does not apply to Linux 6.1.999" in said
    assert "a.c" in said
    assert "+int patched;" in said
    assert list((project.cache / "ukl-build").glob("trees/*")) == []


def test_a_failed_compilation_of_the_kernel_shows_the_log_and_how_to_repeat_it(
    project: Project,
) -> None:
    new = project.root / "recipes" / "linux" / "patches" / "0001-a.patch"
    new.write_text(new.read_text().replace("int patched;", "int patched; mistake"))
    said = project.build(status=2)
    assert "error[tool-failed]: make ended with status 2" in said
    assert "mistake" in said
    repeat = next(line for line in said.splitlines() if "repeat: " in line)
    again = subprocess.run(
        ["sh", "-c", repeat.partition("repeat: ")[2]], capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert "mistake" in again.stderr


def test_the_number_of_jobs_reaches_make(project: Project) -> None:
    project.build("-j3")
    assert "-j3" in (project.linux / "flags").read_text()


def test_an_unpacked_tree_is_copied_and_patched(project: Project) -> None:
    project.scons("app=hello", f"linux_src={FAKE_LINUX}")
    assert "int patched" not in (FAKE_LINUX / "a.c").read_text()
    assert sorted(project.calls()) == ["CC a", "CC b", "LD"]


def test_a_tree_that_is_patched_already_is_built_in_place_and_watched(project: Project) -> None:
    tree = project.root / "mine"
    shutil.copytree(FAKE_LINUX, tree)
    with (tree / "init" / "Kconfig").open("a") as file:
        file.write('\nconfig UNIKERNEL_LINUX\n\tbool "An application in ring 0"\n')
    words = ("app=hello", f"linux_src={tree}")
    project.scons(*words)
    project.calls()
    assert "up to date" in project.scons(*words)
    (tree / "b.c").write_text("int b = 2;\n")
    project.scons(*words)
    assert project.calls() == ["CC b", "LD"]


def test_manifests_name_digests_and_a_command_that_makes_the_outputs_again(
    project: Project,
) -> None:
    project.build()
    before = (project.out / "UKL.a").read_bytes()
    found = manifest.load(project.out / "archive.manifest.json")
    assert found.outputs == {"UKL.a": files.sha256(project.out / "UKL.a")}
    assert found.inputs["build/hello/objects/app.o"] == files.sha256(
        project.out / "objects" / "app.o"
    )
    for path in project.out.glob("*.manifest.json"):
        if path.name != "sources.manifest.json":  # whose output is a tree in the cache
            for name, digest in manifest.load(path).outputs.items():
                assert files.sha256(project.out / name) == digest
    (project.out / "UKL.a").unlink()
    project.scons(*found.repeat.split()[1:])
    assert (project.out / "UKL.a").read_bytes() == before
    record = project.out / "sources.manifest.json"
    repeat = manifest.load(record).repeat
    record.unlink()
    project.scons(*repeat.split()[1:])
    assert manifest.load(record).repeat == repeat


def test_the_report_of_the_configuration_is_made_again_if_it_is_gone(project: Project) -> None:
    project.build()
    report = project.out / "kconfig" / "report.txt"
    whole = report.read_text()
    report.unlink()
    said = project.build(str(report.relative_to(project.root)))
    assert report.read_text() == whole
    assert "[linux]" not in said


def test_the_same_inputs_give_the_same_bytes(project: Project) -> None:
    def outputs() -> dict[str, str]:
        found = [project.out / "UKL.a", project.out / "initramfs.cpio", *project.out.glob("*.json")]
        return {path.name: files.sha256(path) for path in found}

    project.build()
    first = outputs()
    shutil.rmtree(project.root / "build")
    project.build()
    assert outputs() == first


def test_compile_commands_lists_each_file_of_the_application(project: Project) -> None:
    project.build()
    entries = json.loads((project.out / "compile_commands.json").read_text())
    (entry,) = [entry for entry in entries if entry["file"].endswith("tcp_server.c")]
    assert "-mno-red-zone" in entry["command"]
    subprocess.run([*entry["command"].split(), "-fsyntax-only"], cwd=entry["directory"], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_killed_is_resumed(project: Project, number: signal.Signals) -> None:
    project.linux.mkdir(parents=True)
    (project.linux / "wait").touch()
    waiting = project.linux / "waiting"
    process = subprocess.Popen(
        project.argv(["-j1", "app=hello", f"linux_src={project.root / 'dist'}"]),
        cwd=project.root,
        env=project.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(waiting.exists, "the fake kernel's compilation")
        os.kill(process.pid, number)
        said, _ = process.communicate(timeout=20)
        assert process.returncode != 0, said
        torn = project.linux / "a.o"
        if number == signal.SIGKILL:
            # make lives on and would hold the lock; a machine that loses power takes it along.
            assert torn.read_text() == "half\n"
            _kill_makes(project.linux)
            assert torn.exists()
        else:
            assert not torn.exists(), "make was not asked to end, or SCons waited for it"
    finally:
        (project.linux / "wait").unlink(missing_ok=True)
        process.kill()
        process.wait()
    project.calls()
    project.build()
    assert "CC a" in project.calls()
    assert torn.read_bytes()[:4] == b"\x7fELF"
    assert "up to date" in project.build()


def test_what_a_killed_build_made_of_an_edit_does_not_outlive_the_edit(project: Project) -> None:
    original = project.source.read_text()
    project.build()
    archive = (project.out / "UKL.a").read_bytes()
    patch = project.root / "recipes" / "linux" / "patches" / "0001-a.patch"
    project.edit("int edited(void) { return 1; }\n")
    # Another tree, so that the fake kernel compiles and can be stopped in it.
    patch.write_text(patch.read_text().replace("int patched", "int changed"))
    (project.linux / "waiting").unlink()
    (project.linux / "wait").touch()
    words = ["-j1", "app=hello", f"linux_src={project.root / 'dist'}"]
    process = subprocess.Popen(
        project.argv(words), cwd=project.root, env=project.env(), stdout=subprocess.DEVNULL
    )
    try:
        wait_for((project.linux / "waiting").exists, "the fake kernel's compilation")
        process.kill()
        _kill_makes(project.linux)
    finally:
        (project.linux / "wait").unlink(missing_ok=True)
        process.kill()
        process.wait()
    assert (project.out / "UKL.a").read_bytes() != archive
    project.source.write_text(original)
    project.build()
    assert (project.out / "UKL.a").read_bytes() == archive
    assert archive in (project.out / "hello.bzImage").read_bytes()
    assert "up to date" in project.build()


def _makes(out: Path) -> list[int]:
    """Return all processes of a fake kernel's build; the dead have no command line any more."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if f"O={out}".encode() in words or f"{out}/waiting".encode() in words:
            found.append(int(entry.name))
    return found


def _kill_makes(out: Path) -> None:
    """Kill all processes of a fake kernel's build outright, and see them gone."""

    def gone() -> bool:
        makes = _makes(out)
        for pid in makes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not makes

    wait_for(gone, "the end of the fake kernel's build")


@pytest.mark.parametrize("stop", [0, signal.SIGINT, signal.SIGTERM])
def test_a_make_that_outlives_its_build_keeps_the_next_one_waiting(
    project: Project, stop: int
) -> None:
    project.linux.mkdir(parents=True)
    (project.linux / "wait").touch()
    words = ["-j1", "app=hello", f"linux_src={project.root / 'dist'}"]
    process = subprocess.Popen(
        project.argv(words), cwd=project.root, env=project.env(), stdout=subprocess.DEVNULL
    )
    log = project.root / "second.log"
    try:
        wait_for((project.linux / "waiting").exists, "the fake kernel's compilation")
        process.kill()
        process.wait()
        with log.open("w") as out:
            second = subprocess.Popen(
                project.argv(words), cwd=project.root, env=project.env(), stderr=out, stdout=out
            )
        wait_for(lambda: "what is left of a killed one" in log.read_text(), "the message")
        assert second.poll() is None
        second.send_signal(stop)
        if stop:
            assert second.wait(timeout=10) == 2
            return
    finally:
        (project.linux / "wait").unlink(missing_ok=True)
    assert second.wait(timeout=60) == 0, log.read_text()
    # The first make has ended by itself and well, so nothing of it is torn but nothing says so.
    assert (project.out / "hello.bzImage").exists()


def test_an_image_that_may_not_be_handed_on_is_built_with_a_warning(project: Project) -> None:
    said = project.build()
    assert "warning" not in said
    described = image.load(project.out / "image.json")
    assert described.redistributable
    assert described.licences["hello"] == "MIT"
    recipe = project.root / "recipes" / "hello" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('"MIT"', '"SSPL-1.0"'))
    said = project.build()
    assert "warning: this image may not be handed on: hello is under SSPL-1.0" in said
    assert not image.load(project.out / "image.json").redistributable
