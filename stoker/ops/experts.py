"""A mixture of experts: each token goes through the experts it was sent to, weighted and summed.

Here are the contract and the definition. T tokens, K experts for each, E experts in all, D hidden,
F numbers inside an expert.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.activation import activate
from stoker.ops.routing import Routes


@dataclass(frozen=True)
class ExpertWeights:
    """The experts of a layer, all of one shape.

    Attributes:
        up: (E, 2F, D), gate above what it gates; (E, F, D) if not gated.
        down: (E, D, F).
        up_bias, down_bias: (E, 2F or F) and (E, D), or none.
        activation: a key of `ACTIVATIONS`.
        limit, shift: see `gate`.
        weighs_input: a token's weights multiply what its experts read, not what they give.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    activation: str
    gated: bool
    weighs_input: bool = False
    limit: float | None = None
    shift: float = 0.0


class ExpertsFn(Protocol):
    """A layer of experts ready to be applied.

    Attributes:
        up_tensors, down_tensors: all that it keeps of these weights, in whatever layout.
    """

    @property
    def up_tensors(self) -> tuple[Tensor, ...]: ...

    @property
    def down_tensors(self) -> tuple[Tensor, ...]: ...

    def __call__(self, x: Tensor, routes: Routes, add: Tensor | None = None) -> Tensor:
        """`run_experts` of x (T, D), plus `add` (T, D), the residual, if there is one."""


class ReferenceExperts:
    """`run_experts` as it is defined: a loop over experts."""

    def __init__(self, weights: ExpertWeights) -> None:
        self._weights = weights
        self.up_tensors, self.down_tensors = (weights.up,), (weights.down,)

    def __call__(self, x: Tensor, routes: Routes, add: Tensor | None = None) -> Tensor:
        y = run_experts(x, routes, self._weights)
        return y if add is None else y + add


def run_experts(x: Tensor, routes: Routes, weights: ExpertWeights) -> Tensor:
    """x (T, D) -> (T, D), in the dtype of x: the sum over a token's experts, weighted.

    Experts behind the last that has weights give what they read.
    """
    out = torch.zeros_like(x)
    idle = routes.weights.masked_fill(routes.experts < len(weights.up), 0.0).sum(-1, keepdim=True)
    if idle.any():
        out = x * idle.to(x.dtype)
    for expert in range(len(weights.up)):
        rows, places = (routes.experts == expert).nonzero(as_tuple=True)
        if not len(rows):
            continue
        scale = routes.weights[rows, places, None].to(x.dtype)
        inner = x[rows] * scale if weights.weighs_input else x[rows]
        up, down = (None if b is None else b[expert] for b in (weights.up_bias, weights.down_bias))
        inner = gate(F.linear(inner, weights.up[expert], up), weights)
        y = F.linear(inner, weights.down[expert], down)
        out.index_add_(0, rows, y if weights.weighs_input else y * scale)
    return out


def gate(x: Tensor, weights: ExpertWeights) -> Tensor:
    """The activation of an expert: x (T, 2F), or (T, F) if not gated, -> (T, F).

    Of a gate g and what it gates u: act(min(g, limit)) * (clamp(u, -limit, limit) + shift).
    """
    if weights.limit is not None:
        gates, gated = x.chunk(2, dim=-1) if weights.gated else (x, None)
        parts = [gates.clamp(max=weights.limit)]
        if gated is not None:
            parts.append(gated.clamp(-weights.limit, weights.limit) + weights.shift)
        x = torch.cat(parts, dim=-1)
    return activate(x, weights.activation, weights.gated)
