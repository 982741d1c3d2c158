"""Short causal convolutions of each channel, continued from step to step.

T tokens of S sequences, C channels, K taps. Reference: plain PyTorch. Fast path on a CPU in
float32: native/state_space.c.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.native.build import signature
from stoker.ops.state_plan import StatePlan

MOST_TAPS = 16  # that every implementation takes


class CausalConv(Protocol):
    """An implementation of `causal_conv`."""

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        states: Tensor,
        plan: StatePlan,
        *,
        before: Tensor | None = None,
        after: Tensor | None = None,
        silu: bool = False,
    ) -> Tensor: ...


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    states: Tensor,
    plan: StatePlan,
    *,
    before: Tensor | None = None,
    after: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """y[t] = after[t] * act(bias + sum over k of weight[k] * u[t - K + 1 + k]), u = before * x.

    K = 3; a sequence of 2 tokens in this step, after whose earlier inputs u -2 and u -1 are kept:

        u     -2 -1 | 0 1         y[0] from -2 -1 0,  y[1] from -1 0 1
        kept afterwards  0 1

    Args:
        x: (T, C), any floating dtype; the rows may lie apart, alike in `before` and `after`.
        weight: (K, C), the last row for the token itself.
        bias: (C,).
        states: (places, K - 1, C), the last inputs u; those of the plan are replaced.
        before, after: (T, C), factors of what goes in and comes out.
        silu: the activation; none if not.

    Returns: (T, C) in the dtype of x.
    """
    slots, starts, fresh, _ = plan
    kept, taps = len(weight) - 1, len(weight)
    u = x if before is None else before * x
    sequences = torch.arange(len(slots), device=x.device)
    owner = torch.repeat_interleave(sequences, starts[1:] - starts[:-1])
    # each sequence's kept inputs and its tokens, one sequence after another
    place = torch.arange(len(x), device=x.device) + (owner + 1) * kept
    back = torch.arange(kept, device=x.device)
    joined = u.new_empty(len(u) + len(slots) * kept, u.shape[1])
    joined[place] = u
    old = states[slots].to(u.dtype).masked_fill(fresh[:, None, None], 0)
    joined[(starts[:-1] + sequences * kept)[:, None] + back] = old
    y = torch.zeros(u.shape, device=x.device) if bias is None else bias.float().expand(u.shape)
    for k in range(taps):
        y = y + weight[k].float() * joined[place - kept + k].float()
    if silu:
        y = F.silu(y)
    some = (starts[1:] > starts[:-1]).nonzero().squeeze(1)
    ends = (starts[1:] + sequences * kept)[some]
    states[slots[some]] = joined[ends[:, None] + back].to(states.dtype)
    y = y.to(x.dtype)
    return y if after is None else after * y


class NativeCausalConv:
    """`causal_conv` for float32 on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.causal_conv, "pppppp ppp p iiiii")

    def __call__(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        states: Tensor,
        plan: StatePlan,
        *,
        before: Tensor | None = None,
        after: Tensor | None = None,
        silu: bool = False,
    ) -> Tensor:
        tokens, channels = x.shape
        assert all(one is None or one.stride() == x.stride() for one in (before, after))
        assert x.stride(1) == 1
        y = torch.empty(tokens, channels)
        self._call(
            *(x.data_ptr(), _pointer(before), _pointer(after), weight.data_ptr(), _pointer(bias)),
            *(states.data_ptr(), plan.slots.data_ptr(), plan.starts.data_ptr()),
            *(plan.fresh.data_ptr(), y.data_ptr()),
            *(len(plan.slots), channels, len(weight), x.stride(0), silu),
        )
        return y


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
