"""Turns a `Step` into the tensors of one forward pass: the only place where that happens.

Knows no model and no parameters of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import accumulate

import torch
from torch import Tensor

from stoker.engine.numbers import Numbers, describe
from stoker.engine.step import Step
from stoker.engine.upload import upload
from stoker.model.transformer import ForwardInput
from stoker.ops.attention import Attention, RaggedLayout


def build_batch(
    step: Step | Numbers,
    block_size: int,
    attend: Attention,
    device: torch.device,
    drawn: Tensor | Seq[int] = (),
) -> ForwardInput:
    """The forward input of a step, its attention planned by `attend`.

    `drawn` are the draws of the last step, which may still be under way on the device.
    """
    numbers = describe(step, block_size) if isinstance(step, Step) else step
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
        attention=attend.plan(layout_of(numbers, tables, block_size)),
    )


def layout_of(numbers: Numbers, tables: Tensor, block_size: int) -> RaggedLayout:
    """The layout of a step, with its block tables on the device."""
    return RaggedLayout(
        query_starts=[0, *accumulate(numbers.counts.tolist())],
        context_lens=numbers.contexts.tolist(),
        block_tables=tables,
        block_size=block_size,
        host_tables=numbers.tables,
    )


def fill_late(tokens: Tensor, late: Tensor, drawn: Tensor | Seq[int]) -> None:
    """Put draws of the last step into `tokens` (T,), in place; for `late` see `Numbers`."""
    source = torch.as_tensor(drawn, dtype=torch.int64, device=tokens.device)
    tokens.index_copy_(0, late[0], source.index_select(0, late[1]))
