"""Log-probabilities in responses of the OpenAI batch format, of a chat and of a completion.

They are made from those in a job's results: for each token a list of the token itself and the
likeliest, best first, each with `id`, `token`, `logprob`, `rank` and, unless they are the text's,
`bytes`: what the token adds to the answer, nothing for a special token. A token with parts of
characters is written as OpenAI does:

    token       bytes             in a chat        in a completion
    ' it'                         ' it'            ' it'
    ' \ufffd'   [32, 240, 159]    ' \\xf0\\x9f'    'bytes: \\xf0\\x9f'
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Any

Token = dict[str, Any]  # an item of an entry


def chat_logprobs(entries: list[list[Token]], top: int) -> dict[str, Any]:
    """The log-probabilities of a chat's answer: an object for each token, with the likeliest."""
    return {"content": [_with_likeliest(entry, top) for entry in entries]}


def completion_logprobs(entries: list[list[Token]], top: int) -> dict[str, Any]:
    """The log-probabilities of a completion: a list for each property."""
    return {
        "tokens": [_written(entry[0], "bytes:") for entry in entries],
        "token_logprobs": [entry[0]["logprob"] for entry in entries],
        "top_logprobs": [_by_text(one for one in entry if one["rank"] <= top) for entry in entries],
        "text_offset": _offsets([_bytes(entry[0]) for entry in entries]),
    }


def _with_likeliest(entry: list[Token], top: int) -> dict[str, Any]:
    likeliest = sorted((one for one in entry if one["rank"] <= top), key=lambda one: one["rank"])
    shown = [
        {"token": _written(one), "logprob": one["logprob"], "bytes": list(_bytes(one))}
        for one in [entry[0], *likeliest]
    ]
    return {**shown[0], "top_logprobs": shown[1:]}


def _by_text(entry: Iterable[Token]) -> dict[str | None, float]:
    """Log-probabilities by token. Of several with one text all but the first go by their ids."""
    found: dict[str | None, float] = {}
    for one in entry:
        text = _written(one, "bytes:")
        found[f"token_id:{one['id']}" if text in found else text] = one["logprob"]
    return found


def _written(one: Token, prefix: str = "") -> str | None:
    data = one.get("bytes")
    if data:
        return prefix + bytes(data).decode("utf-8", "backslashreplace")
    return None if one["token"] is None else str(one["token"])


def _bytes(one: Token) -> bytes:
    """What a token adds to the answer."""
    data = one.get("bytes")
    return (one["token"] or "").encode("utf-8", "replace") if data is None else bytes(data)


def _offsets(tokens: list[bytes]) -> list[int]:
    """The character of the text that each token begins at, or inside:

    tokens    'a'  f0 9f  98 80  'b'  f0 9f  'c'      text  a 😀 b � c
    offsets    0    1      1      2    3      4             0 1 2 3 4
    """
    offsets, at = [], 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for data in tokens:
        waiting = decoder.getstate()[0]  # the beginning of a character
        broken = len((waiting + data[:1]).decode("utf-8", "replace")) > 1  # it stays one
        offsets.append(at + broken)
        at += len(decoder.decode(data))
    return offsets
