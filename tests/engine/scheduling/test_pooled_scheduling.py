"""Random traces of pooled requests among completions, on a cache that holds token ids.

The pooled result of the fake model is the list of contexts that the wanted positions see, so
a state that is missing, doubled, out of order or of another request changes it.
"""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.engine import Engine
from stoker.engine.execution.pending_step import CompletedStep
from stoker.engine.execution.pooler import PoolState, gather
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.pooling import PoolingParams, require
from stoker.engine.request.request import Request
from stoker.engine.scheduling.replay import FakeCache, hash_context
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.scheduling.step import Step, StepItem
from stoker.errors import InvalidRequestError

VOCAB = 9
NEXT = hash_context(VOCAB)
POOLINGS = ("last", "mean", "cls")


class FakeRunner:
    """Draws as the fake cache does; a state is a hash of what its position sees."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.cache = FakeCache(scheduler.pool.groups, scheduler.block_size, NEXT)

    def launch(self, step, draws, pools, vectors):
        assert Step.from_json(step.to_json()) == step
        tokens, pools = self.cache.run(step), iter(pools)
        for item in step.items:
            first, last = item.states
            assert 0 <= first <= last <= len(item.tokens)
            if item.states == (0, 0):
                continue
            pool, context = next(pools), self.cache.context(item)
            assert context == tuple(self.scheduler[item.sequence].tokens[: item.end])
            seen = [context[: item.start + at + 1] for at in range(first, last)]
            if item.start == 0 or pool.params.pooling == "last":
                pool.vector = []
            pool.vector += seen
        assert next(pools, None) is None, "more pools than items that want states"
        return CompletedStep(tokens)


def expected(request):
    prompt = request.prompt_token_ids
    ends = {"last": [len(prompt)], "cls": [1], "mean": range(1, len(prompt) + 1)}
    return [prompt[:end] for end in ends[request.pooling.pooling]]


def text_of(request):
    tokens = list(request.prompt_token_ids)
    for _ in range(request.params.max_tokens):
        tokens.append(NEXT(tuple(tokens), 0))
    return tokens[len(request.prompt_token_ids) :]


def random_requests(rng, count, longest):
    stems = [[rng.randrange(VOCAB) for _ in range(rng.randint(0, 20))] for _ in range(2)]
    for number in range(count):
        prompt = rng.choice(stems) + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 20))]
        if rng.random() < 0.7:
            pooling = PoolingParams(pooling=rng.choice(POOLINGS))
            yield Request(str(number), tuple(prompt[:longest]), SamplingParams(), pooling=pooling)
        else:
            params = SamplingParams(max_tokens=rng.randint(1, 12), ignore_eos=True)
            yield Request(str(number), tuple(prompt[: longest - 12]), params)


@settings(max_examples=500, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    block_size=st.sampled_from([1, 2, 4, 16]),
    spare=st.integers(0, 20),
    budget=st.integers(1, 40),
    max_running=st.integers(1, 12),
    prefix_cache=st.booleans(),
    policy=st.sampled_from(["fcfs", "prefix"]),
    hopeful=st.booleans(),
)
def test_random_traces(seed, block_size, spare, budget, max_running, prefix_cache, policy, hopeful):
    rng = random.Random(seed)
    scheduler = Scheduler(
        groups=[GroupSize(-(-40 // block_size) + spare)],
        block_size=block_size,
        max_batch_tokens=budget,
        max_running=max_running,
        max_context=64,
        prefix_cache=prefix_cache,
        policy=policy,
    )
    if hopeful:  # a forecast that expects short completions leads to preemption
        scheduler.lengths.observe(1)
    engine = Engine(scheduler, FakeRunner(scheduler), None, VOCAB)
    done, cancelled = {}, set()

    def step():
        for output in engine.step():
            assert output.finished
            done[output.request_id] = output
        scheduler.check()

    requests = list(random_requests(rng, rng.randint(1, 14), 40))
    for one in requests:
        engine.add(one)
        while rng.random() < 0.5 and engine.has_work:
            step()
        if rng.random() < 0.1:
            victim = rng.choice(requests).id
            cancelled |= {victim} if engine.cancel(victim) else set()
            scheduler.check()
    for _ in range(5000):
        if not engine.has_work:
            break
        step()
    assert not engine.has_work
    assert scheduler.pool.held == 0
    assert engine.stats.output_tokens >= sum(len(one.outputs) for one in done.values())
    assert done.keys() | cancelled == {one.id for one in requests}
    for one in requests:
        if one.id in cancelled:
            assert one.id not in done
        elif one.pooling is None:
            assert done[one.id].outputs[0].token_ids == text_of(one)
        else:
            assert done[one.id].vector == expected(one)
            assert done[one.id].outputs == []
            if one.pooling.pooling == "mean":
                assert done[one.id].num_cached_tokens == 0


def test_no_length_is_learnt_from_pooled_requests():
    scheduler = Scheduler(
        groups=[GroupSize(8)], block_size=4, max_batch_tokens=16, max_running=4, max_context=32
    )
    engine = Engine(scheduler, FakeRunner(scheduler), None, VOCAB)
    engine.add(Request("a", (1, 2, 3), SamplingParams(), pooling=PoolingParams()))
    (output,) = engine.step()
    assert output.vector == [(1, 2, 3)]
    assert not scheduler.lengths._history
    assert engine.stats.output_tokens == 0


def item(start, count, states):
    return StepItem(0, 0, start, (0,) * count, ((0,),), (), states)


def test_a_mean_has_the_same_bits_for_every_cut():
    torch.manual_seed(0)
    states = torch.randn(97, 33) * torch.randn(97, 33).mul(8).exp()
    found = set()
    for size in (1, 2, 7, 31, 97):
        pool = PoolState(PoolingParams("embed", "mean", normalize=False), 97)
        for start in range(0, 97, size):
            part = states[start : start + size]
            step = Step(1, (item(start, len(part), (0, len(part))),))
            gather(step, part, [pool], lambda x: x)
        found.add(tuple(pool.vector))
    (vector,) = found
    assert torch.allclose(torch.tensor(vector), states.mean(0), rtol=1e-5, atol=0)


def test_a_mean_that_starts_again_forgets_what_it_had():
    pool = PoolState(PoolingParams("embed", "mean", normalize=False), 4)
    gather(Step(1, (item(0, 3, (0, 3)),)), torch.ones(3, 2), [pool], lambda x: x)
    assert pool.vector is None
    gather(Step(2, (item(0, 4, (0, 4)),)), torch.full((4, 2), 5.0), [pool], lambda x: x)
    assert pool.vector == [5.0, 5.0]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_wanted_states(pooling):
    params = PoolingParams(pooling=pooling)
    for length in (1, 2, 9):
        for size in (1, 2, 3, 20):
            wanted = []
            for start in range(0, length, size):
                end = min(start + size, length)
                first, last = params.states(start, end, length)
                wanted += range(start + first, start + last)
            positions = {"last": [length - 1], "cls": [0], "mean": list(range(length))}
            assert wanted == positions[pooling]


def test_names_are_checked():
    with pytest.raises(InvalidRequestError, match="task 'clasify' is not known; did you mean 'cl"):
        PoolingParams("clasify")
    with pytest.raises(InvalidRequestError, match="cannot embed; call generate, chat and stream"):
        require("embed", ["generate"])


def test_a_step_shows_the_wanted_states():
    step = Step(3, (item(4, 5, (4, 5)),))
    assert "prefill [4:9] blocks [0] states [4, 5]" in str(step)
