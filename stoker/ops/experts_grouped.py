"""Layers of experts by torch's grouped products: for arithmetic in 16 bits on a CPU.

Pairs of a row and one of its experts are sorted by expert, and each product is one call over all
of them. Contract and definition: ops/experts.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.ops.experts import ExpertWeights, gate
from stoker.ops.routing import Routes

MULTIPLE = 8  # what a grouped product asks of sizes in 16 bits


def grouped_serves(weights: ExpertWeights) -> bool:
    """Whether torch has grouped products for these weights, and their sizes suit them."""
    sizes = (*weights.up.shape[1:], *weights.down.shape[1:])
    sixteen = weights.up.dtype in (torch.bfloat16, torch.float16)
    return sixteen and hasattr(torch, "_grouped_mm") and not any(one % MULTIPLE for one in sizes)


class GroupedExperts:
    """`run_experts` without a loop over experts; keeps the weights as they are."""

    def __init__(self, weights: ExpertWeights) -> None:
        self._weights = weights
        self._up, self._down = weights.up.detach().mT, weights.down.detach().mT
        self.up_tensors, self.down_tensors = (weights.up,), (weights.down,)

    def __call__(self, x: Tensor, routes: Routes, add: Tensor | None = None) -> Tensor:
        own, each = self._weights, routes.experts.shape[1]
        chosen, count = routes.experts.flatten(), len(own.up)
        order = chosen.argsort(stable=True)
        experts, weights = chosen[order], routes.weights.flatten()[order, None]
        ends = torch.bincount(chosen, minlength=count)[:count].cumsum(0).to(torch.int32)
        # those of experts without weights come last
        order = order[: int(ends[-1])]
        experts, scale = experts[: len(order)], weights[: len(order)].to(x.dtype)
        inner = x[order // each]
        inner = torch._grouped_mm(inner * scale if own.weighs_input else inner, self._up, offs=ends)
        inner = gate(inner if own.up_bias is None else inner + own.up_bias[experts], own)
        y = torch._grouped_mm(inner, self._down, offs=ends)
        y = y if own.down_bias is None else y + own.down_bias[experts]
        given = x[:, None].expand(-1, each, -1) * routes.weights[..., None].to(x.dtype)
        given.flatten(0, 1)[order] = y if own.weighs_input else y * scale
        total = given.sum(1)
        return total if add is None else total + add
