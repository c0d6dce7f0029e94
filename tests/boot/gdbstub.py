# SPDX-License-Identifier: Apache-2.0
"""A debugger for a whole machine: the few words of gdb's remote protocol that QEMU's stub needs."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{number}" for number in range(8, 16)),
    "rip",
)
"""Names in the order in which QEMU numbers them; each has 8 bytes in an answer to ``g``."""

EFLAGS = len(REGISTERS)
SEGMENTS = ("cs", "ss")
NAMES = (*REGISTERS, "eflags", *SEGMENTS)
CONNECT_S = 20.0

Registers = dict[str, int]


class Gdb:
    """A connection to a stub.  The machine stands still whenever :meth:`go` has returned."""

    def __init__(self, path: Path) -> None:
        """Connect to a Unix socket, which stops the machine.

        :raise OSError: if nobody listens there.
        """
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(CONNECT_S)
        self._socket.connect(str(path))
        self._got = b""
        self._set: set[int] = set()
        self._ask("?")
        # QEMU lets only those write single registers who have read what registers there are.
        self._ask("qXfer:features:read:target.xml:0,1000")

    def __enter__(self) -> Gdb:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            if kind is None:
                self.detach()
        self._socket.close()

    def _send(self, words: str) -> None:
        data = words.encode()
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) & 0xFF))

    def _receive(self, deadline: float) -> str:
        while True:
            self._got = self._got.lstrip(b"+")
            found = re.match(rb"\$([^#]*)#..", self._got, re.DOTALL)
            if found is not None:
                self._got = self._got[found.end() :]
                self._socket.sendall(b"+")
                return found.group(1).decode("latin-1")
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the machine has ended")
            self._got += data

    def _ask(self, words: str) -> str:
        self._send(words)
        deadline = time.monotonic() + CONNECT_S
        answer = self._receive(deadline)
        while answer.startswith("T") and words not in {"?", "s"}:
            answer = self._receive(deadline)  # that it stopped for the connection, told once more
        if not answer or re.fullmatch("E[0-9a-f]{2}", answer):
            raise ValueError(f"the stub refuses {words!r}: {answer}")
        return answer

    def registers(self) -> Registers:
        """Return the registers of the processor that stopped."""
        raw = bytes.fromhex(self._ask("g"))
        got = {
            name: int.from_bytes(raw[number * 8 : number * 8 + 8], "little")
            for number, name in enumerate(REGISTERS)
        }
        for number, name in enumerate(("eflags", *SEGMENTS)):
            at = EFLAGS * 8 + number * 4
            got[name] = int.from_bytes(raw[at : at + 4], "little")
        return got

    def write_registers(self, values: Mapping[str, int]) -> None:
        """Change some registers."""
        for name, value in values.items():
            number = NAMES.index(name)
            size = 8 if number < EFLAGS else 4
            self._ask(f"P{number:x}={value.to_bytes(size, 'little').hex()}")

    def read(self, address: int, size: int) -> bytes:
        """Return memory as the processor that stopped sees it."""
        return bytes.fromhex(self._ask(f"m{address:x},{size:x}"))

    def read_word(self, address: int) -> int:
        """Return 8 bytes of memory as a number."""
        return int.from_bytes(self.read(address, 8), "little")

    def write(self, address: int, data: bytes) -> None:
        """Change memory, read-only pages included."""
        self._ask(f"M{address:x},{len(data):x}:{data.hex()}")

    def stop_at(self, *addresses: int) -> None:
        """Have exactly these breakpoints."""
        wanted = set(addresses)
        for address in self._set - wanted:
            self._ask(f"z0,{address:x},1")
        for address in wanted - self._set:
            self._ask(f"Z0,{address:x},1")
        self._set = wanted

    def go(self, timeout_s: float, *addresses: int) -> Registers | None:
        """Run until one of these addresses is reached; the present one does not count.

        :return: the registers there; None if the time is over, the machine stands still then too.
        :raise ConnectionError: if the machine ends.
        """
        here = self.registers()["rip"]
        if here in addresses:
            # The stub would report it again at once.
            self.step()
            now = self.registers()
            if now["rip"] in addresses:
                return now
        self.stop_at(*addresses)
        self._send("c")
        try:
            answer = self._receive(time.monotonic() + timeout_s)
        except TimeoutError:
            self._socket.sendall(b"\x03")
            answer = self._receive(time.monotonic() + CONNECT_S)
        if not answer.startswith("T"):
            raise ConnectionError(f"the machine has ended: {answer}")
        now = self.registers()
        return now if now["rip"] in addresses else None

    def step(self) -> None:
        """Execute one instruction; interrupts wait."""
        self.stop_at()
        self._ask("s")

    def detach(self) -> None:
        """Let the machine run on without breakpoints."""
        self.stop_at()
        self._ask("D")


def size_of(vmlinux: Path, name: str) -> int:
    """Return the size of a function."""
    out = subprocess.run(["nm", "-S", vmlinux], check=True, capture_output=True, text=True).stdout
    rows = (line.split() for line in out.splitlines())
    return next(int(row[1], 16) for row in rows if len(row) == 4 and row[3] == name)


def disassemble(code: bytes, address: int, scratch: Path) -> dict[int, str]:
    """Return instructions by their addresses."""
    scratch.write_bytes(code)
    words = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "--no-show-raw-insn"]
    out = subprocess.run(
        [*words, f"--adjust-vma={address:#x}", scratch], check=True, capture_output=True, text=True
    ).stdout
    found = {}
    for line in out.splitlines():
        row = re.match(r"\s*([0-9a-f]+):\t(.*)", line)
        if row is not None:
            found[int(row.group(1), 16)] = " ".join(row.group(2).split())
    return found
