# SPDX-License-Identifier: Apache-2.0
"""Writes image.json, the description of what was built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ukl_build import dotconfig, image, plan
from ukl_build.image import Variant
from ukl_build.recipe import AppRecipe


def describe(
    recipe: AppRecipe,
    kernel: Path,
    config: Path,
    out: Path,
    licences: Mapping[str, str],
    *,
    variant: Variant = Variant.UKL,
) -> None:
    """Write the description of an image beside its kernel.

    :param config: the kernel's .config.
    :param licences: of its parts, see :func:`ukl_build.plan.licences`.
    :raise UklError: ``recipe-invalid``.
    """
    settings = dotconfig.read_settings(config.read_text(encoding="utf-8"))
    image.store(plan.image(recipe, kernel.name, settings, licences, variant), out)
