"""A few rows of a job to look at: a fair sample of each status, and the slowest.

Memory depends on how many are kept and how long their texts may be, not on the job. Knows rows
and results as plain dicts.
"""

from __future__ import annotations

import heapq
import random
from typing import Any

from stoker.job.prompt_preview import PromptText
from stoker.job.result_texts import as_text

PER_STATUS = 400
SLOWEST = 20
TEXT_LIMIT = 4000  # characters of a text that are kept
TEXTS = ("prompt", "text", "error", "expected")
NUMBERS = ("prompt_tokens", "output_tokens", "queued_seconds", "running_seconds")

Entry = dict[str, Any]


class Sample:
    """A seeded reservoir of rows for each status (Vitter's algorithm R, 1985), and the slowest.

    Args:
        seed: the same rows in the same order with the same seed give the same sample.
        per_status: rows kept of each status.
        expected: the column with the expected answer, shown beside the answer.
        template: the job's, so that a prompt is shown as it was made; only rows that are kept cost
            its rendering.
    """

    def __init__(
        self,
        seed: int = 0,
        per_status: int = PER_STATUS,
        expected: str | None = None,
        template: str | None = None,
    ) -> None:
        self._random = random.Random(seed)
        self._prompt = PromptText(template)
        self._per_status, self._expected = per_status, expected
        self._kept: dict[str, list[Entry]] = {}
        self._seen: dict[str, int] = {}
        self._slowest: list[tuple[float, int, Entry]] = []

    def add(self, fields: dict[str, Any], result: dict[str, Any], agrees: bool | None) -> None:
        """See one row; it may be kept."""
        status = result["status"]
        kept = self._kept.setdefault(status, [])
        seen = self._seen[status] = self._seen.get(status, 0) + 1
        if len(kept) < self._per_status:
            kept.append(self._entry(fields, result, agrees))
        elif (at := int(self._random.random() * seen)) < self._per_status:
            kept[at] = self._entry(fields, result, agrees)
        seconds = result.get("running_seconds")
        if seconds is not None and (len(self._slowest) < SLOWEST or seconds > self._slowest[0][0]):
            # the number breaks ties, so that entries are never compared
            entry = (seconds, -result["row"], self._entry(fields, result, agrees))
            push = heapq.heappush if len(self._slowest) < SLOWEST else heapq.heappushpop
            push(self._slowest, entry)

    @property
    def rows(self) -> list[Entry]:
        """The sample, by row number."""
        found = [entry for kept in self._kept.values() for entry in kept]
        return sorted(found, key=lambda entry: entry["row"])

    @property
    def slowest(self) -> list[Entry]:
        """The rows that ran the longest, the slowest first."""
        return [entry for _, _, entry in sorted(self._slowest, key=lambda one: (-one[0], -one[1]))]

    def _entry(self, fields: dict[str, Any], result: dict[str, Any], agrees: bool | None) -> Entry:
        entry: Entry = {
            "row": result["row"],
            "status": result["status"],
            "prompt": self._prompt(fields),
        }
        for name, found in (("text", as_text(fields, result)), ("error", result.get("error"))):
            if found is not None:
                entry[name] = str(found)
        entry |= {name: result[name] for name in NUMBERS if name in result}
        if self._expected is not None and fields.get(self._expected) is not None:
            entry["expected"] = str(fields[self._expected])
        if agrees is not None:
            entry["agrees"] = agrees
        return shorten(entry, TEXT_LIMIT)


def shorten(entry: Entry, limit: int) -> Entry:
    """Keep at most `limit` characters of each text; `cut` says how many were left out of which."""
    for name in TEXTS:
        over = len(entry.get(name, "")) - limit
        if over > 0:
            entry[name] = entry[name][:limit]
            left_out = entry.setdefault("cut", {})
            left_out[name] = left_out.get(name, 0) + over
    return entry
