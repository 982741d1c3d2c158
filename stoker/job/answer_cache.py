"""Answers that serve again: identical prompts at temperature 0 are computed once.

Knows token ids, parameters and results. Called by whoever sends rows to the engine (job.py).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from stoker.engine.request.params import SamplingParams
from stoker.job.result_texts import completions

MEMORY = 32 << 20  # bytes of answers that are remembered, about; the oldest go first
ENTRY = 1000  # bytes of an answer beside its text


class Copies:
    """Remembers answers by what they follow from.

    Args:
        usual: the parameters of most rows.
    """

    def __init__(self, usual: SamplingParams) -> None:
        self._usual = usual
        self._known: OrderedDict[tuple[bytes, str], tuple[int, dict[str, Any]]] = OrderedDict()
        self._size = 0

    def key(
        self, ids: Iterable[int], params: SamplingParams, pooled: bool
    ) -> tuple[bytes, str] | None:
        """What an answer follows from; None if there is more to it: a random stream, or functions
        that could remember. An embedding follows from the ids alone."""
        if not pooled and (not params.greedy or params.processors):
            return None
        digest = hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest()
        return digest, "" if params is self._usual else repr(params)

    def get(self, key: tuple[bytes, str]) -> dict[str, Any] | None:
        """The answer, if it is remembered."""
        found = self._known.get(key)
        if found is None:
            return None
        self._known.move_to_end(key)
        return found[1]

    def put(self, key: tuple[bytes, str], answer: dict[str, Any]) -> None:
        """Remember an answer, and forget what there is no more room for."""
        size = 32 * len(answer.get("embedding", ()))
        for one in completions(answer):
            size += ENTRY + 4 * len(one.get("text", "")) + ENTRY * len(one.get("logprobs", ()))
        self._known[key] = (size, answer)
        self._size += size
        while self._size > MEMORY:
            _, (gone, _) = self._known.popitem(last=False)
            self._size -= gone
