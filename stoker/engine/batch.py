"""Turns a `Step` into the tensors of one forward pass: the only place where that happens.

Sequences are laid end to end without padding. Knows no model and no parameters of sampling.
"""

from __future__ import annotations

from itertools import accumulate, chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.step import Step
from stoker.model.transformer import ForwardInput
from stoker.ops.attention import Attention, RaggedLayout


def build_batch(
    step: Step, block_size: int, attend: Attention, device: torch.device
) -> ForwardInput:
    """The forward input of `step`, its attention planned by `attend`.

    `sample_rows` holds one row per item that draws, however many samples it draws, and after
    these the rows whose states are pooled, or whose logits score prompts.
    """
    items = step.items
    counts = np.fromiter((len(item.tokens) for item in items), np.int64, len(items))
    starts = np.fromiter((item.start for item in items), np.int64, len(items))
    ends = np.cumsum(counts)
    tables = _block_tables([item.blocks for item in items])
    sequence = np.repeat(np.arange(len(items)), counts)
    positions = np.arange(ends[-1]) - (ends - counts - starts)[sequence]
    slots = tables[sequence, positions // block_size] * block_size + positions % block_size
    tokens = np.fromiter(chain.from_iterable(i.tokens for i in items), np.int64, int(ends[-1]))
    draws = np.fromiter((bool(item.draws) for item in items), np.bool_, len(items))
    rows = ends[draws] - 1
    if any(item.states[1] or item.scored[1] for item in items):
        wanted = [
            np.arange(*part) + first
            for parts in ([item.states for item in items], [item.scored for item in items])
            for part, first in zip(parts, (ends - counts).tolist(), strict=True)
        ]
        rows = np.concatenate([rows, *wanted])
    layout = RaggedLayout(
        query_starts=[0, *accumulate(counts.tolist())],
        context_lens=(starts + counts).tolist(),
        block_tables=_tensor(tables, device),
        block_size=block_size,
        host_tables=tables,
    )
    return ForwardInput(
        token_ids=_tensor(tokens, device),
        positions=_tensor(positions, device),
        slots=_tensor(slots, device),
        sample_rows=_tensor(rows, device),
        attention=attend.plan(layout),
    )


def _block_tables(tables: list[tuple[int, ...]]) -> NDArray[np.int64]:
    """(S, most blocks) int64, unused entries 0."""
    lens = np.fromiter(map(len, tables), np.int64, len(tables))
    out = np.zeros((len(tables), int(lens.max())), np.int64)
    flat = np.fromiter(chain.from_iterable(tables), np.int64, int(lens.sum()))
    out[np.arange(out.shape[1]) < lens[:, None]] = flat
    return out


def _tensor(array: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)
