"""Stop strings that hold special tokens, which are left out of the text.

The search runs over the text with these tokens put back, and only whole ones count; special tokens
that no stop string holds stay left out. With the stop string "\\n<|user|>" and <|user|> special:

    tokens      Yes .     \\n   <|user|>   Who
    text        "Yes.\\nWho"               what decoding shows
    searched    "Yes.\\n<|user|>Who"       found at 4, so the text ends after 4 characters
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

FORGET = 4096  # characters


class SpecialStops:
    """Searches for `stops` in a text and the special tokens between its pieces.

    Args:
        stops: stop strings that hold the text of one of `tokens` each.
        tokens: id -> text of the special tokens that may be met.
    """

    def __init__(self, stops: tuple[str, ...], tokens: Mapping[int, str]) -> None:
        self.tokens = tokens
        self._stops = stops
        self._longest = max(map(len, stops))
        self._searched = ""
        self._spans: list[tuple[int, int]] = []  # of the special tokens in `_searched`
        self._start = 0  # matches may begin here

    @classmethod
    def among(cls, stops: Iterable[str], special: Mapping[int, str]) -> SpecialStops | None:
        """The search for those of `stops` that hold a special token; None if none does."""
        held = {token: text for token, text in special.items() if any(text in s for s in stops)}
        if not held:
            return None
        return cls(tuple(s for s in stops if any(text in s for text in held.values())), held)

    def add(self, piece: str, token: int | None = None) -> None:
        """Take in the next piece of the text, and behind it `token`, if it is one of `tokens`."""
        self._searched += piece
        if token is not None and token in self.tokens:
            start = len(self._searched)
            self._searched += self.tokens[token]
            self._spans.append((start, len(self._searched)))

    def skip(self) -> None:
        """Ignore matches that begin in what there is so far."""
        self._start = len(self._searched)
        self._forget()

    def find(self) -> tuple[int, int] | None:
        """How many characters of the text lie behind the beginning of the first match, and its end.

        None if there is no match among what has been added since the last call.
        """
        found = [
            (at, at + len(stop))
            for stop in self._stops
            if (at := self._first(stop, self._start)) >= 0
        ]
        if found:
            start, end = min(found)
            length = self._shown(len(self._searched))
            return length - self._shown(start), length - self._shown(end)
        self._start = max(self._start, len(self._searched) - self._longest + 1)
        self._forget()
        return None

    def held(self) -> int:
        """Characters at the end of the text that may turn out to begin a stop string."""
        text = self._searched
        for at in range(self._start, len(text)):
            if any(stop.startswith(text[at:]) for stop in self._stops):
                return self._shown(len(text)) - self._shown(at)
        return 0

    def _forget(self) -> None:
        """Drop what is no longer searched, now and then: a token costs the same anywhere."""
        cut = self._start
        if cut >= FORGET:
            self._searched = self._searched[cut:]
            self._spans = [(start - cut, end - cut) for start, end in self._spans if end > cut]
            self._start = 0

    def _first(self, stop: str, start: int) -> int:
        """The first match that begins at `start` or later and cuts no special token; -1 if none."""
        while (at := self._searched.find(stop, start)) >= 0:
            end = at + len(stop)
            if not any(a < at < b or a < end < b for a, b in self._spans):
                return at
            start = at + 1
        return -1

    def _shown(self, at: int) -> int:
        """Characters of the text before the place `at` of what is searched."""
        return at - sum(min(end, at) - start for start, end in self._spans if start < at)
