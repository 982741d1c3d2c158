"""What the tokens of a step need, made where the model runs: ids, positions, slots.

Reference; on a GPU one kernel does it (triton/inputs.py). Called by the batch builder.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """T tokens, each (T,) int64."""

    tokens: Tensor  # ids
    positions: Tensor  # absolute
    slots: Tensor  # where keys and values go


class MakeInputs(Protocol):
    """Makes `Inputs`."""

    def __call__(
        self,
        tokens: Tensor,
        owners: Tensor,
        shifts: Tensor,
        tables: Tensor,
        page: int,
        idle_block: int | None,
        drawn: Tensor | None,
        out: Inputs | None = None,
    ) -> Inputs:
        """The inputs of a step of T tokens and S sequences.

        Args:
            tokens: (T,) int64 ids, or ~row for draw `row` of the step before.
            owners: (T,) int64, each token's sequence; below 0 for padding.
            shifts: (S,) int64, the position of a token less its place in `tokens`.
            tables: (S, width) int64 block tables.
            page: tokens of a block.
            idle_block: where padding has its slots, at position 0; None: there is none.
            drawn: the draws of the step before, int64, if any token asks for one.
            out: where to write them; None: new tensors.
        """


def make_inputs(
    tokens: Tensor,
    owners: Tensor,
    shifts: Tensor,
    tables: Tensor,
    page: int,
    idle_block: int | None,
    drawn: Tensor | None,
    out: Inputs | None = None,
) -> Inputs:
    """As `MakeInputs` says."""
    positions = torch.arange(len(tokens), device=tokens.device)
    if idle_block is None:
        positions = positions + shifts[owners]
        slots = tables[owners, positions // page] * page + positions % page
    else:
        padding, own = owners < 0, owners.clamp(min=0)
        idle = idle_block * page + positions % page
        positions = (positions + shifts[own]).masked_fill_(padding, 0)
        slots = tables[own, positions // page] * page + positions % page
        slots = torch.where(padding, idle, slots)
    if drawn is not None:
        tokens = torch.where(tokens < 0, drawn[(~tokens).clamp(min=0)], tokens)
    made = Inputs(tokens, positions, slots)
    if out is None:
        return made
    for there, here in zip(out, made, strict=True):
        there.copy_(here)
    return out
