# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""A step's token ids, positions and cells, in one launch. Contract: ops/step_tensors.py."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.ops.step_tensors import FlatStep, PageTables, TokenInputs

_BLOCK = 256  # tokens of a program


@triton.jit
def _kernel(
    tokens,
    owners,
    shifts,
    slots,
    blocks,
    last_tokens,
    ids,
    positions,
    cells,
    count,
    stride,
    idle_block,
    PAGE: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    owner = tl.load(owners + place, mask=inside, other=-1)
    owned = owner >= 0
    position = tl.where(owned, place + tl.load(shifts + owner, mask=owned, other=0), 0)
    block = tl.load(blocks + owner * stride + position // PAGE, mask=owned, other=0)
    block = tl.where(owned, block, idle_block)
    token = tl.load(tokens + place, mask=inside, other=0)
    if LAST:  # some tokens are the last ones of their sequences' slots
        last = token < 0
        slot = tl.load(slots + owner, mask=last, other=0)
        token = tl.where(last, tl.load(last_tokens + slot, mask=last, other=0), token)
    tl.store(ids + place, token, mask=inside)
    tl.store(positions + place, position, mask=inside)
    tl.store(cells + place, block * PAGE + tl.where(owned, position, place) % PAGE, mask=inside)


def make_inputs(
    step: FlatStep,
    tables: PageTables,
    last_tokens: Tensor | None = None,
    out: TokenInputs | None = None,
) -> TokenInputs:
    """As `stoker.ops.step_tensors.MakeInputs` says."""
    made = out or TokenInputs(*(torch.empty_like(step.tokens) for _ in range(3)))
    count = len(step.tokens)
    _kernel[(triton.cdiv(count, _BLOCK),)](
        *(*step, tables.blocks, step.tokens if last_tokens is None else last_tokens, *made),
        *(count, tables.blocks.stride(0), tables.idle_block or 0),
        PAGE=tables.page,
        LAST=last_tokens is not None,
        BLOCK=_BLOCK,
    )
    return made
