"""Root-mean-square layer normalisation (Zhang and Sennrich, 2019).

Reference: torch's own. Fast path on a CPU in float32: one pass in C (native/elementwise.c).
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.native.build import signature


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x (..., D) scaled to unit root mean square over D, times weight (D,); dtype of x."""
    return F.rms_norm(x, weight.shape, weight, eps)


class NativeRmsNorm:
    """`rms_norm` for float32 on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.rms_norm, "ppp ii f")

    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        size = weight.shape[0]
        self._call(x.data_ptr(), weight.data_ptr(), y.data_ptr(), x.numel() // size, size, eps)
        return y
