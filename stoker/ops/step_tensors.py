"""The tokens of a step, made where the model runs: ids, positions, and cells of the cache.

A cell is the place of one token's keys and values: block * page + offset. Two sequences, pages of
4 tokens, the second sequence's only token being the one that its slot drew last (70):

    tokens     11 12 13 | -1        sequence 0: slot 2, positions 3, 4, 5, blocks 8 3
    owners      0  0  0 |  1        sequence 1: slot 0, position 9, blocks 6 1 5
    shifts      3       |  6        the position less the place in `tokens`: 3 - 0, 9 - 3

    ids        11 12 13 | 70        last_tokens[slots[1]] == last_tokens[0] == 70
    positions   3  4  5 |  9        place + shift
    cells      35 12 13 | 21        8*4+3, 3*4+0, 3*4+1, 5*4+1

Reference; on a GPU one kernel does it (triton/step_tensors.py).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

NO_PAGES = 1 << 30  # where nothing is stored by token: a block that no position is beyond


class FlatStep(NamedTuple):
    """T tokens of S sequences laid end to end, as the host sends them; all int64."""

    tokens: Tensor  # (T,) ids; below 0: the last token of the sequence's slot
    owners: Tensor  # (T,) each token's sequence; below 0 for padding
    shifts: Tensor  # (S,) the position of a token less its place in `tokens`
    slots: Tensor  # (S,) each sequence's place in `last_tokens`


class PageTables(NamedTuple):
    """Where the sequences of a step have their keys and values, in one cache group."""

    blocks: Tensor  # (S, width) int64
    page: int  # tokens of a block, or `NO_PAGES`
    idle_block: int | None = None  # where padding has its cells; None if there is no padding


class TokenInputs(NamedTuple):
    """T tokens as the model takes them, each (T,) int64."""

    tokens: Tensor  # ids
    positions: Tensor  # absolute; 0 for padding
    cells: Tensor  # where keys and values go


class MakeInputs(Protocol):
    """Makes `TokenInputs`."""

    def __call__(
        self,
        step: FlatStep,
        tables: PageTables,
        last_tokens: Tensor | None = None,
        out: TokenInputs | None = None,
    ) -> TokenInputs:
        """The inputs of a step.

        Args:
            last_tokens: by slot, int64; may be None if no token is below 0.
            out: where to write them; None: new tensors.
        """


def make_inputs(
    step: FlatStep,
    tables: PageTables,
    last_tokens: Tensor | None = None,
    out: TokenInputs | None = None,
) -> TokenInputs:
    """As `MakeInputs` says."""
    tokens, owners, shifts, slots = step
    blocks, page, idle_block = tables
    positions = torch.arange(len(tokens), device=tokens.device)
    if idle_block is None:
        positions = positions + shifts[owners]
        cells = blocks[owners, positions // page] * page + positions % page
    else:
        padding, owners = owners < 0, owners.clamp(min=0)
        idle = idle_block * page + positions % page
        positions = (positions + shifts[owners]).masked_fill_(padding, 0)
        cells = blocks[owners, positions // page] * page + positions % page
        cells = torch.where(padding, idle, cells)
    if last_tokens is not None:
        tokens = torch.where(tokens < 0, last_tokens[slots[owners]], tokens)
    made = TokenInputs(tokens, positions, cells)
    if out is None:
        return made
    for there, here in zip(out, made, strict=True):
        there.copy_(here)
    return out
