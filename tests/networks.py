# SPDX-License-Identifier: Apache-2.0
"""Where passt, which is one of the project's packages, can be tested."""

from __future__ import annotations

import pytest

from ukl_build.run import network

_WHY = network.unusable()

NEEDS_PASST = pytest.mark.skipif(_WHY is not None, reason=str(_WHY))
"""It makes a user namespace, which a chroot or a container may refuse to users other than root."""
