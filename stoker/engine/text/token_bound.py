"""A number of tokens that a text has at the least, found without tokenising it.

Tokenising takes some 400 bytes of memory for each character, so a text of 60 MB that no context
could hold would take 24 GB before it is refused. However a text is tokenised, each of its
characters lies in a token of the vocabulary. So it has no fewer tokens than are needed to cover it,
and the fewest are found from left to right: each reaches as far as any that begins before the first
character that is not covered.

    vocabulary h e l o ll hel ell       hello
    nothing is covered                  hel begins before h and reaches to the first l
    hel covers h e l                    ell begins before the second l and reaches to it
    hel, ell cover h e l l              o
    hel, ell, o cover all of it         so it has 3 tokens at the least, such as hel l o
"""

from __future__ import annotations

import functools
from typing import Any

PIECE = 1 << 15  # characters that are looked at at once
# Tokens that may be counted too often where a text is cut: a normaliser sees less there than in the
# whole text, and a token may lie on both sides.
SLACK = 32
DROPS = (b"Removed", b"Whitespace", b"BertPreTokenizer", b"CharDelimiterSplit")


class TokenBound:
    """Counts for one tokenizer.

    Args:
        backend: a `tokenizers.Tokenizer`.
    """

    def __init__(self, backend: Any) -> None:
        model = backend.model
        # elsewhere a whole word may become one unknown token
        self._counts = type(model).__name__ in ("BPE", "Unigram")
        self._normalizer = backend.normalizer
        self._splitter = _characters_of(backend.pre_tokenizer)
        added = list(backend.get_added_tokens_decoder().values())
        vocab = _spelled(model, backend.get_vocab(with_added_tokens=False))
        vocab |= {one.content for one in added} | {self._as_seen(one.content) for one in added}
        self._prefixes = {token[:end] for token in vocab for end in range(1, len(token) + 1)}
        self._known = {token for token in vocab if len(token) == 1}
        self._has_bytes = bool(getattr(model, "byte_fallback", False)) and "<0x00>" in vocab
        if any(one.lstrip or one.rstrip for one in added):  # they take any number of blanks
            blanks = (chr(code) for code in range(0x3001) if chr(code).isspace())
            self._known -= {*self._as_seen("".join(blanks))}
            self._has_bytes = False

    def at_least(self, text: str, most: int) -> int:
        """Return a number of tokens that `text` has at least.

        Args:
            text: of any length.
            most: how far the count matters; it ends soon beyond that.
        """
        count = 0
        for start in range(0, len(text) if self._counts else 0, PIECE):
            seen = self._as_seen(text[start : start + PIECE])
            count += max(0, self._cover(seen) - SLACK)
            if count > most:
                break
        return count

    def _cover(self, text: str) -> int:
        """The fewest tokens that cover the characters which must lie in one."""
        prefixes, known, all_known = self._prefixes, self._known, self._has_bytes
        length = len(text)
        count = end = reach = 0  # so many tokens cover text[:end]; another one, text[:reach]
        for at in range(length):
            reach = max(reach, at)
            while reach < length and text[at : reach + 1] in prefixes:
                reach += 1
            if at >= end and (all_known or text[at] in known):
                count += 1
                end = max(reach, at + 1)
        return count

    def _as_seen(self, text: str) -> str:
        """The text in the characters that the vocabulary is written in."""
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        if self._splitter is None:
            return text
        return "".join(part for part, _ in self._splitter.pre_tokenize_str(text))


def _characters_of(splitter: Any) -> Any:
    """A pre-tokenizer that makes the same characters of a text; None if they stay as they are."""
    from tokenizers.pre_tokenizers import ByteLevel

    if splitter is None:
        return None
    state: bytes = splitter.__getstate__()
    if b'"ByteLevel"' in state and not any(name in state for name in DROPS):
        return _bytes_alone(ByteLevel)
    return splitter


@functools.cache
def _bytes_alone(kind: Any) -> Any:
    return kind(
        add_prefix_space=False, use_regex=False
    )  # finding words would take most of the time


def _spelled(model: Any, vocab: dict[str, int]) -> set[str]:
    """The tokens as they stand in a text, without what marks the beginning or end of a word."""
    before = getattr(model, "continuing_subword_prefix", None) or ""
    after = getattr(model, "end_of_word_suffix", None) or ""
    return {*vocab, *(token.removeprefix(before).removesuffix(after) for token in vocab)}
