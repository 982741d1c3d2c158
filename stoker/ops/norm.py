"""Root-mean-square norm (Zhang and Sennrich, 2019) and layer norm (Ba et al., 2016).

References: torch's own. Fast paths on a CPU in float32: one pass in C (native/elementwise.c).
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


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """x (..., D) with mean 0 and variance 1 over D, times weight, plus bias; dtype of x.

    Args:
        x: (..., D), or (..., H, D) if the weight has a row for each head.
        weight: (D,) or (H, D).
        bias: as the weight, or none.
    """
    y = F.layer_norm(x.float(), x.shape[-1:], eps=eps) * weight
    return (y if bias is None else y + bias).to(x.dtype)


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


class NativeLayerNorm:
    """`layer_norm` for float32 on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.layer_norm, "pppp iii f")

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        size = weight.shape[-1]
        self._call(
            *(x.data_ptr(), weight.data_ptr()),
            bias.data_ptr() if bias is not None else None,
            *(y.data_ptr(), x.numel() // size, weight.numel() // size, size, eps),
        )
        return y
