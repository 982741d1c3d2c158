"""How long prompts and answers were: exact counts, shown in a few bars.

Knows numbers only.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

BARS = 40


class Lengths:
    """Counts of lengths. Room grows with the number of different lengths, not of rows."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, length: int) -> None:
        self._counts[length] += 1

    def as_json(self) -> dict[str, Any]:
        """Number, mean, quantiles, and bars of equal width: `counts[i]` lengths lie in
        [start + i * width, start + (i + 1) * width)."""
        total = self._counts.total()
        if not total:
            return {"rows": 0, "counts": []}
        ordered = sorted(self._counts.items())
        start, last = ordered[0][0], ordered[-1][0]
        width = _round_up((last - start + 1) / BARS)
        start -= start % width
        bars = [0] * ((last - start) // width + 1)
        for length, count in ordered:
            bars[(length - start) // width] += count
        return {
            "rows": total,
            "mean": round(sum(length * count for length, count in ordered) / total, 1),
            **{f"p{share}": _quantile(ordered, total * share / 100) for share in (50, 90, 99)},
            "most": last,
            "start": start,
            "width": width,
            "counts": bars,
        }


def _quantile(ordered: list[tuple[int, int]], rank: float) -> int:
    seen = 0
    for length, count in ordered:
        seen += count
        if seen >= rank:
            return length
    return ordered[-1][0]


def _round_up(width: float) -> int:
    """The least of 1, 2, 5, 10, 20, ... that is at least `width`."""
    scale = 1
    while True:
        for step in (1, 2, 5):
            if step * scale >= width:
                return step * scale
        scale *= 10
