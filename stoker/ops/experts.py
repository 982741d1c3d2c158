"""A mixture of experts: each token goes through the experts it was sent to, weighted and summed.

Here are the contract and the definition. T tokens, K experts for each, E experts in all, D hidden,
F numbers inside an expert.
"""

from __future__ import annotations

from dataclasses import dataclass

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
        weighs_input: a token's weights multiply what its experts read, not what they give.
    """

    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    activation: str
    gated: bool
    weighs_input: bool = False


def run_experts(x: Tensor, routes: Routes, weights: ExpertWeights) -> Tensor:
    """x (T, D) -> (T, D), in the dtype of x: the sum over a token's experts, weighted."""
    out = torch.zeros_like(x)
    for expert in range(len(weights.up)):
        rows, places = (routes.experts == expert).nonzero(as_tuple=True)
        if not len(rows):
            continue
        scale = routes.weights[rows, places, None].to(x.dtype)
        inner = x[rows] * scale if weights.weighs_input else x[rows]
        up, down = (None if b is None else b[expert] for b in (weights.up_bias, weights.down_bias))
        inner = activate(F.linear(inner, weights.up[expert], up), weights.activation, weights.gated)
        y = F.linear(inner, weights.down[expert], down)
        out.index_add_(0, rows, y if weights.weighs_input else y * scale)
    return out
