"""Routing of mixtures of experts: which experts a token takes, and with what weights.

T tokens, E experts, K of them for each token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """How a router's logits become a choice.

    Attributes:
        experts: that there are, E.
        active: that a token takes, K.
        scores: of all experts by softmax, of each by a sigmoid, or by softmax of those chosen,
            which are then those with the largest logits.
        corrected: a learned number for each expert is added to its score for the choice, and not
            to its weight (Wang et al., auxiliary-loss-free load balancing, 2024).
        groups, top_groups: neighbouring experts form groups, and a token takes experts of its
            best `top_groups` only (DeepSeek-V2 and V3, 2024).
        group_best: a group is as good as the sum of its so many best scores.
        normalised: weights are divided by their sum.
        scale: multiplies the weights then.
    """

    experts: int
    active: int
    scores: Literal["softmax", "sigmoid", "softmax of chosen"] = "softmax"
    corrected: bool = False
    groups: int = 1
    top_groups: int = 1
    group_best: int = 1
    normalised: bool = False
    scale: float = 1.0


class Routes(NamedTuple):
    """The choice for T tokens."""

    experts: Tensor  # (T, K) int64
    weights: Tensor  # (T, K) float32


def route(logits: Tensor, routing: Routing, correction: Tensor | None = None) -> Routes:
    """Choose experts by the router's logits (T, E), in float32; `correction` is (E,)."""
    logits = logits.float()
    if routing.scores == "softmax":
        scores = logits.softmax(-1)
    elif routing.scores == "sigmoid":
        scores = logits.sigmoid()
    else:
        scores = logits
    choice = scores if correction is None else scores + correction.float()
    if routing.groups > 1:
        choice = _of_best_groups(choice, routing)
    experts = choice.topk(routing.active, dim=-1).indices
    weights = scores.gather(-1, experts)
    if routing.scores == "softmax of chosen":
        weights = weights.softmax(-1)
    if routing.normalised:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Routes(experts, weights * routing.scale if routing.scale != 1 else weights)


def _of_best_groups(choice: Tensor, routing: Routing) -> Tensor:
    """The scores (T, E) with those outside a token's best groups at minus infinity."""
    grouped = choice.view(len(choice), routing.groups, -1)
    worth = grouped.topk(routing.group_best, dim=-1).values.sum(-1)
    best = worth.topk(routing.top_groups, dim=-1).indices
    out = torch.ones_like(worth, dtype=torch.bool).scatter_(-1, best, False)
    return grouped.masked_fill(out.unsqueeze(-1), float("-inf")).flatten(1)
