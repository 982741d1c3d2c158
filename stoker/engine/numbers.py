"""A step in numbers, on the host: what the tensors of a forward pass are made of.

Sequences are laid end to end. No torch here. Called by the batch builder and the CUDA graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from stoker.engine.step import Step

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Numbers:
    """T tokens of S sequences, of which R rows go on; all int64.

    Attributes:
        tokens: (T,) ids; 0 where one is still being drawn.
        positions: (T,) absolute.
        slots: (T,) where each token's keys and values go.
        rows: (R,) places of tokens: one per item that draws, however many samples it draws; after
            these the rows whose states are pooled, or whose logits score prompts.
        counts, contexts: (S,) tokens of each sequence in the step, and with those before it.
        tables: (S, most blocks) block tables, unused entries 0.
        late: (2, L) places of the tokens still being drawn, and their draws in the last step.
    """

    tokens: Ints
    positions: Ints
    slots: Ints
    rows: Ints
    counts: Ints
    contexts: Ints
    tables: Ints
    late: Ints


def describe(step: Step, block_size: int) -> Numbers:
    """The numbers of `step`."""
    items = step.items
    counts = np.fromiter((len(item.tokens) for item in items), np.int64, len(items))
    starts = np.fromiter((item.start for item in items), np.int64, len(items))
    ends = np.cumsum(counts)
    tables = _block_tables([item.blocks for item in items])
    sequence = np.repeat(np.arange(len(items)), counts)
    positions = np.arange(ends[-1]) - (ends - counts - starts)[sequence]
    slots = tables[sequence, positions // block_size] * block_size + positions % block_size
    tokens = np.fromiter(chain.from_iterable(i.tokens for i in items), np.int64, int(ends[-1]))
    places = np.flatnonzero(tokens < 0)
    late = np.stack((places, ~tokens[places]))
    tokens[places] = 0
    draws = np.fromiter((bool(item.draws) for item in items), np.bool_, len(items))
    rows = ends[draws] - 1
    if any(item.states[1] or item.scored[1] for item in items):
        wanted = [
            np.arange(*part) + first
            for parts in ([item.states for item in items], [item.scored for item in items])
            for part, first in zip(parts, (ends - counts).tolist(), strict=True)
        ]
        rows = np.concatenate([rows, *wanted])
    return Numbers(tokens, positions, slots, rows, counts, starts + counts, tables, late)


def _block_tables(tables: list[tuple[int, ...]]) -> Ints:
    """(S, most blocks) int64, unused entries 0."""
    lens = np.fromiter(map(len, tables), np.int64, len(tables))
    out = np.zeros((len(tables), int(lens.max())), np.int64)
    flat = np.fromiter(chain.from_iterable(tables), np.int64, int(lens.sum()))
    out[np.arange(out.shape[1]) < lens[:, None]] = flat
    return out
