"""`stoker embed`: an embedding for each row of a file, through the same job as `run`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stoker.cli.inputs import input_settings
from stoker.cli.job_screen import summed_up
from stoker.cli.output_options import keeping
from stoker.cli.progress_options import engine_options, say_budget, say_loading, say_outliers
from stoker.cli.run import carry_out, say_earlier
from stoker.engine.request.params import SamplingParams


def embed(args: argparse.Namespace) -> int:
    from stoker.job.job import JobSettings, prepare_job
    from stoker.llm.llm import LLM
    from stoker.llm.scoring import embedding_params
    from stoker.model.checkpoint import resolve_folder
    from stoker.model.sentence import embedding_defaults

    defaults = embedding_defaults(resolve_folder(args.model))
    settings = JobSettings(
        Path(args.input),
        Path(args.output),
        SamplingParams(),
        raw=True,
        pooling=embedding_params(defaults, args.pooling, args.normalize),
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
    report = prepare_job(settings)
    if say_earlier(args, report, settings):
        return summed_up(args, settings, report)
    say_loading(args)
    with LLM(args.model, **engine_options(args)) as llm:
        say_budget(args, llm.budget)
        say_outliers(args, llm.outliers)
        return carry_out(args, llm, settings, report)
