"""Hands out the blocks of one cache group, counts owners, keeps freed content while there is room.

    free      never used, or evicted: no content worth keeping
    held      at least one sequence refers to it
    cached    no owner, but it holds the content of a node of the index: reusable, evicted when
              blocks run out

Knows nothing of tensors or of requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq

from stoker.engine.blocks.known_uses import KnownUses
from stoker.engine.blocks.prefix_index import PrefixIndex

UNUSED = -1  # an entry of a block table whose block has been freed
LOW, ONCE, REUSED = range(3)  # ranks of blocks


class BlockPool:
    """`num_blocks` blocks with reference counts, some of which hold nodes of `index`.

    The least valuable cached block goes first: those that no waiting request is known to use
    (`uses`), of these those of low rank before those never reused, and these before those reused,
    the longest unowned before the others. A sequence gives back its later blocks before its
    earlier ones, so the end of a chain goes before what leads to it.
    """

    def __init__(self, num_blocks: int, index: PrefixIndex, uses: KnownUses) -> None:
        self.num_blocks = num_blocks
        self.index = index
        self.uses = uses
        self.blocks: dict[int, int] = {}  # by the node whose content they hold
        self._nodes: list[int | None] = [None] * num_blocks  # the inverse
        self._refs = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._ranks = [ONCE] * num_blocks
        # of each rank the cached ones, by the time of release
        self._cached: tuple[OrderedDict[int, None], ...]
        self._cached = (OrderedDict(), OrderedDict(), OrderedDict())
        # found to have known uses when a block was to be evicted
        self._set_aside: dict[int, None] = {}
        self._num_ended = 0  # of `uses`, when all that is set aside was looked at

    @property
    def available(self) -> int:
        """Blocks that `allocate` can still hand out."""
        low, once, reused = self._cached
        return len(self._free) + len(low) + len(once) + len(reused) + len(self._set_aside)

    @property
    def held(self) -> int:
        return self.num_blocks - self.available

    def refs(self, block: int) -> int:
        return self._refs[block]

    def allocate(self) -> int:
        """Take a block, evicting a cached one if need be. The caller has seen `available`."""
        block = self._free.pop() if self._free else self._evict()
        self._refs[block] = 1
        return block

    def share(self, blocks: Iterable[int], *, reuse: bool = False) -> None:
        """Add an owner to each block; `reuse` marks that the index was what found them."""
        for block in blocks:
            if self._refs[block] == 0:
                found = self._cached[self._ranks[block]]
                del (found if block in found else self._set_aside)[block]
            self._refs[block] += 1
            if reuse:
                self._ranks[block] = REUSED

    def release(self, blocks: Seq[int]) -> None:
        """Take an owner from each block of one sequence, the last block first."""
        for block in reversed(blocks):
            self._refs[block] -= 1
            if self._refs[block]:
                continue
            if self._nodes[block] is None:
                self._free.append(block)
            else:
                self._cached[self._ranks[block]][block] = None

    def register(self, node: int, block: int) -> None:
        """Note that `block` holds the content of `node`, unless another one does already."""
        assert block != UNUSED
        if node not in self.blocks:
            self.blocks[node] = block
            self._nodes[block] = node
            self.index.hold(node)

    def forget(self) -> None:
        """Free all cached blocks; owned ones stay with their owners."""
        for cached in (*self._cached, self._set_aside):
            self._free.extend(cached)
            cached.clear()
        for node in self.blocks:
            self.index.drop(node)
        self.blocks.clear()
        self._nodes = [None] * self.num_blocks
        self._ranks = [ONCE] * self.num_blocks

    def _evict(self) -> int:
        block = self._least_valuable()
        node = self._nodes[block]
        assert node is not None
        del self.blocks[node]
        self._nodes[block] = None
        self._ranks[block] = ONCE
        self.index.drop(node)
        return block

    def _least_valuable(self) -> int:
        """Take out the cached block that is worth the least.

        What has known uses is set aside when it is met, and looked at again only if all cached
        blocks have been set aside, and some uses have ended since.
        """
        for last in (False, True):
            for cached in self._cached:
                while cached:
                    block = next(iter(cached))
                    del cached[block]
                    if not self.uses or self._nodes[block] not in self.uses:
                        return block
                    self._set_aside[block] = None
            if last or self._num_ended == self.uses.num_ended:
                break
            self._num_ended = self.uses.num_ended
            for block in [x for x in self._set_aside if self._nodes[x] not in self.uses]:
                del self._set_aside[block]
                self._cached[self._ranks[block]][block] = None
        block = next(iter(self._set_aside))
        del self._set_aside[block]
        return block

    def check(self, owners: Iterable[Seq[int]] = ()) -> None:
        """Assert the pool's invariants, given the block tables of all sequences."""
        cached = {*(block for of_rank in self._cached for block in of_rank), *self._set_aside}
        for rank, of_rank in enumerate(self._cached):
            assert all(self._ranks[block] == rank for block in of_rank)
        free, counts = set(self._free), [0] * self.num_blocks
        for table in owners:
            live = [block for block in table if block != UNUSED]
            assert len(set(live)) == len(live), "a block stands twice in one table"
            for block in live:
                counts[block] += 1
        held = {block for block, refs in enumerate(self._refs) if refs}
        assert counts == self._refs, "reference counts differ from the owners"
        assert len(free) == len(self._free), "a block is free twice"
        assert len(free) + len(cached) + len(held) == self.num_blocks
        assert free.isdisjoint(cached)
        assert held.isdisjoint(free | cached)
        assert all(self._nodes[block] is None for block in free)
        assert all(self._nodes[block] is not None for block in cached)
        known = {block: node for block, node in enumerate(self._nodes) if node is not None}
        assert known == {block: node for node, block in self.blocks.items()}
