"""What the CPU benchmarks have in common: model shapes, seeded workloads, limits of the machine."""

from __future__ import annotations

import json
import os
import platform
import random
import re
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

Workload = list[tuple[list[int], int]]  # prompt token ids, output tokens
Outputs = list[list[int]]  # greedy tokens of each request
Run = Callable[[Workload], Outputs]
Clock = Callable[[], float]


def _shape(
    hidden: int, layers: int, heads: int, kv_heads: int, head: int, ffn: int, vocab: int
) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "intermediate_size": ffn,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "eos_token_id": None,
    }


# Qwen3 shapes, float32; 600m is Qwen3-0.6B's. The mixture has 292 M parameters, 44 M of its
# layers' active; the hybrid has 160 M, and attention in every fourth of its layers.
SHAPES: dict[str, dict[str, Any]] = {
    "17m": _shape(384, 8, 6, 2, 64, 1152, 8192),
    "107m": _shape(768, 12, 12, 4, 64, 2304, 32000),
    "600m": _shape(1024, 28, 16, 8, 128, 3072, 151936),
    "moe": {
        **_shape(512, 14, 8, 4, 64, 768, 32000),
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
    },
    "hybrid": {
        **_shape(768, 16, 12, 4, 64, 2304, 32000),
        "shared_intermediate_size": 2304,
        "num_local_experts": 0,
        "layer_types": ["mamba", "mamba", "mamba", "attention"] * 4,
        "mamba_n_heads": 48,
        "mamba_d_head": 32,
        "mamba_d_state": 64,
        "attention_multiplier": 0.125,
    },
}
# The same kinds, so small that two engines' tokens are quickly compared.
SHAPES["tiny-moe"] = {
    **SHAPES["moe"],
    **_shape(64, 2, 4, 2, 32, 96, 256),
    "moe_intermediate_size": 96,
}
SHAPES["tiny-hybrid"] = {
    **SHAPES["hybrid"],
    **_shape(64, 4, 4, 2, 16, 96, 256),
    "shared_intermediate_size": 96,
    "layer_types": ["mamba", "mamba", "mamba", "attention"],
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
}
TINY = ("tiny-moe", "tiny-hybrid")
ARCHITECTURES = {"moe": "Qwen3Moe", "hybrid": "GraniteMoeHybrid"}  # of the others Qwen3


def classes(shape: str) -> tuple[Any, Any]:
    """transformers' classes of the config and of the model of a shape."""
    import transformers

    name = ARCHITECTURES.get(shape.removeprefix("tiny-"), "Qwen3")
    return getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM")


def make_model(folder: Path, shape: str) -> None:
    """Save a model of random weights; if it is a tiny one, every weight shows in its tokens."""
    import torch

    torch.manual_seed(0)
    config, model = classes(shape)
    made = model(config(**SHAPES[shape]))
    if shape in TINY:
        for weight in made.parameters():
            weight.data += 0.3 * torch.randn_like(weight)
    made.save_pretrained(folder)
    path = folder / "config.json"  # fields as published models spell them, for all releases
    path.write_text(json.dumps({**json.loads(path.read_text()), **SHAPES[shape]}, indent=1))


def mixed(shape: str, requests: int = 64, seed: int = 0, longest: int = 256) -> Workload:
    """Prompts and outputs of 16 to `longest` tokens each, uniform."""
    rng = random.Random(seed)
    return [
        (_tokens(rng, shape, rng.randint(16, longest)), rng.randint(16, longest))
        for _ in range(requests)
    ]


def shared_prefix(shape: str, requests: int = 64, seed: int = 0) -> Workload:
    """Requests over one 512-token prefix, suffixes of 8-32 and outputs of 32-64 tokens."""
    rng = random.Random(seed)
    prefix = _tokens(rng, shape, 512)
    return [
        (prefix + _tokens(rng, shape, rng.randint(8, 32)), rng.randint(32, 64))
        for _ in range(requests)
    ]


def with_other_tokens(work: Workload, shape: str, number: int) -> Workload:
    """The same lengths and the same sharing, but no prompt that an engine has seen in number 0."""
    vocab = SHAPES[shape]["vocab_size"]
    return [([(token + 101 * number) % vocab for token in prompt], count) for prompt, count in work]


def _tokens(rng: random.Random, shape: str, count: int) -> list[int]:
    return [rng.randrange(SHAPES[shape]["vocab_size"]) for _ in range(count)]


class Work(NamedTuple):
    """A workload by name: its model's shape, its requests, the tokens all prompts share."""

    shape: str
    make: Callable[[], Workload]
    shared: int = 0


WORK = {
    "17m": Work("17m", lambda: mixed("17m", 64)),
    "107m": Work("107m", lambda: mixed("107m", 32)),
    "600m": Work("600m", lambda: mixed("600m", 16)),
    "moe": Work("moe", lambda: mixed("moe", 32)),
    "hybrid": Work("hybrid", lambda: mixed("hybrid", 32)),
    "tiny-moe": Work("tiny-moe", lambda: mixed("tiny-moe", 8, longest=48)),
    "tiny-hybrid": Work("tiny-hybrid", lambda: mixed("tiny-hybrid", 8, longest=48)),
    "prefix": Work("107m", lambda: shared_prefix("107m"), 512),
}


def outputs_of(work: Workload) -> int:
    return sum(count for _, count in work)


def work_flops(shape: str, work: Workload, shared: int = 0) -> int:
    """What products, attention and states need, the workload's shared prefix counted once."""
    from stoker.model.families import spec_from_config
    from stoker.model.work import attention_flops, matmul_flops, state_flops

    config, model = classes(shape)
    fields = {**config(**SHAPES[shape]).to_dict(), "architectures": [model.__name__]}
    spec, _ = spec_from_config(fields)
    again = shared * (len(work) - 1)
    tokens = sum(len(prompt) + count - 1 for prompt, count in work) - again
    pairs = sum((len(p) + n - 1) * (len(p) + n) // 2 for p, n in work) - again * (shared + 1) // 2
    needed = matmul_flops(spec, tokens, outputs_of(work)) + attention_flops(spec, pairs)
    return needed + state_flops(spec, tokens)


def matmul_rate(shape: str, rows: int = 64, make: Callable[..., Any] | None = None) -> float:
    """FLOP/s of products at the shapes of a step of `rows` rows, with packed float32 weights or
    what `make` makes of them: the best of ten passes."""
    import torch

    from stoker.ops.linear import prepare_linear

    make = make or prepare_linear
    sizes = SHAPES[shape]
    hidden, ffn = sizes["hidden_size"], sizes["intermediate_size"]
    heads = sizes["num_attention_heads"] * sizes["head_dim"]
    qkv = heads + 2 * sizes["num_key_value_heads"] * sizes["head_dim"]
    flops = seconds = 0.0
    for k, n in ((hidden, qkv), (heads, hidden), (hidden, 2 * ffn), (ffn, hidden)):
        linear, x = make(torch.randn(n, k)), torch.randn(rows, k)
        repeats = max(3, int(4e8 / (2 * rows * k * n)))

        def passed(apply: Any = linear, x: Any = x, repeats: int = repeats) -> None:
            for _ in range(repeats):
                apply(x)

        seconds += min(seconds_of(passed) for _ in range(10))
        flops += repeats * 2.0 * rows * k * n
    return flops / seconds


def read_rate(clock: Clock = time.perf_counter, mib: int = 512) -> float:
    """Bytes per second at which this machine's threads read memory together."""
    import torch

    x = torch.zeros(mib << 18)
    x += 1
    best = min(seconds_of(x.sum, clock) for _ in range(5))
    return x.numel() * 4 / best


def clock_of(threads: int) -> Clock:
    """The processor's time for one thread, which other loads on the machine touch less."""
    return time.process_time if threads == 1 else time.perf_counter


def seconds_of(action: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    start = clock()
    action()
    return clock() - start


def about(*packages: str) -> dict[str, str]:
    """What a figure depends on beside the code."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            found[f"{package}_version"] = version(package)
        except PackageNotFoundError:
            continue
    return found
