"""The options of what is shown of a job and what its answers are compared with.

Knows argparse and `Expect`. Called by the commands; job_screen.py acts on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from stoker.cli.panel import say_json
from stoker.engine.setup.budget import Budget
from stoker.engine.setup.threads import default_threads
from stoker.errors import ConfigError
from stoker.job.expect import MODES, Expect

if TYPE_CHECKING:
    from stoker.engine.setup.outliers import OutlierReport


def add_watching(command: argparse.ArgumentParser, report: bool = True) -> None:
    """Add the options that say what is shown of a run, and whether its `report` is written."""
    group = command.add_argument_group("watching")
    shown = group.add_mutually_exclusive_group()
    shown.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")
    shown.add_argument(
        "--json-progress",
        action="store_true",
        help="report progress as JSON on standard error, an object a line",
    )
    if report:
        group.add_argument(
            "--no-report",
            dest="report",
            action="store_false",
            help="do not write OUTPUT.report.html and OUTPUT.report.json",
        )


def add_expect(command: argparse.ArgumentParser) -> None:
    """Add the options that say which answers are expected."""
    group = command.add_argument_group("checking answers")
    group.add_argument(
        "--expect", metavar="COLUMN", help="compare each answer with this column of its row"
    )
    group.add_argument(
        "--expect-mode",
        choices=list(MODES),
        help="how: the same text but for blanks at the ends; the same without regard to case, "
        "punctuation, blanks and articles; the same last number; or the column is a regular "
        "expression found in the answer (default: exact)",
    )
    group.add_argument("--group", metavar="COLUMN", help="count accuracy by this column's values")


def expect_of(args: argparse.Namespace) -> Expect | None:
    """What the options ask to compare with.

    Raises:
        ConfigError: an option has no effect without --expect.
    """
    if args.expect is None:
        for name, value in (("--expect-mode", args.expect_mode), ("--group", args.group)):
            if value is not None:
                raise ConfigError(f"{name} has no effect without --expect; name a column with it")
        return None
    return Expect(args.expect, args.expect_mode or "exact", args.group)


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of the engine that the command line gives."""
    names = ["dtype", "quantization", "kv_dtype", "device", "gpu_memory", "threads"]
    names += ["expert_mask", "active_experts"]
    options = {name: getattr(args, name) for name in names}
    return options | ({"policy": args.policy} if "policy" in args else {})


def say_loading(args: argparse.Namespace, how: str = "") -> None:
    """Say which model is loaded and what will compute: `how`, a GPU, or one engine's threads."""
    threads = default_threads() if args.threads is None else args.threads
    cpu = args.device == "cpu"
    how = how or (f"{threads} thread{'' if threads == 1 else 's'}" if cpu else args.device)
    if args.json_progress:
        say_json("loading", model=args.model, computing=how)
    elif not args.quiet:
        print(f"stoker: loading {args.model}, {how}", file=sys.stderr)


def say_budget(args: argparse.Namespace, budget: Budget | None) -> None:
    """Say where a GPU's memory goes."""
    if budget is None:
        return
    if args.json_progress:
        say_json("memory", bytes=dict(budget.lines()))
    elif not args.quiet:
        print(budget, file=sys.stderr)


def say_outliers(args: argparse.Namespace, outliers: OutlierReport | None) -> None:
    """Say which columns of weights in llm_int8 were kept apart, and what they take."""
    if outliers is None:
        return
    if args.json_progress:
        say_json("outliers", **dataclasses.asdict(outliers))
    elif not args.quiet:
        print(f"stoker: {outliers}", file=sys.stderr)
