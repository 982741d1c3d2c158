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
from collections.abc import Sequence as Seq
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stoker.engine.blocks.cache_pool import CachePool
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
    on the safe side. Rounding up to whole blocks counts as one block for each. In a group with
    a window, a sequence holds no more than its window and the chunk that it computes at a time.

    For lengths that turn out longer, `RESERVE` standard deviations are kept free. That of a
    sequence is taken to be what it still has to generate, as for exponential lengths; it is 0 for
    one that is expected to reach its limit.

    Args:
        running: the sequences holding blocks now.
        pool: what they hold, and how much there is.
        lengths: the estimator of output lengths.
        max_chunk: most tokens that a sequence computes in a step.
    """

    def __init__(
        self, running: list[Sequence], pool: CachePool, lengths: LengthEstimator, max_chunk: int
    ) -> None:
        self._pool = pool
        self._lengths = lengths
        self._max_chunk = max_chunk
        self._base = [
            max(0, own.held - sum(_private_blocks(seq, group) for seq in running))
            for group, own in enumerate(pool.pools)
        ]
        self._rows = self._tried = self._measure(running)

    def _measure(self, sequences: list[Sequence]) -> _Rows:
        """A row for each completion: a prompt whose samples are still to be drawn has n of them."""
        size = self._pool.block_size
        rows = []
        for seq in sequences:
            limit, certain = seq.length_limit - seq.prompt_len, seq.request.params.ignore_eos
            tokens, number = len(seq.tokens) - seq.shared_blocks * size, seq.serial
            rows.append((tokens, seq.generated, limit, certain, number, seq.remaining))
            rows += [
                (0, 0, limit, certain, number + sample, 1)
                for sample in range(1, seq.pending_samples)
            ]
        own, generated, limits, fixed, numbers, chunks = np.array(rows, np.int64).reshape(-1, 6).T
        ranks = numbers * GOLDEN % 1
        expected = np.where(fixed, limits, self._lengths.ranked(generated, limits, ranks))
        left = np.maximum(expected - generated, 1)
        uncertain = np.where(expected < limits, left, 0)
        return _Rows(own, left, uncertain, np.minimum(chunks, self._max_chunk))

    def fits(self, candidate: Sequence, matched: Seq[int]) -> bool:
        """Whether every group would have blocks at any future moment if `candidate` ran as well.

        Of its prompt, `matched` blocks cost nothing in each group.
        """
        new, size = self._measure([candidate]), self._pool.block_size
        self._tried = _Rows(
            *(np.append(rows, row) for rows, row in zip(self._rows, new, strict=True))
        )
        first = len(self._rows.own)
        for group in range(len(self._pool.pools)):
            num_blocks, window, _ = self._pool.groups[group]
            own = self._tried.own
            if matched[group]:
                own = own.copy()
                own[first] -= matched[group] * size
            if self._peak(group, own) + self._reserve(own, window) > num_blocks:
                return False
        return True

    def peaks(self) -> list[int]:
        """Most blocks of each group that the running are expected to use at any moment."""
        self._tried = self._rows
        return [self._peak(group, self._rows.own) for group in range(len(self._base))]

    def accept(self) -> None:
        """Make the candidate tried last one of the running."""
        self._rows = self._tried

    def _reserve(self, own: Ints, window: int | None) -> int:
        """Blocks kept free for lengths longer than expected, with the candidate tried last."""
        growth = self._tried.uncertain
        if window is not None:
            growth = np.clip(self._bounds(window) - own, 0, growth)
        return int(RESERVE * float(np.sum(growth**2.0)) ** 0.5 / self._pool.block_size)

    def _peak(self, group: int, own: Ints) -> int:
        """Most blocks of a group in use, of those tried last with `own` tokens in own blocks.

        Use grows until a sequence ends, so the peaks are the moments just before an end: then all
        with at least as much left are alive and have grown by that much.
        """
        size, left, window = (
            self._pool.block_size,
            self._tried.left,
            self._pool.groups[group].window,
        )
        order = np.argsort(-left, kind="stable")
        alive = np.arange(1, len(order) + 1)
        if window is None:
            totals = np.cumsum(own[order]) + alive * left[order]
        else:
            totals = _bounded(own, left, self._bounds(window), order)
        return self._base[group] + int(np.max((totals + alive * (size - 1)) // size))

    def _bounds(self, window: int) -> Ints:
        """Most tokens that each sequence holds in a group with a window.

        A chunk of c tokens from position p on sees and writes positions p - window + 1 to
        p + c - 1; a decode is a chunk of one. They may begin with the last token of a block.
        """
        return window - 1 + self._tried.chunks + self._pool.block_size - 1


class _Rows(NamedTuple):
    """Completions that run, (M,) each."""

    own: Ints  # tokens in blocks of their own
    left: Ints  # tokens still to generate
    uncertain: Ints  # as `left`; 0 if it is expected to reach its limit
    chunks: Ints  # most tokens to compute in a step


def _private_blocks(seq: Sequence, group: int) -> int:
    """Blocks of `seq` that are counted by its own tokens."""
    freed = seq.num_freed[group] if seq.num_freed else 0
    return seq.num_blocks - max(seq.shared_blocks, freed)


def _bounded(own: Ints, left: Ints, bounds: Ints, order: Ints) -> Ints:
    """Tokens held just before each end, if a sequence holds at most its bound.

    With `spare` = bounds - own, at time t a sequence that is alive has own + min(t, spare) tokens:

        own 3 3, bounds 8 4, left 6 2       t = 2: 3 + 2 + 3 + 1 = 9       t = 6: 3 + 5 = 8
    """
    own = np.minimum(own, bounds)
    spare = bounds - own
    times = left[order]
    growing = np.sort(np.minimum(left, spare))
    totals = np.cumsum(own[order]) + times * (len(left) - np.searchsorted(growing, times))
    # those that have reached their bounds, less those of them that have ended
    full = spare < left
    for ends, sign in ((spare[full], 1), (left[full], -1)):
        by_end = np.argsort(ends, kind="stable")
        sums = np.append(0, np.cumsum(spare[full][by_end]))
        totals = totals + sign * sums[np.searchsorted(ends[by_end], times)]
    return totals
