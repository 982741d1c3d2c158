"""`stoker embed`: an embedding for each row of a file, through the same job as `run`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from stoker.cli.run import carry_out
from stoker.cli.watching import say_loading
from stoker.engine.params import SamplingParams


def embed(args: argparse.Namespace) -> int:
    from stoker.job.job import JobSettings, prepare_job

    plain = SamplingParams()
    source, target = Path(args.input), Path(args.output)
    settings = JobSettings(source, target, plain, raw=True, restart=args.restart)
    report = prepare_job(settings)
    from stoker.engine.scoring import embedding_params
    from stoker.llm import LLM

    say_loading(args)
    with LLM(args.model, dtype=args.dtype, threads=args.threads) as llm:
        pooling = embedding_params(llm.embedding, args.pooling, args.normalize)
        return carry_out(args, llm, dataclasses.replace(settings, pooling=pooling), report)
