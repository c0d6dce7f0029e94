# SPDX-License-Identifier: Apache-2.0
"""OpenSSL's libcrypto.a, as Debian has compiled it, in ring 0."""

from __future__ import annotations

import hashlib
import signal
import subprocess
from pathlib import Path

import pytest

from tests.boot.conftest import Start
from tests.boot.ring0 import GUEST, archive
from tests.boot.test_samples import Sample, in_both_rings
from ukl_build import packages
from ukl_build.cache import Cache
from ukl_build.recipe import DebianArchives
from ukl_build.stages import debian, libc

# Four megabytes of code.
pytestmark = [pytest.mark.boot, pytest.mark.long]

OPENSSL = DebianArchives(
    package="libssl-dev",
    tested="3.0.22-1~deb12u2",
    licence="Apache-2.0",
    archives=("libcrypto.a",),
)
ZERO = {"getentropy": "OpenSSL asks the kernel itself where the C library does not"}

DEBIANS_FLAGS = ("-g", "-O2", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2")
"""Of dpkg-buildflags, without what only warns; and the compiler's own defaults."""

SIZE = 100003
PLAIN = bytes((n * n // 31 ^ n >> 7) & 0xFF for n in range(SIZE))
"""The text that guest/crypto.c works with."""


@pytest.fixture(scope="module")
def crypto(built: Path, library: libc.Parts, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("crypto")
    made = debian.prepare([OPENSSL], None, Cache.default(), logs=folder / "logs", say=print)
    place = folder / "debian"
    packages.publish(made, place, folder / "debian.manifest.json", stage="debian", repeat="")
    headers = packages.include_flags([OPENSSL], str(place))
    unit = folder / "crypto.o"
    source = str(GUEST / "crypto.c")
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(
        ["gcc", *DEBIANS_FLAGS, *warnings, *headers, "-c", "-o", unit, source], check=True
    )
    libraries = (*packages.archives([OPENSSL], place), *library.libraries)
    whole = libc.Parts(library.before, libraries, library.after)
    archive(folder, [unit], folder / "UKL.a", whole, zero=ZERO)
    return in_both_rings(folder / "app.o", built, folder)


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    """Return what Python says of the same bytes."""
    names = ("md5", "sha1", "sha224", "sha256", "sha512", "sha3-256", "blake2b512")
    digests = {
        name: hashlib.new(name.replace("blake2b512", "blake2b").replace("sha3-", "sha3_"), PLAIN)
        for name in names
    }
    base, exponent = (int.from_bytes(PLAIN[at : at + 250], "big") for at in (0, 250))
    power = f"{pow(base, exponent, 2**2203 - 1):X}"
    return {
        **{name: digest.hexdigest() for name, digest in digests.items()},
        "power": power.rjust(len(power) + len(power) % 2, "0"),
    }


def test_all_of_it_is_right_whatever_the_processor_can(
    start: Start, crypto: Sample, expected: dict[str, str]
) -> None:
    """With the processor's instructions for AES, SHA and vectors, and without any of them."""
    best, best3 = (crypto.said(start, ring) for ring in (0, 3))
    least = crypto.said(start, 0, env={"OPENSSL_ia32cap": "0:0"})
    assert best == best3
    assert least[0] != best[0]
    assert least[1:] == best[1:]
    said = dict(line.split(" ", 1) for line in best[1:])
    assert {name: said[name] for name in expected} == expected
    assert best[-5:] == [
        "RSA accepts what it signed",
        "P-256 accepts what it signed",
        "Ed25519 accepts what it signed",
        "threads: 3 equal digests, 3 different numbers",
        "canary: set",
    ]


def test_a_smashed_stack_is_noticed(start: Start, crypto: Sample) -> None:
    """Debian's objects look at %fs:0x28, where the C library has put a number."""
    for ring in (3, 0):
        said = crypto.said(start, ring, "smash", killed_by=signal.SIGABRT)
        assert said == ["*** stack smashing detected ***: terminated"]
