# SPDX-License-Identifier: Apache-2.0
"""Which versions are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from ukl_build import manifest
from ukl_build.image import App, Image, Variant
from ukl_build.measure.versions import versions
from ukl_build.recipe import AppRecipe, load

RECIPES = Path(__file__).parents[2] / "recipes"


def recorded(path: Path, **inputs: str) -> None:
    """Write a manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest.store(manifest.Manifest(stage="x", inputs=inputs, repeat="x"), path)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (Variant.UKL, {"redis": "5:7.0.15-1", "Linux": "6.1.192"}),
        (Variant.TWIN, {"redis": "5:7.0.15-1", "Linux": "6.1.192"}),
        (Variant.STOCK, {"redis": "5:7.0.15-2", "Linux": "6.1.187-1"}),
    ],
)
def test_they_are_what_the_build_has_recorded(
    tmp_path: Path, variant: Variant, expected: dict[str, str]
) -> None:
    home = tmp_path / "out" / "redis"
    recorded(home / "source.manifest.json", redis="5:7.0.15-1")
    recorded(home / "sources.manifest.json", version="6.1.192", origin="x")
    kernel = {"linux-image-6.1.0-50-cloud-amd64": "6.1.187-1"}
    recorded(
        home / "stock" / "packages.manifest.json",
        **{"redis-server": "5:7.0.15-2", "libc6": "2.36", **kernel},
    )
    image = Image(
        **{"name": "redis", "variant": variant, "kernel": "x", "cmdline": ()},  # type: ignore[arg-type]
        memory_mib=32,
        cpus=1,
        app=App(argv=("/UKL",)),
    )
    recipe = load(RECIPES / "redis")
    assert isinstance(recipe, AppRecipe)
    folder = home if variant is Variant.UKL else home / variant
    assert versions(recipe, image, folder) == expected


def test_an_application_of_a_folder_has_none(tmp_path: Path) -> None:
    recorded(tmp_path / "calls" / "sources.manifest.json", version="6.1.192", origin="x")
    image = Image(name="calls", kernel="x", cmdline=(), memory_mib=32, cpus=1, app=App(argv=("x",)))
    recipe = load(RECIPES / "calls")
    assert isinstance(recipe, AppRecipe)
    assert versions(recipe, image, tmp_path / "calls") == {"Linux": "6.1.192"}
