"""Gated activations: act(gate) * up on a fused gate-up projection.

Reference: plain PyTorch. Fast path on a CPU in float32: one pass in C (native/elementwise.c).
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.native.build import signature

GATED = ("silu",)


def silu_mul(gate_up: Tensor) -> Tensor:
    """gate_up (T, 2F) -> silu(gate) * up, (T, F)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class NativeSiluMul:
    """`silu_mul` for float32 on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.silu_mul, "pp ii")

    def __call__(self, gate_up: Tensor) -> Tensor:
        rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        y = torch.empty(rows, size)
        self._call(gate_up.contiguous().data_ptr(), y.data_ptr(), rows, size)
        return y
