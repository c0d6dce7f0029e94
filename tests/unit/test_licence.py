# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tests.project import ROOT
from ukl_build import licence, recipe


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("BSD-3-Clause", True),
        ("Apache-2.0", False),
        ("Apache-2.0 OR MIT", True),
        ("Apache-2.0 AND MIT", False),
        ("MIT AND (Apache-2.0 OR Zlib)", True),
        ("GPL-3.0-or-later", False),
        (licence.RUNTIME, True),
        ("GPL-2.0-only WITH Linux-syscall-note", True),
        ("LGPL-2.1-or-later", True),
        ("LGPL-3.0-only", False),
        ("SSPL-1.0", False),
    ],
)
def test_only_what_goes_with_gpl_2_may_be_linked(expression: str, allowed: bool) -> None:
    assert licence.may_be_linked(licence.checked(expression)) is allowed


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("BSD-3-Claus", "did you mean 'BSD-3-Clause'?"),
        ("MIT AND", "is no SPDX expression"),
        ("", "an SPDX expression is expected"),
    ],
)
def test_what_is_no_expression_is_refused(expression: str, said: str) -> None:
    with pytest.raises(ValueError, match="SPDX") as caught:
        licence.checked(expression)
    assert said in str(caught.value)


def test_the_table_holds_identifiers_only() -> None:
    for name in licence.COMPATIBLE:
        assert licence.checked(name) == name


def test_each_obstacle_is_named() -> None:
    parts = {"linux": "GPL-2.0-only", "app": "SSPL-1.0", "libz": "Zlib", "libx": "Apache-2.0"}
    assert [line.partition(" ")[0] for line in licence.obstacles(parts)] == ["app", "libx"]


@pytest.mark.parametrize("name", recipe.names(ROOT / "recipes", recipe.Kind.APPLICATION))
def test_images_of_our_own_recipes_may_be_handed_on(name: str) -> None:
    found, _ = recipe.load_app(ROOT / "recipes", name)
    parts = {"app": found.licence} | {one.package: one.licence for one in found.debian}
    assert licence.obstacles(parts) == []
