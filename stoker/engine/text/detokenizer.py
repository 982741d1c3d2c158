"""Text from token ids, a token at a time, and the search for stop strings.

Knows tokens and text of one sequence. Called by the engine for rows that stream or have stop
strings; the others are decoded once at their end.
"""

from __future__ import annotations

from typing import Protocol

REPLACEMENT = "�"


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the engine uses."""

    def encode(self, text: str) -> list[int]: ...

    def encode_plain(self, text: str) -> list[int]: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> str: ...


class Detokenizer:
    """Incremental decoding that never shows half a character.

    A token's text depends on the tokens around it, so text is taken as the difference between
    decoding a short stretch without and with the new tokens; while the stretch ends inside a
    multi-byte character, it waits for more.

    Args:
        tokenizer: makes text of tokens.
        stop: the text ends before the first of these.
        min_tokens: a stop string that begins in the text of so many first tokens is none.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: tuple[str, ...] = (), min_tokens: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._min_tokens = min_tokens
        self._searched_from = 0  # stop strings may begin here
        self._ids: list[int] = []
        self._start = 0  # the stretch decoded again begins here
        self._shown = 0  # tokens whose text is in `text`
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> None:
        """Take a token in. Once `stopped`, `text` ends before the stop string found first."""
        self._ids.append(token)
        before = self._decode(self._ids[self._start : self._shown])
        after = self._decode(self._ids[self._start :])
        if after.endswith(REPLACEMENT) or len(after) <= len(before):
            return
        self._start, self._shown = self._shown, len(self._ids)
        self._extend(after[len(before) :])
        if len(self._ids) <= self._min_tokens:
            self._searched_from = len(self.text)

    def finish(self) -> str:
        """The whole text, an incomplete last character included. No tokens may follow."""
        if not self.stopped:
            whole = self._decode(self._ids)
            self._extend(whole[len(self.text) :])
        return self.text

    @property
    def safe_text(self) -> str:
        """The text without an ending that may turn out to begin a stop string."""
        if self.stopped:
            return self.text
        held = max((_overlap(self.text, stop) for stop in self._stop), default=0)
        return self.text[: len(self.text) - held]

    def _extend(self, piece: str) -> None:
        longest = max(map(len, self._stop), default=0)
        searched = max(self._searched_from, len(self.text) - longest + 1)
        self.text += piece
        if len(self._ids) <= self._min_tokens:
            return
        found = [at for stop in self._stop if (at := self.text.find(stop, searched)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest ending of `text` that begins `stop`."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
