"""Counts what a job did: rows by status, tokens, accuracy against expected answers.

Knows rows and results only; the command line prints it.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

GOOD = ("done", "length")


@dataclass
class Report:
    """Running totals of a job. `correct` and `compared` are counted per group.

    A row with an "expected" field is compared with the answer, both stripped of blanks at their
    ends; its "skill" field, if any, is the group.
    """

    total_rows: int
    statuses: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    correct: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    pooled: bool = False  # embeddings are made, and no output tokens

    def add(self, fields: dict[str, Any], result: dict[str, Any]) -> None:
        """Count one written row."""
        self.seconds = time.monotonic() - self.started
        self.statuses[result["status"]] += 1
        self.prompt_tokens += result.get("prompt_tokens", 0)
        self.cached_tokens += result.get("cached_tokens", 0)
        self.output_tokens += result.get("output_tokens", 0)
        if "expected" in fields:
            group = str(fields.get("skill", "all"))
            self.compared[group] += 1
            answer = str(result.get("text", "")).strip()
            self.correct[group] += answer == str(fields["expected"]).strip()

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())

    @property
    def failed_rows(self) -> int:
        return sum(count for status, count in self.statuses.items() if status not in GOOD)

    @property
    def output_rate(self) -> float:
        """Output tokens per second so far."""
        return self.output_tokens / self.seconds if self.seconds else 0.0

    @property
    def rate_text(self) -> str:
        """The rate of what the job is about: tokens of output, or of prompts that are embedded."""
        if self.pooled:
            rate = self.prompt_tokens / self.seconds if self.seconds else 0.0
            return f"{rate:.0f} prompt tokens/s"
        return f"{self.output_rate:.0f} output tokens/s"

    def lines(self) -> list[str]:
        """The summary as plain text."""
        by_status = ", ".join(f"{count} {name}" for name, count in sorted(self.statuses.items()))
        total_rate = (self.prompt_tokens + self.output_tokens) / self.seconds if self.seconds else 0
        out = [
            f"rows      {self.rows} of {self.total_rows} ({by_status or 'none'})",
            f"tokens    {self.prompt_tokens} prompt ({self.cached_tokens} from the prefix cache)"
            f" + {self.output_tokens} output",
            f"speed     {self.rate_text}, {total_rate:.0f} tokens/s in all, {self.seconds:.1f} s",
        ]
        compared = sum(self.compared.values())
        if compared:
            right = sum(self.correct.values())
            out.append(f"accuracy  {right / compared:.1%} ({right} of {compared} as expected)")
        if len(self.compared) > 1:
            width = max(map(len, self.compared))
            out += [
                f"          {name:<{width}}  {self.correct[name] / count:6.1%}  ({count})"
                for name, count in sorted(self.compared.items())
            ]
        return out
