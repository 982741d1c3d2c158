"""Top-k and top-p without sorting the vocabulary, and draws from the tokens that are left.

The likeliest tokens are had from a partial selection. A row whose nucleus is wider is looked at
again with more of them. How many tokens a row keeps follows from its own sorted logits and running
sums over them, so neither the number selected nor the other rows change a bit of it. Of
equal logits the lower token id comes first. Called by the draw on a CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stoker.ops.draw import find

WIDTHS = (1024, 16384)  # tokens selected at first, then for the rows that need more, then all


class Kept(NamedTuple):
    """Tokens that are left of some rows: ordered by row, and then by id."""

    rows: Tensor  # (N,)
    ids: Tensor  # (N,)


def keep_top(logits: Tensor, top_k: Tensor, top_p: Tensor) -> Kept:
    """Each row's top-k, and of those its top-p, of logits (R, V).

    top_k (R,) int64, 0 or less keeps all; top_p (R,) float64, 1 keeps all.

    `stoker.ops.draw.keep_top` defines what is kept. Tokens at -inf are left out.
    """
    vocab = logits.shape[1]
    k = torch.where((top_k > 0) & (top_k < vocab), top_k, vocab)
    least, equals = _ends(logits, k, top_p)
    least = least.clamp_min(torch.finfo(logits.dtype).min)
    rows, ids = (logits >= least[:, None]).nonzero(as_tuple=True)
    equal = logits[rows, ids] == least[rows]
    # the first so many of those equal to the least are kept
    met = equal.cumsum(0)
    starts = torch.searchsorted(rows, torch.arange(len(logits), device=rows.device))
    before = (met - equal.long())[starts]
    kept = ~equal | (met - before[rows] <= equals[rows])
    return Kept(rows[kept], ids[kept])


def _ends(logits: Tensor, k: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """The least logit that each row keeps, and how many tokens it keeps that have just this one."""
    vocab = logits.shape[1]
    total = _totals(logits, (k == vocab) & (p < 1))
    least = torch.empty_like(logits[:, 0])
    equals = torch.empty_like(k)
    left = torch.arange(len(k), device=k.device)
    for width in (*WIDTHS, vocab):
        # none needs more than its k, where it has one
        most = min(width, int(k[left].amax()))
        part = logits if len(left) == len(logits) else logits[left]
        values = _largest(part, most)
        weights = (values.double() - values[:, :1]).exp()
        reached = weights.cumsum(-1)
        own_k, own_p = k[left, None], p[left, None]
        of_k = reached.gather(-1, own_k.clamp_max(most) - 1)
        enough = own_p * torch.where(own_k == vocab, total[left, None], of_k)
        rank = torch.arange(most, device=k.device)
        kept = (rank < own_k) & ((reached - weights < enough) | (own_p >= 1))
        last = values.gather(-1, kept.sum(-1, keepdim=True) - 1)
        found = (own_k == vocab) & (own_p < 1) & (reached[:, -1:] >= enough)
        done = ((own_k <= most) | found)[:, 0]
        least[left[done]] = last[done, 0]
        equals[left[done]] = (kept & (values == last)).sum(-1)[done]
        left = left[~done]
        if not len(left):
            break
    return least, equals


def _largest(logits: Tensor, count: int) -> Tensor:
    """The `count` largest values of each row, (R, count), the largest first."""
    by_one = min(torch.get_num_threads(), len(logits))  # threads that topk would use
    if logits.device.type == "cpu" and count > WIDTHS[0] and by_one <= 3:
        # NumPy sorts a row three times as fast, with one thread
        start = logits.shape[1] - count
        part = np.partition(logits.numpy(), start, -1)[:, start:] if start else logits.numpy()
        return torch.from_numpy(np.sort(part, -1)[:, ::-1].copy())
    return logits.topk(count, dim=-1).values


def _totals(logits: Tensor, wanted: Tensor) -> Tensor:
    """The sum over a row of exp(logit - largest), (R,) float64, for the `wanted` rows, else 1."""
    total = torch.ones(len(logits), dtype=torch.float64, device=logits.device)
    rows = wanted.nonzero()[:, 0]
    if len(rows):
        # the softmax of a row does not depend on the others, as a sum over a dimension may
        total[rows] = 1 / logits[rows].softmax(-1, dtype=torch.float64).amax(-1)
    return total


def filter_logits(logits: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """A copy of logits (R, V) with all but each row's top-k, and of those its top-p, at -inf."""
    kept = keep_top(logits, top_k, top_p)
    out = torch.full_like(logits, -torch.inf)
    out[kept] = logits[kept]
    return out


def draw_kept(logits: Tensor, kept: Kept, numbers: Tensor) -> Tensor:
    """The first of each row's kept tokens whose cumulative probability exceeds its number.

    logits (R, V), the largest of a row being 0; numbers (R,) in [0, 1). Tokens (R,).
    """
    count = torch.bincount(kept.rows, minlength=len(logits))
    starts = count.cumsum(0) - count
    width = int(count.amax())
    values = torch.full((len(logits), width), -torch.inf, dtype=torch.float64, device=logits.device)
    place = torch.arange(len(kept.rows), device=logits.device) - starts[kept.rows]
    values[kept.rows, place] = logits[kept].double()
    weights = values.exp()
    at = find(weights, weights.cumsum(-1), numbers)
    return kept.ids[starts + at]
