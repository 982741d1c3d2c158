"""How many of the requests that wait will use each node of the index.

What is known to be used again is worth keeping, and what no one is known to use goes first when
blocks run out (BatchLLM, Zheng et al., 2024). Block size 2, three prompts wait, a last token aside:

    1 2 3 4 .      node 0 (1 2)  3 uses
    1 2 3 4 .      node 1 (3 4)  2 uses
    1 2 5 6 .      node 2 (5 6)  1 use

A node that is used is entered in the index and held there, whether or not a block has its content.
Knows content only; a policy of admission (policy.py) tells it who waits.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from stoker.engine.blocks.prefix_index import Parent, PrefixIndex


class KnownUses:
    """Uses of the nodes of `index` that are to come."""

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._counts: dict[int, int] = {}
        self.num_ended = 0  # nodes that have lost their last use, in all

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, node: int | None) -> bool:
        return node in self._counts

    def nodes(self) -> list[int]:
        """The nodes that are used, each of them held once."""
        return list(self._counts)

    def add(self, tokens: Seq[int], root: Parent) -> list[int]:
        """Count a prompt that is going to use its full blocks, without its last token.

        Returns: their nodes, for `remove`.
        """
        index, size, parent = self._index, self._index.block_size, root
        found = []
        for at in range(0, len(tokens) - size, size):
            node = index.enter(parent, tokens[at : at + size])
            assert node is not None  # its parent is held
            count = self._counts.get(node, 0)
            if not count:
                index.hold(node)
            self._counts[node] = count + 1
            found.append(node)
            parent = node
        return found

    def remove(self, nodes: Seq[int]) -> None:
        """Take back what `add` has counted."""
        for node in reversed(nodes):
            count = self._counts[node] - 1
            if count:
                self._counts[node] = count
            else:
                del self._counts[node]
                self.num_ended += 1
                self._index.drop(node)
