"""How many tokens of a prompt fit a step that is to take a given time.

A chunk of a prompt delays every decode that shares its step. With a fixed chunk, steps grow longer
as the prompt's context does; so chunks are chosen by time instead (Mnemosyne, Agrawal et al.,
2024). The time of a step is fitted to the steps that were measured:

    seconds = base + per_token * tokens + per_pair * pairs

where a pair is a query and a key that it sees. A chunk of n tokens from position s has n * s +
n * (n + 1) / 2 of them: 4 tokens from position 10 see 11 + 12 + 13 + 14 = 50 keys.

Knows numbers and steps. The scheduler asks it, the loop tells it what steps took.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stoker.engine.scheduling.step import Step, StepItem

Floats = NDArray[np.float64]

FADE = 0.95  # weight of a sample when the next of its kind comes: about 20 of them count
FIRST_TOKENS = 64  # so many are assumed to fit the target before anything was measured
LARGEST_ERROR = 0.1  # of a step, above the target
UNITS = np.array([1.0, 100.0, 10_000.0])  # of the features, for sums of like size


class StepTime:
    """Predicts the seconds of a step and keeps prompts within a target.

    Args:
        target: seconds. A step with decodes alone may take longer, and a step with a prompt has
            at least `least` tokens of it, so that it goes on.
        least: tokens.

    Steps with and without chunks of prompts fade separately: an hour of decodes does not make the
    cost of a prompt's tokens forgotten.
    """

    def __init__(self, target: float, least: int) -> None:
        self.target = target
        self.least = least
        self._items: list[StepItem] = []  # of the step in the making, so many of them counted
        self._counted = self._tokens = self._pairs = 0
        self._prompts = False
        self._seen = FIRST_TOKENS // 2  # most tokens of a measured step
        self._error = 0.0  # mean square of relative errors, over prompts' steps
        self._cost = np.array([0.0, target / FIRST_TOKENS, 0.0]) * UNITS
        # normal equations of the two kinds, without and with prompts
        self._squares = np.zeros((2, 3, 3))
        self._products = np.zeros((2, 3))
        self._stale = False

    def most_tokens(self, items: list[StepItem], start: int) -> int:
        """The most tokens of a prompt, from position `start` on, that a step has time for.

        At least one, or `least` if it is the step's first prompt.

        Args:
            items: the step in the making; the same list, longer, until the step is planned.
            start: position of the first token.
        """
        if items is not self._items:
            self._items, self._counted = items, 0
            self._tokens, self._pairs, self._prompts = 0, 0, False
        for item in items[self._counted :]:
            count = len(item.tokens)
            self._tokens += count
            self._pairs += chunk_pairs(item.start, count)
            self._prompts = self._prompts or count > 1
        self._counted = len(items)
        least = 1 if self._prompts else self.least
        return max(least, self.tokens_within(self._tokens, self._pairs, start))

    def observe(self, tokens: int, pairs: int, prompts: bool, seconds: float) -> None:
        """Take in a measured step.

        A step that took long for a reason of its own (a kernel was compiled) counts as one of
        twice the target.

        Args:
            tokens, pairs: of the step.
            prompts: whether it held a chunk of a prompt.
            seconds: it took.
        """
        seconds = min(seconds, 2 * self.target)
        if prompts and self._squares[1].any():
            error = self.seconds(tokens, pairs) / seconds - 1
            self._error = FADE * self._error + (1 - FADE) * error * error
        self._seen = max(self._seen, tokens)
        x = np.array([1.0, tokens, pairs]) / UNITS
        kind = int(prompts)
        self._squares[kind] = FADE * self._squares[kind] + np.outer(x, x)
        self._products[kind] = FADE * self._products[kind] + x * seconds
        self._stale = True

    def seconds(self, tokens: int, pairs: int) -> float:
        """The predicted time of a step."""
        base, per_token, per_pair = self._costs()
        return base + per_token * tokens + per_pair * pairs

    def tokens_within(self, tokens: int, pairs: int, start: int) -> int:
        """The most tokens of a prompt, from position `start` on, that fit beside others.

        Args:
            tokens, pairs: of what the step holds already.
            start: position of the first token.
        """
        base, per_token, per_pair = self._costs()
        spare = self.aim - (base + per_token * tokens + per_pair * pairs)
        most = 2 * self._seen - tokens  # what was measured is not extrapolated further
        if spare <= 0 or most <= 0:
            return 0
        # per_pair / 2 * n**2 + linear * n = spare, solved without a difference of like numbers
        linear = per_token + per_pair * (start + 0.5)
        divisor = linear + math.sqrt(linear * linear + 2 * per_pair * spare)
        return most if divisor * most <= 2 * spare else int(2 * spare / divisor)

    @property
    def aim(self) -> float:
        """The target, or less if predictions err so much that steps would often exceed it."""
        return self.target * min(1.0, (1 + LARGEST_ERROR) / (1 + 2 * math.sqrt(self._error)))

    def _costs(self) -> tuple[float, float, float]:
        if self._stale:
            self._cost, self._stale = self._fit(), False
        base, per_token, per_pair = (self._cost / UNITS).tolist()
        return base, per_token, per_pair

    def _fit(self) -> Floats:
        """Least squares with no cost below 0; what the samples leave open stays as it was."""
        weak = 1e-4 * np.eye(3)
        squares = self._squares.sum(0) + weak
        products = self._products.sum(0) + weak @ self._cost
        free = [0, 1, 2]
        while free:
            cost = np.linalg.solve(squares[np.ix_(free, free)], products[free])
            if cost.min() >= 0:
                break
            del free[int(cost.argmin())]
        found = np.zeros(3)
        found[free] = cost
        return found


def chunk_pairs(start: int, count: int) -> int:
    """Pairs of a query and a key that `count` tokens from position `start` on make."""
    return count * start + count * (count + 1) // 2


def step_work(step: Step) -> tuple[int, int, bool]:
    """Tokens and pairs of a step, and whether it holds a chunk of a prompt."""
    pairs = sum(chunk_pairs(item.start, len(item.tokens)) for item in step.items)
    return step.num_tokens, pairs, step.num_decodes < len(step.items)
