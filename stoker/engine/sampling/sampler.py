"""Draws one token per row of logits, each row with its own parameters and random stream.

Everything runs where the logits are, and the host waits for nothing: `draw_rows` enqueues, and
`RowDraws.take` reads what came of it. In between the caller may copy the results to the host.

    logits (R, V) -> stages of the rows with controls -> ops.draw -> tokens (R,), on the device
                                                                     | copied to the host
                     RowControls: error, log-probabilities, grammar <- RowDraws.take

What a draw is stands in `stoker/ops/draw.py`. Rows that ask for more than temperature, top-k and
top-p bring `RowControls`; the others never meet them. Knows rows, not requests.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.sampling.controls import RowControls, ScoreRange
from stoker.engine.sampling.grammar_masks import bar_ungrammatical, follow_draws
from stoker.engine.sampling.logprobs import LookUp, look_up, raw_logprobs
from stoker.engine.sampling.masks import add_bias, bar_tokens
from stoker.engine.sampling.penalties import apply_penalties
from stoker.engine.sampling.processors import run_processors
from stoker.ops.draw import Draw, DrawParams
from stoker.ops.draw_cpu import draw_on_cpu
from stoker.ops.upload import upload

NOTHING_LEFT = (
    "no token may be drawn: allowed_token_ids, bad_words, min_tokens, logits processors and "
    "constraints (json_schema, regex, grammar, choice) together bar them all"
)

STAGES = {  # by feature, in this order
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

    def repeat_last(self, positions: Seq[int]) -> None:
        """Draw the last row, which has no controls, at each of `positions` instead of its own."""
        columns: tuple[list[Any], ...] = (self.temperature, self.top_k, self.top_p, self.seeds)
        for column in columns:
            column.extend(column[-1:] * (len(positions) - 1))
        self.positions[-1:] = positions

    @functools.cached_property
    def features(self) -> frozenset[str]:
        """What any of the rows uses (`Rules.features`); the batch is complete."""
        return frozenset().union(*[row.rules.features for row in self.controls.values()])

    @functools.cached_property
    def reads_tokens(self) -> bool:
        """Whether a row's draw depends on its tokens so far, which the host must know then."""
        return any(row.rules.reads_tokens for row in self.controls.values())

    def params(self, vocab: int, device: torch.device) -> DrawParams:
        """The parameters on `device`, with the filters that some row uses."""
        if not any(self.temperature):
            none, nowhere = np.zeros(len(self), np.float32), np.zeros(len(self), np.int64)
            return DrawParams(*upload([none, nowhere, nowhere], device))
        top_k, top_p = np.array(self.top_k, np.int64), np.array(self.top_p, np.float64)
        arrays: dict[str, NDArray[Any]] = {
            "temperature": np.array(self.temperature, np.float32),
            "seeds": np.array(self.seeds, np.uint64).view(np.int64),
            "positions": np.array(self.positions, np.int64),
        }
        if ((top_k > 0) & (top_k < vocab)).any():
            arrays["top_k"] = top_k
        if (top_p < 1).any():
            arrays["top_p"] = top_p
        for name, off in (("min_p", 0.0), ("typical_p", 1.0)):
            if name in self.features:
                arrays[name] = np.full(len(self), off)
                for row, controls in self.controls.items():
                    arrays[name][row] = getattr(controls.rules.params, name)
        return DrawParams(**dict(zip(arrays, upload([*arrays.values()], device), strict=True)))


class RowDraws:
    """R draws that have been enqueued.

    Attributes:
        tokens: (R,) int64, ids of the vocabulary, on the device of the logits.
        results: more tensors there that `take` needs on the host.
    """

    def __init__(
        self, batch: SamplingBatch, tokens: Tensor, tops: Tensor | None, looked: LookUp | None
    ) -> None:
        self.tokens = tokens
        self.results: list[Tensor] = [] if tops is None else [tops]
        if looked is not None:
            self.results += looked
        self._batch = batch
        self._changed = tops is not None

    def take(self, tokens: list[int], results: Seq[Tensor]) -> list[int]:
        """Tell the controls of the rows what came of their draws, and return `tokens`.

        They get the log-probabilities of their token, or the reason why none could be drawn, and
        their grammars advance.

        Args:
            tokens: the attribute, on the host.
            results: the attribute, on the host.
        """
        batch, rest = self._batch, [*results]
        changed = {row: one for row, one in batch.controls.items() if one.rules.changes_logits}
        if self._changed:
            _note_failures(rest.pop(0).tolist(), changed)
        if "grammar" in batch.features:
            follow_draws(changed, tokens)
        if rest:
            scored = _scored(batch)
            looked = LookUp(*rest).named([tokens[row] for row in scored], _top(batch, scored))
            for row, found in zip(scored, looked, strict=True):
                batch.controls[row].found = found
        return tokens


def draw_rows(logits: Tensor, batch: SamplingBatch, params: DrawParams, draw: Draw) -> RowDraws:
    """Enqueue a draw for each row of finite logits (R, V), which may be overwritten.

    Args:
        logits: in any floating dtype.
        batch: what the rows ask for.
        params: `batch.params` on the device of the logits.
        draw: an implementation for this device.
    """
    raw = tops = looked = None
    scored = _scored(batch) if "logprobs" in batch.features else []
    if scored:
        (which,) = upload([np.array(scored, np.int64)], logits.device)
        raw = raw_logprobs(logits[which])
    changed = {row: one for row, one in batch.controls.items() if one.rules.changes_logits}
    if changed:
        logits = logits.float()  # nothing to do but for narrow dtypes, which would round
        for controls in changed.values():
            controls.error = None
        for feature, stage in STAGES.items():
            if feature in batch.features:
                stage(logits, changed)
        if "processors" in batch.features:
            tops = logits.amax(-1)  # NaN if one is there, which processors may bring
            logits.masked_fill_(~tops.isfinite()[:, None], 0.0)  # no draw is made for NaN
    drawn = draw(logits, params)
    # of NaN some draws make no id, and the next step is to look it up before anyone is told
    tokens = drawn.tokens.clamp_(0, logits.shape[1] - 1)
    if changed and tops is None:
        tops = drawn.tops
    if raw is not None:
        looked = look_up(raw, tokens[which], _top(batch, scored))
    return RowDraws(batch, tokens, tops, looked)


def sample(logits: Tensor, batch: SamplingBatch, draw: Draw = draw_on_cpu) -> list[int]:
    """Draw a token for each row of logits (R, V), which may be overwritten, and wait for them.

    The controls of a row get the log-probabilities of its token, or the reason why none could
    be drawn; the token means nothing then.
    """
    draws = draw_rows(logits, batch, batch.params(logits.shape[1], logits.device), draw)
    return draws.take(draws.tokens.tolist(), [one.cpu() for one in draws.results])


def _scored(batch: SamplingBatch) -> list[int]:
    """The rows that want log-probabilities."""
    return [row for row, one in batch.controls.items() if "logprobs" in one.rules.features]


def _top(batch: SamplingBatch, rows: list[int]) -> list[int]:
    """How many of the likeliest tokens each of `rows` wants beside its own."""
    return [batch.controls[row].rules.params.logprobs or 0 for row in rows]


def _note_failures(tops: list[float], rows: dict[int, RowControls]) -> None:
    """Give an `error` to those of `rows` whose largest logit, of `tops` (R,), is not finite."""
    for row, controls in rows.items():
        if controls.error is None and not math.isfinite(tops[row]):
            controls.error = (
                NOTHING_LEFT
                if tops[row] == -math.inf
                else f"the largest logit is {tops[row]} after processors, bias and penalties; "
                "it must be finite"
            )
