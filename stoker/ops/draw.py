"""Draws: one token per row of logits, as a function of the row, its parameters, seed and position.

This is the contract, and its definition in plain PyTorch. `draw_cpu.py` has a faster form for a
CPU, `triton/draw.py` one for a GPU; both are tested against `draw` here, and the parts that decide
what a seed gives (`uniforms`, the filters) exist once.

A draw inverts the cumulative distribution, in the order of the vocabulary:

    token              0     1     2     3
    logits           1.0   3.0   2.0  -9.0     temperature 1, top-k 3
    weights         .135     1  .368     0     exp(logit - largest), 0 where a filter cuts
    running sum     .135 1.135 1.503 1.503
    uniform 0.6  ->  0.6 * 1.503 = 0.902       the first sum beyond it: token 1

The uniform number is a hash of (seed, position), so a draw depends on no neighbour and no earlier
draw, and drawing the same position again gives the same token.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from stoker.ops.tail_filters import cut_min_p, cut_typical

_GOLDEN, *_MIXERS = (
    value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class DrawParams(NamedTuple):
    """Parameters of R draws, on the device of the logits. A filter is None if no row uses it.

    Attributes:
        temperature: (R,) float32; 0 or less is greedy, and no filter acts then.
        seeds: (R,) int64, the bits of unsigned 64-bit seeds.
        positions: (R,) int64, of the drawn tokens.
        top_k: (R,) int64; 0 or less keeps all.
        top_p: (R,) float64 in (0, 1], of what top-k keeps; 1 keeps all.
        min_p: (R,) float64 in [0, 1], before top-k; 0 keeps all.
        typical_p: (R,) float64 in (0, 1], after top-p; 1 keeps all.
    """

    temperature: Tensor
    seeds: Tensor
    positions: Tensor
    top_k: Tensor | None = None
    top_p: Tensor | None = None
    min_p: Tensor | None = None
    typical_p: Tensor | None = None

    def select(self, rows: Tensor | slice) -> DrawParams:
        """The parameters of some rows."""
        return DrawParams(*(None if one is None else one[rows] for one in self))  # type: ignore[arg-type]


class Drawn(NamedTuple):
    """What R rows gave.

    Attributes:
        tokens: (R,) int64. The token of a row whose `tops` is not finite means nothing, and may
            be no id.
        tops: (R,) the largest logit of each row, in any floating dtype: -inf if every token is
            barred. A row with a NaN may have any.
    """

    tokens: Tensor
    tops: Tensor


class Draw(Protocol):
    """Draws a token from each row."""

    def __call__(self, logits: Tensor, params: DrawParams) -> Drawn:
        """Draw from logits (R, V) of any floating dtype, which stay as they are.

        A row's token depends on its own logits and parameters alone. Of equal logits the lower
        token id comes first: for the greedy choice, and for what filters keep. Host and device
        do not wait for each other.
        """


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), (R,) float64, of seeds and positions (R,) int64.

    The hash is splitmix64's finaliser (Steele et al., 2014).
    """
    if seeds.device.type == "cpu":  # a third of the time in NumPy, with the same operations
        return torch.from_numpy(_hash(seeds.numpy(), positions.numpy()) * 2.0**-53)
    return cast(Tensor, _hash(seeds, positions)).double() * 2.0**-53


def _hash(z: Any, positions: Any) -> Any:
    """53 bits of each seed and position, in int64, which wraps around; of NumPy or torch."""
    for words in (positions + 1, 1):
        z = z + words * _GOLDEN
        for shift, mixer in zip((30, 27), _MIXERS, strict=True):
            z = (z ^ _shifted(z, shift)) * mixer
        z = z ^ _shifted(z, 31)
    return _shifted(z, 11)


def _shifted(z: Any, bits: int) -> Any:
    """z >> bits with zeros shifted in, of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def scale(logits: Tensor, temperature: Tensor) -> Tensor:
    """Scores (R, V) float32: logits less the row's largest, over its temperature (1 if greedy).

    The largest score is 0, so a tiny temperature cannot overflow.
    """
    scores = logits.float()
    scores = scores - scores.amax(-1, keepdim=True)
    return scores.div_(torch.where(temperature > 0, temperature, 1.0)[:, None])


def find(weights: Tensor, cumulative: Tensor, numbers: Tensor) -> Tensor:
    """The first place of each row where cumulative / its last exceeds the row's number, (R,).

    weights and their running sums (R, N), numbers (R,) in [0, 1).
    """
    target = numbers[:, None] * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    # Rounding may push the target past the last likely place; take that one then.
    last = weights.shape[1] - 1 - (weights > 0).flip(-1).to(torch.uint8).argmax(-1)
    return torch.minimum(place, last)


def draw(logits: Tensor, params: DrawParams) -> Drawn:
    """The definition of `Draw`: sorts each row if there is a filter, sums in float64."""
    tops, best = logits.max(-1)
    scores = scale(logits, params.temperature)
    if params.min_p is not None:
        scores = cut_min_p(scores, params.min_p)
    if params.top_k is not None or params.top_p is not None:
        scores = scores.masked_fill(~keep_top(scores, params.top_k, params.top_p), -torch.inf)
    if params.typical_p is not None:
        scores = cut_typical(scores, params.typical_p)
    weights = scores.double().exp()
    place = find(weights, weights.cumsum(-1), uniforms(params.seeds, params.positions))
    return Drawn(torch.where(params.temperature > 0, place, best), tops)


def keep_top(scores: Tensor, top_k: Tensor | None, top_p: Tensor | None) -> Tensor:
    """Which tokens are among the top-k, and of those the top-p, of their row, (R, V) bool.

    top-p keeps the fewest likeliest tokens whose probability, among the top-k, reaches p
    (Holtzman et al., 2020). scores (R, V) have 0 as their largest; those at -inf are left out.
    """
    ranked, order = scores.sort(dim=-1, descending=True, stable=True)
    weights = ranked.double().exp()
    if top_k is not None:
        vocab = scores.shape[1]
        k = torch.where((top_k > 0) & (top_k < vocab), top_k, vocab)[:, None]
        weights = torch.where(torch.arange(vocab, device=k.device) < k, weights, 0.0)
    kept = weights > 0
    if top_p is not None:
        reached, p = weights.cumsum(-1), top_p[:, None]
        kept &= (reached - weights < p * reached[:, -1:]) | (p >= 1)
    return torch.zeros_like(kept).scatter_(-1, order, kept)


def cut_tails(logits: Tensor, params: DrawParams) -> tuple[Tensor, DrawParams]:
    """Let min-p and typical-p act on the logits (R, V), for a draw that knows neither.

    Returns logits in which what they cut is at -inf, and the parameters that are left. Since
    typical-p comes after top-k and top-p, these act here too in the rows that use it.
    """
    scores = scale(logits, params.temperature)
    if params.min_p is not None:
        scores = cut_min_p(scores, params.min_p)
    top_k, top_p = params.top_k, params.top_p
    if params.typical_p is not None:
        typical = params.typical_p < 1
        if top_k is not None or top_p is not None:
            kept = keep_top(scores, top_k, top_p) | ~typical[:, None]
            scores = scores.masked_fill(~kept, -torch.inf)
            top_k = None if top_k is None else top_k.masked_fill(typical, 0)
            top_p = None if top_p is None else top_p.masked_fill(typical, 1.0)
        scores = cut_typical(scores, params.typical_p)
    cut = (scores == -torch.inf) & (params.temperature > 0)[:, None]
    rest = params._replace(top_k=top_k, top_p=top_p, min_p=None, typical_p=None)
    return logits.masked_fill(cut, -torch.inf), rest
