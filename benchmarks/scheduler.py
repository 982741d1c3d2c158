"""What scheduling and bookkeeping cost on the host, with a model that costs nothing.

1,024 sequences run; each step every one gets a token. The figure is the time of a step (plan,
draws, tensors of the batch, commit, outputs) without the forward pass, per sequence.

    python benchmarks/scheduler.py [--sequences 1024] [--prompt 100] [--steps 100] [--overlap]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.engine import Engine
from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.pending_step import CompletedStep
from stoker.engine.execution.step_tensors import to_arrays, to_tensors
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.sampling.sampler import SamplingBatch
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.scheduling.step import Step
from stoker.ops.attention import ReferenceAttention
from stoker.ops.select import Operations


class FreeModel:
    """Builds the batch, as a real runner must, and makes up the tokens."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.ops = Operations(ReferenceAttention())
        self.slots = DeviceSlots(
            scheduler.max_running,
            scheduler.max_context,
            scheduler.block_size,
            torch.device("cpu"),
        )

    def launch(self, step: Step, draws: SamplingBatch, pools: Any, vectors: Any) -> CompletedStep:
        to_tensors(to_arrays(step, self.slots, None, draws.settings), self.slots, self.ops)
        self.slots.draw_params(1000)
        drawn = [item.end % 1000 for item in step.items for _ in item.draws]
        self.slots.keep(drawn)
        return CompletedStep(drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=1024)
    parser.add_argument("--prompt", type=int, default=100, help="tokens of each")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--overlap", action="store_true", help="plan each step a step ahead")
    args = parser.parse_args()
    count = args.sequences
    scheduler = Scheduler(
        groups=[GroupSize(count * (-(-(args.prompt + 600) // 16) + 1))],
        block_size=16,
        max_batch_tokens=8192,
        max_running=count,
        max_context=args.prompt + 601,
    )
    engine = Engine(scheduler, FreeModel(scheduler), None, vocab=1000, overlap=args.overlap)
    params = SamplingParams(temperature=0, max_tokens=600, ignore_eos=True)
    start = time.perf_counter()
    for number in range(count + 100):  # a hundred more keep waiting
        prompt = tuple((number * 7 + at) % 1000 for at in range(args.prompt))
        engine.add(Request(f"r{number}", prompt, params))
    added = time.perf_counter() - start
    while len(scheduler.running) < count or any(seq.remaining > 1 for seq in scheduler.running):
        engine.step()
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - start)
    times.sort()
    for name, at in (("median", 0.5), ("90th percentile", 0.9)):
        seconds = times[int(at * len(times))]
        per_sequence = seconds / count * 1e6
        print(f"{name:16} {seconds * 1e3:7.2f} ms per step, {per_sequence:5.1f} us per sequence")
    print(f"adding           {added / (count + 100) * 1e6:7.1f} us per request")


if __name__ == "__main__":
    main()
