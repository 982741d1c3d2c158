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

While a sequence decodes, a snapshot is made at the end of every block, or of every 64 tokens if
blocks are smaller, for prompts that go on from the answer. A prompt of 6 tokens and an answer of 5,
in blocks of 4 that are all saved:

    tokens   a b c d  e f | g h  i j k       after d by the prompt; after h before i is computed

That of a prompt is copied when its step has been computed, that of an answer before its step. Both
are found from the next step on. A snapshot is made if there is a place for it, in which no other
was made in the same step; nobody waits for one.

Those go first that a later one replaces: of an answer the next one of the same answer; any that
one sequence has gone on from and left a later one behind, as the turns of a conversation do. Then
come those of answers, since nobody may go on from them: a template may leave a model's thoughts
out of the next prompt. If a prompt has gone on from an answer, those of the next answer replace
that of the prompt. Then come those that went unused the longest, and those that several sequences
share last. Called by the scheduler.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from stoker.engine.blocks.prefix_index import Parent, Root
from stoker.engine.scheduling.block_tables import BlockTables
from stoker.engine.scheduling.sequence import Sequence
from stoker.engine.scheduling.step import PlannedStep

NO_STOP = sys.maxsize
OF_ANSWER = 64  # tokens from one snapshot of an answer to the next


@dataclass
class _Snapshot:
    """What is known of a snapshot.

    Attributes:
        uses: sequences that are known to begin as it does.
        in_answer: it was made while decoding.
        in_talk: prompts before have gone on from answers.
    """

    uses: int = 0
    in_answer: bool = False
    in_talk: bool = False


class States:
    """Copies of states between steps, for a cache that has some.

    Args:
        tables: of the sequences, whose pool has the snapshots.
        num_slots: places of running sequences.
        every: blocks from one snapshot of a long prompt to the next.

    Attributes:
        every_of_answer: blocks from one snapshot of an answer to the next.
        num_saved, num_restored: snapshots made, and taken over, in all.
    """

    def __init__(self, tables: BlockTables, num_slots: int, every: int) -> None:
        pool = tables.pool
        self._tables, self._every = tables, every
        self.every_of_answer = max(1, OF_ANSWER // pool.block_size)
        self._index, self._snapshots = pool.index, pool.snapshots
        self._groups = range(len(pool.pools), len(pool.groups))
        self._first = num_slots + 1
        self._saves = tables.prefix_cache and pool.snapshots.num_blocks > 0
        self._sources: dict[int, int] = {}  # where a slot gets its state from in the next step
        self._made: dict[int, tuple[int, int]] = {}  # in the step: by node, place and block
        self._notes = [_Snapshot() for _ in range(pool.snapshots.num_blocks)]  # by block
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
            taken = self._notes[block]
            taken.uses += 1
            self._snapshots.share([block], reuse=taken.uses > 1)
            self._snapshots.release([block])  # to be evicted after others like it
            passed = self._before(node) if taken.in_answer else None
            if passed is not None and not self._notes[passed].uses:
                self._snapshots.evict_first(passed)
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
        self._make(seq, seq.slot, _Snapshot(uses=2 if seq.computed == self._branch else 0))

    def save_answer(self, seq: Sequence) -> None:
        """Make a snapshot of `seq`, which decodes, before its next token, where one is wanted."""
        blocks, in_block = divmod(seq.computed, self._tables.pool.block_size)
        if self._saves and blocks and not (in_block or blocks % self.every_of_answer):
            place = self._sources.get(seq.slot, seq.slot)  # a fork's state is still its sibling's
            self._make(seq, place, _Snapshot(in_answer=True))

    def _make(self, seq: Sequence, place: int, new: _Snapshot) -> None:
        """Let a place for a snapshot, if there is one, get the state that lies in `place`."""
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
        self._made[node] = place, block
        self._notes[block] = new
        before = self._before(node)
        if before is not None:
            old = self._notes[before]
            new.in_talk = old.in_talk or (old.in_answer and old.uses > 0)
            replaced = new.in_answer and (old.in_answer or old.in_talk) and not old.uses
            if old.uses == 1 or replaced:
                self._snapshots.evict_first(before)
        if new.in_answer and not new.in_talk:
            self._snapshots.rank_low(block)

    def _before(self, node: int) -> int | None:
        """The nearest snapshot that leads to `node`, if there is one."""
        found = map(self._snapshots.blocks.get, self._index.ancestors(node))
        return next((block for block in found if block is not None), None)

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
                parent = first if isinstance(first, Root) or first in self._index else None
                for at in range(start, end):
                    if parent is not None:
                        tokens = seq.tokens[at * size : (at + 1) * size]
                        parent = self._index.enter(parent, tokens)
                if parent is not None:
                    break
            seq.num_indexed, seq.index_parent = end, parent
        node = seq.index_parent
        assert seq.num_indexed == end or node is None
        return node if isinstance(node, int) and node in self._index else None

    def _is_known(self, node: Parent | None) -> bool:
        return node in self._snapshots.blocks or node in self._made

    def finish(self, plan: PlannedStep) -> None:
        """Add the copies to a step whose items have all been planned, unless it has none."""
        if not plan.items:
            return  # it is not run, so they are made before the next
        for slot, source in self._sources.items():
            plan.copies += [(group, source, slot) for group in self._groups]
        for node, (place, block) in self._made.items():
            copies = plan.copies if self._notes[block].in_answer else plan.saves
            copies += [(group, place, self._first + block) for group in self._groups]
            self._snapshots.register(node, block)
            self._index.drop(node)
            self._snapshots.release([block])
        self.num_saved += len(self._made)
        self._sources.clear()
        self._made.clear()

    def clear(self) -> None:
        """Forget what the next step was to copy, since no slot is in use any more."""
        self._sources.clear()
