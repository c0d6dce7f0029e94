# SPDX-License-Identifier: Apache-2.0
"""Compiling on several machines by distcc.

Each machine that is named is tried before anything is built: it must answer, and give the same
bytes as the compiler here.  With another version of the compiler an image would be made of parts
that nobody could make again.  One that fails later costs time, not the build: distcc compiles here
then.

What is sent has no macros any more, so that debugging information knows other columns: it is the
code that is the same.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ukl_build import proc, toolchain
from ukl_build.errors import UklError

PROGRAM = "distcc"
INSTALL = "install it; on Debian it is in the package distcc"

LOCAL = re.compile(r"localhost(/\d+)?|localslots(_cpp)?=\d+")
"""What names this machine itself, without a daemon (distcc(1), "HOST SPECIFICATIONS")."""

UNIT = "struct one { int x; };\nint one(struct one *it) { return it->x + 1; }\n"
"""What is compiled to try a machine; the object names the compiler's version."""

TRY_S = 60.0
"""Seconds that a machine has for that."""


@dataclass(frozen=True)
class Distributed:
    """Where is compiled."""

    hosts: str
    """As DISTCC_HOSTS has them."""
    slots: int
    """How many compilers they run at once, all together."""
    folder: Path
    """For distcc's state and log."""

    @property
    def env(self) -> dict[str, str]:
        """What distcc is told."""
        return {
            "DISTCC_HOSTS": self.hosts,
            # Named, so that it needs no HOME.
            "DISTCC_DIR": str(self.folder),
            # Else its words are among the compiler's, and those ccache keeps.
            "DISTCC_LOG": str(self.folder / "log"),
            # It would call gcc by another name, and that is in what the kernel asks it: its version
            # is a setting of the configuration.  (The manual page has the words in another order.)
            "DISTCC_NO_REWRITE_CROSS": "1",
        }


def machines(hosts: str) -> list[str]:
    """Return those of a list that have a daemon."""
    words = [word for word in hosts.split() if not word.startswith("-")]
    return [word for word in words if not LOCAL.fullmatch(word)]


def distributed(asked: str, folder: Path, caller: Mapping[str, str]) -> Distributed:
    """Return where is compiled.

    :param asked: hosts as DISTCC_HOSTS has them; ``1`` for those that distcc knows.
    :param folder: for distcc's state and log.
    :param caller: the environment of whoever builds, which has DISTCC_HOSTS and a home.
    :raise UklError: ``tool-missing``, ``tool-failed`` or ``distcc-unusable``.
    :raise OSError: if the folder cannot be made.
    """
    program = proc.which(PROGRAM, hint=INSTALL)
    hosts = asked
    if asked == "1":
        known = {name: caller[name] for name in ("DISTCC_HOSTS", "HOME") if name in caller}
        try:
            said = proc.run([program, "--show-hosts"], env={**proc.BASE_ENV, **known}).stdout
        except UklError:  # without any it fails
            said = ""
        hosts = " ".join(said.split())
    if not hosts:
        raise UklError(
            "distcc-unusable",
            "distcc knows no machines",
            hint="name them: distcc='HOST/SLOTS ...', or in DISTCC_HOSTS or ~/.distcc/hosts",
        )
    folder.mkdir(parents=True, exist_ok=True)
    found = Distributed(hosts, 0, folder)
    try_all(program, found)
    slots = proc.run([program, "-j"], env={**proc.BASE_ENV, **found.env}).stdout.strip()
    return Distributed(hosts, int(slots) if slots.isdecimal() else 0, folder)


def try_all(program: Path, where: Distributed) -> None:
    """Have each machine compile something, and compare it with what the compiler here makes.

    :raise UklError: ``distcc-unusable``, naming the first that does not answer or differs.
    """
    with tempfile.TemporaryDirectory(prefix="ukl-distcc-") as scratch:
        (Path(scratch) / "unit.c").write_text(UNIT)
        own = _compiled([toolchain.CC], Path(scratch), proc.BASE_ENV)
        for machine in machines(where.hosts):
            env = {
                **proc.BASE_ENV,
                **where.env,
                "DISTCC_HOSTS": machine,
                "DISTCC_FALLBACK": "0",
            }
            del env["DISTCC_LOG"]  # what it says goes into the error
            try:
                made = _compiled([str(program), toolchain.CC], Path(scratch), env)
            except UklError as error:
                raise UklError(
                    "distcc-unusable",
                    f"{machine} does not compile what it is sent",
                    hint="does distccd run there, and may this machine ask it (--allow)?",
                    detail=error.detail,
                ) from error
            if made != own:
                raise UklError(
                    "distcc-unusable",
                    f"the compiler of {machine} makes other code than the one here",
                    hint=f"install the same version there: {toolchain.version_line()}",
                )


def _compiled(before: Sequence[str], folder: Path, env: Mapping[str, str]) -> bytes:
    out = folder / "unit.o"
    out.unlink(missing_ok=True)
    argv = [*before, "-O2", "-c", "unit.c", "-o", "unit.o"]
    proc.run(argv, cwd=folder, env=env, timeout=TRY_S)
    return out.read_bytes()
