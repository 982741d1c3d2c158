"""Cuts a step's attention into tasks for the kernels: which queries meet which keys together.

A task is a tile of queries (members: a row of q and its position) over a range of the keys of one
block table. Decodes are narrow tiles, chunks of prompts wide ones. Prefixes that decodes share
are tasks of their own, with all sharers as members. Long ranges are cut in pieces, so that there
is work for the whole GPU. A row that more than one task serves gets partial results, merged
after. Knows numbers only: no torch, no kernel; every list is made on the host with NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stoker.ops.rounding import ceil_div
from stoker.ops.shared_prefix import prefix_tree

Ints = NDArray[np.int64]

LARGEST_UNIT = 64  # keys; pieces of long ranges are made of whole tiles of the kernel


@dataclass(frozen=True)
class Cutting:
    """How large tasks are; see `Tuning` (attention.py) for what is chosen when.

    Attributes:
        narrow, wide: members of a tile of each kind, at most.
        programs: tasks that would fill the GPU, of each kind.
        piece: tokens that a piece of a range has at least, but for its last one.
        shared: tokens that a prefix must have to be a task of its own; None: no sharing.
    """

    narrow: int
    wide: int
    programs: int
    piece: int
    shared: int | None


@dataclass(frozen=True)
class TaskLists:
    """What the kernels read (attention_kernels.py), int32."""

    narrow: NDArray[np.int32]  # (n, 6): table, first member, members, first key, end, partial
    wide: NDArray[np.int32]  # (w, 6)
    members: NDArray[np.int32]  # (m, 2): row of q, position
    merge_rows: NDArray[np.int32]  # (r,)
    merge_starts: NDArray[np.int32]  # (r + 1,)
    merge_items: NDArray[np.int32]  # (partials,)

    def sizes(self) -> tuple[int, ...]:
        """Of narrow, wide, members, merge_rows and merge_items."""
        lists = (self.narrow, self.wide, self.members, self.merge_rows, self.merge_items)
        return tuple(map(len, lists))


def make_tasks(
    starts: Ints,
    contexts: Ints,
    tables: Ints | None,
    page: int,
    cut: Cutting,
    held_from: Ints | None = None,
) -> TaskLists:
    """The tasks of a step.

    Args:
        starts: (S + 1,) where each sequence's queries begin, as in `RaggedLayout`.
        contexts: (S,) tokens of each sequence with its queries.
        tables: (S, width) block tables, to find shared prefixes in; None: not looked for.
        page: tokens of a block.
        held_from: (S,) the first position that can be seen; None: 0.
    """
    held = np.zeros(len(contexts), np.int64) if held_from is None else held_from
    counts = starts[1:] - starts[:-1]
    single, several = np.flatnonzero(counts == 1), np.flatnonzero(counts > 1)
    decode_members, decode_tiles = _decodes(starts, contexts, single, tables, page, cut, held)
    chunk_members, chunk_tiles = _chunks(starts, contexts, several, cut.wide, held)
    chunk_tiles[:, 1] += len(decode_members)
    members = np.concatenate((decode_members, chunk_members))
    tiles = np.concatenate((decode_tiles, chunk_tiles))
    is_narrow = tiles[:, 2] <= cut.narrow
    narrow = _pieces(tiles[is_narrow], cut)
    tasks = np.concatenate((narrow, _pieces(tiles[~is_narrow], cut)))
    partial, merges = _partials(tasks, members)
    tasks = np.concatenate((tasks, partial[:, None]), axis=1)
    lists = (_longest_first(tasks[: len(narrow)]), _longest_first(tasks[len(narrow) :]), members)
    return TaskLists(*(np.ascontiguousarray(x, np.int32) for x in (*lists, *merges)))


def _decodes(
    starts: Ints,
    contexts: Ints,
    single: Ints,
    tables: Ints | None,
    page: int,
    cut: Cutting,
    held: Ints,
) -> tuple[Ints, Ints]:
    """Members and tiles (table, first member, members, first key, end) of single queries."""
    own, nodes = held[single], np.empty((0, 4), np.int64)
    if len(single) > 1 and tables is not None and cut.shared is not None:
        all_decode = len(single) == len(tables)  # then a copy would cost as much as the search
        rows = tables if all_decode else tables[single]
        tree = prefix_tree(rows, contexts[single], page, cut.shared, held[single])
        single, own, nodes = single[tree.order], tree.own, tree.nodes
    members = np.stack((starts[single], contexts[single] - 1), axis=1)
    ones = np.ones(len(single), np.int64)
    tiles = np.stack((single, np.arange(len(single)), ones, own, contexts[single]), axis=1)
    first, size, begin, end = nodes.T
    most = np.where(size <= cut.narrow, cut.narrow, cut.wide)
    node, tile = _repeated(-(-size // most))
    at = first[node] + tile * most[node]
    number = np.minimum(most[node], (first + size)[node] - at)
    shared = np.stack((single[at], at, number, begin[node], end[node]), axis=1)
    return members, np.concatenate((tiles, shared))


def _repeated(counts: Ints) -> tuple[Ints, Ints]:
    """Each index i of `counts`, counts[i] times; and 0 to counts[i] - 1 beside it."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)


def _chunks(
    starts: Ints, contexts: Ints, several: Ints, most: int, held: Ints
) -> tuple[Ints, Ints]:
    """Members and tiles of sequences with several queries: neighbours, by `most`."""
    counts = (starts[1:] - starts[:-1])[several]
    sequence, offset = _repeated(counts)
    row, position = starts[several][sequence], (contexts[several] - counts)[sequence]
    members = np.stack((row, position), axis=1) + offset[:, None]
    owner, tile = _repeated(-(-counts // most))
    first = (counts.cumsum() - counts)[owner] + tile * most
    number = np.minimum(most, counts[owner] - tile * most)
    end = members[first + number - 1, 1] + 1
    return members, np.stack((several[owner], first, number, held[several][owner], end), axis=1)


def _pieces(tiles: Ints, cut: Cutting) -> Ints:
    """`tiles` with long ranges of keys cut, so that there are about `cut.programs`.

    No piece is longer than 1.1 of an equal share of all keys, or than `cut.piece`. A range is cut
    in pieces of one length, rounded up to a power of 2 of at most a tenth of that share:

        5 programs, ranges of 1000 and 2400 keys: a share is 680, rounded up to 704 = 11 * 64
        1000 in 2 pieces of 512, 488;  2400 in 4 of 640, 640, 640, 480
    """
    length = tiles[:, 4] - tiles[:, 3]
    share = max(ceil_div(int(length.sum()), cut.programs), cut.piece)
    unit = min(LARGEST_UNIT, 1 << max(0, (share // 10).bit_length() - 1))
    number = -(-length // (-(-share // unit) * unit))
    even = np.maximum(-(-length // (number * unit)) * unit, cut.piece)
    number = -(-length // even)
    owner, piece = _repeated(number)
    out = tiles[owner]
    out[:, 3] += piece * even[owner]
    out[:, 4] = np.minimum(out[:, 4], out[:, 3] + even[owner])
    return out


def _partials(tasks: Ints, members: Ints) -> tuple[Ints, tuple[Ints, Ints, Ints]]:
    """Each task's first partial result, -1 if its rows are served by it alone; and the merges."""
    first, number = tasks[:, 1], tasks[:, 2]
    owner, member = _repeated(number)
    served = first[owner] + member
    shares = np.bincount(served, minlength=len(members))
    split = shares[first] > 1
    room = np.where(split, number, 0)
    partial = np.where(split, room.cumsum() - room, -1)
    by_member = np.argsort(served[split[owner]], kind="stable")
    merged = np.flatnonzero(shares > 1)
    starts = np.concatenate(([0], shares[merged].cumsum()))
    return partial, (members[merged, 0], starts, by_member)


def _longest_first(tasks: Ints) -> Ints:
    """For balance: what begins last should be short."""
    return tasks[np.argsort(tasks[:, 3] - tasks[:, 4], kind="stable")]
