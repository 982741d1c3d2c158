"""Keep answers so that identical prompts at temperature 0 are computed once."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from stoker.engine.request.params import SamplingParams
from stoker.job.result_texts import completions

MEMORY = 32 << 20  # approximate bytes of cached answers; the oldest are evicted first
ENTRY = 1000  # bytes of an answer beside its text


class AnswerCache:
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
        """The cache key of an answer, or None if it depends on more than prompt and parameters.

        A random stream and logits processors, which may keep state, are such dependencies. An
        embedding depends on the ids alone."""
        if not pooled and (not params.greedy or params.processors):
            return None
        try:
            digest = hashlib.blake2b(array("q", ids).tobytes(), digest_size=16).digest()
        except OverflowError:  # no model has such an id; the engine will say so
            return None
        return digest, "" if params is self._usual else repr(params)

    def get(self, key: tuple[bytes, str]) -> dict[str, Any] | None:
        """Return the cached answer, or None."""
        found = self._known.get(key)
        if found is None:
            return None
        self._known.move_to_end(key)
        return found[1]

    def put(self, key: tuple[bytes, str], answer: dict[str, Any]) -> None:
        """Store an answer and evict the oldest ones beyond the size limit."""
        size = 32 * len(answer.get("embedding", ()))
        for one in completions(answer):
            size += ENTRY + 4 * len(one.get("text", "")) + ENTRY * len(one.get("logprobs", ()))
        self._known[key] = (size, answer)
        self._size += size
        while self._size > MEMORY:
            _, (gone, _) = self._known.popitem(last=False)
            self._size -= gone
