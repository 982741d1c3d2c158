"""Throughput and latency of a mixture of experts over batch sizes, lengths and variants.

    python benchmarks/moe_sweep.py MODEL [--batches 1 8 32] [--lengths 32 256] [--output 32]
                                   [--keep 0.5] [--active 0.5] [--rounds 3] [--threads 2]
                                   [--json FILE]

A row for each configuration, a line of JSON each. Every variant runs in every combination of batch
size and length of prompts:

    fused          the model as it is: one call for all experts of a layer
    loop           the same by the loop over experts that defines it
    int8           weights and activations in 8-bit integers
    keep SHARE     a mask of the experts that these prompts weigh most, a share of each layer's
    active SHARE   a share of the model's own active experts, as an average over its layers
    speculative    drafts that repeat what followed the last two tokens earlier in the text; not for
                   models with recurrent states, which take none

Prompts are random, the same for all variants. Seconds are the median of the rounds, which run one
variant after the other. `first_token_s` is the time of a run that draws one token of each prompt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from workloads import about

from stoker import LLM, SamplingParams
from stoker.engine.execution.runner import ModelRunner
from stoker.engine.setup.experts import active_experts, mixtures
from stoker.ops.experts import ReferenceExperts
from stoker.quant.floats import Bf16Format, FloatFormat
from stoker.report.expert_load import LayerLoad, watch_experts


class Repeats:
    """Proposes what followed the last two tokens where they stood before (prompt lookup)."""

    def propose(self, sequences: Any, limits: Any) -> list[list[int]]:
        return [
            self._guess(list(one.tokens), limit)
            for one, limit in zip(sequences, limits, strict=True)
        ]

    @staticmethod
    def _guess(tokens: list[int], limit: int) -> list[int]:
        for at in range(len(tokens) - 3, -1, -1):
            if tokens[at : at + 2] == tokens[-2:]:
                return tokens[at + 2 : at + 2 + min(4, limit)]
        return []


def prompts_of(count: int, length: int, vocab: int) -> list[list[int]]:
    rng = random.Random(length)
    return [[rng.randrange(vocab) for _ in range(length)] for _ in range(count)]


def run(llm: LLM, prompts: list[list[int]], output: int) -> tuple[float, list[Any]]:
    params = SamplingParams(temperature=0, max_tokens=output, ignore_eos=True)
    started = time.perf_counter()
    outputs = llm.generate(prompts, params)
    return time.perf_counter() - started, [one.outputs[0].token_ids for one in outputs]


def watched(llm: LLM) -> list[LayerLoad]:
    """The counts of what goes to each expert of the model from now on."""
    assert isinstance(llm.engine.runner, ModelRunner)
    return watch_experts(llm.engine.runner.model)


def write_mask(loads: list[LayerLoad], share: float, folder: Path) -> str:
    """A mask of the experts that weighed most, a share of each layer's, as a file of its own."""
    layers = [{"layer": load.layer, "kept": load.heaviest(share)} for load in loads]
    path = folder / f"keep-{share:g}.json"
    path.write_text(json.dumps({"layers": layers}))
    return str(path)


def variants(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Options of the engine by the variant's name."""
    with LLM(args.model, threads=args.threads, prefix_cache=False) as llm:
        own = active_experts(llm.spec)
        loads = watched(llm)
        run(llm, prompts_of(max(args.batches), max(args.lengths), llm.spec.vocab), 1)
    average = sum(own) / len(own)
    found: dict[str, dict[str, Any]] = {"fused": {}, "loop": {}, "int8": {"quantization": "int8"}}
    for share in args.keep:
        found[f"keep {share:g}"] = {"expert_mask": write_mask(loads, share, folder)}
    for share in args.active:
        found[f"active {share:g}"] = {"active_experts": max(1.0, share * average)}
    if not any(group.keeps_state for group in llm.spec.cache_groups):
        found["speculative"] = {}
    return found


@contextlib.contextmanager
def experts_in_a_loop() -> Iterator[None]:
    """Models that are loaded meanwhile compute experts as they are defined, in float32."""
    with (
        patch.object(Bf16Format, "prepare_experts", lambda self, weights: None),
        patch.object(FloatFormat, "prepare_experts", ReferenceExperts),
    ):
        yield


def make_llm(args: argparse.Namespace, variant: str, options: dict[str, Any]) -> LLM:
    with experts_in_a_loop() if variant == "loop" else contextlib.nullcontext():
        llm = LLM(args.model, threads=args.threads, prefix_cache=False, **options)
    if variant == "speculative":
        llm.engine.scheduler.proposer = Repeats()
    return llm


def measure(args: argparse.Namespace, name: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    with make_llm(args, name, options) as llm:
        experts = mixtures(llm.spec).values()
        for length in args.lengths:
            for batch in args.batches:
                prompts = prompts_of(batch, length, llm.spec.vocab)
                first = statistics.median(run(llm, prompts, 1)[0] for _ in range(args.rounds))
                whole, steps = [], llm.engine.stats.steps
                for _ in range(args.rounds):
                    took, tokens = run(llm, prompts, args.output)
                    whole.append(took)
                steps = (llm.engine.stats.steps - steps) // args.rounds
                total = statistics.median(whole)
                decode = max(0.0, total - first) / max(1, args.output - 1)
                row = {
                    "variant": name,
                    "batch": batch,
                    "prompt_tokens": length,
                    "output_tokens": args.output,
                    "experts_kept": [one.loaded for one in experts],
                    "active_experts": list(llm.plan.active_experts),
                    "output_tokens_per_s": round(batch * args.output / total, 1),
                    "tokens_per_s": round(batch * (args.output + length) / total, 1),
                    "first_token_s": round(first, 4),
                    "ms_per_token": round(1000 * decode, 2),
                    "steps": steps,
                    "answers": hash_of(tokens),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def hash_of(tokens: list[Any]) -> str:
    """Equal for equal answers."""
    return f"{hash(tuple(map(tuple, tokens))) & 0xFFFFFFFF:08x}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--output", type=int, default=32)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5], metavar="SHARE")
    parser.add_argument("--active", type=float, nargs="+", default=[0.5], metavar="SHARE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    told = {**about("torch"), "model": Path(args.model).name, "threads": args.threads}
    told |= {"rounds": args.rounds, "load": [round(one, 1) for one in os.getloadavg()]}
    with tempfile.TemporaryDirectory() as folder:
        chosen = variants(args, Path(folder))
        told["rows"] = [row for name in chosen for row in measure(args, name, chosen[name])]
    if args.json:
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
