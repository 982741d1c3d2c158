"""Groups of layers that keep the same part of the context: which part, and what of it is reusable.

A group's layers have equal caches, so they share a pool of blocks and a block table per sequence.
A full group keeps every position. A window group frees what lies behind its window:

    block size 4, window 6, the next query at position 13 sees keys 8 to 13

    positions   0..3   4..7   8..11   12..15
    table       [ -1,    -1,     5,      2  ]      13 - 5 = 8 is the first position still needed

A state group keeps nothing of a position but a state of the sequence, which lies at the sequence's
slot while it runs. Its pool has snapshots: copies of states as they were at the end of a block.

Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import NamedTuple, Protocol


class GroupSize(NamedTuple):
    """A group's pool: its blocks, and the window of its layers, if they have one.

    With `keeps_state` the layers keep states, and the blocks are snapshots of them, maybe none.
    """

    num_blocks: int
    window: int | None = None
    keeps_state: bool = False


class GroupPolicy(Protocol):
    """What a group keeps of a sequence."""

    def first_needed(self, computed: int) -> int:
        """The first position that queries from position `computed` on can still see."""

    def reusable(self, held: Seq[int | None], start: int, end: int) -> int:
        """How far a sequence may go on from cached content.

        Args:
            held: the group's block for each full block of a known chain; None where it has none.
            start: blocks of the sequence that come before, which it has itself.
            end: blocks of the chain that may be used at most.

        Returns: the largest number of the chain's blocks, up to `end`, after which a sequence
        could go on.
        """

    def most_blocks(self, tokens: int) -> int:
        """The most blocks a sequence of up to `tokens` tokens needs at once, advancing by one."""

    def longest(self, num_blocks: int) -> int | None:
        """The longest sequence that `num_blocks` blocks allow; None for any length."""


class FullPolicy:
    """Keeps the keys and values of every position."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size

    def first_needed(self, computed: int) -> int:
        return 0

    def reusable(self, held: Seq[int | None], start: int, end: int) -> int:
        return next((at for at in range(end) if held[at] is None), end)

    def most_blocks(self, tokens: int) -> int:
        return -(-tokens // self._block_size)

    def longest(self, num_blocks: int) -> int | None:
        return num_blocks * self._block_size


class WindowPolicy:
    """Keeps what a query with a window sees: keys p - window + 1 to p for position p."""

    def __init__(self, block_size: int, window: int) -> None:
        self._block_size = block_size
        self._window = window
        # `window` positions in a row that begin with the last one of a block
        self._span = (window + block_size - 2) // block_size + 1

    def first_needed(self, computed: int) -> int:
        return max(0, computed - self._window + 1)

    def reusable(self, held: Seq[int | None], start: int, end: int) -> int:
        """An end is usable if the last window - 1 tokens before it are held.

        Block size 4, window 6, blocks held of a chain: [7, None, 3, 9, None]. The end after four
        blocks needs positions 11 to 15, blocks 2 and 3: usable. The end after three needs block 1.
        """
        while end:
            after = (start + end) * self._block_size
            first = max(0, self.first_needed(after) // self._block_size - start)
            gap = next((at for at in reversed(range(first, end)) if held[at] is None), None)
            if gap is None:
                return end
            end = gap
        return 0

    def most_blocks(self, tokens: int) -> int:
        return min(-(-tokens // self._block_size), self._span)

    def longest(self, num_blocks: int) -> int | None:
        return None if num_blocks >= self._span else num_blocks * self._block_size


class StatePolicy:
    """Keeps a state at the end of what is computed, and snapshots at ends of blocks."""

    def first_needed(self, computed: int) -> int:
        return computed

    def reusable(self, held: Seq[int | None], start: int, end: int) -> int:
        """An end is usable if there is a snapshot of it: [None, 4, None] up to 3 gives 2."""
        return next((at for at in range(end, 0, -1) if held[at - 1] is not None), 0)

    def most_blocks(self, tokens: int) -> int:
        return 0

    def longest(self, num_blocks: int) -> int | None:
        return None


def policy_of(group: GroupSize, block_size: int) -> GroupPolicy:
    """The policy of a group with blocks of `block_size` tokens."""
    if group.keeps_state:
        return StatePolicy()
    if group.window is None:
        return FullPolicy(block_size)
    return WindowPolicy(block_size, group.window)
