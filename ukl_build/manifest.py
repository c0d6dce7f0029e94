# SPDX-License-Identifier: Apache-2.0
"""What a stage leaves beside its outputs: what went in, what came out, and how to repeat it.

Neither dates nor durations are in it: the same inputs give the same bytes, so that a manifest can
itself be an input of the next stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ukl_build import files
from ukl_build.model import Model, parse_json


class Manifest(Model):
    """The record of one stage."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    stage: str
    inputs: dict[str, str]
    """What went in, and its SHA-256 or plain value."""
    outputs: dict[str, str] = Field(default_factory=dict)
    """File, relative to the manifest's folder (a tree: its path), and its digest."""
    repeat: str
    """A command line that makes the outputs again."""


def load(path: Path) -> Manifest:
    """Read a manifest.

    :raise UklError: ``manifest-invalid``.
    :raise OSError: if it cannot be read.
    """
    return parse_json(
        Manifest, path.read_text(encoding="utf-8"), where=path, code="manifest-invalid"
    )


def store(manifest: Manifest, path: Path) -> None:
    """Write a manifest atomically."""
    files.write(path, manifest.model_dump_json(indent=2, by_alias=True) + "\n")
