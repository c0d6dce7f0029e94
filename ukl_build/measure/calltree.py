# SPDX-License-Identifier: Apache-2.0
"""Who called whom, and what each took: from the plugin's file to functions; pure.

``measure/profile.c`` writes the file.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ukl_build.elf.functions import Functions
from ukl_build.errors import UklError
from ukl_build.measure.counts import Announced

_HEAD = struct.Struct("<6I")
_NODE = struct.Struct("<IIQ")
_LEAF = struct.Struct("<IIQQ")
_MAGIC = 0x504C4B55
_FORMAT = 1
_NODES = 1 << 18
"""Room that the file has for nodes."""

Stack = tuple[str, ...]
"""Names of functions, the outermost first."""


@dataclass(frozen=True)
class Tree:
    """What the plugin saw."""

    nodes: tuple[tuple[int, int], ...]
    """Parent's number, and address of the function or interrupt; the first is the root."""
    leaves: tuple[tuple[int, int, int, int], ...]
    """Number of the node, batch, address of the block, instructions."""
    batches: int


def parse(data: bytes) -> Tree:
    """Read the plugin's file.

    :raise UklError: ``measure-failed`` if it is damaged, or there was no room for all.
    """
    try:
        magic, version, n_nodes, n_leaves, batches, lost = _HEAD.unpack_from(data)
        if (magic, version) != (_MAGIC, _FORMAT):
            raise _failed("it is of another version of the plugin")
        if lost or n_nodes >= _NODES:
            raise _failed("there was no room for all that the guest did")
        behind = _HEAD.size + _NODES * _NODE.size
        nodes = tuple(
            (parent, entry)
            for parent, _, entry in (
                _NODE.unpack_from(data, _HEAD.size + number * _NODE.size)
                for number in range(n_nodes)
            )
        )
        leaves = tuple(
            _LEAF.unpack_from(data, behind + number * _LEAF.size) for number in range(1, n_leaves)
        )
        if any(parent >= max(number, 1) for number, (parent, _) in enumerate(nodes)):
            raise _failed("a function is called by itself or by nobody")
        if any(node >= len(nodes) or batch >= batches for node, batch, _, _ in leaves):
            raise _failed("a place is nobody's")
    except struct.error as error:
        raise _failed(str(error)) from error
    return Tree(nodes, leaves, batches)


def stacks(tree: Tree, functions: Functions, batches: range) -> Counter[Stack]:
    """Return the instructions of some batches by who executed them.

    :param batches: their numbers.
    """
    names: list[Stack] = [()]
    for parent, entry in tree.nodes[1:]:
        names.append((*names[parent], functions.at(entry)))
    found: Counter[Stack] = Counter()
    for node, batch, place, instructions in tree.leaves:
        if batch in batches:
            stack, name = names[node], functions.at(place)
            # A jump leads to another function without a call.
            found[stack if stack and stack[-1] == name else (*stack, name)] += instructions
    return found


def by_function(found: Mapping[Stack, int]) -> Counter[str]:
    """Return what each function took itself."""
    sums: Counter[str] = Counter()
    for stack, instructions in found.items():
        sums[stack[-1]] += instructions
    return sums


def of_workload(plan: Sequence[Announced], tree: Tree) -> list[tuple[Announced, range]]:
    """Return which batches are of which kind of request.

    :raise UklError: ``measure-failed`` if there are others than announced.
    """
    found, first = [], 0
    for one in plan:
        found.append((one, range(first, first + one.batches)))
        first += one.batches
    if first != tree.batches:
        raise _failed(f"{first} batches were expected, and {tree.batches} came")
    return found


def _failed(what: str) -> UklError:
    return UklError(
        "measure-failed",
        f"the plugin's file is no profile: {what}",
        hint="look at the console log; is the plugin's new?",
    )
