"""Which sequences of a step begin with the same blocks, found from their block tables.

A kernel can take the keys of such a prefix once for many queries (Hydragen, Juravsky et al.,
2024; cascade inference, Ye et al., 2024). Knows block ids only: equal ids in equal places are
equal tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class PrefixGroups(NamedTuple):
    """A partition of sequences: `sizes` says how many of `order` each group takes, in turn."""

    order: NDArray[np.int64]  # (S,) sequences
    sizes: NDArray[np.int64]  # (groups,)
    tokens: NDArray[np.int64]  # (groups,) that the sequences of a group share; 0 for one alone


def prefix_groups(
    tables: NDArray[np.int64],
    contexts: NDArray[np.int64],
    block_size: int,
    most: int,
    held_from: NDArray[np.int64] | None = None,
) -> PrefixGroups:
    """Groups of at most `most` rows of `tables` (S, width) that begin alike.

    `contexts` (S,) are the tokens of each sequence; whole blocks are shared, and none of them
    holds a sequence's last token. Where prefixes branch, neighbours with the longest common part
    join while that makes fewer tokens to read. What is not held is not shared, see `RaggedLayout`.
    """
    count = len(tables)
    if _all_differ(tables, block_size, held_from):
        return PrefixGroups(np.arange(count), np.ones(count, np.int64), np.zeros(count, np.int64))
    keys = [row.tobytes() for row in tables]
    order = np.array(sorted(range(count), key=keys.__getitem__))
    ranked, whole = tables[order], (contexts[order] - 1) // block_size
    alike = np.minimum(_alike(ranked), np.minimum(whole[1:], whole[:-1]))
    if held_from is not None:
        alike *= alike * block_size > held_from[order][1:]
    sizes, shared = [1], [0]
    for blocks in alike.tolist():
        size = sizes[-1]
        joint = min(blocks, shared[-1]) if size > 1 else blocks
        if joint and size < most and size * joint >= (size - 1) * shared[-1]:
            sizes[-1], shared[-1] = size + 1, joint
        else:
            sizes.append(1)
            shared.append(0)
    return PrefixGroups(order, np.array(sizes), np.array(shared) * block_size)


def _all_differ(
    tables: NDArray[np.int64], block_size: int, held_from: NDArray[np.int64] | None
) -> bool:
    """Whether no two rows of `tables` (S, width) hold the same block first, so that none share."""
    first = tables[:, 0]
    if held_from is not None:
        first = tables[np.arange(len(tables)), held_from // block_size]
    return len(set(first.tolist())) == len(tables)


def _alike(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """With how many equal entries neighbours among `rows` (S, width) begin, (S - 1,)."""
    differ = rows[1:] != rows[:-1]
    first: NDArray[np.int64] = np.where(differ.any(axis=1), differ.argmax(axis=1), rows.shape[1])
    return first


class PrefixTree(NamedTuple):
    """Stretches of keys that several sequences share, and prefixes of prefixes.

    Node i is shared by sequences order[first[i]] to order[first[i] + size[i] - 1]: their tokens
    begin[i] to end[i] - 1. No token of a sequence is in two nodes; from `own` on, its tokens are
    in none.
    """

    order: NDArray[np.int64]  # (S,) sequences
    own: NDArray[np.int64]  # (S,) tokens, of the sequences in `order`
    nodes: NDArray[np.int64]  # (nodes, 4): first, size, begin, end


def prefix_tree(
    tables: NDArray[np.int64],
    contexts: NDArray[np.int64],
    block_size: int,
    least: int,
    held_from: NDArray[np.int64] | None = None,
) -> PrefixTree:
    """All stretches of at least `least` tokens that rows of `tables` (S, width) share.

    `contexts` (S,) are the tokens of each sequence; whole blocks are shared, and none of them
    holds a sequence's last token. A shorter stretch goes to the nodes, or sequences, that branch
    from its end. What is not held is in no node and nobody's own, see `RaggedLayout`.
    """
    count, nodes = len(tables), []
    held = np.zeros(count, np.int64) if held_from is None else held_from
    if _all_differ(tables, block_size, held_from):
        return PrefixTree(np.arange(count), held, np.empty((0, 4), np.int64))
    keys = [row.tobytes() for row in tables]
    order = np.array(sorted(range(count), key=keys.__getitem__))
    ranked, whole = tables[order], (contexts[order] - 1) // block_size
    alike = np.minimum(_alike(ranked), np.minimum(whole[1:], whole[:-1])) * block_size
    own = held[order]
    alike *= alike > own[1:]  # if more than that is alike, as much of both is held
    branches = [(0, count, 0)]  # sequences of the order, and the tokens that are in nodes
    while branches:
        first, end, done = branches.pop()
        common = alike[first : end - 1]
        depth = int(common.min())
        done = max(done, int(own[first])) if depth else done
        if depth - done >= least:
            nodes.append((first, end - first, done, depth))
            done = depth
        cuts = [first, *(np.flatnonzero(common == depth) + first + 1).tolist(), end]
        own[first:end] = np.maximum(own[first:end], done)
        branches += [(a, b, done) for a, b in pairwise(cuts) if b - a > 1]
    return PrefixTree(order, own, np.array(nodes, np.int64).reshape(-1, 4))
