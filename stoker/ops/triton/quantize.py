# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""Rows to 8-bit floating-point numbers: largest, scale and division, a program for each row.

The definition is `quantize_rows` of ops/fp8.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.ops.kv_pages import FP8, FP8_MOST


@triton.jit
def _kernel(x, numbers, scales, stride, SIZE: tl.constexpr, TOP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    values = tl.load(x + row * stride + d, mask=d < SIZE, other=0.0).to(tl.float32)
    # the maximum forgets NaN; the sum of x - x is NaN where one is not finite
    spoiled = tl.sum(values - values, 0)
    scale = tl.div_rn(tl.max(tl.abs(values), 0) + spoiled, TOP)
    values = tl.div_rn(values, tl.where(scale > 0, scale, 1.0))
    values = tl.minimum(tl.maximum(values, -TOP), TOP)
    tl.store(numbers + row * SIZE + d, values.to(numbers.dtype.element_ty), mask=d < SIZE)
    tl.store(scales + row, scale)


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """As `stoker.ops.fp8.quantize_rows`."""
    assert x.stride(1) == 1
    rows, size = x.shape
    numbers = torch.empty(rows, size, dtype=FP8, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    if rows:
        block = triton.next_power_of_2(size)
        _kernel[(rows,)](
            *(x, numbers, scales, x.stride(0)),
            SIZE=size,
            TOP=FP8_MOST,
            BLOCK=block,
            num_warps=4 if block <= 4096 else 8,
        )
    return numbers, scales
