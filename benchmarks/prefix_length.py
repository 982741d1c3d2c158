"""What a longer prefix in common costs decodes, and what its arithmetic explains of that.

    python benchmarks/prefix_length.py [--model 17m] [--rows 32 64] [--threads 2] [--json FILE]

All rows begin with the same prefix, of 1,024 to 16,384 tokens, which is in the cache, and go on
with four tokens of their own. The time of a decode step is that of 33 output tokens less that of
one, divided by 32. Rounds are interleaved; figures are medians. Explained is the growth of a step's
FLOPs (weight products and attention, `stoker/model/work.py`); where attention runs at the rate of
the weight products, the time grows as much.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from workloads import SHAPES, about

PREFIXES = (1024, 4096, 16384)
STEPS = 32
CONTEXT = PREFIXES[-1] + 64


def make_model(folder: Path, shape: str) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(**{**SHAPES[shape], "max_position_embeddings": CONTEXT})
    Qwen3ForCausalLM(config).save_pretrained(folder)


def step_flops(spec: Any, prefix: int) -> int:
    """FLOPs of one row's decode in the middle of its output."""
    from stoker.model.work import attention_flops, matmul_flops

    return matmul_flops(spec, 1, 1) + attention_flops(spec, prefix + 4 + STEPS // 2)


class Decodes:
    """Rows over one prefix, which the engine's cache keeps."""

    def __init__(self, llm: Any, prefix: int, rows: int, vocab: int) -> None:
        rng = random.Random(prefix)
        stem = [rng.randrange(vocab) for _ in range(prefix)]
        self.llm = llm
        self.prompts = [stem + [rng.randrange(vocab) for _ in range(4)] for _ in range(rows)]
        self.seconds(1)

    def step(self) -> float:
        """Seconds of a decode step."""
        one = self.seconds(1)
        return (self.seconds(1 + STEPS) - one) / STEPS

    def seconds(self, count: int) -> float:
        from stoker import SamplingParams

        params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
        start = time.perf_counter()
        outputs = self.llm.generate(self.prompts, params)
        seconds = time.perf_counter() - start
        assert all(len(output.outputs[0].token_ids) == count for output in outputs)
        return seconds


def measure(llm: Any, shape: str, rows: int, rounds: int) -> dict[str, Any]:
    cases = {n: Decodes(llm, n, rows, SHAPES[shape]["vocab_size"]) for n in PREFIXES}
    seconds: dict[int, list[float]] = {n: [] for n in PREFIXES}
    for _ in range(rounds):
        for n, case in cases.items():
            seconds[n].append(case.step())
    first, last = PREFIXES[0], PREFIXES[-1]
    slower = statistics.median(b / a for a, b in zip(seconds[first], seconds[last], strict=True))
    explained = step_flops(llm.spec, last) / step_flops(llm.spec, first)
    return {
        **{f"tokens_per_s_{n}": round(rows / statistics.median(x), 1) for n, x in seconds.items()},
        "time_ratio": round(slower, 3),
        "flops_ratio": round(explained, 3),
        "time_to_flops": round(slower / explained, 3),
        "throughput_lost": round(1 - 1 / slower, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="17m", choices=SHAPES)
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from stoker import LLM

    results: dict[str, Any] = {"model": args.model, "threads": args.threads, "rounds": args.rounds}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), args.model)
        blocks = (sum(PREFIXES) + max(args.rows) * 64 * len(PREFIXES)) // 16
        with LLM(folder, threads=args.threads, num_blocks=blocks) as llm:
            for rows in args.rows:
                results[f"rows_{rows}"] = measure(llm, args.model, rows, args.rounds)
                print(rows, "rows", json.dumps(results[f"rows_{rows}"], indent=1), flush=True)
    if args.json:
        args.json.write_text(json.dumps({**about("torch"), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
