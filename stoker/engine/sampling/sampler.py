"""Draws one token per row of logits, each row with its own parameters and random stream.

The random number of a draw is a hash of (seed, position), so it depends on nothing else; the
token is found by inverting the cumulative distribution in the vocabulary's order. Rows that ask
for more than temperature, top-k and top-p bring `RowControls`; the others never meet them. Knows
rows, not requests. Called by the runner.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.sampling.controls import RowControls, ScoreRange
from stoker.engine.sampling.filters import column, filter_min_p, filter_typical
from stoker.engine.sampling.grammar_masks import bar_ungrammatical, follow_draws
from stoker.engine.sampling.logprobs import look_up, raw_logprobs
from stoker.engine.sampling.masks import add_bias, bar_tokens
from stoker.engine.sampling.nucleus import draw_kept, filter_logits, find, keep_top
from stoker.engine.sampling.penalties import apply_penalties
from stoker.engine.sampling.processors import run_processors
from stoker.ops.argmax import largest

NOTHING_LEFT = (
    "no token may be drawn: allowed_token_ids, bad_words, min_tokens, logits processors and "
    "constraints (json_schema, regex, grammar, choice) together bar them all"
)

ALTERATIONS = {  # in this order
    "processors": run_processors,
    "bias": add_bias,
    "bars": bar_tokens,
    "grammar": bar_ungrammatical,
    "penalties": apply_penalties,
}


@dataclass(frozen=True)
class SamplingBatch:
    """Parameters of R draws, one entry each.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 or less keeps all.
        top_p: in (0, 1].
        seeds: 64-bit stream seeds.
        positions: absolute position of the drawn token.
        controls: by row, of the rows that ask for more; takes the results in.
        scores: prompts to be scored in this step, one for each item that has some.
    """

    temperature: list[float]
    top_k: list[int]
    top_p: list[float]
    seeds: list[int]
    positions: list[int]
    controls: dict[int, RowControls] = field(default_factory=dict)
    scores: list[ScoreRange] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.seeds)

    @functools.cached_property
    def asked(self) -> frozenset[str]:
        """What any of the rows asks for (`Rules.asks`); the batch is complete."""
        return frozenset().union(*[own.rules.asks for own in self.controls.values()])


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
    """Draw a token for each row of logits (R, V), which may be overwritten.

    The controls of a row get the log-probabilities of its token, or the reason why none could
    be drawn.
    """
    if batch.controls:
        return _sample_controlled(logits, batch)
    return _draw(logits, batch, {})


def _draw(logits: Tensor, batch: SamplingBatch, changed: dict[int, RowControls]) -> list[int]:
    if "processors" in batch.asked:
        top, out = logits.max(dim=-1)  # finds a NaN, which processors may bring
    else:
        top, out = largest(logits)
    if changed:
        _refuse(logits, top, changed)
    random = [row for row, t in enumerate(batch.temperature) if t > 0]
    if random:
        rows = torch.tensor(random, device=logits.device)
        chosen = _sample_random(logits[rows].float(), batch, random)
        out[rows] = chosen
    tokens: list[int] = out.tolist()
    return tokens


def _sample_controlled(logits: Tensor, batch: SamplingBatch) -> list[int]:
    """`sample` where some rows have controls."""
    scored, raw = [], None
    if "logprobs" in batch.asked:
        scored = [row for row, own in batch.controls.items() if "logprobs" in own.rules.asks]
        which = torch.tensor(scored, device=logits.device)
        raw = raw_logprobs(logits[which])
    changed = {row: own for row, own in batch.controls.items() if own.rules.changes_logits}
    if changed:
        logits = logits.float()  # nothing to do but for narrow dtypes, which would round
        _alter(logits, changed, batch.asked)
    tokens = _draw(logits, batch, changed)
    if "grammar" in batch.asked:
        follow_draws(changed, tokens)
    if raw is not None:
        top = [batch.controls[row].rules.params.logprobs or 0 for row in scored]
        drawn = [tokens[row] for row in scored]
        for row, found in zip(scored, look_up(raw, drawn, top), strict=True):
            batch.controls[row].found = found
    return tokens


def _alter(logits: Tensor, rows: dict[int, RowControls], asked: frozenset[str]) -> None:
    """Do what `rows` ask for to logits (R, V) float32, in place, before temperature and filters."""
    for own in rows.values():
        own.error = None
    for kind, alter in ALTERATIONS.items():
        if kind in asked:
            alter(logits, rows)


def _refuse(logits: Tensor, top: Tensor, rows: dict[int, RowControls]) -> None:
    """Give an `error` to those of `rows` that no token can be drawn from.

    logits (R, V) and the largest of each row (R,), or NaN if there is one. The logits of failed
    rows become 0, harmless to what follows.
    """
    values = top.tolist()
    for row, own in rows.items():
        if own.error is None and math.isfinite(values[row]):
            continue
        if own.error is None:
            own.error = (
                NOTHING_LEFT
                if values[row] == -math.inf
                else f"the largest logit is {values[row]} after processors, bias and penalties; "
                "it must be finite"
            )
        logits[row] = 0.0


def _sample_random(logits: Tensor, batch: SamplingBatch, rows: list[int]) -> Tensor:
    """Tokens (R',) for the rows with a temperature; logits (R', V) float32, overwritten."""
    temperature = column([batch.temperature[row] for row in rows], logits)
    # The largest logit becomes 0 first, so that a tiny temperature cannot overflow.
    logits.sub_(logits.amax(-1, keepdim=True)).div_(temperature)
    numbers = uniforms([batch.seeds[row] for row in rows], [batch.positions[row] for row in rows])
    vocab = logits.shape[1]
    _filter_rows(logits, _asking(batch, rows, "min_p", 0), filter_min_p)
    typical = _asking(batch, rows, "typical_p", 1)
    cut = [
        at for at, row in enumerate(rows) if 0 < batch.top_k[row] < vocab or batch.top_p[row] < 1
    ]
    both = [at for at in cut if at in typical]
    if both:
        which = torch.tensor(both, device=logits.device)
        logits[which] = filter_logits(logits[which], *_top(batch, rows, both))
    _filter_rows(logits, typical, filter_typical)
    few = [at for at in cut if at not in typical]
    all_of_them = sorted({*range(len(rows))} - {*few})
    out = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    for group in (few, all_of_them):
        if not group:
            continue
        which = torch.tensor(group, device=logits.device)
        part = logits if len(group) == len(rows) else logits[which]
        if group is few:
            kept = keep_top(part, *_top(batch, rows, group))
            out[which] = draw_kept(part, kept, numbers[group])
        else:
            probs = part.softmax(-1, dtype=torch.float64)
            out[which] = find(probs, probs.cumsum(-1), numbers[group])
    return out


def _top(batch: SamplingBatch, rows: list[int], group: list[int]) -> tuple[list[int], list[float]]:
    """top_k and top_p of some places in `rows`."""
    return [batch.top_k[rows[at]] for at in group], [batch.top_p[rows[at]] for at in group]


def _asking(batch: SamplingBatch, rows: list[int], name: str, off: float) -> dict[int, float]:
    """By place in `rows`, the parameter called `name` of those rows where it is not `off`."""
    if name not in batch.asked:
        return {}
    values = {
        at: getattr(own.rules.params, name)
        for at, row in enumerate(rows)
        if (own := batch.controls.get(row)) is not None
    }
    return {at: value for at, value in values.items() if value != off}


def _filter_rows(
    logits: Tensor, values: dict[int, float], keep: Callable[[Tensor, list[float]], Tensor]
) -> None:
    """Apply a filter with its `values` to some rows of logits (R', V), in place."""
    if values:
        which = torch.tensor([*values], device=logits.device)
        logits[which] = keep(logits[which], [*values.values()])
