"""The options of a job's output: what is kept, continued, repeated, and how it is written.

Knows argparse and the names of `JobSettings`. Called by the commands that run jobs.
"""

from __future__ import annotations

import argparse
from typing import Any

from stoker.job.report import RESULT, STATUSES

NAMES = ("restart", "retry", "limit", "strict", "ordered", "result_key", "timings", "dedup")


def add_keeping(command: argparse.ArgumentParser) -> None:
    """Add the options that say what becomes of the output."""
    add = command.add_argument
    add("--restart", action="store_true", help="start over, replacing OUTPUT if it exists")
    add(
        "--retry",
        metavar="STATUS,...",
        type=_listed,
        default=(),
        help=f"run again the rows with these statuses, of {', '.join(STATUSES)}; a retry of length "
        "may raise --max-tokens",
    )
    add("--limit", type=int, metavar="N", help="take the first N rows of the input only")
    add(
        "--strict",
        action="store_true",
        help="stop at the first row that has no answer, instead of noting it as its result",
    )
    add(
        "--ordered",
        action="store_true",
        help="write OUTPUT in the order of the input (default: as rows finish)",
    )
    add(
        "--result-key",
        metavar="NAME",
        default=RESULT,
        help="the column that results are added under (default: %(default)s)",
    )
    add("--timings", action="store_true", help="add seconds queued and running to each result")
    add(
        "--no-dedup",
        dest="dedup",
        action="store_false",
        help="compute identical prompts each on its own (default: once, at temperature 0)",
    )


def keeping(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `JobSettings` that these options give."""
    return {name: getattr(args, name) for name in NAMES}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
