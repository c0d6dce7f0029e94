# SPDX-License-Identifier: Apache-2.0
"""Whether an image may be handed on: the application is linked with Linux, which is GPL-2.0-only.

Whoever builds and runs an image needs no answer; GPL-2.0 section 2 b asks it of whoever distributes
the result.  Expressions are SPDX's (SPDX specification, annex D).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from boolean import ParseError
from license_expression import (
    AND,
    ExpressionError,
    LicenseExpression,
    LicenseWithExceptionSymbol,
    Licensing,
    get_spdx_licensing,
)

from ukl_build.model import nearest

RUNTIME = "GPL-3.0-or-later WITH GCC-exception-3.1"
"""Of what the compiler adds to a program: libgcc, libstdc++ and its start files."""

COMPATIBLE: Mapping[str, str] = {
    "GPL-2.0-only": "the same",
    "GPL-2.0-or-later": "may be taken as GPL-2.0",
    "GPL-1.0-or-later": "may be taken as GPL-2.0",
    "LGPL-2.0-only": "section 3 lets it be taken as GPL-2.0",
    "LGPL-2.0-or-later": "section 3 lets it be taken as GPL-2.0",
    "LGPL-2.1-only": "section 3 lets it be taken as GPL-2.0",
    "LGPL-2.1-or-later": "section 3 lets it be taken as GPL-2.0",
    "MPL-2.0": "section 3.3 names GPL-2.0 as a secondary licence",
    **dict.fromkeys(
        (
            *("0BSD", "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "curl"),
            *("HPND", "ISC", "MIT", "MIT-0", "NCSA", "PostgreSQL", "Unlicense", "X11", "Zlib"),
            *("blessing", "Libpng", "libpng-2.0", "TCL", "Artistic-2.0"),
        ),
        "asks for nothing that GPL-2.0 forbids to ask for",
    ),
    RUNTIME: "the exception frees what the compiler made",
}
"""Licences of code that may be part of a work under GPL-2.0, and why.  The Free Software
Foundation's list of licences is the source; what is not here is taken for one that may not be
(Apache-2.0: its patent clause is a further restriction)."""


@functools.cache
def _spdx() -> Licensing:
    return get_spdx_licensing()


def checked(expression: str) -> str:
    """Return an SPDX expression if it is one.

    :raise ValueError: naming what is unknown, with the nearest identifier.
    """
    try:
        parsed = _spdx().parse(expression)
    except (ExpressionError, ParseError) as error:
        raise ValueError(f"{expression!r} is no SPDX expression: {error}") from error
    if parsed is None:
        raise ValueError("is empty; an SPDX expression is expected, such as BSD-3-Clause")
    known = _spdx().known_symbols
    for name in _spdx().unknown_license_keys(parsed):
        raise ValueError(f"there is no SPDX licence {name!r}{nearest(name, known)}")
    return expression


def may_be_linked(expression: str) -> bool:
    """Tell whether code under a licence may be handed on in one work with the kernel.

    :param expression: a valid SPDX expression.
    """
    return _allowed(_spdx().parse(expression))


def _allowed(parsed: LicenseExpression) -> bool:
    if isinstance(parsed, LicenseWithExceptionSymbol):
        # An exception only ever permits more.
        return str(parsed) in COMPATIBLE or parsed.license_symbol.key in COMPATIBLE
    if not parsed.args:
        return parsed.key in COMPATIBLE
    return (all if isinstance(parsed, AND) else any)(_allowed(one) for one in parsed.args)


def obstacles(parts: Mapping[str, str]) -> list[str]:
    """Return why an image may not be handed on; nothing if it may.

    :param parts: what is linked, and its licence.
    """
    return [
        f"{name} is under {expression}, which cannot be combined with Linux's GPL-2.0-only"
        for name, expression in parts.items()
        if not may_be_linked(expression)
    ]
