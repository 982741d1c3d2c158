"""All blocks of a cache: a pool per group, and the one index of what they hold.

Knows blocks and content, no requests. Called by the scheduler and its block tables.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

from stoker.engine.blocks.block_pool import BlockPool
from stoker.engine.blocks.groups import GroupSize, policy_of
from stoker.engine.blocks.known_uses import KnownUses
from stoker.engine.blocks.prefix_index import PrefixIndex

Tables = tuple[tuple[int, ...], ...]  # of a sequence, one for each group


class CachePool:
    """The blocks of every group.

    A full group's pool bounds the length of a sequence; a window group's holds the windows of
    the sequences that run and what is reusable of windows past.

    Args:
        groups: at least one.
        block_size: tokens of a block, of every group.
    """

    def __init__(self, groups: Seq[GroupSize], block_size: int) -> None:
        self.groups = tuple(groups)
        self.block_size = block_size
        self.index = PrefixIndex(block_size)
        self.uses = KnownUses(self.index)
        self.pools = tuple(BlockPool(group.num_blocks, self.index, self.uses) for group in groups)
        self.policies = tuple(policy_of(group, block_size) for group in groups)
        self.windows = tuple(at for at, group in enumerate(groups) if group.window is not None)

    @property
    def num_blocks(self) -> int:
        """Blocks of the group that keeps the most of a sequence."""
        return self.groups[self._longest].num_blocks

    @property
    def _longest(self) -> int:
        windows = [group.window for group in self.groups]
        return max(range(len(windows)), key=lambda at: windows[at] or float("inf"))

    @property
    def available(self) -> int:
        """Blocks that every group can still hand out."""
        return min(pool.available for pool in self.pools)

    @property
    def held(self) -> int:
        """Blocks with an owner, of all groups."""
        return sum(pool.held for pool in self.pools)

    @property
    def fullest(self) -> BlockPool:
        """The pool with the largest share of blocks in use, which is what admission waits for."""
        return max(self.pools, key=lambda pool: pool.held / pool.num_blocks)

    @property
    def tightest(self) -> int:
        """The group that allows the shortest sequences."""
        lengths = [self._length(at) for at in range(len(self.groups))]
        return lengths.index(min(lengths))

    @property
    def max_length(self) -> float:
        """Most tokens of a sequence that has the cache to itself; infinite with windows only."""
        return self._length(self.tightest)

    def _length(self, group: int) -> float:
        longest = self.policies[group].longest(self.groups[group].num_blocks)
        return float("inf") if longest is None else longest

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens take."""
        return -(-tokens // self.block_size)

    def reusable(self, nodes: Seq[int], start: int) -> int:
        """How many of the chain `nodes`, after `start` blocks of a sequence, all groups take over.

        Each group is asked in turn how far it can go; a shorter answer is put to the others again.
        """
        end, agreed = len(nodes), 0
        held = [[pool.blocks.get(node) for node in nodes] for pool in self.pools]
        while end and agreed < len(held):
            for blocks, policy in zip(held, self.policies, strict=True):
                found = policy.reusable(blocks, start, end)
                agreed = agreed + 1 if found == end else 1
                end = found
        return end

    def clear_cache(self) -> None:
        """Forget all reusable content; owned blocks stay with their owners."""
        for pool in self.pools:
            pool.forget()

    def check(self, owners: Iterable[Tables] = ()) -> None:
        """Assert the invariants of pools and index, given the block tables of all sequences."""
        tables = list(owners)
        for at, pool in enumerate(self.pools):
            pool.check([of_sequence[at] for of_sequence in tables if of_sequence])
        held = [node for pool in self.pools for node in pool.blocks]
        self.index.check([*held, *self.uses.nodes()])
