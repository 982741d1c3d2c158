"""Tokens as the tokenizer decodes them, where a text is not its tokens' bytes in a row.

Words that end in a mark, slow tokenizers, and texts that are cleaned up afterwards, say. There a
token may change the text before it: "do n ' t" becomes "don't" with its last token. So what the
last `REACH` tokens may still change is not certain, and only the last tokens are decoded again:

    tokens              do  n  '  t  you  see  it  .      REACH 3, for the example
    decoded             don't you see it.
    without the last 3  don't you                         -> "don't you" is certain
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

REPLACEMENT = "\ufffd"
REACH = 8  # tokens; those that clean-up joins are four, the bytes of a character four


class Decoder(Protocol):
    """The part of a tokenizer that makes text."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> str: ...


class DecodedTokens:
    """The texts of one tokenizer's tokens, remembered."""

    def __init__(self, tokenizer: Decoder) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, bool], str] = {}
        self._counts: dict[tuple[int, bool], bool] = {}

    def text(self, token: int, first: bool = False) -> str:
        """The token's own text: after itself, unless it is `first` or special."""
        text = self._known.get((token, first))
        if text is None:
            alone = self._tokenizer.decode([token], skip_special_tokens=False)
            text = alone
            if not first and self.counts(token):
                twice = self._tokenizer.decode([token, token], skip_special_tokens=False)
                if twice.startswith(alone) and len(twice) > len(alone):
                    text = twice[len(alone) :]
            self._known[token, first] = text
        return text

    def added(self, token: int, first: bool = False, special: bool = False) -> bytes:
        """What the token adds to a text, with special tokens or without."""
        counts = self.counts(token, special)
        return self.text(token, first).encode("utf-8", "replace") if counts else b""

    def counts(self, token: int, special: bool = False) -> bool:
        """Return True if the token is part of a text: what comes after it is not first."""
        counts = self._counts.get((token, special))
        if counts is None:
            twice = [token, token]  # one alone may be a blank that a text does not begin with
            counts = bool(self._tokenizer.decode(twice, skip_special_tokens=not special))
            self._counts[token, special] = counts
        return counts

    def is_special(self, token: int) -> bool:
        """Return True if texts leave the token out."""
        return not self.counts(token) and bool(self.text(token))

    def stream(self, special: bool = False) -> WindowStream:
        """A text, with its special tokens or without."""

        def decode(ids: list[int]) -> str:
            return self._tokenizer.decode(ids, skip_special_tokens=not special)

        return WindowStream(decode, None if special else self.is_special)


class WindowStream:
    """A text that gets its tokens one by one.

    Only a window of the last tokens is decoded, so a token costs the same wherever it stands. The
    window moves on where what is still to be settled decodes alike without the tokens before.

    Args:
        decode: gives the text of the window's tokens.
        is_special: tells the tokens that the text leaves out; None if it has all.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], is_special: Callable[[int], bool] | None
    ) -> None:
        self._decode = decode
        self._is_special = is_special
        self._window: list[int] = []
        self._longest = 4 * REACH
        self._settled = 0  # characters of the window's text
        self._text = ""  # of the window
        self._past = deque([""] * REACH, maxlen=REACH)  # of the window without its last tokens

    def push(self, token: int) -> tuple[str, str]:
        """What is certain now, and what comes behind it so far, without parts of characters."""
        piece = ""
        if self._is_special is None or not self._is_special(token):
            self._window.append(token)
            self._past.append(self._text)
            self._text = self._decode(self._window)
            certain = _common_length(self._text, self._past[0])
            piece = self._text[self._settled : certain]
            self._settled += len(piece)
            if len(self._window) >= self._longest:
                self._move()
        return piece, self._text[self._settled :].rstrip(REPLACEMENT)

    def settle(self) -> str:
        """Make certain what has been shown, up to parts of characters, and return it."""
        piece = self._text[self._settled :].rstrip(REPLACEMENT)
        self._settled += len(piece)
        return piece

    def finish(self) -> str:
        """The rest. No tokens may follow."""
        rest = self._text[self._settled :]
        self._settled = len(self._text)
        return rest

    def _move(self) -> None:
        rest = self._text[self._settled :]
        window = self._window[-2 * REACH :]
        text = self._decode(window)
        # something before the rest takes on what is different at the start of a text
        if text.endswith(rest) and (len(text) > len(rest) or not self._text):
            self._window, self._text = window, text
            self._past.extend(self._decode(window[:-size]) for size in range(REACH, 0, -1))
            self._settled, self._longest = len(text) - len(rest), 4 * REACH
        else:
            self._longest = 2 * len(self._window)  # try again later, and not at every token


def _common_length(text: str, other: str) -> int:
    """Length of the longest beginning that both have."""
    if text.startswith(other):
        return len(other)
    differ = (at for at, (a, b) in enumerate(zip(text, other, strict=False)) if a != b)
    return next(differ, len(text))
