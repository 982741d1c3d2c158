"""`stoker run`: a job over a file, with a progress bar and a summary at its end."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.cli.inputs import input_settings, with_samples
from stoker.cli.keeping import keeping
from stoker.cli.sampling import sampling_params
from stoker.engine.threads import default_threads
from stoker.job.report import Report

if TYPE_CHECKING:
    from stoker.job.job import JobSettings
    from stoker.llm import LLM

SOME_FAILED = 3
LINE_EVERY = 10.0  # seconds between lines where there is no terminal


def run(args: argparse.Namespace) -> int:
    params = with_samples(args, sampling_params(args, logprobs=args.logprobs))
    from stoker.job.job import JobSettings, prepare_job

    settings = JobSettings(
        Path(args.input),
        Path(args.output),
        params,
        args.seed,
        args.raw,
        model=args.model,
        dtype=args.dtype,
        **keeping(args),
        **input_settings(args),
    )
    from stoker.job.replicas import (
        core_groups,
        replica_threads,
        run_replicated,
        started_replicas,
    )

    groups = core_groups(args.replicas)
    report = prepare_job(settings)
    if say_earlier(report, settings):
        return summed_up(report, settings)
    if len(groups) > 1:
        counts = replica_threads(groups, args.threads)
        say_loading(args, f"{len(groups)} replicas, {' + '.join(map(str, counts))} threads")
        options = {"seed": args.seed, "dtype": args.dtype, "threads": args.threads}
        with started_replicas(args.model, options, groups, settings) as replicas:
            return shown(
                report, settings, lambda show: run_replicated(replicas, settings, report, show)
            )
    from stoker.llm import LLM

    say_loading(args)
    with LLM(args.model, seed=args.seed, dtype=args.dtype, threads=args.threads) as llm:
        return carry_out(llm, settings, report)


def say_earlier(report: Report, settings: JobSettings) -> bool:
    """Say what an earlier run of the job has left; True if that is all of it."""
    if report.complete:
        print(
            f"stoker: the job of {settings.output} is complete; --restart runs it again",
            file=sys.stderr,
        )
    elif report.resumed_rows:
        of = "" if report.total_rows is None else f" of {report.total_rows}"
        print(
            f"stoker: continuing {settings.output}, where {report.resumed_rows}{of} rows are",
            file=sys.stderr,
        )

    return report.complete


def say_loading(args: argparse.Namespace, how: str = "") -> None:
    """Say which model is loaded and what will compute: `how`, or one engine's threads."""
    threads = default_threads() if args.threads is None else args.threads
    how = how or f"{threads} thread{'' if threads == 1 else 's'}"
    print(f"stoker: loading {args.model}, {how}", file=sys.stderr)


def carry_out(llm: LLM, settings: JobSettings, report: Report) -> int:
    """Run the job on one engine, showing its progress and summary. Returns the exit code."""
    from stoker.job.job import run_job

    return shown(report, settings, lambda show: run_job(llm, settings, report, show))


def shown(
    report: Report, settings: JobSettings, job: Callable[[Callable[[Report], None]], None]
) -> int:
    """Run `job`, showing its progress and then its summary. Returns the exit code."""
    report.started = time.monotonic()
    try:
        with _progress(report) as show:
            job(show)
    finally:
        code = summed_up(report, settings)
    return code


def summed_up(report: Report, settings: JobSettings) -> int:
    """Print the summary. Returns the exit code that the statuses make."""
    print("\n".join([*report.lines(), f"results   {settings.output}"]))
    return SOME_FAILED if report.failed_rows else 0


class _Lines:
    """Progress where there is no terminal: a plain line once in a while."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, report: Report) -> None:
        now = time.monotonic()
        if now - self._last >= LINE_EVERY:
            self._last = now
            print(f"stoker: {_status(report)}", file=sys.stderr)


def _status(report: Report) -> str:
    of = "" if report.total_rows is None else f"/{report.total_rows}"
    return f"{report.rows}{of} rows, {report.rate_text}"


@contextmanager
def _progress(report: Report) -> Iterator[Callable[[Report], None]]:
    """A function that shows the report's state: a bar on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("rows"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("rows", total=report.total_rows, rate="")
        yield lambda now: bar.update(task, completed=now.rows, rate=now.rate_text)
