"""Records a run while it goes on: its series, lengths and sample, and the figures made of them.

Is given every row by the job's `Report`, and the gauges by whoever drives the job. Knows
neither files nor pages.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from stoker import __version__
from stoker.engine.gauges import Gauges
from stoker.job.report import Report
from stoker.report.lengths import Lengths
from stoker.report.sample import Sample
from stoker.report.series import Series

FORMAT = 1


@dataclass
class Recorder:
    """What a run's report is made of.

    Attributes:
        report: the running totals; `watch` joins this to it.
        settings: of the run, by name, as they are to be shown; the `template` among them makes the
            prompts that are.
        begun: when the run began, in seconds since 1970.
    """

    report: Report
    settings: dict[str, Any]
    seed: int = 0
    begun: float = field(default_factory=time.time)
    series: Series = field(default_factory=Series)
    prompt_lengths: Lengths = field(default_factory=Lengths)
    output_lengths: Lengths = field(default_factory=Lengths)

    def __post_init__(self) -> None:
        accuracy = self.report.accuracy
        expected = accuracy.expect.column if accuracy else None
        template = self.settings.get("template")
        self.sample = Sample(self.seed, expected=expected, template=template)
        self.report.watchers.append(self.add)

    def add(self, fields: dict[str, Any], result: dict[str, Any], agrees: bool | None) -> None:
        """See one finished row."""
        if "prompt_tokens" in result:
            self.prompt_lengths.add(result["prompt_tokens"])
        if "output_tokens" in result:
            self.output_lengths.add(result["output_tokens"])
        self.sample.add(fields, result, agrees)

    def figures(self) -> dict[str, Any]:
        """Everything, as plain data; `docs/jobs.md` names the fields."""
        report = self.report
        return {
            "format": FORMAT,
            "stoker": __version__,
            "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.begun)),
            "seconds": report.seconds,
            "settings": self.settings,
            "rows": {
                "total": report.total_rows,
                "written": report.rows,
                "statuses": dict(sorted(report.statuses.items())),
            },
            "tokens": {
                "prompt": report.prompt_tokens,
                "cached": report.cached_tokens,
                "output": report.output_tokens,
            },
            "accuracy": report.accuracy.as_json() if report.accuracy else None,
            "series": self.series.as_json(),
            "lengths": {
                "prompt": self.prompt_lengths.as_json(),
                "output": self.output_lengths.as_json(),
            },
            "slowest": self.sample.slowest,
            "sample": self.sample.rows,
        }

    def take(self, gauges: Gauges) -> None:
        """Add a sample of the engine's state to the series, now."""
        seconds = time.monotonic() - self.report.started
        self.series.add(seconds, self.report.rows - self.report.resumed_rows, gauges)
