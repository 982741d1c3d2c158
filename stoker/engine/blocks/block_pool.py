"""Hands out cache blocks, counts their owners, and keeps freed content while there is room.

    free      never used, or evicted: no content worth keeping
    held      at least one sequence refers to it
    cached    no owner, but known to the prefix index: reusable, evicted when blocks run out

Knows nothing of tensors or of requests. Called by the scheduler alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

from stoker.engine.blocks.prefix_index import PrefixIndex


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens, with reference counts and a prefix index.

    The least valuable cached block goes first: those never reused before those reused, the
    longest unowned before the others. A chain's later blocks are released before its earlier
    ones and are never reused without them, so a block goes before its parent.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.index = PrefixIndex(block_size)
        self._refs = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._reused = [False] * num_blocks
        self._cached_once: dict[int, None] = {}  # ordered by the time of release
        self._cached_reused: dict[int, None] = {}

    @property
    def available(self) -> int:
        """Blocks that `allocate` can still hand out."""
        return len(self._free) + len(self._cached_once) + len(self._cached_reused)

    @property
    def held(self) -> int:
        return self.num_blocks - self.available

    def refs(self, block: int) -> int:
        return self._refs[block]

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens take."""
        return -(-tokens // self.block_size)

    def allocate(self) -> int:
        """Take a block, evicting a cached one if need be. The caller has seen `available`."""
        block = self._free.pop() if self._free else self._evict()
        self._refs[block] = 1
        return block

    def share(self, blocks: Iterable[int], *, reuse: bool = False) -> None:
        """Add an owner to each block; `reuse` marks that the index was what found them."""
        for block in blocks:
            if self._refs[block] == 0:
                self._cached(block).pop(block)
            self._refs[block] += 1
            if reuse:
                self._reused[block] = True

    def release(self, blocks: Seq[int]) -> None:
        """Take an owner from each block of one sequence, the last block first."""
        for block in reversed(blocks):
            self._refs[block] -= 1
            if self._refs[block]:
                continue
            if block in self.index:
                self._cached(block)[block] = None
            else:
                self._free.append(block)

    def clear_cache(self) -> None:
        """Forget all reusable content; owned blocks stay with their owners."""
        for cached in (self._cached_once, self._cached_reused):
            self._free.extend(cached)
            cached.clear()
        self.index.clear()
        self._reused = [False] * self.num_blocks

    def _cached(self, block: int) -> dict[int, None]:
        return self._cached_reused if self._reused[block] else self._cached_once

    def _evict(self) -> int:
        cached = self._cached_once or self._cached_reused
        block = next(iter(cached))
        del cached[block]
        self.index.remove(block)
        self._reused[block] = False
        return block

    def check(self, owners: Iterable[Seq[int]] = ()) -> None:
        """Assert the pool's invariants, given the block tables of all sequences."""
        cached = {*self._cached_once, *self._cached_reused}
        free, counts = set(self._free), [0] * self.num_blocks
        for table in owners:
            assert len(set(table)) == len(table), "a block stands twice in one table"
            for block in table:
                counts[block] += 1
        held = {block for block, refs in enumerate(self._refs) if refs}
        assert counts == self._refs, "reference counts differ from the owners"
        assert len(free) == len(self._free), "a block is free twice"
        assert len(free) + len(cached) + len(held) == self.num_blocks
        assert free.isdisjoint(cached)
        assert held.isdisjoint(free | cached)
        assert not any(block in self.index for block in free)
        assert all(block in self.index for block in cached)
        self.index.check()
