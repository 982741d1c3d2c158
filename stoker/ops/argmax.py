"""The place of the largest logit of each row: what greedy decoding draws.

Reference: torch.argmax. For float32 on a CPU a pass in C (native/elementwise.c). Called by the
sampler.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from stoker.ops.native.build import load, signature


def argmax(logits: Tensor) -> Tensor:
    """Logits (R, V) without NaN -> (R,) int64; of equal ones the first."""
    kernel = _kernel() if logits.device.type == "cpu" and logits.dtype == torch.float32 else None
    if kernel is None:
        return logits.argmax(-1)
    logits = logits.contiguous()
    best = torch.empty(len(logits), dtype=torch.int64)
    kernel(logits.data_ptr(), best.data_ptr(), *logits.shape)
    return best


@functools.cache
def _kernel() -> Callable[..., None] | None:
    library = load("elementwise")
    return signature(library.argmax, "pp ii") if library else None
