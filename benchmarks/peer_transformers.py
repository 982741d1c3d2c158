"""transformers' generate: static batches of requests of similar output length."""

from __future__ import annotations

from pathlib import Path

from workloads import Run, Workload


def make(folder: Path, threads: int, work: str, batch: int = 16) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()

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
