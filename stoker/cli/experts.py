"""`stoker experts`: how the tokens of a file are spread over a model's experts."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from stoker.cli.inputs import add_inputs, add_template_kwargs, input_settings
from stoker.config import DTYPES, QUANTIZATIONS, SHORT_FORMS
from stoker.errors import ConfigError


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
        help="tokens of each answer, which are counted as the prompt's are (default: %(default)s)",
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
    command.set_defaults(read_ahead=None)


def experts(args: argparse.Namespace) -> int:
    """Run the file's rows, and write what each expert got. Returns the exit code, 0."""
    if args.keep is not None and not 0 < args.keep <= 1:
        raise ConfigError(f"--keep must be a share of the experts, in (0, 1], not {args.keep}")
    from stoker.engine.execution.runner import ModelRunner
    from stoker.engine.request.params import SamplingParams
    from stoker.job.job import JobSettings, prepare_job, run_job
    from stoker.llm.llm import LLM
    from stoker.report.expert_load import picture, watch_experts

    params = SamplingParams(temperature=0, max_tokens=args.max_tokens)
    options = {name: getattr(args, name) for name in ("dtype", "quantization", "device", "threads")}
    with tempfile.TemporaryDirectory() as folder:
        settings = JobSettings(
            Path(args.input),
            Path(folder) / "answers.jsonl",
            params,
            raw=args.raw,
            model=args.model,
            limit=args.limit,
            **input_settings(args),
        )
        report = prepare_job(settings)
        print(f"stoker: loading {args.model}", file=sys.stderr)
        with LLM(args.model, prefix_cache=False, cuda_graphs=False, **options) as llm:
            assert isinstance(llm.engine.runner, ModelRunner)
            loads = watch_experts(llm.engine.runner.model)
            run_job(llm, settings, report, lambda _: None)
    layers = [load.described() for load in loads]
    if args.keep is not None:
        for load, layer in zip(loads, layers, strict=True):
            layer["kept"] = load.heaviest(args.keep)
    told = {"model": args.model, "input": args.input, "rows": report.total_rows, "layers": layers}
    path = Path(args.output)
    path.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    drawing = path.with_suffix(".svg")
    drawing.write_text(picture(loads, f"{Path(args.model).name} over {args.input}"), "utf-8")
    print(f"{path} and {drawing}: {len(loads)} layers with experts")
    return 0
