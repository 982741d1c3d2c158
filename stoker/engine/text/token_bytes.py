"""Tokens as bytes, for tokenizers whose texts are their tokens' bytes in a row.

That is nearly all of them. A character may lie across tokens, so a text is read as UTF-8 when the
bytes have been joined:

    byte-level BPE    'a日' = 'a' 'æĹ' '¥'                  b'a' b'\\xe6\\x97' b'\\xa5'
    sentencepiece     ' 日' = '▁' '<0xE6>' '<0x97>' '<0xA5>'   b' ' b'\\xe6' b'\\x97' b'\\xa5'
    WordPiece         'a bed' = 'a' 'be' '##d'              b'a' b' be' b'd'

Each run of bytes that is no character, such as one that the token limit has cut, becomes one
replacement character, and nothing around it is lost. The tokenizers library does so for byte-level
BPE; with byte fallback it replaces every byte of the row, whole characters included.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from stoker.engine.text.token_windows import WindowStream

Read = Callable[[str], bytes]  # a token, as the vocabulary has it, to its bytes

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """The bytes of one tokenizer's tokens, remembered, since the same few come again and again.

    Args:
        backend: the tokenizer, as the tokenizers library has it.
        read: gives the bytes of a token that stands after others.
        read_first: gives those of a text's first token, which may lack a blank.
        clean: is applied to a text, where blanks before punctuation are removed.
    """

    def __init__(
        self,
        backend: Any,
        read: Read,
        read_first: Read,
        clean: Callable[[str], str] | None = None,
    ) -> None:
        self.clean = clean
        self._name: Callable[[int], str | None] = backend.id_to_token
        self._read, self._read_first = read, read_first
        added = backend.get_added_tokens_decoder()
        self._special = frozenset(token for token, one in added.items() if one.special)
        self._known: dict[tuple[int, bool], bytes] = {}

    def own(self, token: int, first: bool = False) -> bytes:
        """The token's bytes, special tokens included; none if the tokenizer has no such id."""
        data = self._known.get((token, first))
        if data is None:
            name = self._name(token)
            read = self._read_first if first else self._read
            data = b"" if name is None else read(name)
            self._known[token, first] = data
        return data

    def added(self, token: int, first: bool = False, special: bool = False) -> bytes:
        """What the token adds to a text, with special tokens or without."""
        return b"" if token in self._special and not special else self.own(token, first)

    def text(self, token: int, first: bool = False) -> str:
        """The token's own text, with replacement characters for parts of characters."""
        alone = first or token in self._special
        return self.own(token, alone).decode("utf-8", "replace")

    def counts(self, token: int, special: bool = False) -> bool:
        """Return True if the token is part of a text: what comes after it is not first."""
        return bool(self.added(token, special=special))

    def stream(self, special: bool = False) -> ByteStream | WindowStream:
        """A text, with its special tokens or without."""
        if self.clean is None:
            return self._byte_stream(special)

        def decode(ids: list[int]) -> str:
            return self.decode(ids, special)

        return WindowStream(decode, None if special else self._special.__contains__)

    def decode(self, token_ids: Iterable[int], special: bool = False) -> str:
        """The text of all the tokens, with the special ones or without."""
        stream = self._byte_stream(special)
        text = "".join([stream.push(token)[0] for token in token_ids]) + stream.finish()
        return text if self.clean is None else self.clean(text)

    def _byte_stream(self, special: bool) -> ByteStream:
        return ByteStream(self.own if special else self.added)


class ByteStream:
    """A text that gets its tokens one by one. A character comes with the last of its bytes.

    Args:
        added: what a token adds to it, and whether it is the first that adds anything.
    """

    def __init__(self, added: Callable[[int, bool], bytes]) -> None:
        self._added = added
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._begun = False

    def push(self, token: int) -> tuple[str, str]:
        """What the next token adds for certain, and what may still change, which is nothing."""
        first, self._begun = not self._begun, self._begun or bool(self._added(token, False))
        return self._decode(self._added(token, first)), ""

    def settle(self) -> str:
        """What may still change: nothing."""
        return ""

    def finish(self) -> str:
        """A replacement character for an incomplete one at the end. No tokens may follow."""
        return self._decode(b"", True)


def token_bytes(tokenizer: Any) -> TokenBytes | None:
    """The bytes of the tokens of a transformers tokenizer.

    Returns:
        None if a text is not its tokens' bytes in a row, cleaned up or not: other decoders, slow
        tokenizers.
    """
    from transformers import PreTrainedTokenizerFast

    own = getattr(type(tokenizer), "_decode", None)
    if own is not PreTrainedTokenizerFast._decode:  # none of the tokenizers library, or changed
        return None
    backend = tokenizer.backend_tokenizer
    readers = _readers(backend.decoder)
    if readers is None:
        return None
    if not _cleans_up(tokenizer, backend):
        return TokenBytes(backend, *readers)
    clean = getattr(tokenizer, "clean_up_tokenization", None)  # transformers 5.0 has none
    return None if clean is None else TokenBytes(backend, *readers, clean)


def _steps(decoder: Any) -> list[dict[str, Any]]:
    """The parts of a decoder, as tokenizer.json has them; none if it is a Python object."""
    try:
        fields = json.loads(decoder.__getstate__())
    except Exception:  # whatever the library raises
        return []
    steps: list[dict[str, Any]] = []
    waiting = [fields]
    while waiting:
        one = waiting.pop(0)
        if one["type"] == "Sequence":
            waiting = [*one["decoders"], *waiting]
        else:
            steps.append(one)
    return steps


def _readers(decoder: Any) -> tuple[Read, Read] | None:
    """How tokens become bytes, after others and at the start; None if not one by one."""
    if decoder is None:  # they stand with blanks between them
        return lambda name: f" {name}".encode(), str.encode
    steps = _steps(decoder)
    kinds = [step["type"] for step in steps]
    if kinds in (["ByteLevel"], ["ByteLevel", "Fuse"]):
        return _byte_level, _byte_level
    if kinds in (["Metaspace"], ["Metaspace", "Fuse"]):
        blank = steps[0]["replacement"]
        drops = steps[0]["prepend_scheme"] != "never"

        def with_blanks(name: str) -> bytes:
            return name.replace(blank, " ").encode()

        def without_blanks(name: str) -> bytes:
            return name.replace(blank, "").encode()

        return with_blanks, without_blanks if drops else with_blanks
    if kinds == ["WordPiece"]:
        return (
            lambda name: decoder.decode(["a", name])[1:].encode(),
            lambda name: decoder.decode([name]).encode(),
        )
    return _sentencepiece(steps, kinds)


def _sentencepiece(steps: list[dict[str, Any]], kinds: list[str]) -> tuple[Read, Read] | None:
    """The readers for replacements, then byte fallback, then a blank stripped from the whole."""
    usual = re.fullmatch(
        r"(Replace )*(ByteFallback )?(Fuse (Strip )?)?", "".join(f"{kind} " for kind in kinds)
    )
    if not kinds or usual is None:
        return None
    changes: list[tuple[str, str]] = []
    stripped = b""
    for step in steps:
        if step["type"] == "Replace":
            if "String" not in step["pattern"]:
                return None
            changes.append((step["pattern"]["String"], step["content"]))
        elif step["type"] == "Strip":
            if step["start"] > 1 or step["stop"]:
                return None
            stripped = step["content"].encode() if step["start"] else b""
    fallback = "ByteFallback" in kinds

    def read(name: str) -> bytes:
        for old, new in changes:
            name = name.replace(old, new)
        found = _BYTE_TOKEN.fullmatch(name) if fallback else None
        return bytes([int(found[1], 16)]) if found else name.encode()

    def read_first(name: str) -> bytes:
        return read(name).removeprefix(stripped)

    return read, read_first


def _alphabet() -> dict[str, int]:
    """The byte that each character stands for in byte-level vocabularies (GPT-2).

    Printable ones stand for themselves; the other 68 are numbered from U+0100 on: a blank, the
    33rd of them, is U+0120, 'Ġ'.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in printable]
    shown = {chr(byte): byte for byte in printable}
    return shown | {chr(0x100 + at): byte for at, byte in enumerate(others)}


_BYTES = _alphabet()


def _byte_level(name: str) -> bytes:
    try:
        return bytes([_BYTES[char] for char in name])
    except KeyError:  # an added token, which is text
        return name.encode()


def _cleans_up(tokenizer: Any, backend: Any) -> bool:
    """Return True if transformers removes blanks before punctuation from the whole text.

    Which tokenizers it does so for, where it is asked to, differs by its version.
    """
    if not getattr(tokenizer, "clean_up_tokenization_spaces", False):
        return False
    ids = tokenizer.encode("a . b", add_special_tokens=False)
    plain: str = backend.decode(ids, skip_special_tokens=True)
    return " ." not in plain or plain != tokenizer.decode(ids, skip_special_tokens=True)
