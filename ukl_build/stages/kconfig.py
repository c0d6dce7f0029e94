# SPDX-License-Identifier: Apache-2.0
"""Merges configuration fragments and sees to it that the kernel follows them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ukl_build import dotconfig, files, proc, toolchain
from ukl_build.cache import Say
from ukl_build.errors import UklError

_PACKAGE = Path(__file__).resolve().parents[2]


def adapter_env(tree: Path, version: str) -> dict[str, str]:
    """Return the environment in which the adapter reads a tree's Kconfig.

    :raise UklError: ``tool-missing`` without a compiler.
    """
    base = {**proc.BASE_ENV, "PYTHONPATH": str(_PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
    return dotconfig.environment(tree, version, dotconfig.Tools(), toolchain.version_line(), base)


def configure(
    tree: Path,
    version: str,
    fragments: Sequence[Path],
    out: Path,
    *,
    report: Path,
    log: Path,
    without: str = "",
) -> None:
    """Merge fragments, in order, and write the whole configuration.

    :param version: the tree's kernel version.
    :param out: the .config.
    :param report: lists what was asked, by whom and why.
    :param without: name of an option that must be off in the result, if any.
    :raise UklError: ``fragment-invalid``, ``fragment-conflict``, ``config-unmet``, or a program's.
    """
    asked = dotconfig.merge([(path.stem, dotconfig.parse_fragment(path)) for path in fragments])
    out.parent.mkdir(parents=True, exist_ok=True)
    # Kconfig's macros try the compiler in the current folder.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".kconfig-") as scratch:
        request, draft = Path(scratch) / "request.json", Path(scratch) / "config"
        request.write_text(
            dotconfig.Request(asked=asked, out=str(draft)).model_dump_json(), encoding="utf-8"
        )
        completed = proc.run(
            [sys.executable, "-m", "ukl_build.dotconfig", "answer", request],
            cwd=Path(scratch),
            env=adapter_env(tree, version),
        )
        answer = dotconfig.Answer.model_validate_json(completed.stdout)
        if answer.problems:
            raise UklError(
                "config-unmet",
                f"{len(answer.problems)} option(s) are not as asked for in Linux {version}",
                detail="\n".join(_line(problem) for problem in answer.problems),
                hint="add what is missing to a fragment, or take the line out",
            )
        if without and dotconfig.read_settings(draft.read_text(encoding="utf-8")).get(without):
            wanted = [one for one in asked if one.name == without]
            raise UklError(
                "config-unmet",
                f"CONFIG_{without} must be off in this kernel, and is on",
                detail="\n".join(f"{a.where}: CONFIG_{a.name}={a.value}" for a in wanted),
                hint="leave out the fragment that asks for it",
            )
        files.write(
            report,
            "".join(f"{a.where}\tCONFIG_{a.name}={a.value}\t{a.reason}\n" for a in asked),
        )
        files.write(out, draft.read_bytes())
    files.write(log, f"{len(asked)} options of {len(fragments)} fragments, all as asked\n")


def settings(tree: Path, version: str, config: Path) -> tuple[dotconfig.Setting, ...]:
    """Return what is set in a configuration, and what Kconfig knows of it.

    :raise UklError: a program's.
    """
    with tempfile.TemporaryDirectory(prefix="ukl-kconfig-") as scratch:
        completed = proc.run(
            [sys.executable, "-m", "ukl_build.dotconfig", "settings", config.absolute()],
            cwd=Path(scratch),
            env=adapter_env(tree, version),
        )
    return dotconfig.Settings.validate_json(completed.stdout)


def read_report(text: str) -> tuple[dotconfig.Asked, ...]:
    """Return what fragments asked for, from the report that :func:`configure` writes."""
    found = []
    for line in text.splitlines():
        where, setting, reason = line.split("\t", 2)
        name, _, value = setting.removeprefix("CONFIG_").partition("=")
        found.append(dotconfig.Asked(name=name, value=value, reason=reason, where=where))
    return tuple(found)


def savedefconfig(tree: Path, version: str, config: Path, out: Path) -> None:
    """Write a configuration in its shortest form: what differs from the defaults.

    :raise UklError: a program's.
    """
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".kconfig-") as scratch:
        draft = Path(scratch) / "defconfig"
        proc.run(
            [sys.executable, "-m", "ukl_build.dotconfig", "savedefconfig", config, draft],
            cwd=Path(scratch),
            env=adapter_env(tree, version),
        )
        files.write(out, draft.read_bytes())


def menuconfig(tree: Path, version: str, config: Path, say: Say) -> int:
    """Show a configuration's menus, and then what was changed in them as lines for a fragment.

    :raise UklError: a program's.
    """
    with tempfile.TemporaryDirectory(dir=config.parent, prefix=".kconfig-") as scratch:
        draft = Path(scratch) / "config"
        draft.write_bytes(config.read_bytes())
        env = adapter_env(tree, version)
        if "TERM" in os.environ:
            env["TERM"] = os.environ["TERM"]
        status = proc.attach(
            [sys.executable, "-m", "ukl_build.dotconfig", "menuconfig", draft],
            cwd=Path(scratch),
            env=env,
        )
        lines = dotconfig.changed_lines(
            config.read_text(encoding="utf-8"), draft.read_text(encoding="utf-8")
        )
    if lines:
        say("changed; to keep it, put what you meant into a fragment of kconfig/:")
    for line in lines:
        say(line)
    return status


def _line(problem: dotconfig.Problem) -> str:
    asked = problem.asked
    got = "" if problem.got is None else f" is {problem.got or 'not set'!r}"
    return f"{asked.where}: CONFIG_{asked.name}={asked.value}{got}: {problem.why}"
