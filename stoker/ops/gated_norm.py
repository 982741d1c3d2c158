"""A gate, with a norm of what it lets through: behind the scan of Mamba 2 (Dao and Gu, 2024).

Reference: plain PyTorch. Fast path on a CPU in float32: native/state_space.c.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.native.build import signature


@dataclass(frozen=True)
class GateNorm:
    """How the norm is computed.

    Attributes:
        groups: parts of a row, each of which is scaled to unit root mean square by itself.
        eps: added to the mean of squares.
        first: the norm comes before the gate.
    """

    groups: int
    eps: float
    first: bool = False


class GatedNorm(Protocol):
    """An implementation of `gated_norm`."""

    def __call__(self, x: Tensor, z: Tensor, weight: Tensor | None, norm: GateNorm) -> Tensor: ...


def gated_norm(x: Tensor, z: Tensor, weight: Tensor | None, norm: GateNorm) -> Tensor:
    """norm(x * silu(z)), or norm(x) * silu(z) if the norm comes first.

    Args:
        x: (T, D), contiguous, any floating dtype.
        z: (T, D); the rows may lie apart.
        weight: (D,) of the norm; without it there is none.

    Returns: (T, D) in the dtype of x.
    """
    gate, y = F.silu(z.float()), x.float()
    if not norm.first:
        y = y * gate
    if weight is not None:
        parts = y.view(len(y), norm.groups, -1)
        scale = torch.rsqrt(parts.square().mean(-1, keepdim=True) + norm.eps)
        y = (parts * scale).view(y.shape) * weight.float()
    return (y * gate if norm.first else y).to(x.dtype)


class NativeGatedNorm:
    """`gated_norm` for float32 on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.gated_norm, "pppp iiiii f")

    def __call__(self, x: Tensor, z: Tensor, weight: Tensor | None, norm: GateNorm) -> Tensor:
        assert x.is_contiguous()
        assert z.stride(1) == 1
        y = torch.empty(x.shape)
        self._call(
            *(x.data_ptr(), z.data_ptr(), None if weight is None else weight.data_ptr()),
            *(y.data_ptr(), x.shape[0], norm.groups, x.shape[1], z.stride(0), norm.first),
            norm.eps,
        )
        return y
