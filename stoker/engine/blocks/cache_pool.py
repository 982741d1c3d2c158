"""All blocks of a cache: a pool per group, and the one index of what they hold.

Groups of states share a pool: a snapshot is of all of them. Knows blocks and content, no requests.
Called by the scheduler and its block tables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from collections.abc import Sequence as Seq

from stoker.engine.blocks.block_pool import BlockPool
from stoker.engine.blocks.groups import GroupSize, policy_of
from stoker.engine.blocks.known_uses import KnownUses
from stoker.engine.blocks.prefix_index import PrefixIndex
from stoker.engine.blocks.snapshot_pool import SnapshotPool

Tables = tuple[tuple[int, ...], ...]  # of a sequence, one for each group


class CachePool:
    """The blocks of every group.

    A full group's pool bounds the length of a sequence; a window group's holds the windows of
    the sequences that run and what is reusable of windows past. Snapshots of states have no owner:
    they are there to be found, and go when others are to be made.

    Args:
        groups: at least one, those of states behind the others and with equal numbers of blocks.
        block_size: tokens of a block, of every group.

    Attributes:
        pools, policies: of each group that keeps pages; maybe none.
        snapshots: the one pool of all groups that keep states; of no blocks if there are none.
        keeps_state: whether there are any.
    """

    def __init__(self, groups: Seq[GroupSize], block_size: int) -> None:
        self.groups = tuple(groups)
        self.block_size = block_size
        self.index = PrefixIndex(block_size)
        self.uses = KnownUses(self.index)
        pages = [group for group in groups if not group.keeps_state]
        states = [group for group in groups if group.keeps_state]
        assert self.groups == (*pages, *states), "groups of states go last"
        self.pools = tuple(BlockPool(group.num_blocks, self.index, self.uses) for group in pages)
        self.policies = tuple(policy_of(group, block_size) for group in pages)
        self.windows = tuple(at for at, group in enumerate(pages) if group.window is not None)
        self.keeps_state = bool(states)
        assert len({group.num_blocks for group in states}) <= 1, "snapshots are of all groups"
        count = states[0].num_blocks if states else 0
        self.snapshots = SnapshotPool(count, self.index, self.uses)
        self._state_policy = policy_of(states[0], block_size) if states else None

    @property
    def num_blocks(self) -> int:
        """Blocks of the group that keeps the most of a sequence; 0 if none keeps pages."""
        windows = [group.window for group in self.groups if not group.keeps_state]
        longest = max(range(len(windows)), key=lambda at: windows[at] or sys.maxsize, default=None)
        return 0 if longest is None else self.groups[longest].num_blocks

    @property
    def available(self) -> int:
        """Blocks that every group can still hand out."""
        return min([pool.available for pool in self.pools], default=sys.maxsize)

    @property
    def held(self) -> int:
        """Blocks with an owner, of all groups."""
        return sum(pool.held for pool in self.pools)

    @property
    def fullest(self) -> BlockPool | None:
        """The pool with the largest share of blocks in use, which is what admission waits for.

        None if no group keeps pages: admission waits for slots alone.
        """
        return max(self.pools, key=lambda pool: pool.held / pool.num_blocks, default=None)

    @property
    def tightest(self) -> int:
        """The group that allows the shortest sequences; with states alone, the first of them."""
        lengths = [self._length(at) for at in range(len(self.pools))]
        return lengths.index(min(lengths)) if lengths else 0

    @property
    def max_length(self) -> float:
        """Most tokens of a sequence that has the cache to itself.

        Infinite if all groups have windows or states.
        """
        return min([self._length(at) for at in range(len(self.pools))], default=float("inf"))

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
        pools, policies = self.pools, self.policies
        if self._state_policy is not None:
            pools, policies = (*pools, self.snapshots), (*policies, self._state_policy)
        held = [[pool.blocks.get(node) for node in nodes] for pool in pools]
        while end and agreed < len(held):
            for blocks, policy in zip(held, policies, strict=True):
                found = policy.reusable(blocks, start, end)
                agreed = agreed + 1 if found == end else 1
                end = found
        return end

    def goes_on(self, node: int) -> bool:
        """Whether something is known to follow `node`."""
        holders = [node in pool.blocks for pool in (*self.pools, self.snapshots)]
        return self.index.users(node) > sum(holders) + (node in self.uses)

    def clear_cache(self) -> None:
        """Forget all reusable content; owned blocks stay with their owners."""
        for pool in (*self.pools, self.snapshots):
            pool.forget()

    def check(self, owners: Iterable[Tables] = ()) -> None:
        """Assert the invariants of pools and index, given the block tables of all sequences."""
        tables = list(owners)
        for at, pool in enumerate(self.pools):
            pool.check([of_sequence[at] for of_sequence in tables if of_sequence])
        self.snapshots.check()
        held = [node for pool in (*self.pools, self.snapshots) for node in pool.blocks]
        self.index.check([*held, *self.uses.nodes()])
