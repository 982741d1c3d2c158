# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""A step's token ids, positions and slots, in one launch. Contract: ops/step_tensors.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.ops.step_tensors import Inputs
from stoker.ops.triton.available import mend_interpreter

_BLOCK = 256  # tokens of a program


@triton.jit
def _kernel(
    tokens,
    owners,
    shifts,
    tables,
    drawn,
    ids,
    positions,
    slots,
    count,
    stride,
    idle_block,
    PAGE: tl.constexpr,
    LATE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    owner = tl.load(owners + at, mask=inside, other=-1)
    owned = owner >= 0
    position = tl.where(owned, at + tl.load(shifts + owner, mask=owned, other=0), 0)
    place = owner * stride + position // PAGE
    block = tl.load(tables + place, mask=owned, other=0)
    block = tl.where(owned, block, idle_block)
    token = tl.load(tokens + at, mask=inside, other=0)
    if LATE:
        late = token < 0
        token = tl.where(late, tl.load(drawn - 1 - token, mask=late, other=0), token)
    tl.store(ids + at, token, mask=inside)
    tl.store(positions + at, position, mask=inside)
    tl.store(slots + at, block * PAGE + tl.where(owned, position, at) % PAGE, mask=inside)


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
    """As `stoker.ops.step_tensors.MakeInputs` says."""
    mend_interpreter()
    made = out or Inputs(*(torch.empty_like(tokens) for _ in range(3)))
    count = len(tokens)
    _kernel[(triton.cdiv(count, _BLOCK),)](
        *(tokens, owners, shifts, tables, tokens if drawn is None else drawn, *made),
        *(count, tables.stride(0), idle_block or 0),
        PAGE=page,
        LATE=drawn is not None,
        BLOCK=_BLOCK,
    )
    return made
