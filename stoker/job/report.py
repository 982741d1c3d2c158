"""Count what a job did: rows by status, tokens, and accuracy where answers are expected."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stoker.job.expect import Accuracy

STATUSES = ("done", "length", "too_long", "bad_row", "failed")
GOOD = ("done", "length")
RESULT = "result"  # the key that results are added under, if no other is asked for
Watcher = Callable[[dict[str, Any], dict[str, Any], bool | None], None]


@dataclass
class Report:
    """Running totals of a job.

    `accuracy` is counted where answers are expected. `watchers` are given each row's fields, its
    result, and whether it was as expected (None: not compared).
    """

    total_rows: int | None  # None if that is not known beforehand
    statuses: Counter[str] = field(default_factory=Counter)
    accuracy: Accuracy | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    pooled: bool = False  # embeddings are made, and no output tokens
    watchers: list[Watcher] = field(default_factory=list)
    input_fingerprint: str = ""
    input_format: str = ""  # as it was told or found out
    model_fingerprint: str | None = None  # None if the job is not bound to a model's files
    resumed_rows: int = 0  # counted rows that an earlier run has finished
    resumed_tokens: tuple[int, int] = (0, 0)  # of prompts and outputs, in these rows
    copied_rows: int = 0  # rows with the answer of an identical prompt
    complete: bool = False  # all rows had been finished before this run

    def add(self, fields: dict[str, Any], result: dict[str, Any]) -> None:
        """Count one written row."""
        self.seconds = time.monotonic() - self.started
        self.copied_rows += bool(result.get("copied"))
        self._count(fields, result)

    def resume(self, fields: dict[str, Any], result: dict[str, Any]) -> None:
        """Count a row that an earlier run has written."""
        self.resumed_rows += 1
        self._count(fields, result)
        self.resumed_tokens = (self.prompt_tokens, self.output_tokens)

    def begin(self) -> None:
        """Start the clock of this run."""
        self.started = time.monotonic()

    def _count(self, fields: dict[str, Any], result: dict[str, Any]) -> None:
        self.statuses[result["status"]] += 1
        self.prompt_tokens += result.get("prompt_tokens", 0)
        self.cached_tokens += result.get("cached_tokens", 0)
        self.output_tokens += result.get("output_tokens", 0)
        agrees = self.accuracy.add(fields, result) if self.accuracy else None
        for watch in self.watchers:
            watch(fields, result, agrees)

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())

    @property
    def failed_rows(self) -> int:
        return sum(count for status, count in self.statuses.items() if status not in GOOD)

    @property
    def output_rate(self) -> float:
        """Output tokens per second of this run so far."""
        made = self.output_tokens - self.resumed_tokens[1]
        return made / self.seconds if self.seconds else 0.0

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens per second of this run so far, those from the prefix cache included."""
        taken = self.prompt_tokens - self.resumed_tokens[0]
        return taken / self.seconds if self.seconds else 0.0

    @property
    def rate_text(self) -> str:
        """The rate of what the job is about: tokens of output, or of prompts that are embedded."""
        if self.pooled:
            rate = self.prompt_rate
            return f"{rate:.0f} prompt tokens/s"
        return f"{self.output_rate:.0f} output tokens/s"

    def lines(self) -> list[str]:
        """The summary as plain text."""
        by_status = ", ".join(f"{count} {name}" for name, count in sorted(self.statuses.items()))
        total_rate = self.prompt_rate + self.output_rate
        of = "" if self.total_rows is None else f" of {self.total_rows}"
        out = [
            f"rows      {self.rows}{of} ({by_status or 'none'})",
            f"tokens    {self.prompt_tokens} prompt ({self.cached_tokens} from the prefix cache)"
            f" + {self.output_tokens} output",
            f"speed     {self.rate_text}, {total_rate:.0f} tokens/s in all, {self.seconds:.1f} s",
        ]
        if self.resumed_rows:
            out.append(f"before    {self.resumed_rows} rows were there from an earlier run")
        if self.copied_rows:
            out.append(f"copied    {self.copied_rows} rows have the answer of an identical prompt")
        return out + (self.accuracy.lines() if self.accuracy else [])
