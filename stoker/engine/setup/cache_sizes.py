"""How many blocks each group of a cache gets, and what they take: the arithmetic.

`num_blocks` means the group that keeps the most of a sequence; the pools of the others follow. A
group with a window holds less of a long sequence and all of a short one, and nobody knows how long
the sequences will be. So the pools are a compromise between the two ends, which gives up less than
half at either. With one full layer and five of window 1,024, blocks of 16 tokens and a context of
32,768:

    a sequence as long as the context   2,048 blocks of the full group, 65 of the window group
    its share of a cache without groups (2,048 + 5 * 65) / (6 * 2,048) = 0.193
    num_blocks = 30,000                 30,000 * 0.193 = 5,793 blocks of the window group

In the memory of these, 9,828 blocks would fit without groups. So there is room for 14 sequences of
32,768 tokens instead of 4; and for short ones, as long as the window at most, for 59 % of what
there was. A window group gets no more than `max_running` sequences can use, and no less than one
needs.

States of fixed size come first: one for each slot, and one that is nobody's. Snapshots of them
(scheduling/states.py) take a third of what the pages take, and 8 of them up to as much as the
pages. With states of 2 MiB, blocks of 64 KiB and 100 slots:

    memory              1,000 MiB
    101 states            202 MiB
    9,599 blocks          600 MiB
    99 snapshots          198 MiB, one for every 97 blocks

If there are no pages, `num_blocks` means the snapshots. Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from stoker.engine.blocks.groups import GroupSize, policy_of
from stoker.ops.rounding import ceil_div

FEW_SNAPSHOTS = 8


@dataclass(frozen=True)
class CacheSizes:
    """What determines the sizes of the pools.

    Attributes:
        block_bytes: of each group of pages, bytes of a block over its layers.
        windows: of each group of pages; None: a full one.
        block_size: tokens of a block.
        context: most tokens of a sequence.
        max_running: most sequences that run at a time.
        max_chunk: most tokens of a step.
        state_bytes: of a sequence's states, over all layers that keep one.
        num_states: groups of such layers.
        snapshots: whether there are to be any.
    """

    block_bytes: tuple[int, ...]
    windows: tuple[int | None, ...]
    block_size: int
    context: int
    max_running: int
    max_chunk: int
    state_bytes: int = 0
    num_states: int = 0
    snapshots: bool = False

    @property
    def running_states(self) -> int:
        """Bytes of the states of running sequences."""
        return (self.max_running + 1) * self.state_bytes

    def snapshot_bytes(self, num_blocks: int) -> int:
        """Bytes of the snapshots beside so many blocks."""
        return self.num_snapshots(num_blocks) * self.state_bytes

    def num_snapshots(self, num_blocks: int) -> int:
        """Snapshots beside so many blocks."""
        if not self.snapshots or not self.state_bytes:
            return 0
        if not self.block_bytes:
            return num_blocks
        pages = self.page_bytes(num_blocks)
        return max(pages // (3 * self.state_bytes), min(FEW_SNAPSHOTS, pages // self.state_bytes))

    def snapshot_every(self, num_blocks: int) -> int:
        """Blocks from one snapshot of a prompt to the next, so that they reach as far as pages do.

        No fewer than a step computes, since chunks end there.
        """
        chunk = ceil_div(min(self.max_chunk, self.context), self.block_size)
        snapshots = self.num_snapshots(num_blocks)
        return max(chunk, ceil_div(num_blocks, snapshots)) if snapshots else chunk

    def blocks(self, num_blocks: int) -> tuple[int, ...]:
        """Blocks of each group of pages, given those of the group that keeps the most."""
        if not self.block_bytes:
            return ()
        mosts = self._most
        longest = max(mosts)
        held = sum(most * each for most, each in zip(mosts, self.block_bytes, strict=True))
        mean = held / (longest * sum(self.block_bytes))
        return tuple(
            num_blocks
            if most == longest
            else self._window_blocks(num_blocks, max(most / longest, mean), most)
            for most in mosts
        )

    def _window_blocks(self, num_blocks: int, share: float, most: int) -> int:
        """Blocks of a group with this share of `num_blocks`, a sequence using `most` beside chunks.

        Every chunk may begin in a block of its own.
        """
        chunk = ceil_div(min(self.max_chunk, self.context), self.block_size) + 1
        chunks = ceil_div(self.max_chunk, self.block_size) + self.max_running
        bounded = min(int(num_blocks * share), self.max_running * most + chunks)
        return min(num_blocks, max(bounded, most + chunk))

    @property
    def _most(self) -> list[int]:
        """Blocks of each group that a sequence as long as the context holds while it decodes."""
        size = self.block_size
        return [
            policy_of(GroupSize(0, window), size).most_blocks(self.context)
            for window in self.windows
        ]

    @property
    def useful(self) -> int:
        """The most blocks of the group that keeps the most that can be in use at a time.

        Without pages, four snapshots for each sequence.
        """
        if not self.block_bytes:
            return 4 * self.max_running if self.snapshots else 0
        return self.max_running * ceil_div(self.context, self.block_size)

    def nbytes(self, num_blocks: int) -> int:
        """Bytes of all pools and states."""
        return self.page_bytes(num_blocks) + self.running_states + self.snapshot_bytes(num_blocks)

    def page_bytes(self, num_blocks: int) -> int:
        """Bytes of the blocks of all groups of pages."""
        counts = self.blocks(num_blocks)
        return sum(n * size for n, size in zip(counts, self.block_bytes, strict=True))

    def most_in(self, memory: int) -> int:
        """The largest `num_blocks` whose pools fit so many bytes, 0 if not one does."""
        if not self.block_bytes and not self.snapshots:
            return 0
        low, high = 0, max(memory, 0) // min(self.block_bytes or (self.state_bytes,)) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.nbytes(middle) <= memory else (low, middle)
        return low

    def groups(self, num_blocks: int) -> Seq[GroupSize]:
        """The groups as the scheduler knows them."""
        pages = [
            GroupSize(count, window)
            for count, window in zip(self.blocks(num_blocks), self.windows, strict=True)
        ]
        state = GroupSize(self.num_snapshots(num_blocks), keeps_state=True)
        return [*pages, *[state] * self.num_states]

    def state_places(self, num_blocks: int) -> list[int]:
        """Of each group of states how many there are, running and not."""
        return [self.max_running + 1 + self.num_snapshots(num_blocks)] * self.num_states
