"""Routing of mixtures of experts: which experts a token takes, and with what weights.

T tokens, E experts, K of them for each token. Reference: plain PyTorch, a dozen small operations;
fast path on a CPU: one pass in C for all but the rarest kinds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from stoker.ops.activation import NativeSoftCap
from stoker.ops.native.build import load_kernels, signature


@dataclass(frozen=True)
class Routing:
    """How a router's logits become a choice.

    Attributes:
        experts: that there are, E.
        active: that a token takes, K.
        scores: of all experts by softmax, of each by a sigmoid, or by softmax of those chosen,
            which are then those with the largest logits; or by `_sparse_mixer`.
        correction: a learned number for each expert is added to its score or its logit for the
            choice, and not to its weight (Wang et al., auxiliary-loss-free load balancing, 2024).
        groups, top_groups: neighbouring experts form groups, and a token takes experts of its
            best `top_groups` only (DeepSeek-V2 and V3, 2024).
        group_best: a group is as good as the sum of its so many best scores.
        normalised: weights are divided by their sum, to which `floor` is added.
        scale: multiplies the weights then.
        gains: so does a learned number for each expert.
        logit_cap: logits become logit_cap * tanh(logit / logit_cap) at first.
        jitter: of `_sparse_mixer`.
    """

    experts: int
    active: int
    scores: Literal["softmax", "sigmoid", "softmax of chosen", "sparse mixer"] = "softmax"
    correction: Literal["score", "logit"] | None = None
    groups: int = 1
    top_groups: int = 1
    group_best: int = 1
    normalised: bool = False
    floor: float = 1e-20
    scale: float = 1.0
    gains: bool = False
    logit_cap: float | None = None
    jitter: float = 0.0


class Routes(NamedTuple):
    """The choice for T tokens."""

    experts: Tensor  # (T, K) int64
    weights: Tensor  # (T, K) float32


def route(
    logits: Tensor,
    routing: Routing,
    correction: Tensor | None = None,
    gains: Tensor | None = None,
) -> Routes:
    """Choose experts by the router's logits (T, E), in float32; `correction`, `gains`: (E,)."""
    logits = logits.float()
    if routing.logit_cap is not None:
        logits = routing.logit_cap * torch.tanh(logits / routing.logit_cap)
    if routing.scores == "sparse mixer":
        return _sparse_mixer(logits, routing)
    if routing.scores == "softmax":
        scores = logits.softmax(-1)
    elif routing.scores == "sigmoid":
        scores = logits.sigmoid()
    else:
        scores = logits
    choice = logits if routing.correction == "logit" else scores
    choice = choice if correction is None else choice + correction.float()
    if routing.groups > 1:
        choice = _of_best_groups(choice, routing)
    experts = choice.topk(routing.active, dim=-1).indices
    weights = scores.gather(-1, experts)
    if routing.scores == "softmax of chosen":
        weights = weights.softmax(-1)
    if routing.normalised:
        weights = weights / (weights.sum(-1, keepdim=True) + routing.floor)
    if routing.scale != 1:
        weights = weights * routing.scale
    return Routes(experts, weights if gains is None else weights * gains.float()[experts])


def _of_best_groups(choice: Tensor, routing: Routing) -> Tensor:
    """The scores (T, E) with those outside a token's best groups at minus infinity."""
    grouped = choice.view(len(choice), routing.groups, -1)
    worth = grouped.topk(routing.group_best, dim=-1).values.sum(-1)
    best = worth.topk(routing.top_groups, dim=-1).indices
    out = torch.ones_like(worth, dtype=torch.bool).scatter_(-1, best, False)
    return grouped.masked_fill(out.unsqueeze(-1), float("-inf")).flatten(1)


def _sparse_mixer(logits: Tensor, routing: Routing) -> Routes:
    """Experts one after the other, each weighted among those that are about as good.

    The best expert's weight is its softmax among the experts whose logits lie within twice the
    jitter of its own, relative to the larger of both. Then it is taken out, and the next is
    chosen and weighted among the others alike. Source: Liu et al., GRIN, 2024, as at inference.

        jitter 0.1, logits   2.0   1.7   0.9   -3.0
        first                2.0 and 1.7, which is 15 % less: weight e^2.0 / (e^2.0 + e^1.7)
        second                     1.7 alone: weight 1
    """
    left, experts, weights = logits, [], []
    for _ in range(routing.active):
        best, index = left.max(-1, keepdim=True)
        far = (best - logits) / logits.abs().clamp(min=best) > 2 * routing.jitter
        experts.append(index)
        weights.append(left.masked_fill(far, float("-inf")).softmax(-1).gather(-1, index))
        left = left.scatter(-1, index, float("-inf"))
    return Routes(torch.cat(experts, -1), torch.cat(weights, -1))


class NativeRoute:
    """`route` for logits on a CPU, in one pass over each row (native/routing.c)."""

    KINDS: ClassVar = {"softmax": 0, "sigmoid": 1, "softmax of chosen": 2}

    def __init__(
        self, library: ctypes.CDLL, routing: Routing, soft_cap: NativeSoftCap | None = None
    ) -> None:
        self._soft_cap, self._cap = soft_cap, routing.logit_cap
        self._kernel = signature(library.route, "ppppp iiiiiiiii ff")
        self._active = routing.active
        groups = (routing.groups, routing.top_groups, routing.group_best)
        corrects_logits = routing.correction == "logit"
        self._settings = (
            *(routing.experts, routing.active, self.KINDS[routing.scores], corrects_logits),
            *(*groups, routing.normalised, routing.floor, routing.scale),
        )

    def __call__(
        self, logits: Tensor, correction: Tensor | None = None, gains: Tensor | None = None
    ) -> Routes:
        rows = len(logits)
        if self._soft_cap is not None and self._cap is not None:
            logits = self._soft_cap(logits, self._cap)
        experts = torch.empty(rows, self._active, dtype=torch.int64)
        weights = torch.empty(rows, self._active)
        tensors = (logits.contiguous(), correction, gains, experts, weights)
        places = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        self._kernel(*places, rows, *self._settings)
        return Routes(experts, weights)


def prepare_route(routing: Routing, device: torch.device) -> Callable[..., Routes]:
    """A function of logits (T, E) float32, correction and gains that computes `route`."""
    served = routing.scores in NativeRoute.KINDS and device.type == "cpu"
    library = load_kernels("routing") if served else None
    caps = load_kernels("elementwise") if served and routing.logit_cap is not None else None
    if library is not None and (caps is not None or routing.logit_cap is None):
        return NativeRoute(library, routing, NativeSoftCap(caps) if caps else None)
    return lambda logits, correction, gains: route(logits, routing, correction, gains)
