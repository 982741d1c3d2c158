"""Draws one token per row of logits, each row with its own parameters and random stream.

The random number of a draw is a hash of (seed, position), so it depends on nothing else; the
token is found by inverting the cumulative distribution in the vocabulary's order. Knows rows,
not requests. Called by the runner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class SamplingBatch:
    """Parameters of R draws, one entry each.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 or less keeps all.
        top_p: in (0, 1].
        seeds: 64-bit stream seeds.
        positions: absolute position of the drawn token.
    """

    temperature: list[float]
    top_k: list[int]
    top_p: list[float]
    seeds: list[int]
    positions: list[int]

    def __len__(self) -> int:
        return len(self.seeds)


def uniforms(seeds: list[int], positions: list[int]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one per (seed, position), by splitmix64's finaliser."""
    z = np.array(seeds, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for words in (np.array(positions, dtype=np.uint64), np.uint64(0)):
            z = z + (words + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample(logits: Tensor, batch: SamplingBatch) -> list[int]:
    """Draw a token for each row of logits (R, V)."""
    out = torch.argmax(logits, dim=-1)
    random = [row for row, t in enumerate(batch.temperature) if t > 0]
    if random:
        rows = torch.tensor(random, device=logits.device)
        chosen = _sample_random(logits[rows].float(), batch, random)
        out[rows] = chosen
    tokens: list[int] = out.tolist()
    return tokens


def _sample_random(logits: Tensor, batch: SamplingBatch, rows: list[int]) -> Tensor:
    """Tokens (R',) for the rows with a temperature; logits (R', V) float32, overwritten."""
    temperature = _column([batch.temperature[row] for row in rows], logits)
    # The largest logit becomes 0 first, so that a tiny temperature cannot overflow.
    logits.sub_(logits.amax(-1, keepdim=True)).div_(temperature)
    vocab = logits.shape[1]
    filtered = [
        at for at, row in enumerate(rows) if 0 < batch.top_k[row] < vocab or batch.top_p[row] < 1
    ]
    if filtered:
        which = torch.tensor(filtered, device=logits.device)
        top_k = [batch.top_k[rows[at]] for at in filtered]
        top_p = [batch.top_p[rows[at]] for at in filtered]
        logits[which] = filter_logits(logits[which], top_k, top_p)
    probs = logits.softmax(-1, dtype=torch.float64)
    cumulative = probs.cumsum(-1)
    numbers = uniforms([batch.seeds[row] for row in rows], [batch.positions[row] for row in rows])
    target = torch.from_numpy(numbers).to(logits.device)[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    # Rounding may push the target past the last likely token; take that one then.
    last = vocab - 1 - (probs > 0).flip(-1).to(torch.uint8).argmax(-1)
    return torch.minimum(token, last)


def filter_logits(logits: Tensor, top_k: list[int], top_p: list[float]) -> Tensor:
    """Set all but each row's top-k, and of those all but its top-p, to -inf.

    logits (R, V); ties go to the lower token id. top-p keeps the fewest likeliest tokens whose
    probability, among the top-k, reaches p (Holtzman et al., 2020).
    """
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    k = _column([k if k > 0 else logits.shape[1] for k in top_k], logits)
    rank = torch.arange(logits.shape[1], device=logits.device)
    ranked = ranked.masked_fill(rank >= k, -torch.inf)
    probs = ranked.softmax(-1, dtype=torch.float64)
    before = probs.cumsum(-1) - probs
    p = _column(top_p, before)
    ranked = ranked.masked_fill((before >= p) & (p < 1), -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ranked)


def _column(values: list[float] | list[int], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
