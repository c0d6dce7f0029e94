# SPDX-License-Identifier: Apache-2.0
"""Relocatable objects: read, change, write, check.

The only package that imports pyelftools and lief.  :mod:`~ukl_build.elf.model` holds an object in
memory, :mod:`~ukl_build.elf.reader` and :mod:`~ukl_build.elf.writer` read and write one;
:mod:`~ukl_build.elf.layout`, :mod:`~ukl_build.elf.access`, :mod:`~ukl_build.elf.unwind` and
:mod:`~ukl_build.elf.names` change one, and :mod:`~ukl_build.elf.rules` says what they refuse;
:mod:`~ukl_build.elf.contract` reads the result a second time, with lief, and holds it against the
contract of docs/design.md; :mod:`~ukl_build.elf.linked` looks at the kernel it was linked into.

Names are those of the standards, letter for letter: the System V gABI, chapters 4 and 5 ("gABI"),
its AMD64 supplement ("psABI"), and U. Drepper, "ELF Handling For Thread-Local Storage" ("TLS").
"""
