"""`Draw` (draw.py) for a CPU: greedy rows are read once, and no vocabulary is sorted.

Rows are handled in groups by the filters they use, so a row pays for its own alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stoker.ops.argmax import largest
from stoker.ops.draw import Drawn, DrawParams, find, uniforms
from stoker.ops.nucleus import draw_kept, filter_logits, keep_top
from stoker.ops.tail_filters import cut_min_p, cut_typical


def draw_on_cpu(logits: Tensor, params: DrawParams) -> Drawn:
    """See `stoker.ops.draw.Draw`."""
    tops, tokens = largest(logits)
    rows = ((params.temperature > 0) & tops.isfinite()).nonzero()[:, 0]
    if len(rows):
        tokens[rows] = _draw_random(logits[rows].float(), params.select(rows))
    return Drawn(tokens, tops)


def _draw_random(scores: Tensor, params: DrawParams) -> Tensor:
    """Tokens (R,) of rows with a temperature; scores (R, V) float32 are logits, overwritten."""
    vocab = scores.shape[1]
    scores.sub_(scores.amax(-1, keepdim=True)).div_(params.temperature[:, None])
    numbers = uniforms(params.seeds, params.positions)
    every = torch.arange(len(scores))
    top_k = torch.zeros_like(every) if params.top_k is None else params.top_k
    top_p = numbers.new_ones(len(every)) if params.top_p is None else params.top_p
    cut = ((top_k > 0) & (top_k < vocab)) | (top_p < 1)
    if params.min_p is not None:
        _filter_rows(scores, params.min_p > 0, params.min_p, cut_min_p)
    if params.typical_p is not None:
        typical = params.typical_p < 1
        both = (cut & typical).nonzero()[:, 0]
        if len(both):
            scores[both] = filter_logits(scores[both], top_k[both], top_p[both])
        _filter_rows(scores, typical, params.typical_p, cut_typical)
        cut &= ~typical
    tokens = torch.empty_like(every)
    for group, few in ((every[cut], True), (every[~cut], False)):
        if not len(group):
            continue
        part = scores if len(group) == len(every) else scores[group]
        if few:
            kept = keep_top(part, top_k[group], top_p[group])
            tokens[group] = draw_kept(part, kept, numbers[group])
        else:
            probs = part.softmax(-1, dtype=torch.float64)
            tokens[group] = find(probs, probs.cumsum(-1), numbers[group])
    return tokens


def _filter_rows(
    scores: Tensor, chosen: Tensor, values: Tensor, keep: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Filter the `chosen` (R,) rows of scores (R, V) with their `values` (R,), in place."""
    rows = chosen.nonzero()[:, 0]
    if len(rows):
        scores[rows] = keep(scores[rows], values[rows])
