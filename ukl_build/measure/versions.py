# SPDX-License-Identifier: Apache-2.0
"""Which versions are compared, from what the build has left."""

from __future__ import annotations

from pathlib import Path

from ukl_build import manifest
from ukl_build.image import Image, Variant
from ukl_build.plan import Layout
from ukl_build.recipe import AppRecipe
from ukl_build.stages.stock import is_kernel

LINUX = "Linux"


def versions(recipe: AppRecipe, image: Image, folder: Path) -> dict[str, str]:
    """Return the versions of an image's application and kernel, by what they are called.

    An application that is no package of Debian's has none.

    :param folder: where its image.json is, in the folder of a build.
    :raise UklError: ``manifest-invalid``.
    :raise OSError: if a manifest cannot be read.
    """
    layout = Layout.around(folder, image.variant)
    if image.variant is Variant.STOCK:
        packages = manifest.load(layout.packages_record).inputs
        wanted = recipe.stock.package if recipe.stock is not None else ""
        kernels = [version for name, version in packages.items() if is_kernel(name)]
        return {recipe.name: packages.get(wanted, ""), LINUX: kernels[0]}
    found = {}
    if recipe.source.debian is not None:
        found[recipe.name] = manifest.load(layout.source_record).inputs[recipe.source.debian]
    return found | {LINUX: manifest.load(layout.sources).inputs["version"]}
