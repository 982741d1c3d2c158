"""The vectors of a step: which of its tokens are vectors of a prompt, and what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stoker.engine.request.vectors import Floats, PromptVectors
from stoker.engine.scheduling.step import Step


class StepVectors(NamedTuple):
    """E of a step's tokens, on the host."""

    rows: NDArray[np.int64]  # (E,) places among the tokens of the step
    values: Floats  # (E, width)


def step_vectors(step: Step, of: Callable[[int], PromptVectors | None]) -> StepVectors | None:
    """The vectors of `step`; None if all of its tokens are tokens.

    A prompt has vectors at positions 2 to 6, and this step computes 3 tokens from position 5 on,
    behind 2 of another sequence:

        tokens      21 22 | a  b  13
        positions    0  1 | 5  6   7
        rows                2  3          values: vectors 3 and 4 of the span

    Args:
        of: the vectors in the prompt of a sequence, by serial number.
    """
    rows, values, begin = [], [], 0
    for item in step.items:
        vectors = of(item.sequence)
        if vectors is not None:
            for first, part in vectors.within(item.start, item.end):
                at = begin + first - item.start
                rows.append(np.arange(at, at + len(part)))
                values.append(part)
        begin += len(item.tokens)
    return StepVectors(np.concatenate(rows), np.concatenate(values)) if rows else None
