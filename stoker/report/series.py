"""Record a run over time in a bounded number of samples.

A sample covers an interval: the work done in it, and the state of queues and cache. When the
series is full, neighbours are merged and the interval doubles, so a run of any length takes the
same memory.
"""

from __future__ import annotations

from typing import Any

from stoker.engine.gauges import Gauges

SHORTEST = 0.25  # seconds of a sample at first
MOST = 480  # samples; joined to half as many when there are more

# what was done in the stretch, and what was so at its end (weighted by time when joined)
COUNTS = ("rows", "steps", "prefill_tokens", "decode_tokens", "saved_tokens", "preemptions")
LEVELS = ("running", "waiting", "cache_use")
ENGINE_COUNTS = COUNTS[1:]


class Series:
    """Samples of a run, each a dict of `seconds` (its length), `COUNTS` and `LEVELS`.

    Args:
        most: samples kept, an even number.
        shortest: seconds of a sample at first.
    """

    def __init__(self, most: int = MOST, shortest: float = SHORTEST) -> None:
        self.samples: list[dict[str, float]] = []
        self._most, self._stretch = most, shortest
        self._seconds, self._rows, self._gauges = 0.0, 0, Gauges()

    def due(self, seconds: float) -> bool:
        """Whether a sample is to be taken, `seconds` after the start."""
        return seconds - self._seconds >= self._stretch

    def begin(self, gauges: Gauges, rows: int = 0) -> None:
        """Count from here: what the engine and the job had done before is not of this run."""
        self._gauges, self._rows = gauges, rows

    def add(self, seconds: float, rows: int, gauges: Gauges) -> None:
        """Take a sample.

        Args:
            seconds: since the start.
            rows: finished in all.
            gauges: of the engine, or of all that there are.
        """
        if seconds <= self._seconds:
            return
        sample = {"seconds": seconds - self._seconds, "rows": float(rows - self._rows)}
        for name in ENGINE_COUNTS:
            sample[name] = float(getattr(gauges, name) - getattr(self._gauges, name))
        for name in LEVELS:
            sample[name] = float(getattr(gauges, name))
        self._seconds, self._rows, self._gauges = seconds, rows, gauges
        self.samples.append(sample)
        if len(self.samples) >= self._most:
            pairs = zip(self.samples[::2], self.samples[1::2], strict=True)
            self.samples = [_joined(*pair) for pair in pairs]
            self._stretch *= 2

    def as_json(self) -> dict[str, list[float]]:
        """The samples by column; `at` is the end of each, in seconds since the start."""
        columns: dict[str, list[float]] = {"at": []}
        at = 0.0
        for sample in self.samples:
            at += sample["seconds"]
            columns["at"].append(round(at, 3))
            for name, value in sample.items():
                columns.setdefault(name, []).append(round(value, 4))
        return columns


def _joined(a: dict[str, float], b: dict[str, float]) -> dict[str, Any]:
    seconds = a["seconds"] + b["seconds"]
    out = {"seconds": seconds, **{name: a[name] + b[name] for name in COUNTS}}
    for name in LEVELS:
        out[name] = (a[name] * a["seconds"] + b[name] * b["seconds"]) / seconds
    return out
