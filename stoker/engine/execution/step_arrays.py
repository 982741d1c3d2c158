"""A step in numbers, on the host: what the tensors of a forward pass are made of.

Sequences are laid end to end. No torch here. Called by the batch builder and the CUDA graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np

from stoker.engine.execution.table_rows import Ints, TableRows
from stoker.engine.scheduling.step import Step


@dataclass(frozen=True)
class StepArrays:
    """T tokens of S sequences, of which R rows go on; all int64.

    Attributes:
        tokens: (T,) ids; ~row for one that draw `row` of the last step gives.
        owners: (T,) the sequence of each token; below 0 for padding.
        shifts: (S,) the position of a sequence's tokens, less their places in `tokens`.
        rows: (R,) places of tokens: one per item that draws, however many samples it draws; after
            these the rows whose states are pooled, or whose logits score prompts.
        counts, contexts: (S,) tokens of each sequence in the step, and with those before it.
        table_rows: (S,) the sequences' rows in the tables that the device keeps.
        changes: (2, C) what these lack (`TableRows.update`).
        tables: (S, most blocks) block tables, unused entries the idle block.
        late: whether a token is still being drawn.
    """

    tokens: Ints
    owners: Ints
    shifts: Ints
    rows: Ints
    counts: Ints
    contexts: Ints
    table_rows: Ints
    changes: Ints
    tables: Ints
    late: bool


def to_arrays(step: Step, block_size: int, known: TableRows) -> StepArrays:
    """The numbers of `step`, of whose block tables `known` takes note."""
    # by column, since going through the items in Python is what takes the time
    serials, first, ids, blocks, draws, states, scored = zip(*step.items, strict=True)
    counts = np.array([*map(len, ids)], np.int64)
    starts = np.array(first, np.int64)
    ends, contexts = np.cumsum(counts), starts + counts
    tokens = np.fromiter(chain.from_iterable(ids), np.int64, int(ends[-1]))
    rows = ends[np.array([*map(bool, draws)])] - 1
    parts = [part for part in (states, scored) if part.count((0, 0)) < len(part)]
    wanted = [
        np.arange(*some) + begin
        for part in parts
        for some, begin in zip(part, (ends - counts).tolist(), strict=True)
    ]
    table_rows, changes = known.update(serials, blocks)
    width = -(-int(contexts.max()) // block_size)
    return StepArrays(
        tokens=tokens,
        owners=np.repeat(np.arange(len(counts)), counts),
        shifts=starts - (ends - counts),
        rows=np.concatenate([rows, *wanted]) if wanted else rows,
        counts=counts,
        contexts=contexts,
        table_rows=table_rows,
        changes=changes,
        tables=known.entries[table_rows, :width],
        late=bool(tokens.min() < 0),
    )
