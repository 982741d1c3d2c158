"""Turns a `Step` into the tensors of one forward pass: the only place where that happens.

Sequences are laid end to end without padding. Knows no model and no parameters of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.step import Step
from stoker.engine.upload import upload
from stoker.model.transformer import ForwardInput
from stoker.ops.attention import Attention, RaggedLayout

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Numbers:
    """A step in numbers, on the host, int64: T tokens of S sequences, R rows that go on.

    Attributes:
        tokens, positions, slots: (T,), as in `ForwardInput`; where a token is still being drawn,
            `tokens` holds 0.
        rows: (R,), a row per item that draws, however many samples it draws; after these the rows
            whose states are pooled, or whose logits score prompts.
        counts, contexts: (S,) tokens of each sequence in the step, and with those before it.
        tables: (S, most blocks) block tables, unused entries 0.
        late: (2, L), places of the tokens still being drawn, and their draws in the last step.
    """

    tokens: Ints
    positions: Ints
    slots: Ints
    rows: Ints
    counts: Ints
    contexts: Ints
    tables: Ints
    late: Ints

    def layout(self, tables: Tensor, block_size: int) -> RaggedLayout:
        """The layout, with its block tables as a tensor."""
        return RaggedLayout(
            query_starts=[0, *accumulate(self.counts.tolist())],
            context_lens=self.contexts.tolist(),
            block_tables=tables,
            block_size=block_size,
        )


def build_batch(
    step: Step,
    block_size: int,
    attend: Attention,
    device: torch.device,
    drawn: Tensor | Seq[int] = (),
) -> ForwardInput:
    """The forward input of `step`, its attention planned by `attend`.

    `drawn` are the draws of the last step, which may still be under way on the device.
    """
    numbers = describe(step, block_size)
    arrays = [numbers.tokens, numbers.positions, numbers.slots, numbers.rows, numbers.tables]
    tokens, positions, slots, rows, tables, *late = upload(
        [*arrays, numbers.late] if numbers.late.size else arrays, device
    )
    if late:
        fill_late(tokens, late[0], drawn)
    return ForwardInput(
        token_ids=tokens,
        positions=positions,
        slots=slots,
        sample_rows=rows,
        attention=attend.plan(numbers.layout(tables, block_size)),
    )


def fill_late(tokens: Tensor, late: Tensor, drawn: Tensor | Seq[int]) -> None:
    """Put draws of the last step into `tokens` (T,), in place; `late` is (2, L), as above."""
    source = torch.as_tensor(drawn, dtype=torch.int64, device=tokens.device)
    tokens.index_copy_(0, late[0], source.index_select(0, late[1]))


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
