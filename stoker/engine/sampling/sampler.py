"""Draws one token per row of logits, each row with its own parameters and random stream.

Everything runs where the logits are, and the host waits for nothing: `draw_rows` enqueues, and
`RowDraws.take` reads what came of it. In between the caller may copy the results to the host.

    logits (R, V) -> stages of the rows with controls -> ops.draw -> tokens (R,), on the device
                                                                     | copied to the host
                     RowControls: error, log-probabilities, grammar <- RowDraws.take

What a draw is stands in `stoker/ops/draw.py`, and its settings are kept by slot
(execution/device_slots.py). Rows that ask for more bring `RowControls`; the others never meet
them. Knows rows, not requests.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from stoker.engine.request.request import DrawSettings
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
    """What R draws of a step ask for.

    Attributes:
        settings: one entry each; the same object as long as a completion lasts.
        controls: by row, of the rows that ask for more; takes the results in.
        scores: prompts to be scored in this step, one for each item that has some.
    """

    settings: list[DrawSettings] = field(default_factory=list)
    controls: dict[int, RowControls] = field(default_factory=dict)
    scores: list[ScoreRange] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.settings)

    @functools.cached_property
    def features(self) -> frozenset[str]:
        """What any of the rows uses (`Rules.features`); the batch is complete."""
        return frozenset().union(*[row.rules.features for row in self.controls.values()])

    @functools.cached_property
    def reads_tokens(self) -> bool:
        """Whether a row's draw depends on its tokens so far, which the host must know then."""
        return any(row.rules.reads_tokens for row in self.controls.values())


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
        params: its settings and the positions, on the device of the logits.
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


def sample(
    logits: Tensor, batch: SamplingBatch, params: DrawParams, draw: Draw = draw_on_cpu
) -> list[int]:
    """Draw a token for each row of logits (R, V), which may be overwritten, and wait for them.

    The controls of a row get the log-probabilities of its token, or the reason why none could
    be drawn; the token means nothing then.
    """
    draws = draw_rows(logits, batch, params, draw)
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
