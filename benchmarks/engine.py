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
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peer_stoker import make as stoker
from peer_transformers import make as transformers
from workloads import (
    Run,
    Workload,
    about,
    make_model,
    matmul_rate,
    mixed,
    outputs_of,
    shared_prefix,
    work_flops,
)

SHAPE = "17m"


def timed(run: Run, work: Workload) -> float:
    """Output tokens per second."""
    start = time.perf_counter()
    run(work)
    return outputs_of(work) / (time.perf_counter() - start)


def peak_memory(engine: str, folder: Path, threads: int) -> float:
    """MiB of resident memory that a fresh process reaches while `engine` runs the workload."""
    command = [sys.executable, __file__, "--alone", engine, str(folder), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def alone(engine: str, folder: Path, threads: int) -> None:
    run = (stoker if engine == "stoker" else transformers)(folder, threads, "17m")
    run(mixed(SHAPE))
    status = Path("/proc/self/status").read_text()  # VmHWM, unlike ru_maxrss, begins at exec
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def measure(folder: Path, rounds: int, threads: int) -> dict[str, float]:
    work, shared = mixed(SHAPE), shared_prefix(SHAPE)
    engines = {
        "stoker": (stoker(folder, threads, "17m"), work),
        "transformers": (transformers(folder, threads, "17m"), work),
        "prefix_on": (stoker(folder, threads, "prefix"), shared),
        "prefix_off": (stoker(folder, threads, "prefix", prefix_cache=False), shared),
    }
    for run, _ in engines.values():
        run(work[:8])  # warm up
    rates: dict[str, list[float]] = {name: [] for name in engines}
    limits = []
    for _ in range(rounds):
        limits.append(matmul_rate(SHAPE))
        for name, (run, load) in engines.items():
            rates[name].append(timed(run, load))
    result = {name: statistics.median(values) for name, values in rates.items()}
    limit = statistics.median(limits)
    result["matmul_gflops"] = limit / 1e9
    result["share_of_matmul_limit"] = (
        result["stoker"] / outputs_of(work) * work_flops(SHAPE, work) / limit
    )
    result["ratio_to_transformers"] = statistics.median(
        a / b for a, b in zip(rates["stoker"], rates["transformers"], strict=True)
    )
    result["ratio_prefix"] = statistics.median(
        a / b for a, b in zip(rates["prefix_on"], rates["prefix_off"], strict=True)
    )
    return result


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
        alone(args.alone[0], Path(args.alone[1]), args.threads)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, SHAPE)
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
        args.json.write_text(
            json.dumps({**about("torch", "transformers"), **result}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
