"""The largest logit of each row and its place, which is what greedy decoding draws.

Reference: torch.max. For float32 on a CPU a pass in C (native/elementwise.c). Called by the
sampler.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from stoker.ops.native.build import load_kernels, signature


def largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Values (R,) and places (R,) int64 in logits (R, V) without NaN; of equal ones the first."""
    kernel = _kernel() if logits.device.type == "cpu" and logits.dtype == torch.float32 else None
    if kernel is None:
        values, places = logits.max(-1)
        return values, places
    logits = logits.contiguous()
    values, places = logits.new_empty(len(logits)), torch.empty(len(logits), dtype=torch.int64)
    kernel(logits.data_ptr(), values.data_ptr(), places.data_ptr(), *logits.shape)
    return values, places


@functools.cache
def _kernel() -> Callable[..., None] | None:
    library = load_kernels("elementwise")
    return signature(library.largest, "ppp ii") if library else None
