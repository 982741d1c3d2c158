"""The gated linear recurrence of Griffin, RG-LRU (De et al., 2024), over packed tokens.

T tokens of S sequences, W channels, each with a state of one number. It is computed as written, a
token after the other, so a token's result does not depend on how its sequence was cut into steps.
Reference: plain PyTorch. Fast path on a CPU: native/state_space.c. States are float32 whatever the
dtype of the tokens.
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch
from torch import Tensor

from stoker.ops.native.build import signature
from stoker.ops.state_plan import StatePlan, begin, finish, in_turn


class RgLru(Protocol):
    """An implementation of `rg_lru`."""

    def __call__(
        self, x: Tensor, gates: Tensor, rate: Tensor, states: Tensor, plan: StatePlan
    ) -> Tensor: ...


def rg_lru(x: Tensor, gates: Tensor, rate: Tensor, states: Tensor, plan: StatePlan) -> Tensor:
    """Let a share of each channel's state go, and put in what makes up for it.

    For each channel, with the input gate i, the recurrence gate r, and a = exp(rate sigmoid(r)):

        state = a state + sqrt(1 - a^2) sigmoid(i) x,  y = state

    A sequence's first token goes in as sigmoid(i) x.

    Args:
        x: (T, W), contiguous, any floating dtype.
        gates: (T, 2 * W): i, then r, before their activation; contiguous.
        rate: (W,) float32, negative.
        states: (places, W) float32; those of the plan are replaced.

    Returns: (T, W) in the dtype of x.
    """
    into, keep = gates.float().chunk(2, dim=1)
    log_a = rate * keep.sigmoid()
    x_in = x.float() * into.sigmoid()
    a, room = torch.exp(log_a), torch.sqrt(1 - torch.exp(2 * log_a))
    first = plan.starts[:-1][plan.fresh & (plan.starts[1:] > plan.starts[:-1])]
    room[first] = 1.0
    y = torch.empty_like(x_in)
    state = begin(states, plan)
    for who, rows in in_turn(plan):
        state[who] = a[rows] * state[who] + room[rows] * x_in[rows]
        y[rows] = state[who]
    finish(states, state, plan)
    return y.to(x.dtype)


class NativeRgLru:
    """`rg_lru` on a CPU, in float32 whatever the dtype of the tokens."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.rg_lru, "ppp p ppp p ii")

    def __call__(
        self, x: Tensor, gates: Tensor, rate: Tensor, states: Tensor, plan: StatePlan
    ) -> Tensor:
        tokens, gates = x.float(), gates.float()
        assert tokens.is_contiguous()
        assert gates.is_contiguous()
        y = torch.empty(tokens.shape)
        self._call(
            *(one.data_ptr() for one in (tokens, gates, rate, states)),
            *(one.data_ptr() for one in plan[:3]),
            *(y.data_ptr(), len(plan.slots), x.shape[1]),
        )
        return y.to(x.dtype)
