"""Text from token ids, a token at a time, and the search for stop strings.

Knows tokens and text of one sequence. Called by the engine for rows that stream or have stop
strings; the others are decoded once at their end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from stoker.engine.text.special_stops import SpecialStops
from stoker.engine.text.stop_strings import stop_strings


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that the engine uses."""

    def encode(self, text: str) -> list[int]: ...

    def encode_plain(self, text: str) -> list[int]: ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = ...) -> str: ...

    @property
    def special_tokens(self) -> Mapping[int, str]:
        """The tokens that `decode` leaves out, by id, with their texts."""


class TextStream(Protocol):
    """A text that gets its tokens one by one (`token_bytes.py`, `token_windows.py`)."""

    def push(self, token: int) -> tuple[str, str]:
        """What is certain from now on, and what follows it so far but may change."""

    def settle(self) -> str:
        """Make certain what may still change, and return it. Parts of characters stay open."""

    def finish(self) -> str:
        """The rest, with a replacement character for an incomplete one. No tokens may follow."""


class TokenTexts(Protocol):
    """What single tokens stand for.

    `first` is for one that no other text comes before, `special` for texts with special tokens.
    """

    def text(self, token: int, first: bool = ...) -> str: ...

    def added(self, token: int, first: bool = ..., special: bool = ...) -> bytes: ...

    def counts(self, token: int, special: bool = ...) -> bool: ...

    def stream(self, special: bool = ...) -> TextStream: ...


class Detokenizer:
    """A text that grows by whole characters, up to the first stop string in it.

    What `take` has given is never taken back: an ending that may begin a stop string waits.

        tokens     one, two ST   O x      with the stop string "STOP"
        take       one  two      STOx
        held                ST   STO

    Args:
        stream: makes text of tokens.
        stop: the text ends before the first of these, which may hold special tokens.
        min_tokens: ignore stop strings that begin in the text of so many first tokens.
        special: the tokens that are left out of the text, by id, with their texts.
        keep_stop: the text ends behind the stop string instead.
    """

    def __init__(
        self,
        stream: TextStream,
        stop: tuple[str, ...] = (),
        min_tokens: int = 0,
        special: Mapping[int, str] | None = None,
        keep_stop: bool = False,
    ) -> None:
        self._stream = stream
        self._stop = stop_strings(stop) if stop else None
        self._keep_stop = keep_stop
        self._special = SpecialStops.among(stop, special or {})
        self._ignoring = min_tokens  # as many tokens more
        self._pieces: list[str] = []
        self._taken = 0  # pieces
        self._held = ""  # certain, and may begin a stop string
        self._barred = 0  # characters after the pieces in which no stop string may begin
        self.stopped = False

    def push(self, token: int) -> None:
        """Take a token in. Once `stopped`, the text ends before the stop string found first."""
        piece, unsettled = self._stream.push(token)
        special = self._special
        if special is not None:
            if token in special.tokens and unsettled:
                piece, unsettled = piece + self._stream.settle(), ""
            special.add(piece, token)
        if self._ignoring or self._stop is None:
            self._ignoring -= self._ignoring > 0
            self._pieces.append(piece)
            self._barred = len(unsettled)
            if special is not None:
                special.skip()
            return
        certain = self._held + piece
        text = certain + unsettled
        place = self._stop.find(text, self._barred)
        places = [] if place is None else [place]
        begun = len(certain) - self._stop.begun(certain)
        if unsettled:
            begun = min(begun, len(text) - self._stop.begun(text))
        if special is not None:
            if (found := special.find()) is not None:
                places.append((len(certain) - found[0], len(certain) - found[1]))
            begun = min(begun, len(certain) - special.held())
        if places:
            self._end_at(min(places), text)  # of two at one place the shorter
            return
        self._pieces.append(certain[:begun])
        self._held = certain[begun:]
        self._barred = max(0, self._barred - begun)

    def take(self) -> str:
        """The text that has become certain since the last call."""
        pieces = self._pieces[self._taken :]
        self._taken = len(self._pieces)
        return "".join(pieces)

    def finish(self) -> str:
        """The whole text, an incomplete last character included. No tokens may follow."""
        if not self.stopped:
            rest, found = self._held + self._stream.finish(), None
            if self._special is not None:  # which looks at what is certain only
                self._special.add(rest[len(self._held) :])
                found = self._special.find()
            if found is not None:
                self._end_at((len(rest) - found[0], len(rest) - found[1]), rest)
            else:
                self._pieces.append(rest)
                self._held = ""
        return "".join(self._pieces)

    def _end_at(self, stop: tuple[int, int], text: str) -> None:
        """End at a stop string, of which these are start and end in `text`, behind the pieces."""
        self._pieces.append(text[: stop[self._keep_stop]])
        self._held = ""
        self.stopped = True
