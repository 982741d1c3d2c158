"""`Draw` (draw.py) for a CPU: greedy rows are read once, and no vocabulary is sorted.

Rows are handled in groups by the filters they use, so a row pays for its own alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stoker.ops.draw import Drawn, DrawParams, find, uniforms
from stoker.ops.native.build import load_kernels, signature
from stoker.ops.nucleus import draw_kept, filter_logits, keep_top
from stoker.ops.tail_filters import cut_min_p, cut_typical


def draw_on_cpu(logits: Tensor, params: DrawParams) -> Drawn:
    """See `stoker.ops.draw.Draw`."""
    tops, tokens = largest(logits)
    random = params.temperature.numpy() > 0
    if random.any():
        rows = torch.from_numpy(np.flatnonzero(random & tops.isfinite().numpy()))
        chosen = params if len(rows) == len(logits) else params.select(rows)
        if len(rows):
            tokens[rows] = _draw_random(logits[rows].float(), chosen)
    return Drawn(tokens, tops)


def _draw_random(scores: Tensor, params: DrawParams) -> Tensor:
    """Tokens (R,) of rows with a temperature; scores (R, V) float32 are logits, overwritten."""
    scores.sub_(scores.amax(-1, keepdim=True)).div_(params.temperature[:, None])
    numbers = uniforms(params.seeds, params.positions)
    if params.min_p is not None:
        _filter_rows(scores, params.min_p > 0, params.min_p, cut_min_p)
    if params.top_k is None and params.top_p is None and params.typical_p is None:
        return _draw_whole(scores, numbers)
    every, vocab = torch.arange(len(scores)), scores.shape[1]
    top_k = torch.zeros_like(every) if params.top_k is None else params.top_k
    top_p = numbers.new_ones(len(every)) if params.top_p is None else params.top_p
    cut = ((top_k > 0) & (top_k < vocab)) | (top_p < 1)
    if params.typical_p is not None:
        typical = params.typical_p < 1
        both = every[cut & typical]
        if len(both):
            scores[both] = filter_logits(scores[both], top_k[both], top_p[both])
        _filter_rows(scores, typical, params.typical_p, cut_typical)
        cut &= ~typical
    if cut.all():
        return draw_kept(scores, keep_top(scores, top_k, top_p), numbers)
    tokens, few, whole = torch.empty_like(every), every[cut], every[~cut]
    if len(few):
        part = scores[few]
        tokens[few] = draw_kept(part, keep_top(part, top_k[few], top_p[few]), numbers[few])
    tokens[whole] = _draw_whole(scores[whole], numbers[whole])
    return tokens


def _draw_whole(scores: Tensor, numbers: Tensor) -> Tensor:
    """Tokens (R,) from all that have a score, of scores (R, V) and numbers (R,) in [0, 1)."""
    probs = scores.softmax(-1, dtype=torch.float64)
    return find(probs, probs.cumsum(-1), numbers)


def _filter_rows(
    scores: Tensor, chosen: Tensor, values: Tensor, keep: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Filter the `chosen` (R,) rows of scores (R, V) with their `values` (R,), in place."""
    rows = chosen.nonzero()[:, 0]
    if len(rows):
        scores[rows] = keep(scores[rows], values[rows])


def largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logits (R,) and their places (R,) int64, which greedy decoding draws.

    Reference: `torch.max`; in float32 on a CPU one pass in C (native/elementwise.c). logits (R, V)
    hold no NaN; of equal ones the first counts.
    """
    kernel = _kernel() if logits.device.type == "cpu" and logits.dtype == torch.float32 else None
    if kernel is None:
        values, places = logits.max(-1)
        return values, places
    logits = logits.contiguous()
    values, places = logits.new_empty(len(logits)), torch.empty(len(logits), dtype=torch.int64)
    kernel(logits.data_ptr(), values.data_ptr(), places.data_ptr(), *logits.shape)
    return values, places


@functools.cache
def _kernel() -> Callable[..., None] | None:
    library = load_kernels("elementwise")
    return signature(library.largest, "ppp ii") if library else None
