# SPDX-License-Identifier: Apache-2.0
"""Writes image.json, the description of what was built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ukl_build import dotconfig, image, plan
from ukl_build.errors import UklError
from ukl_build.image import Disk, Share, Variant
from ukl_build.recipe import AppRecipe


def describe(
    recipe: AppRecipe,
    kernel: Path,
    config: Path,
    out: Path,
    licences: Mapping[str, str],
    *,
    variant: Variant = Variant.UKL,
    initrd: Path | None = None,
) -> None:
    """Write the description of an image beside its kernel.

    :param config: the kernel's .config.
    :param licences: of its parts, see :func:`ukl_build.plan.licences`.
    :raise UklError: ``recipe-invalid``.
    """
    settings = dotconfig.read_settings(config.read_text(encoding="utf-8"))
    if variant is Variant.STOCK:
        # Its modules are loaded before anything is attached.
        settings = {name: "y" if value == "m" else value for name, value in settings.items()}
    described = plan.image(
        recipe,
        kernel.name,
        settings,
        licences,
        variant,
        initrd=None if initrd is None else initrd.name,
    )
    attached: tuple[Disk | Share, ...] = (*described.disks, *described.shares)
    needed = [name for one in attached for name in one.needs]
    lacking = [name for name in needed if name not in described.features]
    # A kernel of ours has what its fragments ask for, or was not configured.
    if lacking and variant is Variant.STOCK:
        raise UklError(
            "recipe-invalid",
            f"the kernel of {described.label} has no {' and no '.join(dict.fromkeys(lacking))},"
            f" which the recipe's disks and shares need",
            hint="leave them out, or do without this image",
        )
    image.store(described, out)
