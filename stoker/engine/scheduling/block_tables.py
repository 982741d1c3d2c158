"""The block tables of sequences: what they share through the prefix index, and how they grow.

Knows sequences and the block pool, neither steps nor queues. Called by the scheduler alone.
"""

from __future__ import annotations

from stoker.engine.blocks.block_pool import BlockPool
from stoker.engine.scheduling.sequence import Sequence


class BlockTables:
    """Gives sequences blocks of `pool`; with `prefix_cache`, also those with equal content."""

    def __init__(self, pool: BlockPool, prefix_cache: bool) -> None:
        self.pool = pool
        self.prefix_cache = prefix_cache
        self.num_hit_tokens = 0  # tokens that were found in the index, in all

    def found(self, seq: Sequence) -> list[int]:
        """The blocks that `match` would take over for `seq`, which has none yet."""
        usable = self.prefix_cache and seq.may_reuse
        return self.pool.index.match(seq.tokens) if usable else []

    def match(self, seq: Sequence) -> None:
        """Take over blocks that others have computed, or compute earlier in this same step.

        Within a layer all keys and values are written before any are read, so a block that is
        filled in this step may already be shared in it.
        """
        size = self.pool.block_size
        if not (self.prefix_cache and seq.may_reuse) or seq.cursor is None or seq.computed % size:
            return
        found = self.pool.index.match(seq.tokens, seq.cursor, seq.computed)
        if not found:
            return
        self.pool.share(found, reuse=True)
        if seq.shared_blocks == len(seq.blocks):
            seq.shared_blocks += len(found)
        seq.blocks += tuple(found)
        seq.registered = len(seq.blocks)
        seq.cursor = found[-1]
        seq.computed += len(found) * size
        hits = min(seq.computed, seq.prompt_len) - min(
            seq.computed - len(found) * size, seq.prompt_len
        )
        seq.num_cached_tokens += hits
        self.num_hit_tokens += len(found) * size

    def register(self, seq: Sequence) -> None:
        """Enter the blocks that `seq` has filled, as far as planned, into the prefix index.

        A block whose last token is still being drawn has no content to be found by; it is entered
        once the token is known.
        """
        size = self.pool.block_size
        if not self.prefix_cache or (seq.registered + 1) * size > seq.computed:
            return
        known = seq.computed - (seq.tokens[seq.computed - 1] < 0)
        while seq.cursor is not None and (seq.registered + 1) * size <= known:
            at = seq.registered
            block = seq.blocks[at]
            if self.pool.index.insert(seq.cursor, seq.tokens[at * size : (at + 1) * size], block):
                seq.registered, seq.cursor = at + 1, block
            else:
                seq.cursor = None  # another sequence has the same content: one copy is enough

    def copies_needed(self, seq: Sequence) -> int:
        """1 if the block that is written next has other owners and must be copied first."""
        at = seq.computed // self.pool.block_size
        return int(at < len(seq.blocks) and self.pool.refs(seq.blocks[at]) > 1)

    def has_place(self, seq: Sequence) -> bool:
        """Whether the next token goes to a block that is there, and is nobody else's."""
        at = seq.computed // self.pool.block_size
        return at < len(seq.blocks) and self.pool.refs(seq.blocks[at]) == 1

    def needed(self, seq: Sequence, count: int) -> int:
        """Blocks that must be available for `count` more tokens of `seq`."""
        grown = self.pool.blocks_for(seq.computed + count) - len(seq.blocks)
        return max(0, grown) + self.copies_needed(seq)

    def room(self, seq: Sequence) -> int:
        """Tokens that fit `seq` with the blocks that are available now."""
        spare = self.pool.available - self.copies_needed(seq)
        if spare < 0:
            return 0
        return (len(seq.blocks) + spare) * self.pool.block_size - seq.computed

    def grow(self, seq: Sequence, count: int) -> tuple[int, int] | None:
        """Give `seq` blocks of its own for its next `count` tokens.

        Returns (source, destination) of a block that must be copied before anything is written.
        """
        copied = None
        if self.copies_needed(seq):
            at = seq.computed // self.pool.block_size
            copied = seq.blocks[at], self.pool.allocate()
            self.pool.release(seq.blocks[at : at + 1])
            seq.blocks = (*seq.blocks[:at], copied[1], *seq.blocks[at + 1 :])
            seq.shared_blocks = min(seq.shared_blocks, at)
        lacking = self.pool.blocks_for(seq.computed + count) - len(seq.blocks)
        if lacking > 0:
            seq.blocks += tuple(self.pool.allocate() for _ in range(lacking))
        return copied
