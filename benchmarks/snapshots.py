"""Where are snapshots of recurrent states worth their places?

    python benchmarks/snapshots.py [--places 64]

A simulation without a model: the scheduler runs workloads on a cache of one group of pages and one
of states, and what counts is how many prompt tokens are computed. It is at best that of a cache of
pages alone, where any block's end can be gone on from. Snapshots are made at the end of every N
blocks, at the end of a prompt's last full block, at branches, where prompts part, or at all of
these. 512 tokens a step, 64 slots, blocks of 16, N = 32.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterable

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.replay import FakeCache, hash_context
from stoker.engine.scheduling.scheduler import Scheduler

VOCAB = 1000
BLOCKS, SIZE, EVERY = 4000, 16, 32
Tokens = list[int]


def draw(rng: random.Random, least: int, most: int) -> Tokens:
    return [rng.randrange(VOCAB) for _ in range(rng.randint(least, most))]


def unrelated(rng: random.Random) -> Iterable[list[Tokens]]:
    """400 prompts of 50 to 500 tokens that share nothing."""
    yield [draw(rng, 50, 500) for _ in range(400)]


def instructions(rng: random.Random) -> Iterable[list[Tokens]]:
    """400 rows of 30 to 150 tokens behind the same 300."""
    stem = draw(rng, 300, 300)
    yield [stem + draw(rng, 30, 150) for _ in range(400)]


def topics(rng: random.Random) -> Iterable[list[Tokens]]:
    """400 rows in no order: 200 common tokens, one of 20 texts of 400, 20 to 60 of their own."""
    stem, texts = draw(rng, 200, 200), [draw(rng, 400, 400) for _ in range(20)]
    yield [stem + rng.choice(texts) + draw(rng, 20, 60) for _ in range(400)]


def chats(rng: random.Random) -> Iterable[list[Tokens]]:
    """40 conversations of six turns behind the same 100 tokens; a turn waits for all others."""
    stem = draw(rng, 100, 100)
    said = [stem + draw(rng, 20, 200) for _ in range(40)]
    for _ in range(6):
        yield [list(one) for one in said]
        for conversation in said:  # an answer, which is not the engine's, and what follows
            conversation.extend(draw(rng, 20, 200))


# which of the ends that `States.ends` names: every N blocks, the prompt's last block, the branch
PLACES = {
    "none": (False, False, False),
    "every N blocks": (True, False, False),
    "last block": (False, True, False),
    "branches": (False, False, True),
    "every N, branches": (True, False, True),
    "all": (True, True, True),
}


def run(
    rounds: Iterable[list[Tokens]], places: int, chosen: tuple[bool, ...] | None
) -> tuple[int, int, int]:
    """Prompt tokens computed, all of them, and steps."""
    groups = [GroupSize(BLOCKS)]
    if chosen is not None:
        groups.append(GroupSize(places, keeps_state=True))
    scheduler = Scheduler(
        groups=groups,
        block_size=SIZE,
        max_batch_tokens=512,
        max_running=64,
        max_context=4096,
        snapshot_every=EVERY,
    )
    if scheduler.states is not None and chosen is not None:
        ends = scheduler.states.ends
        scheduler.states.ends = lambda *given: itertools.compress(ends(*given), chosen)
    cache = FakeCache(groups, SIZE, hash_context(VOCAB))
    params = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
    total = steps = computed = number = 0
    for prompts in rounds:
        for prompt in prompts:
            number += 1
            total += len(prompt)
            scheduler.add(Request(f"r{number}", tuple(prompt), params))
        while scheduler.has_work:
            step = scheduler.plan()
            steps += 1
            computed += step.num_tokens - step.num_decodes
            scheduler.commit(step, cache.run(step))
    return computed, total, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, default=64, help="of snapshots")
    args = parser.parse_args()
    workloads = {one.__name__: one for one in (unrelated, instructions, topics, chats)}
    print(f"{'':20}" + "".join(f"{name:>22}" for name in workloads))
    for name, chosen in [*PLACES.items(), ("pages alone", None)]:
        cells = []
        for workload in workloads.values():
            computed, total, steps = run(workload(random.Random(0)), args.places, chosen)
            cells.append(f"{computed / total:8.1%} {steps:6} steps")
        print(f"{name:20}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
