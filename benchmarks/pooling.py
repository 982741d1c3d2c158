"""Does the mean of a prompt's states keep its bits when the prompt is cut into chunks?

Embeds the same prompts under two token budgets with three ways of adding, and times the ways:

    python benchmarks/pooling.py [MODEL]
"""

import random
import sys
import time

import torch

from stoker import LLM
from stoker.engine.execution import pooler

PROMPTS = 200
ROWS, WIDTH, REPEATS = 2048, 1024, 20


def float32_chunks(total, part):
    found = part.sum(0)
    return found if total is None else total + found


def float64_chunks(total, part):
    found = part.double().sum(0)
    return found if total is None else total + found


WAYS = {
    "float32, chunk by chunk": float32_chunks,
    "float64, chunk by chunk": float64_chunks,
    "float64, in the order of positions": pooler._add,
}


def embed(model, prompts, budget):
    with LLM(model, max_batch_tokens=budget, prefix_cache=False) as llm:
        outputs = llm.embed(prompts, pooling="mean")
    return [output.outputs.embedding for output in outputs]


def main():
    model = sys.argv[1] if len(sys.argv) > 1 else "stoker-tiny"
    rng = random.Random(0)
    prompts = [[rng.randrange(200) for _ in range(rng.randint(40, 120))] for _ in range(PROMPTS)]
    states = torch.randn(ROWS, WIDTH)
    for name, way in WAYS.items():
        pooler._add = way
        whole, cut = embed(model, prompts, 2048), embed(model, prompts, 13)
        changed = sum(a != b for a, b in zip(whole, cut, strict=True))
        started = time.perf_counter()
        for _ in range(REPEATS):
            way(None, states)
        took = (time.perf_counter() - started) / REPEATS * 1000
        print(f"{name:36} {changed:3} of {PROMPTS} changed, {took:.2f} ms for {ROWS} x {WIDTH}")


if __name__ == "__main__":
    main()
