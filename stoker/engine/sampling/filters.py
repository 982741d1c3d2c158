"""Filters that cut the tail of a distribution: min-p and typical-p.

Each sets what it drops to -inf and sees what the ones before it left. Between the two come
top-k and top-p (nucleus.py). Ties go to the lower token id. Called by the sampler.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq

import torch
from torch import Tensor


def column(values: Seq[float] | Seq[int], like: Tensor) -> Tensor:
    """(R, 1) in the dtype and on the device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def filter_min_p(logits: Tensor, min_p: list[float]) -> Tensor:
    """Keep the tokens whose probability is at least `min_p` times the largest, of logits (R, V).

    Source: min-p sampling (Nguyen et al., 2024).
    """
    least = logits.amax(-1, keepdim=True) + column([math.log(p) for p in min_p], logits)
    return logits.masked_fill(logits < least, -torch.inf)


def filter_typical(logits: Tensor, typical_p: list[float]) -> Tensor:
    """Keep the tokens whose surprise is nearest the entropy, of logits (R, V).

    They are the fewest whose probability reaches `typical_p`. Source: locally typical sampling
    (Meister et al., 2023).
    """
    logs = logits.log_softmax(-1, dtype=torch.float64)
    probs = logs.exp()
    entropy = -torch.where(probs > 0, probs * logs, 0.0).sum(-1, keepdim=True)
    order = (-logs - entropy).abs().argsort(dim=-1, stable=True)
    ranked = probs.gather(-1, order)
    before = ranked.cumsum(-1) - ranked
    p = column(typical_p, before)
    dropped = torch.empty_like(order, dtype=torch.bool)
    dropped.scatter_(-1, order, (before >= p) & (p < 1))
    return logits.masked_fill(dropped, -torch.inf)
