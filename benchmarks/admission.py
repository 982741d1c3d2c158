"""How well admission foresees memory: evictions, batch size, and predicted against actual peaks.

No model runs. Requests of known lengths are replayed through the scheduler, whose draws end a
sequence when its length is reached; the scheduler does not know the lengths in advance. It runs
twice: as it is, and with conservative admission, which reserves `max_tokens` for everyone.

    python benchmarks/admission.py [--requests 4000] [--json FILE]

A predicted peak is the highest block use of the running sequences as `Forecast` sees it. The actual
one follows from their true lengths, counted moment by moment:

    tokens now  left   blocks of 4 at moment 0 1 2 3 4
        6        5                           2 2 2 3 3
        3        2                           1 1
                                    sum      3 3 2 3 3     peak 3
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from workloads import about

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.forecast import Forecast, LengthEstimator
from stoker.engine.scheduling.scheduler import Scheduler

EOS = 0
MAX_TOKENS = 1024
Lengths = list[tuple[int, int]]  # prompt, output


class Longest(LengthEstimator):
    """Conservative admission: everyone is expected to reach its limit."""

    def ranked(self, generated: Any, limit: Any, ranks: Any) -> Any:
        return limit


def heavy_tailed(count: int, seed: int = 0, median: float = 80, sigma: float = 1.0) -> Lengths:
    """Log-normal outputs, at most `MAX_TOKENS`; prompts of 8 to 64 tokens."""
    rng = random.Random(seed)
    outputs = (rng.lognormvariate(np.log(median), sigma) for _ in range(count))
    return [(rng.randint(8, 64), min(MAX_TOKENS, max(1, round(x)))) for x in outputs]


def two_kinds(count: int, seed: int = 0) -> Lengths:
    """Short labels and, for every fifth request, a long answer."""
    rng = random.Random(seed)
    return [
        (rng.randint(8, 64), rng.randint(300, 600) if rng.random() < 0.2 else rng.randint(2, 12))
        for _ in range(count)
    ]


WORKLOADS: dict[str, Callable[[int], Lengths]] = {
    "heavy_tailed": heavy_tailed,
    "two_kinds": two_kinds,
}


@dataclass
class Run:
    """What one pass over the lengths showed."""

    mean_batch: float = 0.0  # sequences in a step
    steps: int = 0
    preemptions: int = 0
    most_held: int = 0  # blocks
    peaks: list[tuple[int, int]] = field(default_factory=list)  # predicted, actual

    def as_json(self, requests: int) -> dict[str, float]:
        errors = [abs(predicted / actual - 1) for predicted, actual in self.peaks]
        return {
            "mean_batch": round(self.mean_batch, 2),
            "steps": self.steps,
            "evictions_per_request": round(self.preemptions / requests, 5),
            "most_blocks_held": self.most_held,
            "peaks_compared": len(errors),
            "peak_error_mean": round(statistics.mean(errors), 4),
            "peak_error_p90": round(statistics.quantiles(errors, n=10)[-1], 4),
            "peak_predicted_to_actual": round(
                statistics.mean(p for p, _ in self.peaks)
                / statistics.mean(a for _, a in self.peaks),
                4,
            ),
        }


def replay_lengths(
    lengths: Lengths,
    *,
    num_blocks: int = 1200,
    block_size: int = 16,
    estimator: LengthEstimator | None = None,
    every: int = 20,
) -> Run:
    """Run all requests to their ends.

    Peaks are compared each `every` steps while some wait, once a tenth of all have finished.
    """
    scheduler = Scheduler(
        groups=[GroupSize(num_blocks)],
        block_size=block_size,
        max_batch_tokens=2048,
        max_running=1024,
        max_context=64 + MAX_TOKENS + 1,
        eos_ids=frozenset({EOS}),
        prefix_cache=False,
    )
    if estimator is not None:
        scheduler.lengths = estimator
    outputs = {}
    for number, (prompt, output) in enumerate(lengths):
        params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS)
        seq = scheduler.add(Request(f"r{number}", (1,) * prompt, params))
        outputs[seq.serial] = output
    run, batches = Run(), 0
    while scheduler.has_work:
        step = scheduler.plan()
        batches += len(step.items)
        run.steps += 1
        run.most_held = max(run.most_held, scheduler.pool.held)
        learnt = 10 * (len(lengths) - len(scheduler.sequences())) >= len(lengths)
        if run.steps % every == 0 and learnt and scheduler.waiting:
            run.peaks.append((predicted_peak(scheduler), actual_peak(scheduler, outputs)))
        drawn = []
        for item in step.items:
            seq = scheduler[item.sequence]
            ends = seq.generated + 1 == outputs[item.sequence]
            drawn += [EOS if ends else 1 for _ in item.draws]
        scheduler.commit(step, drawn)
    run.mean_batch = batches / run.steps
    run.preemptions = scheduler.num_preemptions
    return run


def predicted_peak(scheduler: Scheduler) -> int:
    """Most blocks the running sequences are expected to use at any moment from now on."""
    sizes = scheduler.lengths, scheduler.max_batch_tokens
    (peak,) = Forecast(scheduler.running, scheduler.pool, *sizes).peaks()
    return peak


def actual_peak(scheduler: Scheduler, outputs: dict[int, int]) -> int:
    """Most blocks they will use if nothing else is admitted, by their true lengths."""
    running = scheduler.running
    use = np.zeros(max(outputs[seq.serial] for seq in running) + 1, np.int64)
    for seq in running:
        left = outputs[seq.serial] - seq.generated
        use[:left] += -(-(len(seq.tokens) + np.arange(left)) // scheduler.block_size)
    return int(use.max())


def compare(lengths: Lengths, **options: Any) -> dict[str, Any]:
    """The scheduler as it is beside conservative admission."""
    forecast = replay_lengths(lengths, **options)
    conservative = replay_lengths(lengths, estimator=Longest(), **options)
    count = len(lengths)
    return {
        "requests": count,
        "forecast": forecast.as_json(count),
        "conservative": conservative.as_json(count),
        "batch_ratio": round(forecast.mean_batch / conservative.mean_batch, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {name: compare(make(args.requests)) for name, make in WORKLOADS.items()}
    for name, result in results.items():
        print(f"{name}: batch {result['batch_ratio']:.2f} times that of conservative admission")
        for kind in ("forecast", "conservative"):
            print(f"  {kind:13}" + "  ".join(f"{k} {v}" for k, v in result[kind].items()))
    if args.json:
        args.json.write_text(json.dumps({**about("numpy"), **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
