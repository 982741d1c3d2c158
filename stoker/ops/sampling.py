"""Draws from rows of logits where they lie: nothing comes to the host, and nothing waits for it.

The contract, and the definition in plain PyTorch, of what engine/sampling/ does for rows that ask
for no more than temperature, top-k and top-p: the random number of a draw is a hash of (seed,
position), and the token is found by inverting the cumulative distribution in the vocabulary's
order. All parameters are tensors on the device of the logits. Faster: triton/sampling.py.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

_GOLDEN, *_MIXERS = (
    value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


class Draw(Protocol):
    """Draws a token from each row."""

    def __call__(
        self,
        logits: Tensor,
        temperature: Tensor,
        top_k: Tensor | None,
        top_p: Tensor | None,
        seeds: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Tokens (R,) int64, with no synchronisation of host and device.

        A row's token depends on its own logits and parameters alone. Of equal logits the lower
        token id comes first: for the greedy choice, and for what top-k and top-p keep.

        Args:
            logits: (R, V), any floating dtype; not changed. A row's largest is finite.
            temperature: (R,) float32; 0 or less is greedy.
            top_k: (R,) int64, 0 or less keeps all; None where no row has one.
            top_p: (R,) float64 in (0, 1], among the top-k, 1 keeps all; None where no row has one.
            seeds: (R,) int64, the bits of unsigned 64-bit seeds.
            positions: (R,) int64, of the drawn tokens.
        """


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), (R,) float64, the bits of the host's (engine/sampling/sampler.py).

    splitmix64's finaliser (Steele et al., 2014) of seeds and positions (R,) int64, in integers
    that wrap around.
    """
    z = seeds
    for words in (positions + 1, 1):
        z = z + words * _GOLDEN
        for shift, mixer in zip((30, 27), _MIXERS, strict=True):
            z = (z ^ _shifted(z, shift)) * mixer
        z = z ^ _shifted(z, 31)
    return _shifted(z, 11).double() * 2.0**-53


def _shifted(z: Tensor, bits: int) -> Tensor:
    """z >> bits with zeros shifted in, of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def draw(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    """The definition of `Draw`: sorts each row where top-k or top-p is given, sums in float64."""
    best = logits.argmax(-1)
    scaled = logits.float()
    scaled = scaled - scaled.amax(-1, keepdim=True)
    scaled = scaled / torch.where(temperature > 0, temperature, 1.0)[:, None].float()
    weights = scaled.double().exp()
    if top_k is not None or top_p is not None:
        weights = torch.where(_kept(scaled, top_k, top_p), weights, 0.0)
    reached = weights.cumsum(-1)
    target = uniforms(seeds, positions)[:, None] * reached[:, -1:]
    place = torch.searchsorted(reached, target, right=True)[:, 0]
    # Rounding may push the target past the last likely place; take that one then.
    last = weights.shape[1] - 1 - (weights > 0).flip(-1).to(torch.uint8).argmax(-1)
    return torch.where(temperature > 0, torch.minimum(place, last), best)


def _kept(scaled: Tensor, top_k: Tensor | None, top_p: Tensor | None) -> Tensor:
    """Which tokens are among the top-k, and of those the top-p, of their row, (R, V) bool."""
    ranked, order = scaled.sort(dim=-1, descending=True, stable=True)
    weights = ranked.double().exp()
    if top_k is not None:
        vocab = scaled.shape[1]
        k = torch.where((top_k > 0) & (top_k < vocab), top_k, vocab)[:, None]
        weights = torch.where(torch.arange(vocab, device=k.device) < k, weights, 0.0)
    kept = weights > 0
    if top_p is not None:
        reached, p = weights.cumsum(-1), top_p[:, None]
        kept &= (reached - weights < p * reached[:, -1:]) | (p >= 1)
    return torch.zeros_like(kept).scatter_(-1, order, kept)
