"""Predicts how many cache blocks the running sequences will need, before admitting another.

Output lengths are learnt from finished sequences; the blocks of every future moment follow
from them, and a request is admitted when the highest moment fits. This is the idea of the
Past-Future scheduler (Gong et al., ASPLOS 2025) and of S3 (Jin et al., NeurIPS 2023).

Each running sequence is expected to reach one of the past lengths greater than its own so far,
picked by a rank in [0, 1) that it keeps. Together they end spread over time, as past ones did:

    past lengths  3 5 8 20 90      generated so far 4: may reach 5, 8, 20 or 90
    ranks         0.1 0.4 0.7 0.9
    expected      5   8   20  90   the mean, 31 for all four, would keep them alive too long

Knows numbers only; called by the scheduler.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stoker.engine.scheduling.sequence import Sequence

Ints = NDArray[np.int64]
GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, are spread evenly over [0, 1)
RESERVE = 0.5  # without it three times as many are preempted, for batches 4 % larger


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
        """Mean total outputs, given what is generated already; at most `limit`.

        The mean of the past lengths that are greater than `generated`. With none to go by,
        halfway from `generated` to `limit` while nothing has finished yet, else as much again
        as there is.
        """
        if not self._history:
            return (generated + limit + 1) // 2
        past, first = self._longer_than(generated)
        longer = len(past) - first
        sums = np.append(self._tail_sums, 0)[first]
        mean = np.where(longer > 0, -(-sums // np.maximum(longer, 1)), 2 * generated + 1)
        return np.clip(mean, np.minimum(generated + 1, limit), limit).astype(np.int64)

    def ranked(self, generated: Ints, limit: Ints, ranks: NDArray[np.floating[Any]]) -> Ints:
        """Total outputs (M,) at `ranks` in [0, 1) of the past lengths greater than `generated`.

        Where there are none, as in `expected`.
        """
        if not self._history:
            return self.expected(generated, limit)
        past, first = self._longer_than(generated)
        longer = len(past) - first
        picked = np.minimum(first + (ranks * longer).astype(np.int64), len(past) - 1)
        length = np.where(longer > 0, past[picked], 2 * generated + 1)
        return np.clip(length, np.minimum(generated + 1, limit), limit).astype(np.int64)

    def _longer_than(self, generated: Ints) -> tuple[Ints, Ints]:
        """The past lengths in order, and where in them those greater than `generated` begin."""
        if self._sorted is None:
            self._sorted = np.sort(np.asarray(self._history, dtype=np.int64))
            self._tail_sums = np.cumsum(self._sorted[::-1])[::-1]
        return self._sorted, np.searchsorted(self._sorted, generated, side="right")


class Forecast:
    """The block use of a set of sequences over the future, one more tried at a time.

    Every sequence advances one token a step until its expected end and then gives its own
    blocks back. Blocks shared with others are counted once and never given back, which errs
    on the safe side. Rounding up to whole blocks counts as one block for each.

    For lengths that turn out longer, `RESERVE` standard deviations are kept free. That of a
    sequence is taken to be what it still has to generate, as for exponential lengths; it is 0 for
    one that is expected to reach its limit.

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
        self._tokens, self._left, self._variance = self._measure(running)
        self._tried = self._tokens, self._left, self._variance

    def _measure(self, sequences: list[Sequence]) -> tuple[Ints, Ints, float]:
        """Tokens in blocks of their own (M,), tokens still to generate (M,), and their variance.

        M counts completions: a prompt whose samples are still to be drawn has n of them.
        """
        size = self._block_size
        rows = []
        for seq in sequences:
            limit, certain = seq.length_limit - seq.prompt_len, seq.request.params.ignore_eos
            own, number = len(seq.tokens) - seq.shared_blocks * size, seq.serial
            rows.append((own, seq.generated, limit, certain, number))
            rows += [
                (0, 0, limit, certain, number + sample) for sample in range(1, seq.pending_samples)
            ]
        tokens, generated, limits, fixed, numbers = np.array(rows, np.int64).reshape(-1, 5).T
        ranks = numbers * GOLDEN % 1
        expected = np.where(fixed, limits, self._lengths.ranked(generated, limits, ranks))
        left = np.maximum(expected - generated, 1)
        return tokens, left, float(np.sum(left[expected < limits] ** 2.0))

    def peak_with(self, candidate: Sequence, matched_blocks: int) -> int:
        """Most blocks in use at any future moment if `candidate` ran as well, and `reserve`.

        `matched_blocks` of its prompt are held by others already.
        """
        tokens, left, variance = self._measure([candidate])
        tokens[0] -= matched_blocks * self._block_size
        tokens, left = np.append(self._tokens, tokens), np.append(self._left, left)
        self._tried = tokens, left, self._variance + variance
        return self._peak(tokens, left) + self.reserve

    @property
    def reserve(self) -> int:
        """Blocks kept free for lengths longer than expected, with the candidate tried last."""
        return int(RESERVE * self._tried[2] ** 0.5 / self._block_size)

    def accept(self) -> None:
        """Make the candidate tried last one of the running."""
        self._tokens, self._left, self._variance = self._tried

    def _peak(self, tokens: Ints, left: Ints) -> int:
        # Use grows until a sequence ends, so the peaks are the moments just before an end:
        # then all with at least as much left are alive and have grown by that much.
        order = np.argsort(-left, kind="stable")
        alive = np.arange(1, len(order) + 1)
        totals = np.cumsum(tokens[order]) + alive * left[order]
        size = self._block_size
        return self._base + int(np.max((totals + alive * (size - 1)) // size))
