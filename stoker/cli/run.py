"""`stoker run`: a job over a file, watched to its summary and report."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.cli.inputs import input_settings, with_samples
from stoker.cli.job_screen import summed_up, watched
from stoker.cli.output_options import keeping
from stoker.cli.progress_options import (
    engine_options,
    expect_of,
    say_budget,
    say_loading,
    say_outliers,
)
from stoker.cli.sampling import sampling_params
from stoker.engine.gauges import read_gauges
from stoker.errors import ConfigError
from stoker.job.report import Report

if TYPE_CHECKING:
    from stoker.job.job import JobSettings
    from stoker.llm.llm import LLM


def run(args: argparse.Namespace) -> int:
    params = with_samples(args, sampling_params(args, logprobs=args.logprobs))
    expect = expect_of(args)
    from stoker.job.job import JobSettings, prepare_job

    settings = JobSettings(
        Path(args.input),
        Path(args.output),
        params,
        args.seed,
        args.raw,
        model=args.model,
        dtype=args.dtype,
        quantization=args.quantization,
        kv_dtype=args.kv_dtype,
        expert_mask=args.expert_mask,
        active_experts=args.active_experts,
        device=args.device,
        **keeping(args),
        **input_settings(args),
    )
    from stoker.job.replicas import (
        core_groups,
        replica_threads,
        replicas_gauges,
        run_replicated,
        started_replicas,
    )

    groups = core_groups(args.replicas)
    if len(groups) > 1 and args.device != "cpu":
        raise ConfigError(
            f"--replicas {args.replicas} shares a CPU's cores; --device is {args.device}"
        )
    if len(groups) > 1 and args.read_ahead is not None:
        raise ConfigError(
            f"--read-ahead {args.read_ahead} is of one engine, and --replicas {args.replicas} "
            f"makes {len(groups)}, which get rows as they have room; leave one of them out"
        )
    report = prepare_job(settings, expect)
    if say_earlier(args, report, settings):
        return summed_up(args, settings, report)
    if len(groups) > 1:
        counts = replica_threads(groups, args.threads)
        say_loading(args, f"{len(groups)} replicas, {' + '.join(map(str, counts))} threads")
        options = {"seed": args.seed, **engine_options(args)}
        with started_replicas(args.model, options, groups, settings) as replicas:
            return watched(
                args,
                settings,
                report,
                lambda show: run_replicated(replicas, settings, report, show),
                lambda: replicas_gauges(replicas),
            )
    from stoker.llm.llm import LLM

    say_loading(args)
    with LLM(args.model, seed=args.seed, **engine_options(args)) as llm:
        say_budget(args, llm.budget)
        say_outliers(args, llm.outliers)
        return carry_out(args, llm, settings, report)


def say_earlier(args: argparse.Namespace, report: Report, settings: JobSettings) -> bool:
    """Say what an earlier run of the job has left; True if that is all of it."""
    if args.quiet or args.json_progress:
        return report.complete
    if report.complete:
        print(
            f"stoker: the job of {settings.output} is complete; --restart runs it again",
            file=sys.stderr,
        )
    elif report.resumed_rows:
        of = "" if report.total_rows is None else f" of {report.total_rows}"
        there = f"{report.resumed_rows}{of} rows are"
        if settings.retry:
            there += f"; those that are {' or '.join(settings.retry)} run again"
        print(f"stoker: continuing {settings.output}, where {there}", file=sys.stderr)
    return report.complete


def carry_out(args: argparse.Namespace, llm: LLM, settings: JobSettings, report: Report) -> int:
    """Run the job on one engine, showing its progress and summary. Returns the exit code."""
    from stoker.job.job import run_job

    return watched(
        args,
        settings,
        report,
        lambda show: run_job(llm, settings, report, show),
        lambda: read_gauges(llm.engine),
        llm.plan,
    )
