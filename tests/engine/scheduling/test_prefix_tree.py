"""The policy "prefix" over files known in advance: what is computed, kept and evicted."""

import collections
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.replay import FakeCache, hash_context
from stoker.engine.scheduling.scheduler import Scheduler

SIZE = 4  # tokens of a block


def random_tree(rng, depth, branches, longest):
    """Prompts of a random tree of prefixes, in random order."""

    def grow(prefix, level):
        prefix = prefix + [rng.randrange(50) for _ in range(rng.randint(1, longest))]
        if level == depth:
            return [prefix]
        below = range(rng.randint(1, branches))
        return [prompt for _ in below for prompt in grow(prefix, level + 1)]

    prompts = [prompt for _ in range(branches) for prompt in grow([], 1)]
    rng.shuffle(prompts)
    return prompts


def chains(prompt, end):
    """The content of each full block of the first `end` tokens: all tokens up to its end."""
    return [tuple(prompt[: at + SIZE]) for at in range(0, end - SIZE + 1, SIZE)]


def most_saved(prompts):
    """Tokens that a cache without end could spare: each block of each content is computed once.

    The last token of a prompt is always computed, so a block that ends with it is, too.
    """
    usable = collections.Counter(one for p in prompts for one in chains(p, len(p) - 1))
    last_blocks = {tuple(p) for p in prompts if len(p) % SIZE == 0}
    return SIZE * sum(count - (one not in last_blocks) for one, count in usable.items())


class Run:
    """All prompts, known from the start, run to their ends on the fake model.

    Attributes:
        saved: tokens of prompts that were not computed.
        times: how often each full block of a prompt was computed, by its content.
    """

    def __init__(self, prompts, policy, blocks, running=4):
        self.scheduler = Scheduler(
            groups=[GroupSize(blocks)],
            block_size=SIZE,
            max_batch_tokens=64,
            max_running=running,
            max_context=512,
            policy=policy,
        )
        self._watch_evictions()
        params = SamplingParams(max_tokens=3, ignore_eos=True)
        for number, prompt in enumerate(prompts):
            self.scheduler.add(Request(f"{number}", tuple(prompt), params))
        cache = FakeCache([GroupSize(blocks)], SIZE, hash_context(50))
        self.times, computed = collections.Counter(), 0
        while self.scheduler.has_work:
            step = self.scheduler.plan()
            for item in step.items:
                prompt = self.scheduler[item.sequence].request.prompt_token_ids
                end = min(item.end, len(prompt))
                computed += max(0, end - item.start)
                done = chains(prompt, end)
                self.times.update(one for one in done if len(one) > item.start)
            self.scheduler.commit(step, cache.run(step))
            self.scheduler.check()
        assert self.scheduler.num_preemptions == 0
        assert len(self.scheduler.pool.uses) == 0
        self.saved = sum(map(len, prompts)) - computed

    def _watch_evictions(self):
        """Assert that what is known to be used is evicted only if all that is cached is."""
        (pool,), uses = self.scheduler.pool.pools, self.scheduler.pool.uses
        evict = pool._least_valuable

        def watched():
            cached = [b for b, n in enumerate(pool._nodes) if n is not None and not pool.refs(b)]
            used = {block for block in cached if pool._nodes[block] in uses}
            block = evict()
            assert block not in used or used == {*cached}
            return block

        pool._least_valuable = watched


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    depth=st.integers(1, 4),
    branches=st.integers(2, 4),
    longest=st.integers(4, 24),
)
def test_what_is_shared_is_computed_once(seed, depth, branches, longest):
    """In a cache of the size that what runs and its path in the tree may take."""
    prompts = random_tree(random.Random(seed), depth, branches, longest)
    blocks = 5 * (-(-(depth * longest + 3) // SIZE) + 1)
    run = Run(prompts, "prefix", blocks)
    users = collections.Counter(one for p in prompts for one in {*chains(p, len(p) - 1)})
    shared = [one for one, count in users.items() if count > 1]
    assert all(run.times[one] == 1 for one in {*shared} - {tuple(p) for p in prompts})
    optimum = most_saved(prompts)
    assert optimum * 0.99 <= run.saved <= optimum


@pytest.mark.parametrize("seed", range(4))
def test_more_is_saved_than_by_arrival_and_least_recent_use(seed):
    prompts = random_tree(random.Random(seed), 4, 5, 24)
    assert len(prompts) > 60
    blocks = 160
    content = {one for prompt in prompts for one in chains(prompt, len(prompt))}
    assert len(content) > 2 * blocks  # so that something must be evicted
    tree, arrival = Run(prompts, "prefix", blocks), Run(prompts, "fcfs", blocks)
    assert tree.saved >= 0.99 * most_saved(prompts)
    assert tree.saved > 1.1 * arrival.saved


def order_of(scheduler):
    names = []
    while (seq := scheduler.waiting.peek()) is not None:
        assert scheduler.waiting.pop() is seq
        names.append(seq.request.id)
    return names


def waiting(*names):
    scheduler = Scheduler(
        groups=[GroupSize(8)],
        block_size=1,
        max_batch_tokens=8,
        max_running=1,
        max_context=8,
        policy="prefix",
    )
    return scheduler, [add(scheduler, name) for name in names]


def add(scheduler, name):
    return scheduler.add(Request(name, tuple(map(ord, name)), SamplingParams(max_tokens=1)))


def test_a_pass_goes_through_the_tree_and_takes_in_what_is_ahead():
    scheduler, _ = waiting("bcd", "abd", "aab", "abc")
    assert [scheduler.waiting.pop().request.id for _ in range(2)] == ["aab", "abc"]
    add(scheduler, "abe")
    add(scheduler, "aaa")
    assert order_of(scheduler) == ["abd", "abe", "bcd", "aaa"]


def test_a_pass_takes_in_no_more_than_it_began_with():
    scheduler, _ = waiting("a0", "z")
    scheduler.waiting.pop()
    for number in range(1, 5):
        add(scheduler, f"a{number}")
    assert order_of(scheduler) == ["a1", "a2", "z", "a3", "a4"]


def test_cancelled_requests_use_nothing():
    scheduler, (first, second, third) = waiting("abc", "abd", "xyz")
    uses = scheduler.pool.uses
    assert len(uses) == 4  # a, ab, x, xy: the last token is computed anyway
    scheduler.cancel(second)
    scheduler.cancel(third)
    scheduler.check()
    assert len(uses) == 2
    assert scheduler.waiting.peek() is first
    scheduler.cancel(first)
    scheduler.check()
    assert len(uses) == 0
    assert scheduler.waiting.peek() is None


def test_known_uses_survive_an_emptied_cache():
    scheduler, _ = waiting("abc", "abd")
    step = scheduler.plan()
    scheduler.commit(step, [1])
    scheduler.pool.clear_cache()
    scheduler.check()
    assert len(scheduler.pool.uses) == 2
    assert order_of(scheduler) == ["abd"]
    assert len(scheduler.pool.index) == 0


def test_without_a_prefix_cache_nothing_is_kept():
    scheduler = Scheduler(
        groups=[GroupSize(8)],
        block_size=1,
        max_batch_tokens=8,
        max_running=1,
        max_context=8,
        policy="prefix",
        prefix_cache=False,
    )
    add(scheduler, "abc")
    assert len(scheduler.pool.uses) == 0
    assert order_of(scheduler) == ["abc"]
