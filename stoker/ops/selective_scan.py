"""The recurrences of Mamba 1 (Gu and Dao, 2023) and Mamba 2 (Dao and Gu, 2024), over packed tokens.

T tokens of S sequences. Each is computed as written, a token after the other, so a token's result
does not depend on how its sequence was cut into steps. References: plain PyTorch. Fast paths on a
CPU in float32: native/state_space.c. States are float32 whatever the dtype of the tokens.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.native.build import signature
from stoker.ops.state_plan import StatePlan, begin, finish, in_turn


class ScanWeights(NamedTuple):
    """What a scan does not take from its tokens, float32; for H heads, or channels of Mamba 1.

    Attributes:
        dt_bias: (H,), added to the steps before softplus.
        a: (H,), negative; (N, C) for Mamba 1.
        d: (H,), how much of x goes past the state.
    """

    dt_bias: Tensor
    a: Tensor
    d: Tensor


class SelectiveInputs(NamedTuple):
    """What a step's tokens bring to the scan of Mamba 1; C channels in G groups.

    Attributes:
        x, steps: (T, C), contiguous.
        b, c: (T, G, N), of the channels of each group; tokens may lie apart, alike in both.
        z: (T, C), the gate, before its activation; the rows may lie apart.
    """

    x: Tensor
    steps: Tensor
    b: Tensor
    c: Tensor
    z: Tensor


class SsdScan(Protocol):
    """An implementation of `ssd_scan`."""

    def __call__(
        self,
        xbc: Tensor,
        steps: Tensor,
        weights: ScanWeights,
        groups: int,
        limit: tuple[float, float],
        states: Tensor,
        plan: StatePlan,
    ) -> Tensor: ...


class SelectiveScan(Protocol):
    """An implementation of `selective_scan`."""

    def __call__(
        self, inputs: SelectiveInputs, weights: ScanWeights, states: Tensor, plan: StatePlan
    ) -> Tensor: ...


def ssd_scan(
    xbc: Tensor,
    steps: Tensor,
    weights: ScanWeights,
    groups: int,
    limit: tuple[float, float],
    states: Tensor,
    plan: StatePlan,
) -> Tensor:
    """The recurrence of Mamba 2, with H heads of P numbers in G groups, and N rows of a state.

    For each head, with dt = softplus(step + dt_bias) kept within `limit`:

        state = exp(dt a) state + dt b x^T,  y = c^T state + d x

    Args:
        xbc: (T, H * P + 2 * G * N): x of each head, b and c of each group; contiguous.
        steps: (T, H); the rows may lie apart.
        limit: the least and the largest dt.
        states: (places, H, N, P) float32; those of the plan are replaced.

    Returns: (T, H * P) in the dtype of xbc.
    """
    heads, size, dim = states.shape[1:]
    x, b, c = torch.split(xbc.float(), [heads * dim, groups * size, groups * size], dim=-1)
    x = x.view(-1, heads, dim)
    b, c = (one.reshape(-1, groups, size).repeat_interleave(heads // groups, 1) for one in (b, c))
    dt = F.softplus(steps.float() + weights.dt_bias).clamp(*limit)
    decay = torch.exp(dt * weights.a)
    y = torch.empty_like(x)
    state = begin(states, plan)
    for who, rows in in_turn(plan):
        more = b[rows, :, :, None] * (dt[rows, :, None] * x[rows])[:, :, None]
        state[who] = state[who] * decay[rows, :, None, None] + more
        y[rows] = (c[rows, :, :, None] * state[who]).sum(2)
    finish(states, state, plan)
    return (y + weights.d[:, None] * x).flatten(1).to(xbc.dtype)


def selective_scan(
    inputs: SelectiveInputs, weights: ScanWeights, states: Tensor, plan: StatePlan
) -> Tensor:
    """The recurrence of Mamba 1, with C channels in G groups, and N rows of a state; gated by z.

    For each channel, with dt = softplus(step + dt_bias):

        state = exp(dt a) state + dt b x,  y = (c state + d x) silu(z)

    Args:
        states: (places, N, C) float32; those of the plan are replaced.

    Returns: (T, C) in the dtype of x.
    """
    x, steps, b, c, z = inputs
    groups, channels = b.shape[1], x.shape[1]
    wide_b, wide_c = (
        one.float().repeat_interleave(channels // groups, 1).transpose(1, 2) for one in (b, c)
    )
    dt = F.softplus(steps.float() + weights.dt_bias)
    y = torch.empty(x.shape, device=x.device)
    state = begin(states, plan)
    for who, rows in in_turn(plan):
        more = wide_b[rows] * (dt[rows] * x[rows].float())[:, None]
        state[who] = state[who] * torch.exp(dt[rows, None] * weights.a) + more
        y[rows] = (wide_c[rows] * state[who]).sum(1)
    finish(states, state, plan)
    return ((y + weights.d * x.float()) * F.silu(z.float())).to(x.dtype)


class NativeSsdScan:
    """`ssd_scan` on a CPU, in float32 whatever the dtype of the tokens."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.ssd_scan, "ppppp p ppp p iiiiii ff")

    def __call__(
        self,
        xbc: Tensor,
        steps: Tensor,
        weights: ScanWeights,
        groups: int,
        limit: tuple[float, float],
        states: Tensor,
        plan: StatePlan,
    ) -> Tensor:
        heads, size, dim = states.shape[1:]
        tokens, steps = xbc.float(), steps.float()
        assert tokens.is_contiguous()
        assert steps.stride(1) == 1
        y = torch.empty(len(tokens), heads * dim)
        self._call(
            *(tokens.data_ptr(), steps.data_ptr(), *(one.data_ptr() for one in weights)),
            *(states.data_ptr(), plan.slots.data_ptr(), plan.starts.data_ptr()),
            *(plan.fresh.data_ptr(), y.data_ptr()),
            *(len(plan.slots), heads, dim, groups, size, steps.stride(0), *limit),
        )
        return y.to(xbc.dtype)


class NativeSelectiveScan:
    """`selective_scan` on a CPU, in float32 whatever the dtype of the tokens."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.selective_scan, "ppppp ppp p ppp p iiiiii")

    def __call__(
        self, inputs: SelectiveInputs, weights: ScanWeights, states: Tensor, plan: StatePlan
    ) -> Tensor:
        tokens, steps, b, c, z = (one.float() for one in inputs)
        assert tokens.is_contiguous()
        assert steps.is_contiguous()
        assert b.stride() == c.stride()
        groups, size = b.shape[1:]
        assert b.stride()[1:] == (size, 1) or groups == b.stride(2) == 1
        assert z.stride(1) == 1
        y = torch.empty(tokens.shape)
        self._call(
            *(one.data_ptr() for one in (tokens, steps, b, c, z, *weights, states)),
            *(plan.slots.data_ptr(), plan.starts.data_ptr(), plan.fresh.data_ptr()),
            *(y.data_ptr(), len(plan.slots), tokens.shape[1], groups, size),
            *(b.stride(0), z.stride(0)),
        )
        return y.to(inputs.x.dtype)
