"""Tells whether a completion is caught in a loop.

Knows tokens only. Called by the scheduler for requests that ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from stoker.engine.params import RepetitionDetectionParams


def is_looping(tokens: Seq[int], start: int, params: RepetitionDetectionParams) -> bool:
    """Whether `tokens[start:]` ends with one pattern `min_count` times in a row.

    A sequence repeats with period p over its last p * count tokens exactly if these equal
    themselves shifted by p. The last token alone rules out most periods.
    """
    last, length = len(tokens) - 1, len(tokens) - start
    for size in range(params.min_pattern_size, params.max_pattern_size + 1):
        span = size * params.min_count
        if span > length:
            return False
        if tokens[last] != tokens[last - size]:
            continue
        if tokens[len(tokens) - span + size :] == tokens[len(tokens) - span : -size]:
            return True
    return False
