"""Chooses the implementation of each operation, once, for a device and dtype.

Model code calls what it is given. Each choice is tested against the plain-PyTorch reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stoker.ops.activation import NativeActivate, NativeSoftCap, activate, soft_cap
from stoker.ops.attention import Attention, ReferenceAttention
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.attention_native import NativeAttention
from stoker.ops.native.build import load
from stoker.ops.norm import NativeLayerNorm, NativeRmsNorm, layer_norm, rms_norm
from stoker.ops.rope import HeadNorms, NativeRotateAndStore, rotate_and_store
from stoker.ops.sampling import Draw, draw


@dataclass(frozen=True)
class Operations:
    """One implementation of each operation; see the module of each for its contract."""

    attention: Attention
    rms_norm: Callable[[Tensor, Tensor, float], Tensor] = rms_norm
    layer_norm: Callable[[Tensor, Tensor, Tensor | None, float], Tensor] = layer_norm
    activate: Callable[[Tensor, str, bool], Tensor] = activate
    soft_cap: Callable[[Tensor, float], Tensor] = soft_cap
    rotate_and_store: Callable[
        [Tensor, HeadNorms | None, Tensor, Tensor, Tensor, Tensor], Tensor
    ] = rotate_and_store
    draw: Draw = draw


def select_operations(device: torch.device, dtype: torch.dtype) -> Operations:
    """The fastest operations for `device` and `dtype`."""
    if device.type != "cpu":
        return Operations(ReferenceAttention())
    attention = load("attention") if dtype == torch.float32 else None
    elementwise = load("elementwise") if attention else None
    if attention is None or elementwise is None:
        return Operations(CpuAttention())
    return Operations(
        NativeAttention(attention),
        NativeRmsNorm(elementwise),
        NativeLayerNorm(elementwise),
        NativeActivate(elementwise),
        NativeSoftCap(elementwise),
        NativeRotateAndStore(elementwise),
    )
