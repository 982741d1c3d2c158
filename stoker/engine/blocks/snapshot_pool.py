"""The pool of snapshots of states, of which some are worth less than others from the start.

Knows nothing of sequences; scheduling/states.py says which.
"""

from __future__ import annotations

from stoker.engine.blocks.block_pool import LOW, ONCE, BlockPool


class SnapshotPool(BlockPool):
    """Blocks that hold a snapshot each, and whose rank may be lowered."""

    def rank_low(self, block: int) -> None:
        """Let a block go before those of other ranks, unless it counts as reused."""
        if self._ranks[block] == ONCE:
            self._ranks[block] = LOW
            if block in self._cached[ONCE]:
                del self._cached[ONCE][block]
                self._cached[LOW][block] = None

    def evict_first(self, block: int) -> None:
        """Let a cached block go before all others, unless it counts as reused."""
        self.rank_low(block)
        if block in self._cached[LOW]:
            self._cached[LOW].move_to_end(block, last=False)
