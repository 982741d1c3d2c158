"""What groups keep and take over: their policies, the pools' content, and the forecast."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.engine.blocks.block_pool import UNUSED
from stoker.engine.blocks.cache_pool import CachePool
from stoker.engine.blocks.groups import GroupSize, policy_of
from stoker.engine.blocks.prefix_index import PrefixIndex, Root
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.forecast import _bounded
from stoker.engine.scheduling.replay import FakeCache, hash_context
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.errors import InvalidRequestError

WINDOWS = st.one_of(st.none(), st.integers(1, 20))


def sees(window, position):
    return range(max(0, position - window + 1) if window else 0, position + 1)


@given(size=st.sampled_from([1, 2, 4, 5]), window=WINDOWS, computed=st.integers(0, 60))
def test_what_is_needed(size, window, computed):
    policy = policy_of(GroupSize(1, window), size)
    first = policy.first_needed(computed)
    assert first == min(sees(window, computed))
    held = computed // size - first // size + 1
    assert held <= policy.most_blocks(computed + 1)
    longest = policy.longest(held)
    assert longest is None or longest >= held * size


@given(st.data(), st.sampled_from([1, 2, 4]), st.lists(WINDOWS, min_size=1, max_size=3))
def test_how_much_of_a_chain_is_reusable(data, size, windows):
    """Against the definition: all groups hold what the next query sees, before the sequence's."""
    pool = CachePool([GroupSize(64, window) for window in windows], size)
    nodes, parent = [], Root()
    start, length = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 6))
    held = [set() for _ in windows]
    for at in range(length):
        parent = pool.index.enter(parent, (at,) * size)
        nodes.append(parent)
        for own, blocks in zip(held, pool.pools, strict=True):
            if data.draw(st.booleans()):
                blocks.register(parent, blocks.allocate())
                own |= set(range((start + at) * size, (start + at + 1) * size))
        pool.index.hold(parent)  # so that it stays whoever holds it

    def serves(end):
        position = (start + end) * size
        needs = [{at for at in sees(w, position) if start * size <= at < position} for w in windows]
        return all(need <= own for need, own in zip(needs, held, strict=True))

    assert pool.reusable(nodes, start) == max(end for end in range(length + 1) if serves(end))


def test_nodes_go_when_nothing_needs_them():
    index = PrefixIndex(2)
    first = index.enter(Root(), (1, 2))
    index.hold(first)
    second = index.enter(first, (3, 4))
    index.hold(second)
    index.hold(second)  # by another group
    index.drop(first)
    index.check([second, second])
    assert index.match((1, 2, 3, 4, 5), Root()) == [first, second]
    assert index.match((1, 2, 3, 4, 5), Root("fr")) == []
    index.drop(second)
    assert len(index) == 2
    index.drop(second)
    assert len(index) == 0
    assert index.enter(second, (5, 6)) is None, "its parent is gone"
    again = index.enter(Root(), (1, 2))
    assert again not in (first, second)


class Runs:
    """Requests one after another on a scheduler with groups."""

    def __init__(self, *groups, **changes):
        options = {"max_batch_tokens": 64, "max_running": 4, "max_context": 200, **changes}
        self.scheduler = Scheduler(groups=groups, block_size=4, **options)
        self.cache = FakeCache(groups, 4, hash_context(50))
        self.peak = [0] * len(groups)

    def run(self, prompt, **params):
        """How many of the prompt's tokens were found in the cache, and all its tables."""
        root, count = params.pop("root", None), params.pop("max_tokens", 1)
        params = SamplingParams(max_tokens=count, ignore_eos=True, **params)
        seq = self.scheduler.add(Request("r", tuple(prompt), params, prefix_root=root))
        tables = []
        while self.scheduler.has_work:
            step = self.scheduler.plan()
            tables += [item.tables for item in step.items]
            self.scheduler.check()
            held = [pool.held for pool in self.scheduler.pool.pools]
            self.peak = [max(pair) for pair in zip(self.peak, held, strict=True)]
            self.scheduler.commit(step, self.cache.run(step))
            self.scheduler.check()
        return seq.num_cached_tokens, tables


def test_a_window_group_gives_back_what_is_behind_its_window():
    runs = Runs(GroupSize(40), GroupSize(10, 6), max_batch_tokens=8)
    prompt = list(range(40))
    _, tables = runs.run(prompt, max_tokens=9)
    # the chunk 8 to 15 sees 3 and more, the decode at 44, which got the last block, 39 and more
    assert tables[1][1][0] != UNUSED
    assert len(tables[0][1]) == 2
    assert tables[2][1][:3] == (UNUSED, UNUSED, tables[1][1][2])
    assert [block == UNUSED for block in tables[-1][1]] == [True] * 9 + [False] * 3
    assert UNUSED not in tables[-1][0]
    assert runs.peak == [12, 4]


def test_a_prefix_is_taken_over_where_all_groups_have_it():
    runs = Runs(GroupSize(40), GroupSize(16, 6))
    prompt = list(range(41))
    assert runs.run(prompt)[0] == 0
    cached, tables = runs.run(prompt)
    assert cached == 40
    assert tables[0][1][:8] == (UNUSED,) * 8, "only what the window covers is taken"
    assert runs.run([*prompt[:22], 9, 9])[0] == 20, "a window in the middle was kept"
    runs.run([7] * 64)  # takes the window group's blocks
    assert runs.run(prompt)[0] < 40
    assert runs.run(prompt)[0] == 40, "blocks are found again once they are filled again"


def test_nothing_is_shared_between_roots():
    runs = Runs(GroupSize(40))
    prompt = list(range(17))
    found = [runs.run(prompt, root=root)[0] for root in (None, "a", ("b", 1), "a", None, ("b", 1))]
    assert found == [0, 0, 0, 16, 16, 16]


def test_a_window_does_not_bound_the_length():
    runs = Runs(GroupSize(3, 6))  # a window of 6 may lie in three blocks of 4
    runs.run([1] * 20, max_tokens=100)
    assert runs.peak == [3]
    assert runs.scheduler.max_length == 200
    runs = Runs(GroupSize(40), GroupSize(2, 6))
    assert runs.scheduler.max_length == 8
    with pytest.raises(InvalidRequestError, match=r"cache of the layers with a window of 6 has 2"):
        runs.run([1] * 9)


def test_less_than_a_third_is_held():
    """Five of six layers with a window of 1,024, at 32,768 tokens: keys and values, in bytes."""
    size, layers = 16, (1, 5)
    block = [count * size * 2 * 4 * 256 * 2 for count in layers]
    windowed = Scheduler(
        groups=[GroupSize(2200), GroupSize(300, 1024)],
        block_size=size,
        max_batch_tokens=2048,
        max_running=4,
        max_context=40_000,
    )
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    prompt = tuple(random.Random(0).choices(range(1000), k=32_768))
    windowed.add(Request("r", prompt, params))
    compared = 0
    while windowed.has_work:
        step = windowed.plan()
        (item,) = step.items
        held = sum(pool.held * each for pool, each in zip(windowed.pool.pools, block, strict=True))
        if len(item.tokens) == 1:
            compared += 1
            assert held < sum(block) * -(-item.end // size) / 3
            assert windowed.pool.pools[1].held <= 65
        windowed.commit(step, [1] * len(item.draws))
    assert compared == 39


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=1, max_size=8))
def test_use_over_the_future(rows):
    own, left, bounds = np.array(rows, np.int64).T
    left = left + 1
    order = np.argsort(-left, kind="stable")
    found = _bounded(own, left, bounds, order)
    for place, time in enumerate(left[order].tolist()):
        if place + 1 < len(order) and left[order[place + 1]] == time:
            continue  # of those that end together the last counts
        alive = left >= time
        expected = np.minimum(own + time, np.maximum(bounds, 0))[alive].sum()
        assert found[place] == expected
