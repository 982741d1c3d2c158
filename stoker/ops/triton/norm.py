# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""RMS norm and layer norm, each in one pass: a program takes some whole rows.

References and contracts are in ops/norm.py. The residual is not added here: a matrix product adds
it to what it writes anyhow, and so one trip through memory is spared.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048  # numbers that a program works on, unless a row is wider


@triton.jit
def _kernel(
    x,
    weight,
    bias,
    out,
    rows,
    kinds,
    eps,
    SIZE: tl.constexpr,
    CENTRED: tl.constexpr,
    BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Row r has the weight r % kinds. CENTRED takes the mean away, as layer norm does."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    d = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (d < SIZE)
    raw = tl.load(x + row * SIZE + d, mask=inside, other=0.0)
    y = raw.to(tl.float32)
    if CENTRED:
        y = tl.where(inside, y - tl.sum(y, 1, keep_dims=True) / SIZE, 0.0)
    y *= tl.rsqrt(tl.sum(y * y, 1, keep_dims=True) / SIZE + eps)
    own = (row % kinds) * SIZE + d
    y *= tl.load(weight + own, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        y += tl.load(bias + own, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * SIZE + d, y.to(raw.dtype), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `stoker.ops.norm.rms_norm`."""
    return _norm(x, weight, None, eps, centred=False)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """As `stoker.ops.norm.layer_norm`."""
    return _norm(x, weight, bias, eps, centred=True)


def _norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, centred: bool) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    size = x.shape[-1]
    rows, block = x.numel() // size, triton.next_power_of_2(size)
    if not rows:
        return out
    tile = max(1, _TILE // block)
    _kernel[(triton.cdiv(rows, tile),)](
        *(x, weight, weight if bias is None else bias, out, rows, weight.numel() // size, eps),
        SIZE=size,
        CENTRED=centred,
        BIAS=bias is not None,
        ROWS=tile,
        BLOCK=block,
        num_warps=4 if block <= _TILE else 8,
    )
    return out
