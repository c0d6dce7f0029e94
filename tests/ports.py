# SPDX-License-Identifier: Apache-2.0
"""Ports of this machine, for tests that run beside others."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a port of this machine that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
