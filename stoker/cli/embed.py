"""`stoker embed`: an embedding for each row of a file, through the same job as `run`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from stoker.cli.run import carry_out
from stoker.engine.params import SamplingParams


def embed(args: argparse.Namespace) -> int:
    from stoker.job.job import JobSettings, prepare_job

    plain = SamplingParams()
    source, target = Path(args.input), Path(args.output)
    settings = JobSettings(source, target, plain, raw=True, restart=args.restart)
    report = prepare_job(settings)
    from stoker.engine.scoring import embedding_params
    from stoker.llm import LLM

    print(f"stoker: loading {args.model}", file=sys.stderr)
    with LLM(args.model, dtype=args.dtype) as llm:
        pooling = embedding_params(llm.embedding, args.pooling, args.normalize)
        return carry_out(llm, dataclasses.replace(settings, pooling=pooling), report)
