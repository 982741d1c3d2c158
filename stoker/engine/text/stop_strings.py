"""Finds stop strings in the end of a growing text, in a time that hardly grows with their number.

Knows texts only. Called by the detokenizer.
"""

from __future__ import annotations

import functools
from bisect import bisect_right

FEW = 16  # of so many stop strings each is searched for by itself, which C does


class StopStrings:
    """A set of stop strings, made ready once for all texts that they end.

    Args:
        stops: none of them empty.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = frozenset(stops)
        self._sorted = sorted(self._stops)
        self._sizes = sorted({len(stop) for stop in stops})
        self._characters = frozenset().union(*stops)

    def find(self, text: str, start: int) -> tuple[int, int] | None:
        """Start and end of the stop string that begins first in text[start:], None if none does.

        Of two at one place it is the shorter.
        """
        if len(self._sorted) <= FEW:
            places = [
                (at, at + len(stop)) for stop in self._sorted if (at := text.find(stop, start)) >= 0
            ]
            return min(places, default=None)
        for at in range(start, len(text)):
            for size in self._sizes:
                if text[at : at + size] in self._stops:
                    return at, at + size
        return None

    def begun(self, text: str) -> int:
        """Length of the longest ending of `text` with which a longer stop string begins."""
        if text[-1:] not in self._characters:  # nearly always, for a few stop strings
            return 0
        for size in range(min(self._sizes[-1] - 1, len(text)), 0, -1):
            ending = text[-size:]
            # the first that is greater: what begins with the ending stands right behind it
            at = bisect_right(self._sorted, ending)
            if at < len(self._sorted) and self._sorted[at].startswith(ending):
                return size
        return 0


@functools.lru_cache(maxsize=64)
def stop_strings(stops: tuple[str, ...]) -> StopStrings:
    """The same object for equal stop strings, which the rows of a job have in common."""
    return StopStrings(stops)
