"""How far a run is, how fast it goes now, and when it will end.

Knows the job's totals and the engine's gauges, and nothing of screens.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from stoker.engine.gauges import Gauges
from stoker.job.report import Report

RECENT = 15.0  # seconds that rates are taken over


@dataclass(frozen=True)
class Progress:
    """A run at a moment; the fields of `--json-progress`.

    Attributes:
        rows, total_rows: written so far, and in all (None: not known).
        statuses: rows by status.
        elapsed, eta: seconds since the start, and until the end (None: not known).
        prefill_rate, decode_rate: tokens per second, lately.
        running, waiting: sequences in the engine.
        cache_use: share of the cache's blocks in use, from 0 to 1.
        prompt_tokens, output_tokens: of the rows that are written.
        saved_tokens: tokens found in the prefix cache and not computed again.
        accuracy: share of the compared rows that were as expected (None: none compared).

    With replicas, engine figures are sums over all of them.
    """

    rows: int
    total_rows: int | None
    statuses: dict[str, int]
    elapsed: float
    eta: float | None
    prefill_rate: float
    decode_rate: float
    running: int
    waiting: int
    cache_use: float
    prompt_tokens: int
    output_tokens: int
    saved_tokens: int
    accuracy: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain data, numbers rounded."""
        return {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class _Mark:
    seconds: float
    rows: int  # of this run
    gauges: Gauges


class Pace:
    """Follows a run; call `look` from time to time to get its `Progress`."""

    def __init__(self, report: Report, gauges: Gauges) -> None:
        self._report = report
        self._marks = deque([_Mark(0.0, 0, gauges)])

    def look(self, seconds: float, gauges: Gauges) -> Progress:
        """The run now, `seconds` after its start."""
        report, marks = self._report, self._marks
        now = _Mark(seconds, report.rows - report.resumed_rows, gauges)
        marks.append(now)
        while len(marks) > 2 and marks[1].seconds <= seconds - RECENT:
            marks.popleft()
        prefill, decode = _rates(marks[0], now)
        accuracy = report.accuracy
        return Progress(
            rows=report.rows,
            total_rows=report.total_rows,
            statuses=dict(sorted(report.statuses.items())),
            elapsed=seconds,
            eta=self._eta(now, decode),
            prefill_rate=prefill,
            decode_rate=decode,
            running=gauges.running,
            waiting=gauges.waiting,
            cache_use=gauges.cache_use,
            prompt_tokens=report.prompt_tokens,
            output_tokens=report.output_tokens,
            saved_tokens=gauges.saved_tokens,
            accuracy=accuracy.rate if accuracy and accuracy.compared else None,
        )

    def _eta(self, now: _Mark, decode_rate: float) -> float | None:
        """Seconds until the end.

        Remaining output tokens are what running sequences are expected to add, judged by the
        lengths of finished ones, plus the mean length for each row not yet started, at the
        present rate. The longest running sequence gets one token a step, which is the minimum.
        If the job produces no tokens, the rate of rows decides.
        """
        report = self._report
        done = now.rows
        if not report.total_rows or not done:
            return None
        left = max(report.total_rows - report.rows, 0)
        if not decode_rate or not report.output_tokens:
            return left * now.seconds / done
        begun = min(now.gauges.running, left)
        mean = report.output_tokens / report.rows
        tokens = now.gauges.expected_left + mean * (left - begun)
        first = self._marks[0]
        steps = (now.gauges.steps - first.gauges.steps) / max(now.gauges.engines, 1)
        step = (now.seconds - first.seconds) / steps if steps else 0.0
        return max(tokens / decode_rate, now.gauges.longest_left * step)


def _rates(then: _Mark, now: _Mark) -> tuple[float, float]:
    """Prefill and decode tokens per second between two moments."""
    seconds = now.seconds - then.seconds
    if seconds <= 0:
        return 0.0, 0.0
    prefill = now.gauges.prefill_tokens - then.gauges.prefill_tokens
    decode = now.gauges.decode_tokens - then.gauges.decode_tokens
    return prefill / seconds, decode / seconds
