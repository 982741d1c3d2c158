"""Why a sequence ends, as far as its tokens tell: end of sequence, stop ids, length, loops.

Knows tokens, no text (stop strings are the detokenizer's) and no tensors. Called by the scheduler.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from stoker.engine.request.params import RepetitionDetectionParams
from stoker.engine.scheduling.sequence import Sequence


def finish_reason(seq: Sequence, eos_ids: frozenset[int]) -> str | None:
    """The reason why `seq` ends with its last token; None if it goes on."""
    if seq.request.pooling:
        return "pooled"
    params, token = seq.request.params, seq.tokens[-1]
    if token in params.stop_ids or (not params.ignore_eos and token in eos_ids):
        return "stop"
    detect = params.repetition_detection
    if (
        detect is not None
        and seq.generated >= params.min_tokens
        and is_looping(seq.tokens, seq.prompt_len, detect)
    ):
        return "repetition"
    return "length" if len(seq.tokens) >= seq.length_limit else None


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
