"""Stoker as `peers.py` and `engine.py` run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workloads import Outputs, Workload


class StokerRun:
    """Runs workloads on one `LLM`, which profiles may look into."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm

    def __call__(self, load: Workload) -> Outputs:
        from stoker import SamplingParams

        self.llm.engine.scheduler.pool.clear_cache()
        params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for _, n in load]
        outputs = self.llm.generate([prompt for prompt, _ in load], params)
        return [list(output.outputs[0].token_ids) for output in outputs]


def make(folder: Path, threads: int, work: str, **options: Any) -> StokerRun:
    """The model in `folder`, with `options` of `LLM`."""
    from stoker import LLM

    return StokerRun(LLM(str(folder), threads=threads, **options))
