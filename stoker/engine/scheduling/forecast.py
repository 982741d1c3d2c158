"""Predicts how many cache blocks the running sequences will need, before admitting another.

Output lengths are learnt from finished sequences; the blocks of every future moment follow
from them, and a request is admitted when the highest moment fits. This is the idea of the
Past-Future scheduler (Gong et al., ASPLOS 2025) and of S3 (Jin et al., NeurIPS 2023), with
the conditional mean as the prediction. Knows numbers only; called by the scheduler.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from stoker.engine.scheduling.sequence import Sequence

Ints = NDArray[np.int64]


class LengthEstimator:
    """Expected output lengths, from the last `window` finished ones."""

    def __init__(self, window: int = 1024) -> None:
        self._history: deque[int] = deque(maxlen=window)
        self._sorted: Ints | None = None
        self._tail_sums: Ints = np.zeros(0, np.int64)

    def observe(self, length: int) -> None:
        self._history.append(length)
        self._sorted = None

    def expected(self, generated: Ints, limit: Ints) -> Ints:
        """Expected total outputs, given what is generated already; at most `limit`.

        The mean of the past lengths that are greater than `generated`. With none to go by,
        halfway from `generated` to `limit` while nothing has finished yet, else as much again
        as there is.
        """
        if not self._history:
            return (generated + limit + 1) // 2
        if self._sorted is None:
            self._sorted = np.sort(np.asarray(self._history, dtype=np.int64))
            self._tail_sums = np.cumsum(self._sorted[::-1])[::-1]
        at = np.searchsorted(self._sorted, generated, side="right")
        longer = len(self._sorted) - at
        sums = np.append(self._tail_sums, 0)[at]
        mean = np.where(longer > 0, -(-sums // np.maximum(longer, 1)), 2 * generated + 1)
        return np.clip(mean, np.minimum(generated + 1, limit), limit).astype(np.int64)


class Forecast:
    """The block use of a set of sequences over the future, one more tried at a time.

    Every sequence advances one token a step until its expected end and then gives its own
    blocks back. Blocks shared with others are counted once and never given back, which errs
    on the safe side. Rounding up to whole blocks counts as one block for each.

    Args:
        running: the sequences holding blocks now.
        held: distinct blocks they hold together.
        block_size: tokens per block.
        lengths: the estimator of output lengths.
    """

    def __init__(
        self, running: list[Sequence], held: int, block_size: int, lengths: LengthEstimator
    ) -> None:
        self._block_size = block_size
        self._lengths = lengths
        private = sum(len(seq.blocks) - seq.shared_blocks for seq in running)
        self._base = max(0, held - private)
        self._tokens, self._left = self._measure(running)

    def _measure(self, sequences: list[Sequence]) -> tuple[Ints, Ints]:
        """Tokens in blocks of their own (M,), and tokens still to generate (M,).

        M counts completions: a prompt whose samples are still to be drawn has n of them.
        """
        size = self._block_size
        rows = []
        for seq in sequences:
            limit, certain = seq.length_limit - seq.prompt_len, seq.request.params.ignore_eos
            rows.append((len(seq.tokens) - seq.shared_blocks * size, seq.generated, limit, certain))
            rows += [(0, 0, limit, certain)] * (seq.pending_samples - 1)
        own, generated, limits, fixed = np.array(rows, np.int64).reshape(-1, 4).T
        expected = np.where(fixed, limits, self._lengths.expected(generated, limits))
        return own, np.maximum(expected - generated, 1)

    def peak_with(self, candidate: Sequence, matched_blocks: int) -> int:
        """Most blocks in use at any future moment if `candidate` ran as well.

        `matched_blocks` of its prompt are held by others already.
        """
        tokens, left = self._measure([candidate])
        tokens[0] -= matched_blocks * self._block_size
        self._tried = np.append(self._tokens, tokens), np.append(self._left, left)
        return self._peak(*self._tried)

    def accept(self) -> None:
        """Make the candidate tried last one of the running."""
        self._tokens, self._left = self._tried

    def _peak(self, tokens: Ints, left: Ints) -> int:
        # Use grows until a sequence ends, so the peaks are the moments just before an end:
        # then all with at least as much left are alive and have grown by that much.
        order = np.argsort(-left, kind="stable")
        alive = np.arange(1, len(order) + 1)
        totals = np.cumsum(tokens[order]) + alive * left[order]
        size = self._block_size
        return self._base + int(np.max((totals + alive * (size - 1)) // size))
