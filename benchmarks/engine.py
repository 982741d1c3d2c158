"""Stoker against transformers' static batches, and prefix reuse on against off, in one run.

Workload: 64 requests, prompts 16-256 and outputs 16-256 tokens (uniform, seeded), EOS ignored,
random weights of a 17 M-parameter Qwen3 shape, float32 on a CPU. Rounds are interleaved, since
a machine's speed drifts; each figure is the median over rounds. Peak memory is that of a
process that runs one engine alone.

    python benchmarks/engine.py [--rounds 3] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 384,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1152,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "eos_token_id": None,
}
Workload = list[tuple[list[int], int]]


def make_model(folder: Path) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**SHAPE)).save_pretrained(folder)


def make_workload(seed: int = 0) -> Workload:
    rng = random.Random(seed)
    return [(_tokens(rng, rng.randint(16, 256)), rng.randint(16, 256)) for _ in range(64)]


def make_prefix_workload(seed: int = 0) -> Workload:
    """64 requests over one 512-token prefix, suffixes 8-32 and outputs 32-64 tokens."""
    rng = random.Random(seed)
    prefix = _tokens(rng, 512)
    return [(prefix + _tokens(rng, rng.randint(8, 32)), rng.randint(32, 64)) for _ in range(64)]


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(SHAPE["vocab_size"]) for _ in range(count)]


class Stoker:
    def __init__(self, folder: Path, **options: Any) -> None:
        from stoker import LLM

        self.llm = LLM(str(folder), **options)

    def run(self, work: Workload) -> None:
        from stoker import SamplingParams

        self.llm.engine.scheduler.pool.clear_cache()
        params = [
            SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for _, count in work
        ]
        outputs = self.llm.generate([prompt for prompt, _ in work], params)
        counts = [len(output.outputs[0].token_ids) for output in outputs]
        assert counts == [count for _, count in work]


class Transformers:
    """Static batches of 16, sorted by output length."""

    def __init__(self, folder: Path, batch: int = 16) -> None:
        from transformers import Qwen3ForCausalLM

        self.model = Qwen3ForCausalLM.from_pretrained(folder, dtype="float32").eval()
        self.batch = batch

    def run(self, work: Workload) -> None:
        import torch

        work = sorted(work, key=lambda one: one[1])
        for at in range(0, len(work), self.batch):
            group = work[at : at + self.batch]
            longest = max(len(prompt) for prompt, _ in group)
            ids = torch.tensor([[0] * (longest - len(p)) + p for p, _ in group])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p, _ in group])
            most = max(count for _, count in group)
            with torch.inference_mode():
                self.model.generate(
                    ids, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=0
                )


def matmul_rate(threads: int) -> float:
    """FLOP/s of float32 products at the shapes of a step of 64 rows, with packed weights."""
    import torch

    from stoker.ops.linear import prepare_linear

    torch.set_num_threads(threads)
    flops = seconds = 0.0
    for k, n in ((384, 640), (384, 384), (384, 2304), (1152, 384)):
        linear, x = prepare_linear(torch.randn(n, k)), torch.randn(64, k)
        for _ in range(50):
            linear(x)
        start = time.perf_counter()
        for _ in range(200):
            linear(x)
        seconds += time.perf_counter() - start
        flops += 200 * 2 * 64 * k * n
    return flops / seconds


def work_flops(work: Workload) -> int:
    """Weight products and attention that the workload needs, nothing computed twice."""
    from stoker.model.families import spec_from_config
    from stoker.model.work import attention_flops, matmul_flops

    spec, _ = spec_from_config(
        {**SHAPE, "architectures": ["Qwen3ForCausalLM"], "rms_norm_eps": 1e-6}
    )
    tokens = sum(len(prompt) + count - 1 for prompt, count in work)
    pairs = sum((len(p) + n - 1) * (len(p) + n) // 2 for p, n in work)
    sampled = sum(count for _, count in work)
    return matmul_flops(spec, tokens, sampled) + attention_flops(spec, pairs)


def timed(run: Callable[[Workload], None], work: Workload) -> float:
    """Output tokens per second."""
    start = time.perf_counter()
    run(work)
    return sum(count for _, count in work) / (time.perf_counter() - start)


def peak_memory(engine: str, folder: Path, threads: int) -> float:
    """MiB of resident memory that a fresh process reaches while `engine` runs the workload."""
    command = [sys.executable, __file__, "--alone", engine, str(folder), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def alone(engine: str, folder: Path) -> None:
    one = Stoker(folder) if engine == "stoker" else Transformers(folder)
    one.run(make_workload())
    status = Path("/proc/self/status").read_text()  # VmHWM, unlike ru_maxrss, begins at exec
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def measure(folder: Path, rounds: int, threads: int) -> dict[str, float]:
    work, shared = make_workload(), make_prefix_workload()
    engines = {
        "stoker": (Stoker(folder).run, work),
        "transformers": (Transformers(folder).run, work),
        "prefix_on": (Stoker(folder).run, shared),
        "prefix_off": (Stoker(folder, prefix_cache=False).run, shared),
    }
    for run, _ in engines.values():
        run(work[:8])  # warm up
    rates: dict[str, list[float]] = {name: [] for name in engines}
    limits = []
    for _ in range(rounds):
        limits.append(matmul_rate(threads))
        for name, (run, load) in engines.items():
            rates[name].append(timed(run, load))
    result = {name: statistics.median(values) for name, values in rates.items()}
    limit = statistics.median(limits)
    outputs = sum(count for _, count in work)
    result["matmul_gflops"] = limit / 1e9
    result["share_of_matmul_limit"] = result["stoker"] / outputs * work_flops(work) / limit
    result["ratio_to_transformers"] = statistics.median(
        a / b for a, b in zip(rates["stoker"], rates["transformers"], strict=True)
    )
    result["ratio_prefix"] = statistics.median(
        a / b for a, b in zip(rates["prefix_on"], rates["prefix_off"], strict=True)
    )
    return result


def about() -> dict[str, str]:
    """What a figure depends on beside the code."""
    import torch
    import transformers

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers_version": transformers.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    if args.alone:
        alone(args.alone[0], Path(args.alone[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder)
        result = measure(folder, args.rounds, args.threads)
        for engine in ("stoker", "transformers"):
            result[f"peak_mib_{engine}"] = peak_memory(engine, folder, args.threads)
    print(f"Stoker             {result['stoker']:8.0f} output tokens/s")
    print(f"transformers       {result['transformers']:8.0f} output tokens/s, static batches of 16")
    print(f"ratio              {result['ratio_to_transformers']:8.2f}")
    print(
        f"matmul limit       {result['matmul_gflops']:8.0f} GFLOP/s at 64 rows; "
        f"Stoker's share {result['share_of_matmul_limit']:.0%}"
    )
    print(
        f"peak memory        {result['peak_mib_stoker']:8.0f} MiB, "
        f"transformers {result['peak_mib_transformers']:.0f} MiB"
    )
    print(
        f"shared prefix      {result['prefix_on']:8.0f} output tokens/s, "
        f"{result['prefix_off']:.0f} without reuse, ratio {result['ratio_prefix']:.2f}"
    )
    if args.json:
        args.json.write_text(json.dumps({**about(), **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
