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
from collections.abc import Generator

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.replay import FakeCache, hash_context
from stoker.engine.scheduling.scheduler import Scheduler

VOCAB = 1000
BLOCKS, SIZE, EVERY = 4000, 16, 32
Tokens = list[int]
# rounds of prompts; what is sent back are the answers to a round
Rounds = Generator[list[Tokens], list[Tokens], None]


def draw(rng: random.Random, least: int, most: int) -> Tokens:
    return [rng.randrange(VOCAB) for _ in range(rng.randint(least, most))]


def unrelated(rng: random.Random) -> Rounds:
    """400 prompts of 50 to 500 tokens that share nothing."""
    yield [draw(rng, 50, 500) for _ in range(400)]


def instructions(rng: random.Random) -> Rounds:
    """400 rows of 30 to 150 tokens behind the same 300."""
    stem = draw(rng, 300, 300)
    yield [stem + draw(rng, 30, 150) for _ in range(400)]


def topics(rng: random.Random) -> Rounds:
    """400 rows in no order: 200 common tokens, one of 20 texts of 400, 20 to 60 of their own."""
    stem, texts = draw(rng, 200, 200), [draw(rng, 400, 400) for _ in range(20)]
    yield [stem + rng.choice(texts) + draw(rng, 20, 60) for _ in range(400)]


def chats(rng: random.Random) -> Rounds:
    """40 conversations of six turns behind the same 100 tokens; a turn waits for all others."""
    stem = draw(rng, 100, 100)
    said = [stem + draw(rng, 20, 200) for _ in range(40)]
    for _ in range(6):
        yield [list(one) for one in said]
        for conversation in said:  # an answer, which is not the engine's, and what follows
            conversation.extend(draw(rng, 20, 200))


def follow_ups(rng: random.Random) -> Rounds:
    """As chats, but that a turn goes on from what the engine has answered."""
    stem = draw(rng, 100, 100)
    said = [stem + draw(rng, 20, 200) for _ in range(40)]
    for _ in range(6):
        answers = yield [list(one) for one in said]
        for conversation, answer in zip(said, answers, strict=True):
            conversation.extend(answer + draw(rng, 20, 200))


# with the least and the most tokens of an answer
WORKLOADS = {
    unrelated: (32, 32),
    instructions: (32, 32),
    topics: (32, 32),
    chats: (32, 32),
    follow_ups: (16, 176),
}

# which of the ends that `States.ends` names: every N blocks, the prompt's last block, the branch;
# and whether blocks of answers are among them
PLACES = {
    "none": (False, False, False, False),
    "every N blocks": (True, False, False, False),
    "last block": (False, True, False, False),
    "branches": (False, False, True, False),
    "every N, branches": (True, False, True, False),
    "all of prompts": (True, True, True, False),
    "answers": (False, False, False, True),
    "all": (True, True, True, True),
}


def run(
    rounds: Rounds, lengths: tuple[int, int], places: int, chosen: tuple[bool, ...] | None
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
        if not chosen[-1]:
            scheduler.states.save_answer = lambda seq: None
    cache = FakeCache(groups, SIZE, hash_context(VOCAB))
    rng = random.Random(0)
    total = steps = computed = number = 0
    answers: list[Tokens] | None = None
    while True:
        try:
            prompts = next(rounds) if answers is None else rounds.send(answers)
        except StopIteration:
            return computed, total, steps
        sequences = []
        for prompt in prompts:
            number += 1
            total += len(prompt)
            most = rng.randint(*lengths)
            params = SamplingParams(temperature=0, max_tokens=most, ignore_eos=True)
            sequences.append(scheduler.add(Request(f"r{number}", tuple(prompt), params)))
        while scheduler.has_work:
            step = scheduler.plan()
            steps += 1
            computed += step.num_tokens - step.num_decodes
            scheduler.commit(step, cache.run(step))
        answers = [seq.tokens[seq.prompt_len :] for seq in sequences]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, default=64, help="of snapshots")
    args = parser.parse_args()
    print(f"{'':20}" + "".join(f"{one.__name__:>22}" for one in WORKLOADS))
    for name, chosen in [*PLACES.items(), ("pages alone", None)]:
        cells = []
        for workload, lengths in WORKLOADS.items():
            rounds = workload(random.Random(0))
            computed, total, steps = run(rounds, lengths, args.places, chosen)
            cells.append(f"{computed / total:8.1%} {steps:6} steps")
        print(f"{name:20}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
