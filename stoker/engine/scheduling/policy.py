"""The order in which waiting requests are admitted: small objects, one per policy.

A policy sees prompts and arrival order, and may tell the pool what they will use. The scheduler
peeks, and pops what it admits.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

from stoker.engine.scheduling.block_tables import BlockTables
from stoker.engine.scheduling.sequence import Sequence


class Policy(Protocol):
    """A queue of waiting sequences; cancelled ones are discarded by the caller."""

    def add(self, seq: Sequence) -> None: ...

    def peek(self) -> Sequence | None:
        """The next sequence to admit, the same one until the queue changes."""

    def pop(self) -> Sequence:
        """Take out what `peek` shows."""

    def discard(self, seq: Sequence) -> None:
        """Take out a sequence, which need not be here if adding it was interrupted."""

    def __len__(self) -> int: ...


class FirstComeFirstServed:
    """In order of arrival."""

    def __init__(self) -> None:
        # ordered, since taking the first of a plain dict again and again is quadratic
        self._queue: OrderedDict[int, Sequence] = OrderedDict()  # by serial

    def add(self, seq: Sequence) -> None:
        self._queue[seq.serial] = seq

    def peek(self) -> Sequence | None:
        return next(iter(self._queue.values()), None)

    def pop(self) -> Sequence:
        return self._queue.popitem(last=False)[1]

    def discard(self, seq: Sequence) -> None:
        self._queue.pop(seq.serial, None)

    def __len__(self) -> int:
        return len(self._queue)


class PrefixTreeOrder:
    """Requests in the order of the tree of their prefixes, so that sharers follow one another.

    Sorted by tokens, the requests below any node of the tree are neighbours. If they run in that
    order, what they share is computed once, kept while one of them is to come, and done with when
    the last of them has run; the pool evicts it then before all else (BatchLLM, Zheng et al.,
    2024). What is known are the requests that wait:

        waiting   aab  abc  abd  bcd        the pass is at abc
        arrives   abe                       runs in this pass, after abd
        arrives   aaa                       its place has been passed: runs in the next pass

    So that nothing starves while others keep arriving, no more join a pass than it began with.

    Args:
        tables: with a prefix cache, its pool is told which content will be used.
    """

    def __init__(self, tables: BlockTables) -> None:
        self._uses = tables.pool.uses if tables.prefix_cache else None
        self._waiting: dict[int, tuple[Sequence, list[int]]] = {}  # by serial; nodes it will use
        self._pass: list[_Place] = []  # in order; those before `_at` have been admitted
        self._at = 0
        self._room = 0  # requests that may still join
        self._next: list[_Place] = []  # wait for the next pass, in order of arrival

    def add(self, seq: Sequence) -> None:
        nodes: list[int] = []
        if self._uses is not None and seq.may_reuse and seq.index_parent is not None:
            nodes = self._uses.add(seq.tokens, seq.index_parent)
        self._waiting[seq.serial] = seq, nodes
        place = _Place(repr(seq.request.prefix_root), seq.request.prompt_token_ids, seq.serial)
        under_way = self._at < len(self._pass)
        ahead = under_way and (self._at == 0 or place > self._pass[self._at - 1])
        if ahead and self._room:
            self._room -= 1
            bisect.insort(self._pass, place, lo=self._at)
        else:
            self._next.append(place)

    def peek(self) -> Sequence | None:
        while self._waiting:
            if self._at == len(self._pass):
                self._pass, self._next, self._at = sorted(self._next), [], 0
                self._room = len(self._pass)
            found = self._waiting.get(self._pass[self._at].serial)
            if found is not None:
                return found[0]
            self._at += 1  # it was cancelled
        return None

    def pop(self) -> Sequence:
        seq = self.peek()
        assert seq is not None
        self._at += 1
        self.discard(seq)
        return seq

    def discard(self, seq: Sequence) -> None:
        _, nodes = self._waiting.pop(seq.serial, (None, None))
        if self._uses is not None and nodes is not None:
            self._uses.remove(nodes)

    def __len__(self) -> int:
        return len(self._waiting)


class _Place(NamedTuple):
    """A request's place in the order."""

    root: str
    tokens: tuple[int, ...]
    serial: int


POLICIES: dict[str, Callable[[BlockTables], Policy]] = {
    "fcfs": lambda tables: FirstComeFirstServed(),
    "prefix": PrefixTreeOrder,
}
