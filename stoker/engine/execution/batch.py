"""Turns a `Step` into the tensors of one forward pass.

What goes to the device is what it does not have: token ids, where sequences stand, and the new
entries of block tables. The rest is made there.

Knows no model and no parameters of sampling.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import accumulate

import torch
from torch import Tensor

from stoker.engine.execution.mirror import Mirror
from stoker.engine.execution.step_arrays import StepArrays, to_arrays
from stoker.engine.execution.table_rows import Ints
from stoker.engine.scheduling.step import Step
from stoker.model.transformer import ForwardInput
from stoker.ops.attention import RaggedLayout
from stoker.ops.select import Operations
from stoker.ops.upload import upload


def build_batch(
    step: Step | StepArrays,
    block_size: int,
    ops: Operations,
    mirror: Mirror,
    device: torch.device,
    drawn: Tensor | Seq[int] = (),
) -> ForwardInput:
    """The forward input of a step, its attention planned by that of `ops`.

    `drawn` are the draws of the last step, which may still be under way on the device.
    """
    numbers = to_arrays(step, block_size, mirror.rows) if isinstance(step, Step) else step
    tokens, owners, shifts, rows, table_rows, changes = upload(news(numbers), device)
    tables = mirror.tables(changes, table_rows, numbers.tables.shape[1])
    late = as_draws(drawn, device) if numbers.late else None
    made = ops.make_inputs(tokens, owners, shifts, tables, block_size, None, late)
    return ForwardInput(
        token_ids=made.tokens,
        positions=made.positions,
        slots=made.slots,
        sample_rows=rows,
        attention=ops.attention.plan(layout_of(numbers, tables, block_size)),
    )


def news(numbers: StepArrays) -> list[Ints]:
    """What the device has to be told of a step, in the order of `build_batch`."""
    parts = [numbers.tokens, numbers.owners, numbers.shifts, numbers.rows, numbers.table_rows]
    return [*parts, numbers.changes]


def layout_of(numbers: StepArrays, tables: Tensor, block_size: int) -> RaggedLayout:
    """The layout of a step, with its block tables on the device."""
    return RaggedLayout(
        query_starts=[0, *accumulate(numbers.counts.tolist())],
        context_lens=numbers.contexts.tolist(),
        block_tables=tables,
        block_size=block_size,
        host_tables=numbers.tables,
    )


def as_draws(drawn: Tensor | Seq[int], device: torch.device) -> Tensor:
    """The draws of the last step, int64 on the device."""
    return torch.as_tensor(drawn, dtype=torch.int64, device=device)
