"""The workloads of the GPU benchmarks: on which model, with which settings, and their goals.

Goals are output tokens/s on one H200. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workload import Workload, fixed, prefixed, sampled, w1

FP8_KV = {"kv_dtype": "fp8"}
FP8 = {"dtype": "fp8", "kv_dtype": "fp8"}


@dataclass(frozen=True)
class Case:
    """A workload for the engine.

    Attributes:
        model: a key of `models.CONFIGS`.
        work: makes the workload.
        tiny: makes a small one of its kind.
        options: of `LLM`.
        limit: seconds after which it is cut; the rate is then that of what was done.
    """

    model: str
    goal: float
    work: Callable[[], Workload]
    tiny: Callable[[], Workload]
    options: dict[str, Any] = field(default_factory=dict)
    limit: float = 60


def _tiny_w1() -> Workload:
    return w1(6, 3, 12, 500)


CASES: dict[str, Case] = {  # what matters most first
    "qwen3-0.6b": Case("qwen3-0.6b", 27e3, w1, _tiny_w1),
    "qwen3-0.6b-fp8kv": Case("qwen3-0.6b", 42e3, w1, _tiny_w1, FP8_KV),
    "llama-8b-fp8": Case(
        "llama-3.1-8b",
        18.6e3,
        lambda: fixed(512, 1000, 1000),
        lambda: fixed(6, 20, 8, 500),
        {**FP8, "max_running": 512},
        90,
    ),
    "qwen3-14b-fp8": Case("qwen3-14b", 11e3, w1, _tiny_w1, FP8),
    "qwen3-14b": Case("qwen3-14b", 6.8e3, w1, _tiny_w1),
    "prefix-1k": Case(
        "llama-3.1-8b",
        30e3,
        lambda: prefixed(1024, 1024, 16, 384),
        lambda: prefixed(6, 48, 3, 6, 500),
        {"max_running": 1024},
    ),
    "prefix-16k": Case(
        "llama-3.1-8b",
        18.5e3,
        lambda: prefixed(1024, 16384, 16, 384),
        lambda: prefixed(6, 200, 3, 6, 500),
        {"max_running": 1024},
    ),
    "samples": Case(
        "llama-3.2-1b",
        120e3,
        lambda: sampled(128, 1024, 128, 100),
        lambda: sampled(2, 4, 9, 6, 500),
        {"max_running": 4096, "max_batch_tokens": 8192},
        40,
    ),
    "qwen3-8b": Case("qwen3-8b", 10.3e3, w1, _tiny_w1),
    "qwen3-1.7b": Case("qwen3-1.7b", 22e3, w1, _tiny_w1),
}
DECODE_GOALS = {"bf16": 3.7, "fp8": 3.3}  # TB/s at 256 sequences of 1,024 tokens
HOST_GOAL = 0.05  # the most that the host may add to a decode step
LOAD_GOAL = 10.0  # seconds to the first token of an 8B model
