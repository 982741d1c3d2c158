"""The sizes of steps that CUDA graphs are captured for, and how a step is padded to one.

A graph has fixed shapes, so a step takes the next larger ones. What is added is a dummy that lies
in a block of its own: it reads and writes nothing else, and nobody reads it. Knows numbers only,
no torch. Called by graphs.py.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from stoker.engine.execution.step_arrays import StepArrays
from stoker.engine.execution.table_rows import IDLE, Ints

# Tokens of the largest mixed graph: beyond, a step computes for longer than it takes to launch.
LARGEST = 1024
# Bytes set aside per graph for what the driver keeps of it: an allowance, not a measurement. What
# each really takes is in `Graphs.memory`.
PER_GRAPH = 16 << 20


class Bucket(NamedTuple):
    """The shapes of a graph; with as many sequences as tokens it is one of decodes."""

    tokens: int
    sequences: int


class Buckets:
    """The graphs of an engine.

    Args:
        max_running: most sequences of a step.
        max_batch_tokens: most tokens of a step.
    """

    def __init__(self, max_running: int, max_batch_tokens: int) -> None:
        self.max_running = max_running
        self._decodes = sizes(max_running)
        self._mixed = sizes(min(LARGEST, max_batch_tokens))

    @property
    def largest(self) -> Bucket:
        """No graph has more tokens, and none more sequences."""
        return Bucket(max(self._mixed[-1], self._decodes[-1]), self.max_running + 1)

    def __len__(self) -> int:
        return len(self._decodes) + len(self._mixed)

    def find(self, counts: Ints) -> Bucket | None:
        """The bucket of a step with so many tokens per sequence; None if it is too large."""
        tokens, sequences = int(counts.sum()), len(counts)
        if sequences > self.max_running:
            return None
        if tokens == sequences:
            size = self._decodes[bisect_left(self._decodes, sequences)]
            return Bucket(size, size)
        if tokens > self._mixed[-1]:
            return None
        size = self._mixed[bisect_left(self._mixed, tokens)]
        # one sequence has two tokens or more, so there is room for a dummy where tokens are missing
        return Bucket(size, min(self.max_running + 1, size - 1))

    def reserve(self, activations: int, max_batch_tokens: int, block: int) -> int:
        """Bytes to set aside for graphs: their common memory, the dummy's block, and allowances.

        Args:
            activations: of a step of `max_batch_tokens`.
            block: bytes of a block of the cache.
        """
        common = -(-activations * min(self.largest.tokens, max_batch_tokens) // max_batch_tokens)
        return common + block + PER_GRAPH * len(self)


def sizes(most: int) -> list[int]:
    """1, 2, 4, 8, 16, 24, ... `most`: each less than 8 or an eighth more than what it is for."""
    found, size = [], 1
    while size < most:
        found.append(size)
        size = 2 * size if size < 8 else size + max(8, 1 << (size.bit_length() - 4))
    return [*found, most]


def pad(numbers: StepArrays, bucket: Bucket, block_size: int, dummy_block: int) -> StepArrays:
    """`numbers` with the shapes of `bucket`; what is real keeps its place.

    Among decodes the dummies are sequences of one token. Elsewhere one dummy sequence has all
    tokens that are missing, and the others that are missing have none. Rows that are missing are
    those of the last token. The dummies' tokens have id 0 and no owner.
    """
    tokens, sequences = len(numbers.tokens), len(numbers.counts)
    extra, missing = bucket.tokens - tokens, bucket.sequences - sequences
    counts = np.zeros(missing, np.int64)
    if bucket.tokens == bucket.sequences:
        counts[:] = 1
    elif extra:
        counts[0] = extra
    last = np.full(bucket.sequences - len(numbers.rows), bucket.tokens - 1)
    blocks = -(-int(counts.max(initial=0)) // block_size)
    width = max(numbers.tables.shape[1], blocks)
    tables = np.full((bucket.sequences, width), dummy_block)
    tables[:sequences, : numbers.tables.shape[1]] = numbers.tables
    nothing = np.zeros(missing, np.int64)
    return replace(
        numbers,
        tokens=np.concatenate((numbers.tokens, np.zeros(extra, np.int64))),
        owners=np.concatenate((numbers.owners, np.full(extra, -1))),
        shifts=np.concatenate((numbers.shifts, nothing)),
        rows=np.concatenate((numbers.rows, last)),
        counts=np.concatenate((numbers.counts, counts)),
        contexts=np.concatenate((numbers.contexts, counts)),
        table_rows=np.concatenate((numbers.table_rows, nothing + IDLE)),
        tables=tables,
    )
