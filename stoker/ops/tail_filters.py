"""Filters that cut the tail of a distribution by more than rank: min-p and typical-p.

Each sets what it drops to -inf and sees what the ones before it left. Between the two come
top-k and top-p. Ties go to the lower token id.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cut_min_p(scores: Tensor, min_p: Tensor) -> Tensor:
    """Keep the tokens whose probability is at least `min_p` times the largest.

    scores (R, V) and min_p (R,) float64, 0 keeps all. Source: min-p sampling (Nguyen et al., 2024).
    """
    least = scores.amax(-1, keepdim=True) + min_p.log().to(scores.dtype)[:, None]
    return scores.masked_fill(scores < least, -torch.inf)


def cut_typical(scores: Tensor, typical_p: Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest the entropy, of scores (R, V).

    They are the fewest whose probability reaches `typical_p` (R,) float64; 1 keeps all. Source:
    locally typical sampling (Meister et al., 2023).
    """
    logs = scores.log_softmax(-1, dtype=torch.float64)
    probs = logs.exp()
    entropy = -torch.where(probs > 0, probs * logs, 0.0).sum(-1, keepdim=True)
    order = (-logs - entropy).abs().argsort(dim=-1, stable=True)
    ranked = probs.gather(-1, order)
    before = ranked.cumsum(-1) - ranked
    p = typical_p[:, None]
    dropped = torch.empty_like(order, dtype=torch.bool)
    dropped.scatter_(-1, order, (before >= p) & (p < 1))
    return scores.masked_fill(dropped, -torch.inf)
