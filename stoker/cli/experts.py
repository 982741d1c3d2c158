"""`stoker experts`: how the tokens of a file are spread over a model's experts."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stoker.cli.inputs import add_inputs, add_template_kwargs, input_settings
from stoker.cli.panel import say_json
from stoker.cli.progress_options import add_watching, say_budget, say_loading, say_outliers
from stoker.config import DTYPES, QUANTIZATIONS, SHORT_FORMS
from stoker.errors import ConfigError, JobError
from stoker.job.report import GOOD, Report

if TYPE_CHECKING:
    from stoker.report.expert_load import LayerLoad

NAMED = 5  # rows without an answer that are told one by one


def add_experts(command: argparse.ArgumentParser) -> None:
    """Add the arguments of `experts`."""
    add = command.add_argument
    add("model", metavar="MODEL", help="a model folder, a Hugging Face id, or a shipped model")
    add("--input", required=True, metavar="FILE", help="prompts, in any form that run takes")
    add(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="the counts, as JSON; a picture is written beside it, as FILE with .svg",
    )
    add("--restart", action="store_true", help="replace FILE and the picture if they exist")
    add(
        "--keep",
        type=float,
        metavar="SHARE",
        help="name the experts of each layer that are worth keeping, this share of them, so that "
        "FILE serves as --expert-mask",
    )
    add(
        "--max-tokens",
        type=int,
        default=32,
        metavar="N",
        help="tokens of each answer, which are counted as the prompt's are; the last layer counts "
        "only those that a token of an answer is drawn from (default: %(default)s)",
    )
    add("--limit", type=int, metavar="N", help="take the first N rows only")
    add("--raw", action="store_true", help="take prompts as they are, without a chat template")
    add("--dtype", default="auto", choices=(*DTYPES, *SHORT_FORMS), help="of the arithmetic")
    add("--quantization", default="auto", choices=QUANTIZATIONS, help="how weights are stored")
    add("--device", default="cpu", metavar="D", help="cpu or cuda (default: cpu)")
    add("--threads", type=int, metavar="N", help="threads of the arithmetic")
    add("--debug", action="store_true", help="show tracebacks of errors")
    add_inputs(command)
    add_template_kwargs(command)
    add_watching(command, report=False)
    command.set_defaults(read_ahead=None)


def experts(args: argparse.Namespace) -> int:
    """Run the file's rows, and write what each expert got. Returns the exit code."""
    if args.keep is not None and not 0 < args.keep <= 1:
        raise ConfigError(f"--keep must be a share of the experts, in (0, 1], not {args.keep}")
    path = Path(args.output)
    drawing = path.with_suffix(".svg")
    from stoker.cli.job_screen import SOME_FAILED

    _check_places(args, path, drawing)
    loads, report = _count(args)
    if args.keep is not None and not any(load.tokens.any() for load in loads):
        raise JobError("no row could be run, so there is nothing that --keep could go by")
    from stoker.report.expert_load import picture

    layers = [load.described() for load in loads]
    if args.keep is not None:
        for load, layer in zip(loads, layers, strict=True):
            layer["kept"] = load.heaviest(args.keep)
    rows = report.rows - report.failed_rows
    told = {"model": args.model, "input": args.input, "rows": rows, "layers": layers}
    try:
        path.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
        drawing.write_text(picture(loads, f"{Path(args.model).name} over {args.input}"), "utf-8")
    except OSError as problem:
        raise JobError(f"cannot write {problem.filename}: {problem.strerror}") from problem
    _say_end(args, report, f"{path} and {drawing}: {len(loads)} layers with experts")
    return SOME_FAILED if report.failed_rows else 0


def _check_places(args: argparse.Namespace, path: Path, drawing: Path) -> None:
    from stoker.job.job import require_place

    if path == drawing:
        raise ConfigError(f"{path} is where the picture goes; give the counts another name")
    for place in (path, drawing):
        require_place(place, Path(args.input))
        if place.exists() and not args.restart:
            raise JobError(f"{place} exists; give another name, or --restart to replace it")


def _count(args: argparse.Namespace) -> tuple[list[LayerLoad], Report]:
    """Run the rows, each on its own so that all of its tokens are counted."""
    from stoker.cli.job_screen import show_progress
    from stoker.engine.execution.runner import ModelRunner
    from stoker.engine.gauges import read_gauges
    from stoker.engine.request.params import SamplingParams
    from stoker.engine.setup.experts import mixtures, require_maskable
    from stoker.job.job import JobSettings, prepare_job, run_job
    from stoker.llm.llm import LLM
    from stoker.report.expert_load import watch_experts

    params = SamplingParams(temperature=0, max_tokens=args.max_tokens)
    options = {name: getattr(args, name) for name in ("dtype", "quantization", "device", "threads")}
    with tempfile.TemporaryDirectory(prefix="stoker-") as folder:
        settings = JobSettings(
            Path(args.input),
            Path(folder) / "answers.jsonl",
            params,
            raw=args.raw,
            model=args.model,
            limit=args.limit,
            dedup=False,
            **input_settings(args),
        )
        report = prepare_job(settings)
        say_loading(args)
        with LLM(args.model, prefix_cache=False, cuda_graphs=False, **options) as llm:
            say_budget(args, llm.budget)
            say_outliers(args, llm.outliers)
            assert isinstance(llm.engine.runner, ModelRunner)
            loads = watch_experts(llm.engine.runner.model)
            if args.keep is not None:
                for mixture in mixtures(llm.spec).values():
                    require_maskable(mixture.routing)
            report.watchers.append(_Failures(args).see)
            report.begin()
            show_progress(
                args,
                report,
                lambda show: run_job(llm, settings, report, show),
                lambda: read_gauges(llm.engine),
            )
    return loads, report


class _Failures:
    """Names the first rows that have no answer, whose results are kept nowhere."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._left = args, NAMED

    def see(self, fields: dict[str, Any], result: dict[str, Any], agrees: bool | None) -> None:
        """Take note of a row's result."""
        if result["status"] in GOOD or not self._left:
            return
        self._left -= 1
        told = {"row": result["row"], "status": result["status"], "error": result.get("error")}
        if self._args.json_progress:
            say_json("row", **told)
        else:
            print("stoker: row {row}: {status}, {error}".format(**told), file=sys.stderr)


def _say_end(args: argparse.Namespace, report: Report, files: str) -> None:
    if args.json_progress:
        totals = {"rows": report.rows, "total_rows": report.total_rows}
        say_json("end", **totals, statuses=dict(report.statuses), output=args.output)
    if not args.quiet:
        print("\n".join([*report.lines(), files]))
