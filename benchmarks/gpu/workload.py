"""What the engine is asked to do: seeded prompts and lengths, and their hash.

Knows token ids, no models and no engines.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """Requests that all arrive at once; each output has exactly its length.

    Attributes:
        prompts: token ids.
        outputs: tokens to generate, for each prompt.
        samples: completions of each prompt.
        common: tokens that all prompts begin with.
        temperature: of the draws, 0 for greedy ones.
    """

    prompts: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]
    samples: int = 1
    common: int = 0
    temperature: float = 0.6

    @property
    def input_tokens(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def output_tokens(self) -> int:
        return self.samples * sum(self.outputs)

    @property
    def longest(self) -> int:
        return max(len(p) + n for p, n in zip(self.prompts, self.outputs, strict=True))

    def hash(self) -> str:
        content = [self.prompts, self.outputs, self.samples, self.temperature]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def first(self, count: int) -> Workload:
        return Workload(
            self.prompts[:count], self.outputs[:count], self.samples, self.common, self.temperature
        )


def w1(requests: int = 256, least: int = 100, most: int = 1024, ids: int = 10000) -> Workload:
    """Prompts and outputs uniform in [least, most]: nano-vllm's and mini-sglang's benchmark.

    With the defaults, the random calls of theirs: 142,827 tokens in and 133,966 out.
    """
    rng = random.Random(0)
    prompts = tuple(
        tuple(rng.randint(0, ids) for _ in range(rng.randint(least, most))) for _ in range(requests)
    )
    return Workload(prompts, tuple(rng.randint(least, most) for _ in range(requests)))


def fixed(requests: int, into: int, out: int, ids: int = 10000) -> Workload:
    """Prompts of `into` tokens with nothing in common, outputs of `out`."""
    rng = random.Random(0)
    return Workload(_prompts(rng, requests, into, ids), (out,) * requests)


def sampled(prompts: int, samples: int, into: int, out: int, ids: int = 10000) -> Workload:
    """Many completions of few prompts."""
    rng = random.Random(0)
    return Workload(_prompts(rng, prompts, into, ids), (out,) * prompts, samples, 0, 1.0)


def prefixed(requests: int, common: int, own: int, out: int, ids: int = 10000) -> Workload:
    """Prompts of `common` tokens that are the same and `own` that are not."""
    rng = random.Random(0)
    (start,) = _prompts(rng, 1, common, ids)
    prompts = tuple(start + rest for rest in _prompts(rng, requests, own, ids))
    return Workload(prompts, (out,) * requests, common=common)


def _prompts(rng: random.Random, count: int, length: int, ids: int) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(rng.randrange(ids) for _ in range(length)) for _ in range(count))
