# SPDX-License-Identifier: Apache-2.0
"""Looks at everything that goes into an application, before it is linked.

:mod:`~ukl_build.lint.inputs` reads files and archives, :mod:`~ukl_build.lint.symbols` finds out
what of them goes in, :mod:`~ukl_build.lint.code` disassembles it,
:mod:`~ukl_build.lint.libraries` knows which archives this machine has;
:mod:`~ukl_build.lint.check` puts it together, :mod:`~ukl_build.lint.cli` is ``ukl-lint``.

What cannot be linked is known in :mod:`ukl_build.elf` alone: its passes run over each object as
they will over the whole application, and report instead of ending at the first refusal.
"""
