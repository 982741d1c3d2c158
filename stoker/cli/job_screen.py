"""Show a job from its first step to its report: progress, summary, and the files beside OUT.

Joins the counting (job/report.py), the recording (report/) and the display (cli/panel.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stoker.cli.panel import say_json, screen
from stoker.engine.gauges import Gauges
from stoker.errors import JobError
from stoker.job.report import Report
from stoker.report.files import write_report
from stoker.report.progress import Pace
from stoker.report.recorder import Recorder

if TYPE_CHECKING:
    from stoker.config import EnginePlan
    from stoker.job.job import JobSettings

SOME_FAILED = 3
Job = Callable[[Callable[[Report], None]], None]


def watched(
    args: argparse.Namespace,
    settings: JobSettings,
    report: Report,
    job: Job,
    gauges: Callable[[], Gauges],
    plan: EnginePlan | None = None,
) -> int:
    """Run `job`, showing its progress, then its summary and its report.

    Args:
        args: of the command.
        settings, report: of the job.
        job: is given what to call after each step.
        gauges: reads those of what computes.
        plan: of the engine, whose settings the report shows; None if several compute.

    Returns:
        The exit code.
    """
    report.begin()
    recorder = None
    if args.report and not settings.to_stdout:  # which has no place beside it
        recorder = Recorder(report, described(args, settings, plan), settings.seed)
    try:
        rows_shown = settings.to_stdout and sys.stdout.isatty()
        show_progress(args, report, job, gauges, recorder, rows_shown)
    finally:
        page = None
        if recorder:
            recorder.take(gauges())
            page = _page(settings, recorder)
        code = summed_up(args, settings, report, page)
    return code


def show_progress(
    args: argparse.Namespace,
    report: Report,
    job: Job,
    gauges: Callable[[], Gauges],
    recorder: Recorder | None = None,
    rows_shown: bool = False,
) -> None:
    """Run `job`, showing how far it is; `rows_shown` says that its results are on the terminal."""
    with screen(args.quiet, args.json_progress, lines=rows_shown) as shown:
        watch = _Watch(report, recorder, gauges)
        job(lambda _: watch.step(shown))
        watch.end(shown)


def _page(settings: JobSettings, recorder: Recorder) -> str | None:
    try:
        return str(write_report(settings.output, recorder.figures()))
    except JobError as problem:  # the results are written, and they are what counts
        print(f"stoker: {problem}", file=sys.stderr)
        return None


def summed_up(
    args: argparse.Namespace, settings: JobSettings, report: Report, page: str | None = None
) -> int:
    """Print the summary, also of a job that was cut short or had been complete before.

    Returns:
        The exit code that the statuses make.
    """
    if args.json_progress:
        totals = {"rows": report.rows, "total_rows": report.total_rows}
        statuses, elapsed = dict(report.statuses), round(report.seconds, 3)
        files = {"output": str(settings.output), "report": page}
        say_json("end", **totals, statuses=statuses, elapsed=elapsed, **files)
    # standard error has nothing but JSON then
    if not args.quiet and not (args.json_progress and settings.to_stdout):
        made = not settings.output_format.made or settings.output.exists()
        when = "" if made else ", when all rows are done; the same command goes on"
        lines = [*report.lines(), f"results   {settings.output}{when}"]
        text = "\n".join([*lines, f"report    {page}"] if page else lines)
        print(text, file=sys.stderr if settings.to_stdout else sys.stdout)
    return SOME_FAILED if report.failed_rows else 0


class _Watch:
    """Looks at what computes after steps, as often as the screen and the recorder want."""

    def __init__(
        self, report: Report, recorder: Recorder | None, gauges: Callable[[], Gauges]
    ) -> None:
        self._report, self._recorder, self._gauges = report, recorder, gauges
        begun = gauges()
        self._pace = Pace(report, begun)
        self._shown = 0.0
        if recorder:
            recorder.series.begin(begun)

    def step(self, shown: Any) -> None:
        seconds = time.monotonic() - self._report.started
        if self._recorder and self._recorder.series.due(seconds):
            self._recorder.take(self._gauges())
        if seconds - self._shown >= shown.every:
            self._shown = seconds
            shown.show(self._pace.look(seconds, self._gauges()))

    def end(self, shown: Any) -> None:
        """Show the final state, if the output stays visible or a program reads it."""
        if shown.every < 10:
            seconds = time.monotonic() - self._report.started
            shown.show(self._pace.look(seconds, self._gauges()))


def described(
    args: argparse.Namespace, settings: JobSettings, plan: EnginePlan | None
) -> dict[str, Any]:
    """The run's settings, as its report shows them."""
    out: dict[str, Any] = {"model": args.model}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            out |= _changed(value)
        elif value not in (None, ()):
            out[field.name] = value if isinstance(value, bool | int | float) else str(value)
    if getattr(args, "expect", None) is not None:
        out["expect"] = " ".join(filter(None, [args.expect, args.expect_mode, args.group]))
    if plan is not None:
        for name in ("max_batch_tokens", "max_running", "max_context", "block_size", "num_blocks"):
            out[name] = getattr(plan, name)
        if plan.state_bytes:
            out |= {"state_bytes": plan.state_bytes, "num_snapshots": plan.num_snapshots}
    for name in ("dtype", "threads", "replicas"):
        if getattr(args, name, None) is not None:
            out[name] = getattr(args, name)
    return out


def _changed(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that have a default and differ from it."""
    return {
        field.name: found if isinstance(found, bool | int | float | str) else str(found)
        for field in dataclasses.fields(value)
        if (found := getattr(value, field.name)) != field.default
        and not (found is None or found in ((), [], {}))
    }
