# SPDX-License-Identifier: Apache-2.0
"""The application as an ordinary process: declared by SCons, around a fake kernel."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.fake.test_debian import stages
from tests.fake.test_libc import C, write_recipe
from tests.project import Project
from ukl_build import dotconfig, image
from ukl_build.image import Variant

STAGES = ["image", "kconfig", "linux", "program", "userspace"]
"""Those that a twin has of its own."""


@pytest.fixture
def plain(project: Project) -> Project:
    """Return a project whose application ends with status 42."""
    write_recipe(project, C)
    project.source.write_text("int main(void) { return 42; }\n")
    return project


def config(project: Project) -> dict[str, str]:
    """Return the configuration of the twin's kernel."""
    text = (project.twin / "kconfig" / "config").read_text()
    return dotconfig.read_settings(text)


def test_a_twin_is_the_same_objects_as_an_ordinary_program(plain: Project) -> None:
    said = plain.build("twin")
    assert "start it: tools/ukl-run --qemu build/hello/twin" in said
    program, stripped = plain.twin / "hello.static", plain.twin / "hello"
    for path in (program, stripped):
        assert subprocess.run([path], check=False, timeout=10).returncode == 42
    symbols = [
        subprocess.run(["nm", path], check=True, capture_output=True, text=True).stdout
        for path in (program, stripped)
    ]
    assert " T main\n" in symbols[0]
    assert symbols[1] == ""
    guest = (plain.twin / "initramfs.cpio").read_bytes()
    assert stripped.read_bytes() in guest
    assert b"\napp=/bin/hello\narg=/bin/hello\n" in guest
    assert b"\0UKL\0" not in guest
    assert guest in (plain.twin / "hello.bzImage").read_bytes()


def test_a_twin_has_the_kernel_without_an_application(plain: Project) -> None:
    plain.build("image", "twin")
    own, ours = config(plain), (plain.out / "kconfig" / "config").read_text()
    different = dotconfig.read_settings(ours).items() - own.items()
    levels = dict.fromkeys(("UKL_RET", "UKL_BYPASS", "UKL_SHORTCUT"), "y")
    assert dict(different) == {"UNIKERNEL_LINUX": "y", "UKL_ARCHIVE_PATH": "../UKL.a", **levels}
    described = image.load(plain.twin / "image.json")
    one = image.load(plain.out / "image.json")
    assert (described.variant, described.app.path) == (Variant.TWIN, "/bin/hello")
    assert described.licences == {"linux": "GPL-2.0-only"}
    assert not described.redistributable
    same = {"variant", "app", "licences", "redistributable"}
    assert described.model_dump(exclude=same) == one.model_dump(exclude=same)


def test_a_twin_is_built_only_if_it_is_asked_for(plain: Project) -> None:
    said = plain.build()
    assert "program" not in stages(said)
    assert not plain.twin.exists()
    image_of_ring_0 = (plain.out / "hello.bzImage").read_bytes()
    assert sorted(stages(plain.build("twin"))) == STAGES
    assert "CC a" in plain.calls(plain.twin / "linux")
    assert stages(plain.build("twin")) == []
    plain.source.write_text("int main(void) { return 43; }\n")
    plain.build()
    assert plain.calls(plain.twin / "linux") == []
    said = plain.build("twin")
    assert sorted(stages(said)) == ["image", "linux", "program", "userspace"]
    assert plain.calls(plain.twin / "linux") == ["LD"]
    assert subprocess.run([plain.twin / "hello"], check=False).returncode == 43
    assert (plain.out / "hello.bzImage").read_bytes() != image_of_ring_0


def test_a_twin_alone_builds_no_kernel_with_the_application(plain: Project) -> None:
    assert sorted(stages(plain.build("twin"))) == sorted(
        [*STAGES, "libc", "lint", "link", "sources"]
    )
    assert not plain.linux.exists()


def test_a_twin_that_would_be_in_ring_0_is_refused(plain: Project) -> None:
    said = plain.build("fragments=again", "twin", status=2)
    assert "error[config-unmet]: CONFIG_UNIKERNEL_LINUX must be off" in said
    assert "again.config:1: CONFIG_UNIKERNEL_LINUX=y" in said
    assert not (plain.twin / "hello.bzImage").exists()


def test_a_place_that_the_recipe_has_taken_is_refused(plain: Project) -> None:
    path = plain.root / "recipes" / "hello" / "recipe.toml"
    share = 'shares = [{ name = "bin", mount = "/bin" }]'
    path.write_text(path.read_text().replace("[guest]", f"[guest]\n{share}"))
    (plain.root / "kconfig" / "9p.config").write_text("# nothing\n")
    plain.build()
    said = plain.build("twin", status=2)
    assert "error[recipe-invalid]: the twin of hello has its program at /bin/hello: " in said
    assert "something is mounted on /bin\n" in said


@pytest.mark.parametrize("name", ["run", "smoke"])
def test_which_image_is_started_is_never_a_guess(plain: Project, name: str) -> None:
    said = plain.build("twin", name, status=2)
    assert f"error[variable-invalid]: twin and {name}: which of the images is meant?" in said
    assert not plain.out.exists()


def test_a_twin_is_removed_alone_and_with_the_rest(plain: Project) -> None:
    plain.build("twin", "image")
    plain.build("-c", "twin")
    assert not plain.twin.exists()
    plain.build("twin")
    plain.build("-c")
    assert not plain.out.exists()


def test_bench_makes_a_twin_again_that_is_there(plain: Project) -> None:
    """An old one would be compared with a new image."""

    def announced() -> list[str]:
        return re.findall(r"^\[(\w+)\] \S*/twin/", plain.build("-n", "bench"), re.M)

    plain.build()
    assert announced() == []
    plain.build("twin")
    assert announced() == []
    plain.source.write_text("int main(void) { return 43; }\n")
    plain.build()
    # Nothing is made of what was not made.
    assert announced() == ["program"]
