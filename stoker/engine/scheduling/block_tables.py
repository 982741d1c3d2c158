"""The block tables of sequences: what they share through the prefix index, and how they grow.

A sequence has a table for each cache group, all with the same number of entries. They are taken,
grown and copied together; only a window group's first entries are given back before the rest.
A group of states has no tables: what it keeps of a sequence lies at the sequence's slot. If there
are no other groups, a sequence has no tables at all, and only snapshots are in the index.
Knows sequences and pools, neither steps nor queues. Called by the scheduler and `states.py`.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from stoker.engine.blocks.block_pool import UNUSED
from stoker.engine.blocks.cache_pool import CachePool
from stoker.engine.scheduling.sequence import Sequence


class BlockTables:
    """Gives sequences blocks of `pool`; with `prefix_cache`, also those with equal content."""

    def __init__(self, pool: CachePool, prefix_cache: bool) -> None:
        self.pool = pool
        self.prefix_cache = prefix_cache
        self.num_hit_tokens = 0  # tokens that were found in the index, in all
        self.only_states = not pool.pools
        self._first = pool.snapshots if self.only_states else pool.pools[0]
        self._empty = ((),) * len(pool.pools)
        self._none_freed = (0,) * len(pool.pools)

    # -- prefixes ------------------------------------------------------------------------------

    def peek_prefix(self, seq: Sequence) -> Seq[int]:
        """For each group, how many blocks of the prefix of `seq`, which has none yet, cost nothing.

        Those are the ones that `take_prefix` would take over and others hold, or that are behind
        the window. A block without owner is taken up.
        """
        nodes = self._known(seq)
        nodes = nodes[: self.pool.reusable(nodes, 0)] if nodes else nodes
        if not nodes:
            return self._none_freed
        costs = []
        for pool, first in zip(self.pool.pools, self._needed_from(len(nodes)), strict=True):
            blocks = [pool.blocks[node] for node in nodes[first:]]
            costs.append(len(nodes) - sum(1 for block in blocks if not pool.refs(block)))
        return costs

    def take_prefix(self, seq: Sequence) -> int:
        """Take over blocks that others have computed, or compute earlier in this same step.

        Within a layer all keys and values are written before any are read, so a block that is
        filled in this step may already be shared in it. Snapshots of states are found from the
        next step on.

        Returns: with states, how many first blocks of `seq` are known, if they are known to be
        gone on from otherwise; else 0.
        """
        size, start = self.pool.block_size, seq.computed // self.pool.block_size
        known = self._known(seq)
        nodes = known[: self.pool.reusable(known, start)] if known else known
        goes_on = bool(known) and self.pool.keeps_state and self.pool.goes_on(known[-1])
        branch = start + len(known) if goes_on else 0
        if not nodes:
            return branch
        tables, end = [], start + len(nodes)
        firsts = self._needed_from(end)
        for pool, first, table in zip(
            self.pool.pools, firsts, seq.tables or self._empty, strict=True
        ):
            unused = max(0, first - start)
            found = [pool.blocks[node] for node in nodes[unused:]]
            pool.share(found, reuse=True)
            tables.append((*table, *(UNUSED,) * min(unused, len(nodes)), *found))
        seq.tables = tuple(tables)
        seq.num_freed = seq.num_freed or self._none_freed
        if seq.shared_blocks == start:
            seq.shared_blocks = end
        seq.num_indexed, seq.index_parent = end, nodes[-1]
        before, seq.computed = seq.computed, end * size
        seq.num_cached_tokens += min(seq.computed, seq.prompt_len) - min(before, seq.prompt_len)
        self.num_hit_tokens += seq.computed - before
        self.free_behind(seq)
        return branch

    def _known(self, seq: Sequence) -> list[int]:
        """The nodes of the index that follow what `seq` has computed, if that is in the index."""
        parent, indexed = seq.index_parent, seq.num_indexed * self.pool.block_size
        if not (self.prefix_cache and seq.may_reuse) or parent is None or seq.computed != indexed:
            return []
        return self.pool.index.match(seq.tokens, parent, seq.computed)

    def _needed_from(self, blocks: int) -> list[int]:
        """Each group's first entry that is needed after so many full blocks."""
        size = self.pool.block_size
        return [policy.first_needed(blocks * size) // size for policy in self.pool.policies]

    def index_filled(self, seq: Sequence) -> None:
        """Enter the blocks that `seq` has filled, as far as planned, into the prefix index.

        A block whose last token is still being drawn, or is a draft, has no content to be found
        by; it is entered once the token is known. Content that is known already has its block;
        another is kept for `seq` only, but for groups that have freed theirs.
        """
        size = self.pool.block_size
        if not self.prefix_cache or (seq.num_indexed + 1) * size > seq.computed:
            return
        if self.only_states:
            return  # a node must be held, and no block would hold it
        known = seq.computed - (seq.tokens[seq.computed - 1] < 0) - seq.num_drafts
        while seq.index_parent is not None and (seq.num_indexed + 1) * size <= known:
            at = seq.num_indexed
            node = self.pool.index.enter(seq.index_parent, seq.tokens[at * size : (at + 1) * size])
            seq.num_indexed, seq.index_parent = at + 1, node
            if node is not None:
                for pool, table in zip(self.pool.pools, seq.tables, strict=True):
                    pool.register(node, table[at])

    # -- growth --------------------------------------------------------------------------------

    def copies_needed(self, seq: Sequence) -> int:
        """1 if the block that is written next has other owners and must be copied first.

        So it is in all groups or in none: owners share the blocks of a fork in every group, and
        the block that is written next is behind no window.
        """
        at = seq.computed // self.pool.block_size
        return int(at < seq.num_blocks and self._first.refs(seq.tables[0][at]) > 1)

    def has_place(self, seq: Sequence) -> bool:
        """Whether the next token goes to a block that is there, and is nobody else's.

        With states alone, whether it goes on with a block that has been begun.
        """
        if not seq.tables:
            return self.only_states and seq.computed % self.pool.block_size > 0
        table = seq.tables[0]
        at = seq.computed // self.pool.block_size
        return at < len(table) and self._first.refs(table[at]) == 1

    def needed(self, seq: Sequence, count: int) -> int:
        """Blocks that every group must have available for `count` more tokens of `seq`."""
        grown = self.pool.blocks_for(seq.computed + count) - seq.num_blocks
        return max(0, grown) + self.copies_needed(seq)

    def free_tokens(self, seq: Sequence) -> int:
        """Tokens that fit `seq` with the blocks that are available now."""
        spare = self.pool.available - self.copies_needed(seq)
        if spare < 0:
            return 0
        return (seq.num_blocks + spare) * self.pool.block_size - seq.computed

    def add_drafts(self, seq: Sequence, drafts: Seq[int], others: int) -> int:
        """Add `drafts` to the tokens of `seq`, whose next token has its place.

        There are no more than fit if a block is left to each of `others`: no sequence is preempted
        for drafts. Returns how many there are.
        """
        assert not self.pool.keeps_state, "a state can't be taken back to before a wrong draft"
        spare = max(0, self.pool.available - others)
        fit = (seq.num_blocks + spare) * self.pool.block_size - seq.computed - 1
        seq.tokens += drafts[:fit]
        seq.num_drafts = min(fit, len(drafts))
        copies = self.allocate(seq, 1 + seq.num_drafts)
        assert not copies
        return seq.num_drafts

    def allocate(self, seq: Sequence, count: int) -> list[tuple[int, int, int]]:
        """Give `seq` blocks of its own for its next `count` tokens.

        Returns (group, source, destination) of blocks to copy before anything is written.
        """
        copies = []
        tables = seq.tables or self._empty
        lacking = range(self.pool.blocks_for(seq.computed + count) - seq.num_blocks)
        if self.copies_needed(seq):
            at = seq.computed // self.pool.block_size
            own = [pool.allocate() for pool in self.pool.pools]
            for group, pool in enumerate(self.pool.pools):
                pool.release(tables[group][at : at + 1])
                copies.append((group, tables[group][at], own[group]))
            tables = tuple(
                (*table[:at], block, *table[at + 1 :])
                for table, block in zip(tables, own, strict=True)
            )
            seq.shared_blocks = min(seq.shared_blocks, at)
        seq.tables = tuple(
            (*table, *[pool.allocate() for _ in lacking])
            for table, pool in zip(tables, self.pool.pools, strict=True)
        )
        seq.num_freed = seq.num_freed or self._none_freed
        return copies

    # -- giving back ---------------------------------------------------------------------------

    def free_behind(self, seq: Sequence) -> None:
        """Give back the blocks that no query of `seq` from now on sees, of groups with windows.

        A step under way may still read them. Whoever gets them next writes them in a later step,
        which the device runs after it.
        """
        for group in self.pool.windows:
            first = self.pool.policies[group].first_needed(seq.computed) // self.pool.block_size
            freed = seq.num_freed[group] if seq.num_freed else first
            if first <= freed:
                continue
            table = seq.tables[group]
            self.pool.pools[group].release([at for at in table[freed:first] if at != UNUSED])
            table = (*(UNUSED,) * first, *table[first:])
            seq.tables = (*seq.tables[:group], table, *seq.tables[group + 1 :])
            seq.num_freed = (*seq.num_freed[:group], first, *seq.num_freed[group + 1 :])

    def shrink(self, seq: Sequence) -> None:
        """Give back the blocks behind the tokens that `seq` has computed."""
        kept = self.pool.blocks_for(seq.computed)
        if kept < seq.num_blocks:
            for pool, table in zip(self.pool.pools, seq.tables, strict=True):
                pool.release(table[kept:])
            seq.tables = tuple(table[:kept] for table in seq.tables)

    def release(self, seq: Sequence) -> None:
        """Give all blocks of `seq` back; its tables stay as they are."""
        for pool, table, freed in zip(self.pool.pools, seq.tables, seq.num_freed, strict=False):
            pool.release(table[freed:])

    def share(self, seq: Sequence) -> None:
        """Make `seq`, a fork, another owner of its blocks."""
        for pool, table, freed in zip(self.pool.pools, seq.tables, seq.num_freed, strict=True):
            pool.share(table[freed:])

    def check(self, seq: Sequence) -> None:
        """Assert what holds of the tables of `seq`, which runs, between any two steps."""
        size, count = self.pool.block_size, self.pool.blocks_for(seq.computed)
        assert seq.num_blocks == (0 if self.only_states else count), "more than a block wasted"
        for group, table in enumerate(seq.tables):
            freed, policy = seq.num_freed[group], self.pool.policies[group]
            assert len(table) == count
            assert table.count(UNUSED) == table[:freed].count(UNUSED) == freed
            assert freed <= policy.first_needed(seq.computed) // size, "a block is still needed"
