# SPDX-License-Identifier: Apache-2.0
"""Levels of ring 0: declared by SCons, around a fake kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake.test_debian import stages
from tests.fake.test_libc import C, write_recipe
from tests.project import ROOT, Project
from ukl_build import dotconfig, image, plan
from ukl_build.image import Variant

STEPS = ["image", "kconfig", "linux", "userspace"]
"""Those that a level has of its own."""
OPTIONS = {
    Variant.BASE: "UNIKERNEL_LINUX",
    Variant.RET: "UKL_RET",
    Variant.BYPASS: "UKL_BYPASS",
    Variant.SHORTCUT: "UKL_SHORTCUT",
}
LOWER = tuple(OPTIONS)[:-1]
"""Those that ladder builds beside the fastest."""


def on(folder: Path) -> list[Variant]:
    """Return the levels that a kernel was configured for."""
    settings = dotconfig.read_settings((folder / "kconfig" / "config").read_text())
    return [level for level, option in OPTIONS.items() if settings.get(option) == "y"]


@pytest.fixture
def asked(project: Project) -> Callable[[], list[list[str]]]:
    """Have ladder's programs, ukl-run and the count, note their words instead of running.

    :return: function that returns those noted since it was called last.
    """
    notes, fails = project.root / "asked", project.root / "fails"
    ours, fake = ROOT / "ukl_build", project.root / "ukl_build"
    for folder in (Path(), Path("run"), Path("measure")):
        (fake / folder).mkdir()
        for path in (ours / folder).iterdir():
            if path.name not in ("run", "measure", "cli.py"):
                (fake / folder / path.name).symlink_to(path)
    for name in ("run", "measure"):
        (fake / name / "cli.py").write_text(
            "import json, os, sys\n"
            f"with open({str(notes)!r}, 'a') as file:\n"
            f"    print(json.dumps([{name!r}, *sys.argv[1:]]), file=file)\n"
            f"if __name__ == '__main__':\n"
            f"    sys.exit(sys.argv[2].endswith('/ret') and os.path.exists({str(fails)!r}))\n"
        )

    def read() -> list[list[str]]:
        text = notes.read_text() if notes.exists() else ""
        notes.unlink(missing_ok=True)
        return [json.loads(line) for line in text.splitlines()]

    return read


@pytest.fixture
def plain(project: Project) -> Project:
    """Return a project whose application ends by itself, and has a smoke test."""
    write_recipe(project, C)
    project.source.write_text("int main(void) { return 42; }\n")
    with (project.root / "recipes" / "hello" / "recipe.toml").open("a") as file:
        file.write('[[guest.smoke_runs]]\nexpect = ["x"]\n')
    return project


@pytest.mark.parametrize("level", OPTIONS)
def test_a_level_has_those_below_it(level: Variant, project: Project) -> None:
    project.build(f"level={level}")
    assert tuple(on(project.out)) == plan.levels(level)
    assert image.load(project.out / "image.json").variant is Variant.UKL


def test_the_fastest_level_is_what_one_gets(project: Project) -> None:
    project.build()
    assert tuple(on(project.out)) == plan.levels(plan.FASTEST) == tuple(OPTIONS)


def test_an_unknown_level_is_refused(project: Project) -> None:
    said = project.build("level=bypas", status=2)
    assert "level=bypas is unknown; did you mean 'bypass'?" in said
    assert not project.out.exists()


def test_ladder_builds_asks_and_counts_every_level(
    plain: Project, asked: Callable[[], list[list[str]]]
) -> None:
    said = plain.build("ladder")
    folders = [plain.out, *(plain.out / level for level in LOWER)]
    assert not (plain.out / plan.FASTEST).exists()
    for folder, level in zip(folders, (plan.FASTEST, *LOWER), strict=True):
        assert tuple(on(folder)) == plan.levels(Variant(level))
        assert (folder / "initramfs.cpio").read_bytes() == (
            plain.out / "initramfs.cpio"
        ).read_bytes()
        assert (plain.out / "UKL.a").read_bytes() in (folder / "hello.bzImage").read_bytes()
    described = image.load(plain.out / "ret" / "image.json")
    assert (described.variant, described.label) == (Variant.RET, "hello.ret")
    assert described.command == "scons app=hello ladder"
    assert described.redistributable == image.load(plain.out / "image.json").redistributable
    *smokes, count = asked()
    assert smokes == [["run", "--qemu", str(folder), "--smoke"] for folder in folders]
    assert count[0] == "measure"
    assert count[count.index("--out") + 1] == str(plain.out / "ladder.json")
    assert count[count.index("--ukl") + 1] == "shortcut"
    order = ["", "bypass", "ret", "base", "twin"]
    assert count[-5:] == [str(plain.out / name) for name in order]
    assert "linux" in stages(said)
    assert stages(plain.build("ladder")) == []


def test_a_level_compiles_only_what_differs(
    plain: Project, asked: Callable[[], list[list[str]]]
) -> None:
    plain.build("ladder")
    for name in LOWER:
        # make's own objects came along, and their times; only the configuration is another.
        began = (plain.out / name / "linux" / "calls").read_text().splitlines()
        assert sorted(began[: began.index("LD")]) == ["CC a", "CC b"]


def test_a_changed_application_is_linked_into_every_level(
    plain: Project, asked: Callable[[], list[list[str]]]
) -> None:
    plain.build("ladder")
    for name in LOWER:
        plain.calls(plain.out / name / "linux")
    plain.source.write_text("int main(void) { return 43; }\n")
    plain.build("ladder")
    for name in LOWER:
        assert plain.calls(plain.out / name / "linux") == ["LD"]


def test_a_level_that_does_not_answer_is_not_counted(
    plain: Project, asked: Callable[[], list[list[str]]]
) -> None:
    (plain.root / "fails").touch()
    plain.build("ladder", status=2)
    assert [words[0] for words in asked()] == ["run"] * 3


def test_levels_are_made_again_by_ladder_alone(
    plain: Project, asked: Callable[[], list[list[str]]]
) -> None:
    def announced(*targets: str) -> list[str]:
        said = plain.build("-n", *targets)
        return re.findall(r"^\[(\w+)\] \S*/(?:base|ret|bypass)/", said, re.M)

    plain.build("ladder")
    assert announced("ladder") == []
    plain.source.write_text("int main(void) { return 43; }\n")
    plain.build()
    assert announced("bench") == announced("profile") == announced() == []
    assert announced("ladder") == ["linux"] * 3


@pytest.mark.parametrize("name", ["run", "smoke"])
def test_ladder_cannot_be_combined_with_starting_one_image(name: str, project: Project) -> None:
    said = project.build("ladder", name, status=2)
    assert f"ladder and {name}: which of the images is meant?" in said


def test_ladder_is_removed_with_the_rest(
    plain: Project, asked: Callable[[], list[list[str]]]
) -> None:
    plain.build("ladder")
    plain.build("-c")
    assert not plain.out.exists()
