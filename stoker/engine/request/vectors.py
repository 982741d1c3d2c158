"""Vectors in a prompt, in place of embeddings of tokens, and the ids that name their content.

A prompt of two tokens, three vectors of which the first and the last are equal, and a token:

    parts      [11, 12]   vectors u v u   [13]
    ids         11  12     a   b   a       13       a, b: `FIRST_VECTOR_ID` and above
    spans                  (2, (3, width) float32)

The ids go wherever token ids go, up to the tensors of a step, so the prefix index finds equal
vectors by equal ids. An id has 62 bits of a BLAKE2b hash: of a billion different vectors two have
the same id with a probability of one in nine. A cached prefix is taken for another one only if all
ids of a block are equal, and those before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIRST_VECTOR_ID = 1 << 62  # above every token id, and an int64
NO_TOKEN = -1  # shown where a prompt has a vector

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PromptVectors:
    """The vectors of one prompt.

    Attributes:
        spans: (position of the first vector, vectors (n, width)), in order, without overlap.
    """

    spans: tuple[tuple[int, Floats], ...]

    @property
    def width(self) -> int:
        return int(self.spans[0][1].shape[1])

    def within(self, start: int, end: int) -> Iterator[tuple[int, Floats]]:
        """The parts of spans at positions start to end - 1: (first position, vectors)."""
        for first, values in self.spans:
            low, high = max(start, first), min(end, first + len(values))
            if low < high:
                yield low, values[low - first : high - first]

    def tokens_of(self, ids: Seq[int]) -> list[int]:
        """Those of a prompt's `ids` that are tokens."""
        found: list[int] = []
        at = 0
        for first, values in self.spans:
            found += ids[at:first]
            at = first + len(values)
        return [*found, *ids[at:]]

    def shown(self, ids: Seq[int]) -> list[int]:
        """A prompt's `ids` with `NO_TOKEN` for each vector."""
        found = list(ids)
        for first, values in self.spans:
            found[first : first + len(values)] = [NO_TOKEN] * len(values)
        return found


def content_ids(vectors: Floats) -> list[int]:
    """An id for each of `vectors` (n, width): equal vectors, and hardly others, have equal ids."""
    rows = np.ascontiguousarray(vectors, "<f4")
    hashes = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return [FIRST_VECTOR_ID | int.from_bytes(digest, "little") >> 2 for digest in hashes]
