# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""Activations with their gates, and the soft cap, each in one pass.

References and contracts are in ops/activation.py. Arithmetic is float32 and rounded once, where
the reference rounds the activation before it multiplies.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # numbers that a program writes


@triton.jit
def _tanh(x):
    """To within rounding everywhere: 1 - e^-2|x| would lose the digits of a small x."""
    t = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - t) / (1.0 + t)
    s = x * x  # the Taylor series to x^9, whose rest at 0.25 is 1e-8 of the sum
    series = 1.0 + s * (-1 / 3 + s * (2 / 15 + s * (-17 / 315 + s * (62 / 2835))))
    return tl.where(tl.abs(x) < 0.25, x * series, tl.where(x < 0, -far, far))


@triton.jit
def _act(x, KIND: tl.constexpr):
    if KIND == "silu":
        return x / (1.0 + tl.exp(-x))
    elif KIND == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif KIND == "gelu_tanh":
        return 0.5 * x * (1.0 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif KIND == "relu2":
        return tl.where(x < 0, 0.0, x * x)
    elif KIND == "softplus":
        return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(tl.minimum(x, 20.0))))
    elif KIND == "quick_gelu":
        return x / (1.0 + tl.exp(-1.702 * x))
    elif KIND == "sigmoid":
        return 1.0 / (1.0 + tl.exp(-x))
    else:
        tl.static_assert(KIND == "relu")
        return tl.where(x < 0, 0.0, x)  # passes NaN on


@triton.jit
def _activate(
    x, out, SIZE: tl.constexpr, KIND: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < SIZE
    row_of_x = x + row * (2 * SIZE if GATED else SIZE)
    raw = tl.load(row_of_x + d, mask=inside)
    y = _act(raw.to(tl.float32), KIND)
    if GATED:
        y *= tl.load(row_of_x + SIZE + d, mask=inside).to(tl.float32)
    tl.store(out + row * SIZE + d, y.to(raw.dtype), mask=inside)


@triton.jit
def _soft_cap(x, out, cap, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    raw = tl.load(x + at, mask=at < size)
    tl.store(out + at, (cap * _tanh(raw.to(tl.float32) / cap)).to(raw.dtype), mask=at < size)


def activate(x: Tensor, kind: str, gated: bool) -> Tensor:
    """As `stoker.ops.activation.activate`."""
    x = x.contiguous()
    rows, size = x.shape[0], x.shape[1] // (2 if gated else 1)
    out = torch.empty(rows, size, dtype=x.dtype, device=x.device)
    if rows:
        grid = (rows, triton.cdiv(size, _BLOCK))
        _activate[grid](x, out, SIZE=size, KIND=kind, GATED=gated, BLOCK=_BLOCK)
    return out


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """As `stoker.ops.activation.soft_cap`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    if x.numel():
        _soft_cap[(triton.cdiv(x.numel(), _BLOCK),)](x, out, cap, x.numel(), BLOCK=_BLOCK)
    return out
