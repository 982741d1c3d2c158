"""The sizes of steps that CUDA graphs are captured for, and how a step is padded to one.

A graph has fixed shapes, so a step takes the next larger ones. What is added is a dummy that lies
in a block and a slot of its own: it reads and writes nothing else, and nobody reads it. 3 decodes
in the bucket of 4, and items of 3 + 1 tokens in that of 8 tokens and 5 sequences:

    counts    1 1 1 | 1            3 1 | 4 0 0
    owners    0 1 2 | -1           0 0 0 1 | -1 -1 -1 -1
    rows      0 1 2 | 3            2 3 | 7 7 7
    slots     6 0 2 | dummy        6 0 | dummy dummy dummy
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from stoker.engine.execution.device_slots import DeviceSlots, Ints
from stoker.engine.execution.state_arrays import pad_states
from stoker.engine.execution.step_tensors import StepArrays
from stoker.ops.rounding import ceil_div

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
        common = ceil_div(
            activations * min(self.largest.tokens, max_batch_tokens), max_batch_tokens
        )
        return common + block + PER_GRAPH * len(self)


def sizes(most: int) -> list[int]:
    """1, 2, 4, 8, 16, 24, ... `most`: each less than 8 or an eighth more than what it is for."""
    found, size = [], 1
    while size < most:
        found.append(size)
        size = 2 * size if size < 8 else size + max(8, 1 << (size.bit_length() - 4))
    return [*found, most]


def pad(arrays: StepArrays, bucket: Bucket, slots: DeviceSlots) -> StepArrays:
    """`arrays` with the shapes of `bucket`; what is real keeps its place.

    Among decodes the dummies are sequences of one token. Elsewhere one dummy sequence has all
    tokens that are missing, and the others that are missing have none. Rows that are missing are
    those of the last token. The dummies' tokens have id 0 and no owner.
    """
    tokens, sequences = len(arrays.tokens), len(arrays.counts)
    extra, missing = bucket.tokens - tokens, bucket.sequences - sequences
    counts = np.zeros(missing, np.int64)
    if bucket.tokens == bucket.sequences:
        counts[:] = 1
    elif extra:
        counts[0] = extra
    last = np.full(bucket.sequences - len(arrays.rows), bucket.tokens - 1)
    blocks = ceil_div(int(counts.max(initial=0)), slots.block_size)
    tables = tuple(
        _pad_tables(table, bucket.sequences, blocks, group.idle_block)
        for table, group in zip(arrays.tables, slots.groups, strict=True)
    )
    nothing = np.zeros(missing, np.int64)
    return replace(
        arrays,
        tokens=np.concatenate((arrays.tokens, np.zeros(extra, np.int64))),
        owners=np.concatenate((arrays.owners, np.full(extra, -1))),
        shifts=np.concatenate((arrays.shifts, nothing)),
        rows=np.concatenate((arrays.rows, last)),
        counts=np.concatenate((arrays.counts, counts)),
        contexts=np.concatenate((arrays.contexts, counts)),
        slots=np.concatenate((arrays.slots, nothing + slots.dummy)),
        tables=tables,
        held_from=tuple(
            None if held is None else np.concatenate((held, nothing)) for held in arrays.held_from
        ),
        states=pad_states(arrays.states, counts, bucket.tokens) if arrays.states else None,
    )


def _pad_tables(tables: Ints, sequences: int, width: int, idle_block: int) -> Ints:
    """`tables` (S, W) with idle blocks around them, (sequences, at least `width`)."""
    added = sequences - len(tables), max(0, width - tables.shape[1])
    return np.pad(tables, ((0, added[0]), (0, added[1])), constant_values=idle_block)
