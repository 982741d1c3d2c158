"""What a GPU's rates allow: two bounds on the time of a workload, by arithmetic.

    sequential   prefill FLOPs / peak
                 + per step max(weight FLOPs / peak, weight bytes / bandwidth)
                 + bytes of keys and values / bandwidth
                 + FLOPs of attention to what sequences share / rate of attention
    overlap      max(all FLOPs / peak, all bytes / bandwidth)

The first is what operators one after another can reach, the second needs memory and multipliers
busy at once. Keys and values that sequences share are read once for all of them, so there the
products count. Left out are logits, norms and draws. Weights are taken to have one width, FP8
weights to be multiplied at FP8's rate, the head included.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

from workload import Workload

from stoker.model.spec.model import ModelSpec
from stoker.model.work import attention_flops, kv_bytes_per_token, matmul_flops, state_flops


@dataclass(frozen=True)
class Rates:
    """What a GPU sustains: bytes/s of a copy, FLOP/s of products by width of the weights."""

    name: str
    memory: float
    products: dict[int, float]  # bytes of a weight -> FLOP/s
    attention: float


# Copies of 4.3 TB/s; the best products found by stas00/ml-engineering (MAMF), attention as FA3's
# of 2,048 to 4,096 tokens in vLLM
H200 = Rates("H200", 4.3e12, {2: 790e12, 1: 1450e12}, 550e12)


@dataclass(frozen=True)
class Bounds:
    """Seconds, by kind of work, of a whole workload."""

    prefill: float
    weights: float
    cache: float
    shared: float
    overlap: float

    @property
    def sequential(self) -> float:
        return self.prefill + self.weights + self.cache + self.shared


def bounds(
    spec: ModelSpec,
    work: Workload,
    running: int,
    weight_bytes: int = 2,
    kv_bytes: int = 2,
    rates: Rates = H200,
) -> Bounds:
    """The bounds of `work` with at most `running` sequences at a time.

    Args:
        weight_bytes, kv_bytes: of a weight, and of an element of the cache.
    """
    peak = rates.products[weight_bytes]
    requests = [
        (len(prompt), count) for prompt, count in zip(work.prompts, work.outputs, strict=True)
    ]
    computed = work.input_tokens - work.common * (len(requests) - 1)
    pairs = sum(_triangle(size) - _triangle(work.common) for size, _ in requests)
    prefill = matmul_flops(spec, computed, len(requests)) + state_flops(spec, computed)
    prefill += attention_flops(spec, pairs + _triangle(work.common))
    token = matmul_flops(spec, 1, 1)
    read = token // 2 * weight_bytes
    steps = rows_of_steps([count - 1 for _, count in requests] * work.samples, running)
    weights = sum(
        times * max(rows * token / peak, read / rates.memory) for rows, times in steps.items()
    )
    decodes = work.samples * sum(count - 1 for _, count in requests)
    own = together = 0
    for size, count in requests:
        # the keys that decodes see: what the sequence shares, then what it alone has
        shares = size if work.samples > 1 else work.common
        together += work.samples * (count - 1) * shares
        own += work.samples * (_triangle(size + count - 1) - _triangle(size))
        own -= work.samples * (count - 1) * shares
    cache = own * kv_bytes_per_token(spec, kv_bytes)
    shared = attention_flops(spec, together)
    flops = prefill + decodes * token + state_flops(spec, decodes)
    flops += attention_flops(spec, own) + shared
    moved = cache + read * sum(steps.values())
    return Bounds(
        prefill=prefill / peak,
        weights=weights,
        cache=cache / rates.memory,
        shared=shared / rates.attention,
        overlap=max(flops / peak, moved / rates.memory),
    )


def rows_of_steps(lengths: list[int], running: int) -> Counter[int]:
    """How many steps have how many rows, if `running` sequences of these lengths run at a time.

    Those that wait begin, in order, as soon as others end.
    """
    starts: Counter[int] = Counter()
    ends: list[int] = []
    for length in lengths:
        now = heapq.heappop(ends) if len(ends) >= running else 0
        heapq.heappush(ends, now + length)
        starts[now] += 1
        starts[now + length] -= 1
    found: Counter[int] = Counter()
    rows = before = 0
    for moment in sorted(starts):
        if rows:
            found[rows] += moment - before
        rows, before = rows + starts[moment], moment
    return found


def _triangle(count: int) -> int:
    return count * (count + 1) // 2
