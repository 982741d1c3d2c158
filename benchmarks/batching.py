"""What batches, threads and pinned replicas bring on a CPU; the outputs must be equal in all.

    python benchmarks/batching.py [--rounds 3] [--rows 64] [--model 17m] [--json FILE]

Output tokens per second with 1 to 64 sequences at a time on all cores, and with 64 at a time on
1 core to all. Then a job with one engine on all cores beside as many replicas as cores
(`--replicas`), each pinned to one of them: the same total of threads. All are loaded before
anything is measured; rounds are interleaved, and each figure is the median over rounds.

Prompts have 9 to 25 words, outputs 32 tokens; a job has as many rows for each core. The model is
of random weights in the 17 M-parameter shape of `workloads.py` (with the tokenizer and the
vocabulary of the shipped model), or what `--model` names.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workloads import SHAPES, about

from stoker import LLM, SamplingParams
from stoker.job.job import JobSettings, prepare_job
from stoker.job.replicas import Replica, run_replicated, started_replicas

BATCHES = (1, 2, 4, 8, 16, 32, 64)
OUTPUT = 32
SHIPPED = Path(__file__).parent.parent / "stoker" / "shipped" / "stoker-tiny"
WORDS = ["stage", "mother", "show", "river", "paper", "light", "green", "seven", "house"]
PARAMS = SamplingParams(temperature=0, max_tokens=OUTPUT, ignore_eos=True)


def make_model(folder: Path) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    vocab = json.loads((SHIPPED / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    Qwen3ForCausalLM(Qwen3Config(**{**SHAPES["17m"], "vocab_size": vocab})).save_pretrained(folder)
    for file in SHIPPED.glob("tokenizer*"):
        shutil.copy(file, folder)


def text_prompts(count: int) -> list[str]:
    rng = random.Random(0)
    return [
        f"{number} " + " ".join(rng.choices(WORDS, k=rng.randint(8, 24))) for number in range(count)
    ]


class Batches:
    """One engine per setting, of which one runs at a time."""

    def __init__(self, model: str, prompts: list[str], threads: int) -> None:
        self.llm, self.prompts, self.threads = LLM(model, threads=threads), prompts, threads
        self.llm.generate(prompts[:8], PARAMS)

    def rate(self, batch: int) -> tuple[float, Any]:
        """Output tokens per second, and the outputs."""
        import torch

        torch.set_num_threads(self.threads)  # of the whole process: the engine made last had set it
        scheduler = self.llm.engine.scheduler
        scheduler.pool.clear_cache()
        scheduler.max_running = batch
        start = time.perf_counter()
        outputs = self.llm.generate(self.prompts, PARAMS)
        seconds = time.perf_counter() - start
        return len(outputs) * OUTPUT / seconds, [one.outputs[0].token_ids for one in outputs]


class Job:
    """A job over a file, by replicas that are loaded already."""

    def __init__(self, folder: Path, name: str, replicas: list[Replica]) -> None:
        self.folder, self.name, self.replicas = folder, name, replicas
        self.runs = 0

    def rate(self) -> tuple[float, Any]:
        """Output tokens per second, and the texts by row."""
        self.runs += 1
        settings = job_settings(self.folder, f"{self.name}{self.runs}")
        report = prepare_job(settings)
        start = time.perf_counter()
        run_replicated(self.replicas, settings, report, lambda report: None)
        seconds = time.perf_counter() - start
        rows = [json.loads(line) for line in settings.output.read_text().splitlines()]
        texts = {row["result"]["row"]: row["result"]["text"] for row in rows}
        return len(rows) * OUTPUT / seconds, texts


def job_settings(folder: Path, name: str) -> JobSettings:
    # replicas would remember the answers of the round before
    where = folder / "rows.jsonl", folder / f"{name}.jsonl"
    return JobSettings(*where, PARAMS, raw=True, dedup=False)


@contextlib.contextmanager
def jobs(model: str, folder: Path, cores: list[int], rows: int) -> Iterator[list[Job]]:
    """One engine on all cores, and one replica for each."""
    lines = [json.dumps({"prompt": text}) for text in text_prompts(rows)]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    settings = job_settings(folder, "none")
    options = {"prefix_cache": False}
    with (
        started_replicas(model, options, [cores], settings) as one,
        started_replicas(model, options, [[core] for core in cores], settings) as many,
    ):
        yield [Job(folder, "one_engine", one), Job(folder, "replicas", many)]


def interleaved(runs: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Rates of each of `runs`, by round. Checks that all outputs are equal."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    expected = None
    for number in range(rounds + 1):
        for name, run in runs.items():
            rate, outputs = run()
            expected = outputs if expected is None else expected
            assert outputs == expected, f"{name}: other outputs"
            if number:  # the first round warms up
                rates[name].append(rate)
    return rates


def measure(model: str, folder: Path, rounds: int, rows: int) -> dict[str, Any]:
    cores, prompts = sorted(os.sched_getaffinity(0)), text_prompts(rows)
    engines = {threads: Batches(model, prompts, threads) for threads in range(1, len(cores) + 1)}
    last = len(cores)
    runs = {f"batch_{b}": lambda b=b: engines[last].rate(b) for b in BATCHES if b <= rows}
    runs |= {f"threads_{t}": lambda t=t: engines[t].rate(64) for t in engines}
    rates = interleaved(runs, rounds)
    for one in engines.values():
        one.llm.close()
    with jobs(model, folder, cores, rows * len(cores)) as (one_engine, replicas):
        pair = interleaved({"one_engine": one_engine.rate, "replicas": replicas.rate}, rounds)
    ratios = [many / one for one, many in zip(*pair.values(), strict=True)]
    return {
        "cores": len(cores),
        **{name: round(statistics.median(x), 1) for name, x in (rates | pair).items()},
        "replicas_to_one_engine": round(statistics.median(ratios), 3),
        "replicas_to_one_engine_by_round": [round(x, 3) for x in ratios],
        "outputs_equal": True,  # checked above
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--model", default="17m")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), args.model
        if model == "17m":
            model = str(folder / "model")
            make_model(Path(model))
        result = measure(model, folder, args.rounds, args.rows)
    for key, value in result.items():
        print(f"{key:32} {value}")
    if args.json:
        options = {"model": args.model, "rows": args.rows, "rounds": args.rounds}
        args.json.write_text(json.dumps({**about("torch"), **options, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
