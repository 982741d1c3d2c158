"""Activations of feed-forward networks, alone or as the gate of a fused gate-up projection.

Reference: plain PyTorch. Fast path on a CPU in float32: one pass in C (native/elementwise.c).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.native.build import signature

# gelu_tanh and quick_gelu are the approximations of Hendrycks and Gimpel (2016), gelu the exact
# function; relu2 is that of So et al. (Primer, 2021)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "sigmoid": torch.sigmoid,  # these two of gates alone, such as a shared expert's
    "softplus": F.softplus,
    "relu2": lambda x: F.relu(x).square(),
}


def activate(x: Tensor, kind: str, gated: bool) -> Tensor:
    """An activation of `ACTIVATIONS`, by name; any floating dtype.

    Args:
        x: (T, F), or if gated (T, 2F) holding gate and up.
        kind: a key of `ACTIVATIONS`.
        gated: give act(gate) * up.

    Returns: (T, F).
    """
    if not gated:
        return ACTIVATIONS[kind](x)
    gate, up = x.chunk(2, dim=-1)
    return ACTIVATIONS[kind](gate) * up


class NativeActivate:
    """`activate` for float32 on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._calls = {
            kind: signature(getattr(library, f"activate_{kind}"), "pp iii") for kind in ACTIVATIONS
        }

    def __call__(self, x: Tensor, kind: str, gated: bool) -> Tensor:
        rows, size = x.shape[0], x.shape[1] // (2 if gated else 1)
        y = torch.empty(rows, size)
        self._calls[kind](x.contiguous().data_ptr(), y.data_ptr(), rows, size, gated)
        return y


def sigmoid_gate(x: Tensor, gates: Tensor) -> Tensor:
    """x times the sigmoid of its gates; any floating dtype.

    Args:
        x: (T, N), contiguous.
        gates: (T, N), or (T, H) each for N / H neighbours; the rows may lie apart.

    Returns: (T, N).
    """
    count = gates.shape[1]
    return (x.view(len(x), count, -1) * torch.sigmoid(gates).unsqueeze(-1)).view(x.shape)


class NativeSigmoidGate:
    """`sigmoid_gate` for float32 on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.sigmoid_gate, "ppp iiii")

    def __call__(self, x: Tensor, gates: Tensor) -> Tensor:
        assert x.is_contiguous()
        assert gates.stride(1) == 1
        y = torch.empty_like(x)
        rows, size = x.shape
        self._call(
            *(x.data_ptr(), gates.data_ptr(), y.data_ptr()),
            *(rows, size, gates.shape[1], gates.stride(0)),
        )
        return y


BEND = 0.5  # slope of xIELU at 0
_NEAR = -1e-6


def xielu(x: Tensor, above: float, below: float) -> Tensor:
    """above * x^2 + x/2 above 0, below * (e^x - 1 - x) + x/2 below (xIELU, Huang and Schlag, 2024).

    x (rows, size), any floating dtype.
    """
    low = (torch.expm1(x.clamp(max=_NEAR)) - x) * below
    return torch.where(x > 0, above * x * x, low) + BEND * x


class NativeXielu:
    """`xielu` for float32 on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.xielu, "pp ii ff")

    def __call__(self, x: Tensor, above: float, below: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        self._call(x.data_ptr(), y.data_ptr(), x.shape[0], x.shape[1], above, below)
        return y


def soft_cap(x: Tensor, cap: float) -> Tensor:
    """cap * tanh(x / cap), smoothly bounded by the cap; x (rows, size), any floating dtype."""
    return cap * torch.tanh(x / cap)


class NativeSoftCap:
    """`soft_cap` for float32 on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.soft_cap, "pp ii f")

    def __call__(self, x: Tensor, cap: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        self._call(x.data_ptr(), y.data_ptr(), x.shape[0], x.shape[1], cap)
        return y
