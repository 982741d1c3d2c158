"""The order in which waiting requests are admitted: small objects, one per policy.

A policy sees prompts and arrival order only. The scheduler peeks, and pops what it admits.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

from stoker.engine.scheduling.sequence import Sequence


class Policy(Protocol):
    """A queue of waiting sequences; cancelled ones are discarded by the caller."""

    def add(self, seq: Sequence) -> None: ...

    def peek(self) -> Sequence | None:
        """The next sequence to admit, the same one until the queue changes."""

    def pop(self) -> Sequence:
        """Take out what `peek` shows."""

    def discard(self, seq: Sequence) -> None: ...

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
        del self._queue[seq.serial]

    def __len__(self) -> int:
        return len(self._queue)


class LongestPrefixGroupFirst:
    """Requests that share the longest prefix run together, longest shared prefix first.

    The shared prefix of a request is the longest one it has in common with any other waiting
    request, in whole blocks. So that nothing starves while others keep arriving, the oldest
    request goes next once `patience` others have passed it (BatchLLM, Zheng et al., 2024, runs
    sharers together; the bound on waiting is ours).
    """

    def __init__(self, block_size: int, patience: int = 256) -> None:
        self._block_size = block_size
        self._patience = patience
        self._waiting: dict[int, Sequence] = {}  # by serial, in order of arrival
        self._order: list[Sequence] = []  # the next one last
        self._arrivals: list[int] = []  # heap of serials, some no longer waiting
        self._stale = False
        self._passed = 0

    def add(self, seq: Sequence) -> None:
        self._waiting[seq.serial] = seq
        heapq.heappush(self._arrivals, seq.serial)
        self._stale = True

    def peek(self) -> Sequence | None:
        if not self._waiting:
            return None
        if self._passed >= self._patience:
            return self._oldest()
        if self._stale:
            self._sort()
        while self._order[-1].serial not in self._waiting:
            self._order.pop()
        return self._order[-1]

    def pop(self) -> Sequence:
        seq = self.peek()
        assert seq is not None
        self._passed = 0 if seq is self._oldest() else self._passed + 1
        del self._waiting[seq.serial]
        return seq

    def discard(self, seq: Sequence) -> None:
        del self._waiting[seq.serial]

    def __len__(self) -> int:
        return len(self._waiting)

    def _oldest(self) -> Sequence:
        while self._arrivals[0] not in self._waiting:
            heapq.heappop(self._arrivals)
        return self._waiting[self._arrivals[0]]

    def _sort(self) -> None:
        """Order by shared length; equal prefixes are neighbours once prompts are sorted."""
        ranked = sorted(self._waiting.values(), key=lambda seq: (seq.tokens, seq.serial))
        common = [
            0,
            *(self._shared(one.tokens, two.tokens) for one, two in pairwise(ranked)),
            0,
        ]
        keys: list[tuple[int, int, int]] = []
        group = 0
        for place, seq in enumerate(ranked):
            if common[place] < max(common[place], common[place + 1]):
                group = place  # shares more with the next than with the one before
            keys.append((-max(common[place], common[place + 1]), group, seq.serial))
        order = sorted(range(len(ranked)), key=keys.__getitem__, reverse=True)
        self._order = [ranked[place] for place in order]
        self._stale = False

    def _shared(self, one: list[int], two: list[int]) -> int:
        """Length of the common prefix, in whole blocks."""
        size, at = self._block_size, 0
        while at + size <= min(len(one), len(two)) and one[at : at + size] == two[at : at + size]:
            at += size
        return at


POLICIES: dict[str, Callable[[int], Policy]] = {
    "fcfs": lambda block_size: FirstComeFirstServed(),
    "prefix": LongestPrefixGroupFirst,
}
