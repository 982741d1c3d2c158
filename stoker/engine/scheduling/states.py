"""States of sequences on their way: to forks, to snapshots at ends of blocks, and back.

Where layers keep a state, that of a running sequence lies at its slot. Behind the slots, and a
place that is nobody's, come the snapshots, the blocks of `CachePool.snapshots`:

    4 slots, 3 snapshots     place    0  1  2  3 | 4 | 5  6  7
                                      slots        -   blocks 0 1 2

A state is that after the last computed token, so it can be copied only where a chunk ends. Chunks
of prompts end where a snapshot is wanted:

    blocks of 4, every 3     prompt   a b c d  e f g h  i j k l  m n o p  q r
    chunks, 9 tokens a step           [ 0 .. 8 ]
                                                  [ 9 .. 11 ]               end of 3 blocks: saved
                                                             [ 12 .. 15 ]   last full block: saved
                                                                        [ 16, 17 ]

A snapshot is also wanted where the known part of a prompt ends, if another prompt has gone on
otherwise from there: a third is likely to. (Marconi, Pan et al., 2025, keeps states at such
branches and at the ends of sequences.)

A snapshot is copied when its step has been computed, and found from the next step on. It is made
if there is a place for it, in which no other was made in the same step; nobody waits for one.

Those go first that one sequence has gone on from and left a later one behind, as the turns of a
conversation do; then those that went unused the longest; those that several sequences share last.
Called by the scheduler.
"""

from __future__ import annotations

import sys

from stoker.engine.blocks.prefix_index import Parent, Root
from stoker.engine.scheduling.block_tables import BlockTables
from stoker.engine.scheduling.sequence import Sequence
from stoker.engine.scheduling.step import PlannedStep

NO_STOP = sys.maxsize


class States:
    """Copies of states between steps, for a cache that has some.

    Args:
        tables: of the sequences, whose pool has the snapshots.
        num_slots: places of running sequences.
        every: blocks from one snapshot of a long prompt to the next.

    Attributes:
        num_saved, num_restored: snapshots made, and taken over, in all.
    """

    def __init__(self, tables: BlockTables, num_slots: int, every: int) -> None:
        pool = tables.pool
        self._tables, self._every = tables, every
        self._index, self._snapshots = pool.index, pool.snapshots
        self._groups = range(len(pool.pools), len(pool.groups))
        self._first = num_slots + 1
        self._saves = tables.prefix_cache and pool.snapshots.num_blocks > 0
        self._sources: dict[int, int] = {}  # where a slot gets its state from in the next step
        self._made: dict[int, tuple[int, int]] = {}  # in the step: by node, slot and block
        # sequences that are known to begin as each snapshot does
        self._uses = [0] * pool.snapshots.num_blocks
        self._branch = 0  # where others part from the sequence looked at last
        self.num_saved = self.num_restored = 0

    @classmethod
    def of(cls, tables: BlockTables, num_slots: int, every: int) -> States | None:
        """None if no layer keeps a state."""
        return cls(tables, num_slots, every) if tables.pool.keeps_state else None

    def fork(self, source: int, slot: int) -> None:
        """Give the sequence in `slot` the state that lies in slot `source` until the next step."""
        if source == slot:  # its owner has ended, and the state is left where it is
            self._sources.pop(slot, None)
        else:
            self._sources[slot] = source

    def take_prefix(self, seq: Sequence) -> int:
        """Take over what is computed, with its snapshot, for a sequence that has its slot.

        Returns: the position at which a chunk is to end for a snapshot.
        """
        before = seq.computed
        branch = self._tables.take_prefix(seq)
        if seq.computed > before:
            node = seq.index_parent
            assert isinstance(node, int)
            block = self._snapshots.blocks[node]
            self._uses[block] += 1
            self._snapshots.share([block], reuse=self._uses[block] > 1)
            self._snapshots.release([block])  # to be evicted after others like it
            self._sources[seq.slot] = self._first + block
            self.num_restored += 1
        self._branch = branch * self._tables.pool.block_size
        if not self._saves or not seq.may_reuse or seq.index_parent is None:
            return NO_STOP
        size = self._tables.pool.block_size
        done = seq.computed // size
        wanted = [end for end in self.ends(seq, done, branch) if end > done]
        return min(wanted) * size if wanted else NO_STOP

    def ends(self, seq: Sequence, done: int, branch: int) -> list[int]:
        """Of the blocks of `seq`, of which `done` are computed, how many precede each snapshot."""
        last = (seq.prompt_len - 1) // self._tables.pool.block_size
        return [(done // self._every + 1) * self._every, last, branch]

    def save(self, seq: Sequence) -> None:
        """Make a snapshot of `seq` at the end of its chunk, which is that of a block."""
        if not self._snapshots.available:
            return
        indexed = seq.num_indexed * self._tables.pool.block_size
        if indexed == seq.computed and self._is_known(seq.index_parent):
            return
        block = self._snapshots.allocate()  # first, since it may forget nodes
        node = self._enter_end(seq)
        if node is None or self._is_known(node):
            self._snapshots.release([block])
            return
        self._index.hold(node)
        self._made[node] = seq.slot, block
        self._uses[block] = 2 if seq.computed == self._branch else 0
        found = map(self._snapshots.blocks.get, self._index.ancestors(node))
        before = next((one for one in found if one is not None), None)
        if before is not None and self._uses[before] == 1:
            self._snapshots.evict_first(before)

    def _enter_end(self, seq: Sequence) -> int | None:
        """The node of the last full block of `seq`, whose computed tokens are all known.

        It must be held before anything else is done. None if what comes before it is gone.
        """
        size, end = self._tables.pool.block_size, seq.computed // self._tables.pool.block_size
        if self._tables.only_states:  # from the last end that was entered, unless that is gone
            parent: Parent | None = None
            for start, first in (
                (seq.num_indexed, seq.index_parent),
                (0, Root(seq.request.prefix_root)),
            ):
                parent = first
                for at in range(start, end):
                    if parent is not None:
                        tokens = seq.tokens[at * size : (at + 1) * size]
                        parent = self._index.enter(parent, tokens)
                if parent is not None:
                    break
            seq.num_indexed, seq.index_parent = end, parent
        node = seq.index_parent
        assert seq.num_indexed == end or node is None
        return None if isinstance(node, Root) else node

    def _is_known(self, node: Parent | None) -> bool:
        return node in self._snapshots.blocks or node in self._made

    def finish(self, plan: PlannedStep) -> None:
        """Add the copies to a step whose items have all been planned, unless it has none."""
        if not plan.items:
            return  # it is not run, so they are made before the next
        for slot, source in self._sources.items():
            plan.copies += [(group, source, slot) for group in self._groups]
        for node, (slot, block) in self._made.items():
            plan.saves += [(group, slot, self._first + block) for group in self._groups]
            self._snapshots.register(node, block)
            self._index.drop(node)
            self._snapshots.release([block])
        self.num_saved += len(self._made)
        self._sources.clear()
        self._made.clear()

    def clear(self) -> None:
        """Forget what the next step was to copy, since no slot is in use any more."""
        self._sources.clear()
