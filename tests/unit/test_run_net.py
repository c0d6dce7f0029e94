# SPDX-License-Identifier: Apache-2.0
"""What the init asks the kernel for over rtnetlink.

The C code runs as it is, as in test_run_dhcp.
"""

from __future__ import annotations

import ctypes
import struct
import subprocess
from ipaddress import IPv4Interface

import pytest

from tests.unit.test_run_dhcp import HERE, HOOK
from ukl_build.stages import userspace

READ, CLOSE, SOCKET, SENDTO = 0, 3, 41, 44
NLMSG_ERROR = 2
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Compile net.c as a library whose system calls come here."""
    out = tmp_path_factory.mktemp("net") / "net.so"
    source = userspace.INIT_SOURCE
    subprocess.run(
        [
            *("gcc", "-std=gnu11", "-O1", "-g", "-shared", "-fPIC", "-ffreestanding", "-nostdlib"),
            *("-DUKL_SIMULATED", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"),
            *("-I", source, "-o", out, HERE / "simulated.c"),
            *(source / name for name in ("net.c", "lib.c")),
        ],
        check=True,
    )
    return ctypes.CDLL(str(out))


def attributes(data: bytes) -> dict[int, bytes]:
    """Decode the attributes of a message, independently of the C code."""
    found: dict[int, bytes] = {}
    while data:
        length, kind = struct.unpack_from("<HH", data)
        found[kind] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


@pytest.mark.parametrize("prefix", range(33))
def test_an_address_has_the_broadcast_of_its_prefix(library: ctypes.CDLL, prefix: int) -> None:
    # The undefined-behaviour sanitizer would end the test by a signal.
    sent: list[bytes] = []

    def call(number: int, *args: int) -> int:
        if number == SENDTO:
            sent.append(ctypes.string_at(args[1], args[2]))
        elif number == READ:
            answer = struct.pack("<IHHIIi", 36, NLMSG_ERROR, 0, 0, 0, 0) + sent[0][:16]
            ctypes.memmove(args[1], answer, len(answer))
            return len(answer)
        else:
            assert number in (SOCKET, CLOSE)
        return 9

    hook = HOOK(call)
    ctypes.c_void_p.in_dll(library, "hook").value = ctypes.cast(hook, ctypes.c_void_p).value
    address = IPv4Interface(f"10.77.3.9/{prefix}")
    assert library.net_add_address(2, int.from_bytes(address.packed, "little"), prefix) == 0
    length, family, given, index = struct.unpack_from("<I12xBB2xI", sent[0])
    assert (length, family, given, index) == (len(sent[0]), 2, prefix, 2)
    wanted = {IFA_LOCAL: address.packed, IFA_ADDRESS: address.packed}
    if prefix < 31:
        wanted[IFA_BROADCAST] = address.network.broadcast_address.packed
    assert attributes(sent[0][24:]) == wanted
