"""A row's rules and state for its draws, and what the sampler found out about it.

One object per completion that asks for more than the plain draw. It lives with the request, is
handed to the sampler in each step, and carries the results back. Knows no tensors.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stoker.engine.sampling.grammar import GrammarState
from stoker.engine.sampling.rules import Ints, Rules


class TokenLogprobs(NamedTuple):
    """Log-probabilities at one position: the token itself first, then the likeliest, best first.

    Ranks count from 1; of equally likely tokens the lower id comes first. A token that is among
    the likeliest is listed once.
    """

    ids: list[int]
    logprobs: list[float]
    ranks: list[int]


class TokenCounts:
    """The different tokens of a prompt and an output, and how often each is in the output.

    Kept up to date a token at a time, so a step costs nothing that grows with the length but
    the number of different tokens.
    """

    def __init__(self, prompt: Seq[int]) -> None:
        known = np.unique(np.asarray(prompt, np.int64))
        self._ids: Ints = known
        self._counts: Ints = np.zeros(len(known), np.int64)
        self._place = {token: at for at, token in enumerate(known.tolist())}
        self._seen = 0

    def update(self, output: Seq[int]) -> None:
        """Take in what `output` has beyond the last call."""
        for at in range(self._seen, len(output)):
            token = output[at]
            place = self._place.setdefault(token, len(self._place))
            if place == len(self._ids):
                self._ids = np.append(self._ids, np.empty(place + 16, np.int64))
                self._counts = np.append(self._counts, np.zeros(place + 16, np.int64))
            self._ids[place] = token
            self._counts[place] += 1
        self._seen = len(output)

    @property
    def ids(self) -> Ints:
        """The different tokens, (U,)."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> Ints:
        """Occurrences of each in the output, (U,); 0 for tokens of the prompt alone."""
        return self._counts[: len(self._place)]


@dataclass
class RowControls:
    """One completion.

    Attributes:
        rules: of its request.
        output: its tokens so far; the list that grows with it.
        counts: None where no penalty needs them.
        found: the last draw's log-probabilities, where asked for.
        error: why the last draw failed; its token means nothing.
        grammar: where it stands in what it must follow.
    """

    rules: Rules
    output: list[int]
    counts: TokenCounts | None = None
    found: TokenLogprobs | None = None
    error: str | None = None
    grammar: GrammarState | None = None

    @classmethod
    def make(cls, rules: Rules, prompt: Seq[int], output: list[int]) -> RowControls:
        params = rules.params
        counted = prompt if params.repetition_penalty != 1 else ()
        counts = TokenCounts(counted) if params.penalised else None
        state = rules.grammar.start(params.stop_ids) if rules.grammar else None
        return cls(rules, output, counts, grammar=state)


@dataclass
class PromptScores:
    """Log-probabilities of a prompt's tokens, gathered over the steps that compute it.

    Attributes:
        prompt: its tokens.
        top: the number of likeliest tokens to give with each.
        found: one entry for each token but the first, as far as computed.
    """

    prompt: tuple[int, ...]
    top: int
    found: list[TokenLogprobs]


class ScoreRange(NamedTuple):
    """A part of a step: the states whose logits score `targets`, the tokens after them."""

    scores: PromptScores
    targets: tuple[int, ...]
