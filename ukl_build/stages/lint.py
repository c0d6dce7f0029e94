# SPDX-License-Identifier: Apache-2.0
"""Looks at everything that will go into the application, before it is linked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ukl_build import files
from ukl_build.elf.names import load_tables
from ukl_build.elf.rules import Severity
from ukl_build.errors import UklError
from ukl_build.lint import inputs
from ukl_build.lint.check import lint
from ukl_build.lint.findings import Report

SHOWN = 100
"""Findings that an error shows; the log has all."""


def check_link(
    link: Sequence[str],
    out: Path,
    *,
    unprefixed: Path,
    provided: Path,
    zero: Mapping[str, str],
    log: Path,
) -> Report:
    """Look at the files of a link, and refuse it with all findings that stop it.

    :param link: objects and archives in their order.
    :param out: file for the findings as JSON.
    :param zero: weak names of this application that may be 0, each with its reason.
    :param log: file for the findings as lines.
    :raise UklError: ``elf-lint``; ``linker-table``; ``tool-missing`` or ``tool-failed``.
    :raise OSError: if a file cannot be read or written.
    """
    tables = load_tables(unprefixed, provided, zero=zero)
    report = lint(inputs.read(list(link)), tables, program=True)
    files.write(log, "".join(f"{one}\n" for one in report.findings))
    files.write(out, report.json_text())
    errors = report.of_severity(Severity.ERROR)
    if errors:
        more = f"\nand {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        raise UklError(
            "elf-lint",
            "one finding stops the link"
            if len(errors) == 1
            else f"{len(errors)} findings stop the link",
            hint="docs/ukl-lint.md explains each by the code at its end",
            detail="\n".join(str(one) for one in errors[:SHOWN]) + f"{more}\nlog: {log}",
        )
    return report
