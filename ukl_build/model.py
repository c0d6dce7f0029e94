# SPDX-License-Identifier: Apache-2.0
"""What all data that comes from files has in common: frozen, strict, unknown keys refused.

A misspelt key must not be ignored quietly, so every error names the key, the file and, if one is
near enough, the key that was probably meant.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from ukl_build import files
from ukl_build.errors import UklError


class Model(BaseModel):
    """Base of recipes, image descriptions and manifests."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


M = TypeVar("M", bound=Model)


def store_result(result: Model, path: Path) -> None:
    """Write the file of a result, whole.

    :raise OSError: if it cannot be written.
    """
    files.write(path, result.model_dump_json(indent=1, by_alias=True) + "\n")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'X'?"``, or nothing if no known name is near."""
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def parse_json(model: type[M], text: str | bytes, *, where: Path, code: str) -> M:
    """Validate JSON text.

    :param where: file the text came from, for the message.
    :param code: code of the error to raise.
    :raise UklError: with ``code``, naming every key at fault.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        lines = [_describe(model, item) for item in error.errors()]
        raise UklError(
            code,
            f"{where}: {lines[0]}",
            detail="\n".join(lines[1:]),
            hint=f"correct {where}",
        ) from error


def parse_toml(model: type[M], path: Path, *, code: str) -> M:
    """Read and validate a TOML file.

    It passes through JSON because pydantic's strict mode then knows that arrays may become tuples
    and strings enums, which is all that TOML can express of them; integers still are no strings.

    :raise UklError: with ``code``, if it is no TOML or a key is at fault.
    :raise OSError: if it cannot be read.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        text = json.dumps(data)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UklError(code, f"{path}: not TOML: {error}", hint=f"correct {path}") from error
    except TypeError as error:
        raise UklError(
            code, f"{path}: dates are not used in these files: {error}", hint="quote it"
        ) from error
    return parse_json(model, text, where=path, code=code)


def _without_tags(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[int | str, ...]:
    """Return a place without the tags of discriminated unions, which are no keys of the file."""
    if not loc or (field := model.model_fields.get(str(loc[0]))) is None:
        return tuple(loc)
    rest = loc[2:] if field.discriminator is not None else loc[1:]
    inner = field.annotation
    if isinstance(inner, type) and issubclass(inner, BaseModel):
        rest = _without_tags(inner, rest)
    return (loc[0], *rest)


def _describe(model: type[BaseModel], error: ErrorDetails) -> str:
    loc = _without_tags(model, error["loc"])
    key = ".".join(str(part) for part in loc)
    message = error["msg"]
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key {key!r}{nearest(str(loc[-1]), _keys_at(model, loc[:-1]))}"
        case "union_tag_invalid":
            context = error["ctx"]
            key += "." + context["discriminator"].strip("'")
            message = f"{context['tag']!r} is none of {context['expected_tags']}"
    return f"{key}: {message}" if key else message


def _keys_at(annotation: Any, loc: Sequence[int | str]) -> set[str]:
    """Names that are allowed at a place inside a model, found along the annotations."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not loc:
            return set(annotation.model_fields)
        field = annotation.model_fields.get(str(loc[0]))
        return _keys_at(field.annotation, loc[1:]) if field else set()
    # tuple[X, ...], X | None, dict[str, X]: an index or a union's tag takes one step or none.
    rest = [loc, loc[1:]] if loc else [loc]
    return {key for arg in get_args(annotation) for where in rest for key in _keys_at(arg, where)}
