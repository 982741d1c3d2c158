"""A request under way: its completions so far, and what its draws need and find out.

Knows one request; the engine holds one of these for each and the scheduler has its sequences.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stoker.engine.request.request import (
    CompletionOutput,
    DrawSettings,
    Logprob,
    Logprobs,
    Request,
    RequestOutput,
)
from stoker.engine.sampling.controls import PromptScores, RowControls, ScoreRange, TokenLogprobs
from stoker.engine.sampling.rules import Rules
from stoker.engine.scheduling.sequence import Sequence
from stoker.engine.text.detokenizer import Detokenizer, TokenTexts

if TYPE_CHECKING:  # it has tensors, which are not looked into here
    from stoker.engine.execution.pooler import PoolState


@dataclass
class ActiveRequest:
    """One request and its output.

    Attributes:
        request: what was asked.
        output: what there is of an answer; completions beyond `n` are dropped at the end.
        sequences: of its samples by index; all but the first begin once its prompt is computed.
        rules: of its draws; None if temperature and the filters are all.
        scores: of its prompt, if asked for.
        shows_progress: partial outputs are wanted.
        needs_text: text is wanted after every token.
        settings: of the draws, one for each completion; empty until it has begun.
        controls: by completion, made at its first draw.
        detokenizers: by completion, where text is needed before the end.
        pool: what has been gathered of its states, where it is pooled.
        made: when it was added.
        begun: it has been part of a step.
    """

    request: Request
    output: RequestOutput
    sequences: dict[int, Sequence]
    rules: Rules | None = None
    scores: PromptScores | None = None
    shows_progress: bool = False
    needs_text: bool = False
    settings: list[DrawSettings] = field(default_factory=list)
    controls: dict[int, RowControls] = field(default_factory=dict)
    detokenizers: dict[int, Detokenizer] = field(default_factory=dict)
    pool: PoolState | None = None
    made: float = field(default_factory=time.monotonic)
    begun: bool = False

    @classmethod
    def make(cls, request: Request, rules: Rules | None, seq: Sequence) -> ActiveRequest:
        """The state of a request that has just been added, as the sequence `seq`."""
        params, ids, vectors = request.params, request.prompt_token_ids, request.vectors
        outputs = [CompletionOutput(index, "", []) for index in range(seq.pending_samples)]
        for one in outputs:
            if rules is not None and "logprobs" in rules.features:
                one.cumulative_logprob = 0.0
                one.logprobs = None if params.logprobs is None else []
        scores = None
        if params.prompt_logprobs is not None:
            scores = PromptScores(ids, params.prompt_logprobs, [])
        shown = list(ids) if vectors is None else vectors.shown(ids)
        output = RequestOutput(request.id, request.prompt, shown, outputs)
        # which of several drawn completions stay is known at the end only
        shows = request.stream and not params.ranked
        needs_text = shows or bool(params.stop_strings)
        return cls(request, output, {0: seq}, rules, scores, shows, needs_text)

    def begin(self) -> None:
        """Note that the request is part of a step for the first time."""
        self.begun = True
        self.settings = [self.request.draw_settings(one.index) for one in self.output.outputs]
        self.output.queued_seconds = time.monotonic() - self.made

    def control(self, rules: Rules, index: int) -> RowControls:
        """The controls of completion `index`, made when first asked for."""
        found = self.controls.get(index)
        if found is None:
            output = self.output.outputs[index].token_ids
            found = RowControls.make(rules, self.request.prompt_tokens, output)
            self.controls[index] = found
        return found

    def score_range(self, start: int, scored: tuple[int, int]) -> ScoreRange:
        """What the states of tokens start + scored[0] to start + scored[1] - 1 score.

        What there is of these scores, from a step that ran out of memory, is dropped.
        """
        assert self.scores is not None
        first, last = start + scored[0] + 1, start + scored[1] + 1
        del self.scores.found[first - 1 :]
        return ScoreRange(self.scores, self.scores.prompt[first:last])

    def take_draw(self, out: CompletionOutput, token: int, texts: TokenTexts | None) -> RowControls:
        """Add a token drawn under controls to its completion, unless the draw failed.

        Args:
            texts: of tokens, where there is a tokenizer.

        Returns:
            The controls, which hold the error if it did.
        """
        row = self.controls[out.index]
        if row.error is not None:
            out.error = row.error
            return row
        if row.found is not None:
            assert out.cumulative_logprob is not None
            out.cumulative_logprob += row.found.logprobs[0]
            if out.logprobs is not None:
                first, special = _is_first(out.token_ids, texts, self.special), self.special
                out.logprobs.append(_named(row.found, texts, first, special))
        out.token_ids.append(token)
        return row

    def judge(self, out: CompletionOutput) -> None:
        """Say whether a completion that has ended is whole, where it had to follow something."""
        row = self.controls.get(out.index)
        if self.rules is None or self.rules.grammar is None:
            return
        if row is None or row.grammar is None or out.error is not None:
            out.complete = False
            return
        cut = out.index in self.detokenizers and self.detokenizers[out.index].stopped
        if cut or row.grammar.stopped_by_text(out.token_ids):
            out.complete = self.rules.grammar.accepts(out.text)  # the text is not its tokens'
        else:
            out.complete = row.grammar.complete

    def show_prompt_scores(self, texts: TokenTexts | None) -> None:
        """Give the scores of the prompt, once it has been computed."""
        if self.scores is None or self.output.prompt_logprobs is not None:
            return
        entries: list[Logprobs | None] = [None]
        first = True
        for token, found in zip(self.scores.prompt, self.scores.found, strict=False):
            first = first and _is_first([token], texts, self.special)
            entries.append(_named(found, texts, first, self.special))
        self.output.prompt_logprobs = entries

    @property
    def special(self) -> bool:
        """Whether texts have special tokens."""
        return not self.request.params.skip_special_tokens

    def finish(self) -> None:
        """Close the output: of `best_of` completions the likeliest `n` stay, best first."""
        self.output.finished = True
        params = self.request.params
        if params.ranked:
            best = sorted(self.output.outputs, key=_worth)[: params.n]
            self.output.outputs = best
            for index, one in enumerate(best):
                one.index = index


def _worth(one: CompletionOutput) -> tuple[bool, float, int]:
    """Sorts failed completions to the end, likelier ones to the front, ties by the draw."""
    return one.error is not None, -(one.cumulative_logprob or 0.0), one.index


def _is_first(before: Seq[int], texts: TokenTexts | None, special: bool) -> bool:
    """Return True if no text comes of the tokens `before`."""
    return texts is not None and not any(texts.counts(token, special) for token in before)


def _named(found: TokenLogprobs, texts: TokenTexts | None, first: bool, special: bool) -> Logprobs:
    entries = zip(*found, strict=True)
    if texts is None:
        return {token: Logprob(logprob, rank) for token, logprob, rank in entries}
    return {
        token: Logprob(logprob, rank, texts.text(token, first), texts.added(token, first, special))
        for token, logprob, rank in entries
    }
