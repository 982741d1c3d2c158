"""transformers' own continuous batching beside the engine, on the same slice of W1.

Both read one folder of random weights, in bfloat16 on a GPU; transformers with its defaults,
which choose CUDA graphs and its fastest attention at hand.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from engine_run import timed_run, warm_up
from models import config_of, written
from workload import Workload, w1

from stoker import LLM

MODEL = "qwen3-0.6b"
SIZE = 2 << 30  # bytes of its folder, rounded up


def run_peer(device: torch.device, smoke: bool, limit: float) -> dict[str, Any]:
    """Output tokens/s of both, each in at most half of `limit` seconds."""
    work = w1(4, 3, 12, 500) if smoke else w1(64)
    dtype = "float32" if device.type == "cpu" else "bfloat16"
    with written(config_of(MODEL, smoke), device, 1 << 20 if smoke else SIZE) as folder:
        options = {"num_blocks": 200} if device.type == "cpu" else {"max_running": 64}
        with LLM(str(folder), device=device.type, dtype=dtype, **options) as llm:
            if not smoke:
                warm_up(llm)
            ours = timed_run(llm, work, limit / 2)
        sizes = {"num_blocks": 8, "max_batch_tokens": 64} if smoke else {}
        theirs = transformers_run(folder, device, dtype, work, limit / 2, **sizes)
    return {
        "hash": work.hash(),
        "input_tokens": work.input_tokens,
        "output_tokens": work.output_tokens,
        "stoker": ours,
        "transformers": theirs,
        "ratio": ours["output_tokens_per_s"] / theirs["output_tokens_per_s"],
    }


def transformers_run(
    folder: Path, device: torch.device, dtype: str, work: Workload, limit: float, **sizes: int
) -> dict[str, Any]:
    """The time from the first request to the last result, its own warm-up left out.

    Args:
        sizes: of its cache and steps, where it shall not find them out itself.

    Raises:
        RuntimeError: a request failed, or `limit` seconds were not enough.
    """
    from transformers import (
        AutoModelForCausalLM,
        ContinuousBatchingConfig,
        GenerationConfig,
    )

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
    settings = GenerationConfig(
        do_sample=True,
        temperature=work.temperature,
        max_new_tokens=max(work.outputs),
        eos_token_id=-1,
        pad_token_id=0,
    )
    done = 0
    with model.continuous_batching_context_manager(
        settings, continuous_batching_config=ContinuousBatchingConfig(**sizes)
    ) as manager:
        start = time.perf_counter()
        for prompt, count in zip(work.prompts, work.outputs, strict=True):
            manager.add_request(list(prompt), max_new_tokens=count)
        left = len(work.prompts)
        while left:
            result = manager.get_result(timeout=1)
            if result is not None and result.error is not None:
                raise RuntimeError(f"transformers: {result.error}")
            if result is not None and result.is_finished():
                done += len(result.generated_tokens)
                left -= 1
            if time.perf_counter() - start > limit or not manager.is_running():
                raise RuntimeError(f"transformers: {left} requests left after {limit:.0f} s")
        seconds = time.perf_counter() - start
    if done != work.output_tokens:
        raise RuntimeError(f"transformers gave {done} tokens of {work.output_tokens}")
    return {
        "seconds": seconds,
        "output_tokens": done,
        "output_tokens_per_s": done / seconds,
        "attention": model.config._attn_implementation,
    }
