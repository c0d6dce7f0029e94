# SPDX-License-Identifier: Apache-2.0
"""Programs of a user who is not root, whoever runs the tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

NOBODY = 65534


def ordinary(place: Path) -> dict[str, Any]:
    """Give a folder to a user who is not root, with all that is in it.

    :return: what :mod:`subprocess` is to be told besides; nothing if the tests are not root's.
    """
    if os.geteuid():
        return {}
    for path in (place, *place.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}
