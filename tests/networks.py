# SPDX-License-Identifier: Apache-2.0
"""Where networks of guests can be tested that not each machine can have."""

from __future__ import annotations

import os

import pytest

from ukl_build.run import backlog, network, tap

_WHY = network.unusable()

NEEDS_PASST = pytest.mark.skipif(_WHY is not None, reason=str(_WHY))
"""It makes a user namespace, which a chroot or a container may refuse to users other than root."""

_REFUSAL = backlog.refusal()

NEEDS_BACKLOG = pytest.mark.skipif(_REFUSAL is not None, reason=str(_REFUSAL))
"""A container may forbid to look into other processes, one's own children as well."""

NEEDS_TAP = pytest.mark.skipif(
    os.geteuid() != 0 or not tap.DEVICE.exists(), reason="only root makes a tap device"
)
