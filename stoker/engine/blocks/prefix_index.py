"""Finds cached content: a tree of full blocks, each known by its tokens and all before them.

A node stands for the content of one block, wherever its keys and values lie; nodes have ids of
their own. Two prompts meet in one node exactly when they agree from the first token on and start
from the same root; no hash can collide. Which block of which group holds a node's content is for
the pools to know (block_pool.py); the index only counts them:

    block size 2, prompts 1 2 3 4 ... and 1 2 5 6 ..., a third one under another root

    Root(None) --(1, 2)--> node 0 --(3, 4)--> node 1      Root("fr") --(1, 2)--> node 3
                                  --(5, 6)--> node 2
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from collections.abc import Sequence as Seq
from typing import NamedTuple


class Root(NamedTuple):
    """Where the chains of one kind of content begin.

    Keys and values follow from the tokens and from what else is applied to them (an adapter, say);
    `key` names that, and content is shared only under equal keys. A root needs no entry.
    """

    key: Hashable = None


Parent = int | Root
Key = tuple[Parent, tuple[int, ...]]


class PrefixIndex:
    """A tree of full blocks' content. A node goes when no one holds it and no child is left."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self._nodes: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._users: dict[int, int] = {}  # holders (blocks, known uses) and children of each node
        self._next = 0  # ids are never used again, so an old one can't be mistaken

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, node: Parent | None) -> bool:
        return node in self._keys

    def match(self, tokens: Seq[int], parent: Parent, start: int = 0) -> list[int]:
        """The nodes of the longest known chain for `tokens[start:-1]`, following `parent`.

        The last token is left out, since its logits must be computed.
        """
        size, found = self.block_size, []
        for at in range(start, len(tokens) - size, size):
            node = self._nodes.get((parent, tuple(tokens[at : at + size])))
            if node is None:
                break
            found.append(node)
            parent = node
        return found

    def enter(self, parent: Parent, tokens: Seq[int]) -> int | None:
        """The node of `tokens` after `parent`, which is new if need be; None if `parent` is gone.

        A new node must be held before anything else is done.
        """
        key = (parent, tuple(tokens))
        node = self._nodes.get(key)
        if node is not None:
            return node
        if not isinstance(parent, Root):
            if parent not in self._keys:
                return None
            self._users[parent] += 1
        node, self._next = self._next, self._next + 1
        self._nodes[key], self._keys[node], self._users[node] = node, key, 0
        return node

    def users(self, node: int) -> int:
        """How many hold `node` or follow it."""
        return self._users[node]

    def ancestors(self, node: int) -> Iterator[int]:
        """The nodes that lead to `node`, the nearest first."""
        parent = self._keys[node][0]
        while not isinstance(parent, Root):
            yield parent
            parent = self._keys[parent][0]

    def hold(self, node: int) -> None:
        """Count one more holder of `node`: a block with its content, or what will use it."""
        self._users[node] += 1

    def drop(self, node: int) -> None:
        """Count one holder less. Forget `node`, and parents of it, if nothing needs them now."""
        self._users[node] -= 1
        parent: Parent = node
        while not isinstance(parent, Root) and not self._users[parent]:
            key = self._keys.pop(parent)
            del self._nodes[key], self._users[parent]
            parent = key[0]
            if not isinstance(parent, Root):
                self._users[parent] -= 1

    def check(self, held: Seq[int]) -> None:
        """Assert the invariants, given the node that each holder holds."""
        users = dict.fromkeys(self._keys, 0)
        for node in held:
            users[node] += 1
        assert len(self._nodes) == len(self._keys)
        for node, key in self._keys.items():
            assert self._nodes[key] == node
            assert len(key[1]) == self.block_size
            if not isinstance(key[0], Root):
                assert key[0] in self._keys, f"node {node} lost its parent"
                users[key[0]] += 1
        assert users == self._users, "the users of a node are miscounted"
        assert all(users.values()), "a node that nothing needs is still known"
