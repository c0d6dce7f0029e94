# SPDX-License-Identifier: Apache-2.0
"""What stands between SCons and the stages.

SCons only schedules: it knows files and what they are made of.  The kernel's tree and output folder
are one file each to it (a manifest and a bzImage); what is out of date in there is make's business.

Actions are functions of this module, since SCons puts a function's code into the signature of what
it builds and cannot look into a closure; their data comes through the environment, and what must
trigger a rebuild is a Value() node.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import SCons.Script as scons
from SCons.Variables import Variables

from ukl_build import files, manifest, plan, proc, recipe, toolchain
from ukl_build.cache import Cache
from ukl_build.errors import UklError
from ukl_build.image import Init
from ukl_build.model import nearest
from ukl_build.progress import Reporter
from ukl_build.stages import archive, image, linux, sources, userspace

# --- What can be asked for ----------------------------------------------------------------------


@dataclass(frozen=True)
class Variable:
    """A ``name=value`` of the command line."""

    name: str
    help: str
    default: str = ""
    values: tuple[str, ...] = ()
    """Allowed values; empty if any will do."""


def variables(apps: Sequence[str]) -> list[Variable]:
    """Return all variables."""
    inits = tuple(init.value for init in Init)
    return [
        Variable("app", "application to build", values=tuple(apps)),
        Variable("linux_src", "folder with Linux's tarball or .deb, or an unpacked tree"),
        Variable("linux_sha256", "SHA-256 of Linux's tarball; enables the upstream place"),
        Variable("linux_version", "version to fetch from upstream, with linux_sha256"),
        Variable("fragments", "more fragments of kconfig/, separated by commas"),
        Variable("init", "process 1 in place of the recipe's", values=inits),
        Variable("cache_dir", "folder of SCons' cache of built files"),
        Variable("build", "folder for all outputs", default="build"),
        Variable("tests", "arguments of pytest for the targets test and check-long"),
    ]


@dataclass(frozen=True)
class Target:
    """A name that can be given instead of a file."""

    name: str
    help: str
    needs_app: bool = True


TARGETS = (
    Target("image", "the bootable file and image.json (the default)"),
    Target("run", "start the image in QEMU and show its console"),
    Target("smoke", "start the image, ask it something, check the answer, stop it"),
    Target("menuconfig", "look at the kernel's options; changes are shown, not kept"),
    Target("savedefconfig", "write the configuration in its shortest form"),
    Target("test", "the tests that every change must pass", needs_app=False),
    Target("check-long", "the tests that take longer", needs_app=False),
)

MAKE_HINT = "look into the log above"


def main(arguments: Sequence[tuple[str, str]], targets: Sequence[str]) -> None:
    """Read the command line and tell SCons what there is to do."""
    root = Path(scons.Dir("#").abspath)
    try:
        _main(root, arguments, [str(target) for target in targets])
    except UklError as error:
        print(error, file=sys.stderr)
        scons.Exit(error.exit_status)


def _main(root: Path, arguments: Sequence[tuple[str, str]], targets: Sequence[str]) -> None:
    scons.SetOption("no_progress", True)
    scons.SetOption("num_jobs", os.cpu_count() or 1)  # -j on the command line wins
    scons.SetOption("stack_size", 8192)  # KiB for a thread; SCons' own 256 are for running programs
    apps = recipe.names(root / "recipes", recipe.Kind.APPLICATION)
    known = variables(apps)
    _help(known)
    if scons.GetOption("help"):
        return
    values = read_variables(known, arguments)
    wanted = [target for target in TARGETS if target.name in targets]
    if not values["app"]:
        if targets and wanted and not any(target.needs_app for target in wanted):
            _test_targets(root, values, targets)
            return
        raise UklError(
            "variable-invalid",
            "which application?",
            hint=f"give app=NAME, one of: {', '.join(apps)}; scons -h lists all there is",
        )
    Build(root, values).declare()
    _test_targets(root, values, targets)


def read_variables(
    known: Sequence[Variable], arguments: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """Return the value of every variable.

    :raise UklError: ``variable-invalid`` or ``app-unknown``, with the nearest name.
    """
    by_name = {variable.name: variable for variable in known}
    values = {variable.name: variable.default for variable in known}
    for name, value in arguments:
        variable = by_name.get(name)
        if variable is None:
            raise UklError(
                "variable-invalid",
                f"there is no variable {name!r}{nearest(name, by_name)}",
                hint="scons -h lists all variables",
            )
        if value and variable.values and value not in variable.values:
            raise UklError(
                "app-unknown" if name == "app" else "variable-invalid",
                f"{name}={value} is unknown{nearest(value, variable.values)}",
                hint=f"choose one of: {', '.join(variable.values)}",
            )
        values[name] = value
    return values


def _help(known: Sequence[Variable]) -> None:
    """Have SCons show the variables and targets for -h."""
    lines = ["", "scons app=NAME [VARIABLE=VALUE...] [TARGET...]", "", "Variables:"]
    for variable in known:
        allowed = f" ({' | '.join(variable.values)})" if variable.values else ""
        default = variable.default or "none"
        lines.append(f"  {variable.name:14} {variable.help}{allowed}; default: {default}")
    lines += ["", "Targets:"]
    lines += [f"  {target.name:14} {target.help}" for target in TARGETS]
    lines += ["", "scons -H lists SCons' own options (-j, -k, -n, -c, ...).", ""]
    scons.Help("\n".join(lines))
