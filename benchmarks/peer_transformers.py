"""transformers' generate: static batches of requests of similar output length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workloads import Outputs, Run, Workload


def make(folder: Path, threads: int, work: str) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    return in_batches(AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval())


def in_batches(model: Any, batch: int = 16) -> Run:
    """Runs a workload by `model.generate`, prompts padded on the left."""
    import torch

    def run(load: Workload) -> Outputs:
        order = sorted(range(len(load)), key=lambda number: load[number][1])
        outputs: dict[int, list[int]] = {}
        for at in range(0, len(load), batch):
            numbers = order[at : at + batch]
            group = [load[number] for number in numbers]
            longest = max(len(prompt) for prompt, _ in group)
            ids = torch.tensor([[0] * (longest - len(p)) + p for p, _ in group])
            mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p, _ in group])
            with torch.inference_mode():
                rows = model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=max(count for _, count in group),
                    do_sample=False,
                    pad_token_id=0,
                )
            for number, row in zip(numbers, rows[:, longest:].tolist(), strict=True):
                outputs[number] = row[: load[number][1]]
        return [outputs[number] for number in range(len(load))]

    return run
