# SPDX-License-Identifier: Apache-2.0
"""What takes the bytes of a kernel with an application in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ukl_build import size
from ukl_build.elf.contents import addresses, contents
from ukl_build.size import Sizes

pytestmark = pytest.mark.boot


def test_every_byte_has_an_owner(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (built / "tcp_server.bzImage").stat().st_size
    assert size.main(["--build", str(built.parent), "tcp_server"]) == 0
    found = Sizes.model_validate_json((built / "size.json").read_bytes())
    assert found.file == before
    assert sum(part.memory for part in found.parts) == found.memory
    # Each part is rounded by itself.
    assert sum(part.compressed for part in found.parts) == pytest.approx(found.file, rel=0.001)

    parts = [part for part in found.parts if part.owner.startswith("application")]
    own = sum(part.code for part in parts)
    linked = sum(one.size for one in contents(built / "objects" / "app.o") if one.code)
    assert 0 <= linked - own < 16 * len(parts)  # what aligns functions is nobody's
    sections = {one.name: one for one in contents(built / "tcp_server.vmlinux")}
    # The kernel has its gates there as well, one for each system call; and room up to a whole page.
    gates = addresses(built / "tcp_server.vmlinux", frozenset({"ukl_stubs", "ukl_stubs_end"}))
    others = gates["ukl_stubs_end"] - gates["ukl_stubs"]
    assert 0 <= sections[".ukl_text"].size - own - others < 2 * 4096
    orc = sum(part.data for part in found.parts if part.owner == "Linux: unwind tables")
    tables = sections[".orc_unwind"].size + sections[".orc_unwind_ip"].size
    assert orc == pytest.approx(tables, rel=0.05)
    kernel = sum(part.code for part in found.parts if part.owner.startswith("Linux: "))
    # What aligns functions is nobody's.
    whole = sum(one.size for one in contents(built / "linux" / "vmlinux.o") if one.code)
    assert 0.99 * whole < kernel <= whole
    assert min(part.zero for part in found.parts) >= 0
    said = capsys.readouterr().out
    assert "Linux: net/ipv4" in said and f"{found.memory:,}" in said
