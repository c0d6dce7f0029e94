# SPDX-License-Identifier: Apache-2.0
"""Our adapter of kconfiglib against the kernel's own conf, on the real kernel's Kconfig."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.project import ROOT
from ukl_build import dotconfig, plan, proc, recipe, toolchain
from ukl_build.cache import Cache
from ukl_build.image import Init
from ukl_build.stages import kconfig, linux, sources

COMPLETE = """\
import sys
from ukl_build import dotconfig
kconf = dotconfig.open_kconfig()
kconf.load_config(sys.argv[1])
kconf.write_config(sys.argv[2], save_old=False)
"""


@dataclass(frozen=True)
class Kernel:
    """The patched tree, and an output folder with a conf in it."""

    tree: sources.Tree
    out: Path
    compiler: toolchain.Compiler

    def conf(self, target: str, config: str = "", **variables: str) -> str:
        """Run a target of the kernel's makefile and return the .config that it wrote."""
        place = self.out / ".config"
        place.unlink(missing_ok=True)
        if config:
            place.write_text(config)
        line = linux.make_line(self.tree.path, self.out, self.compiler, target)
        proc.run(line, env={**self.compiler.env, **variables}, log=self.out / "log")
        return place.read_text()

    def ours(self, config: str) -> str:
        """Let the adapter complete a configuration."""
        given, done = self.out / "given", self.out / "done"
        given.write_text(config)
        env = kconfig.adapter_env(self.tree.path, self.tree.version)
        proc.run([sys.executable, "-c", COMPLETE, given, done], cwd=self.out, env=env)
        return done.read_text()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    folder = tmp_path_factory.mktemp("kernel")
    cache = Cache.default()
    tree = sources.prepare(
        recipe.load_sources(ROOT / "recipes", recipe.Kind.LINUX),
        ROOT / "recipes" / "linux",
        sources.Options(),
        cache,
        logs=folder / "logs",
        say=print,
    )
    out = folder / "out"
    out.mkdir()
    return Kernel(tree, out, toolchain.compiler(cache.ccache))


@pytest.mark.parametrize(
    "target", ["x86_64_defconfig", "tinyconfig", "allnoconfig", "allmodconfig"]
)
def test_a_configuration_of_the_kernel_is_the_same_to_both(kernel: Kernel, target: str) -> None:
    theirs = kernel.conf(target)
    assert len(dotconfig.read_settings(theirs)) > 200
    assert linux.differences(theirs, kernel.ours(theirs)) == []


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_part_of_a_random_configuration_is_completed_alike(kernel: Kernel, seed: int) -> None:
    """Where half of the answers are missing, defaults and dependencies have to agree as well."""
    whole = kernel.conf("randconfig", KCONFIG_SEED=str(seed), KCONFIG_PROBABILITY="25")
    lines = [line for line in whole.splitlines() if "CONFIG_" in line]
    kept = random.Random(seed).sample(lines, len(lines) // 2)
    # CC_VERSION_TEXT and the like are no answers; 64BIT decides over everything else.
    part = "\n".join(["CONFIG_64BIT=y", *kept]) + "\n"
    theirs = kernel.conf("olddefconfig", part)
    assert linux.differences(theirs, kernel.ours(part)) == []


EXTRA = ("test", "debug-info", "ipv6", "virtio-blk", "ext4", "9p", "watchdog", "efi", "virtio-mmio")
"""What no recipe asks for, but for what makes the kernel small."""

OURS = [
    *(
        (name, init, extra)
        for name in recipe.names(ROOT / "recipes", recipe.Kind.APPLICATION)
        for init in Init
        for extra in ((), EXTRA)
    ),
    ("redis", Init.RING3, ("small",)),
]


@pytest.mark.parametrize(("name", "init", "extra"), OURS)
def test_conf_changes_nothing_of_an_image_s_configuration(
    kernel: Kernel, tmp_path: Path, name: str, init: Init, extra: tuple[str, ...]
) -> None:
    found, _ = recipe.load_app(ROOT / "recipes", name)
    found = found.model_copy(update={"guest": found.guest.model_copy(update={"init": init})})
    fragments = [ROOT / "kconfig" / f"{part}.config" for part in plan.fragments(found, extra)]
    out = tmp_path / "config"
    kconfig.configure(
        kernel.tree.path,
        kernel.tree.version,
        fragments,
        out,
        report=tmp_path / "report.txt",
        log=tmp_path / "log",
    )
    assert linux.differences(out.read_text(), kernel.conf("olddefconfig", out.read_text())) == []


def test_every_fragment_is_in_a_configuration_that_is_compared() -> None:
    compared = {
        name
        for app, init, extra in OURS
        for found, _ in [recipe.load_app(ROOT / "recipes", app)]
        for name in plan.fragments(
            found.model_copy(update={"guest": found.guest.model_copy(update={"init": init})}),
            extra,
        )
    }
    assert compared == {path.stem for path in (ROOT / "kconfig").glob("*.config")}
