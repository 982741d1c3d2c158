"""Finds cached blocks by their content and everything before it.

A full block is known by (the block before it, its own tokens), so two prompts meet in one
entry exactly when they agree from the first token on; no hash can collide. Knows neither
reference counts nor eviction, which belong to the block pool, its only caller.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

ROOT = -1

Key = tuple[int, tuple[int, ...]]


class PrefixIndex:
    """A tree of full blocks: each entry is a block id, its parent the block before it."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._blocks: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, block: int) -> bool:
        return block in self._keys

    def parent(self, block: int) -> int:
        return self._keys[block][0]

    def find(self, parent: int, tokens: Seq[int]) -> int | None:
        """The block that follows `parent` with exactly `tokens`, or None."""
        return self._blocks.get((parent, tuple(tokens)))

    def match(self, tokens: Seq[int], parent: int = ROOT, start: int = 0) -> list[int]:
        """The longest chain of cached blocks for `tokens[start:-1]`, following `parent`.

        The last token is left out, since its logits must be computed.
        """
        size, found = self.block_size, []
        for at in range(start, len(tokens) - size, size):
            block = self.find(parent, tokens[at : at + size])
            if block is None:
                break
            found.append(block)
            parent = block
        return found

    def insert(self, parent: int, tokens: Seq[int], block: int) -> bool:
        """Enter `block` after `parent`; False if an equal one is known already."""
        key = (parent, tuple(tokens))
        if key in self._blocks:
            return False
        self._blocks[key] = block
        self._keys[block] = key
        return True

    def remove(self, block: int) -> None:
        """Forget `block`, which must have no children left."""
        del self._blocks[self._keys.pop(block)]

    def clear(self) -> None:
        self._blocks.clear()
        self._keys.clear()

    def check(self) -> None:
        """Assert that both directions agree and every parent is known."""
        assert len(self._blocks) == len(self._keys)
        for block, key in self._keys.items():
            assert self._blocks[key] == block
            assert key[0] == ROOT or key[0] in self._keys, f"block {block} lost its parent"
            assert len(key[1]) == self.block_size
