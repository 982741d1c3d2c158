"""Chunks of prompts that keep steps within a time, on simulated clocks."""

import random

import numpy as np
import pytest

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.scheduling.step_time import StepTime, chunk_pairs, step_work

TARGET = 0.050


def linear(tokens, pairs):
    """2 ms, 0.1 ms a token, 20 ns a pair: at 16,000 tokens a key costs three times its token."""
    return 0.002 + 1e-4 * tokens + 2e-8 * pairs


def stepped(tokens, pairs):
    """Reading the weights takes 8 ms, computing begins to cost more than that at 80 tokens."""
    return 0.001 + max(0.008, 1e-4 * tokens) + 2e-8 * pairs


def dear_start(tokens, pairs):
    """Small steps are three times as dear by token as large ones."""
    return 0.002 + 1e-4 * (tokens + 2 * min(tokens, 64)) + 1e-8 * pairs


CLOCKS = {"linear": linear, "stepped": stepped}


class Simulation:
    """Eight decodes, then a long prompt beside them; every step takes what `clock` says.

    Args:
        clock: seconds of a step with so many tokens and pairs.
        noise: standard deviation of a step's time, as a share.
    """

    def __init__(self, clock, *, budget=2048, noise=0.0, step_time=None, prompt=16_000, seed=0):
        self.scheduler = Scheduler(
            groups=[GroupSize(4096)],
            block_size=16,
            max_batch_tokens=budget,
            max_running=16,
            max_context=32_768,
            step_time=step_time,
        )
        self.rng = random.Random(seed)
        self.clock, self.noise = clock, noise
        free = SamplingParams(max_tokens=4000, ignore_eos=True)
        for number in range(8):
            tokens = [self.rng.randrange(1000) for _ in range(32)]
            self.scheduler.add(Request(f"d{number}", tuple(tokens), free))
        for _ in range(30):
            self.step()
        tokens = [self.rng.randrange(1000) for _ in range(prompt)]
        self.long = self.scheduler.add(Request("long", tuple(tokens), SamplingParams(max_tokens=2)))
        self.seconds, self.chunks = [], []
        while not self.long.generated:
            seconds, step = self.step()
            self.seconds.append(seconds)
            self.chunks.append(step.num_tokens - 8)
            assert sum(len(item.tokens) == 1 for item in step.items) == 8, "a decode was paused"

    def step(self):
        step = self.scheduler.plan()
        work = step_work(step)
        seconds = self.clock(*work[:2]) * max(0.1, self.rng.gauss(1, self.noise))
        if self.scheduler.step_time is not None:
            self.scheduler.step_time.observe(*work, seconds)
        self.scheduler.commit(step, [1] * sum(len(item.draws) for item in step.items))
        self.scheduler.check()
        return seconds, step


@pytest.mark.parametrize("noise", [0.0, 0.04])
@pytest.mark.parametrize("name", CLOCKS)
def test_steps_keep_to_the_target_and_the_prompt_is_hardly_later(name, noise):
    fixed = Simulation(CLOCKS[name], noise=noise)
    adaptive = Simulation(CLOCKS[name], noise=noise, step_time=TARGET)
    assert np.percentile(fixed.seconds, 95) > 3 * TARGET
    assert np.percentile(adaptive.seconds, 95) < 1.1 * TARGET
    assert sum(adaptive.seconds) < 1.2 * sum(fixed.seconds)
    # as the context grows, a token costs more, and chunks get smaller
    assert max(adaptive.chunks) > 1.5 * np.median(adaptive.chunks[-10:-1])


@pytest.mark.parametrize("clock", [*CLOCKS.values(), dear_start])
def test_the_prompt_is_sooner_than_with_a_fixed_chunk_within_the_target(clock):
    fixed = Simulation(clock, budget=128, noise=0.04)
    adaptive = Simulation(clock, noise=0.04, step_time=TARGET)
    assert 0.9 * TARGET < np.percentile(fixed.seconds, 95) < 1.1 * TARGET
    assert np.percentile(adaptive.seconds, 95) < 1.1 * TARGET
    assert sum(adaptive.seconds) < sum(fixed.seconds)


def test_a_change_of_speed_is_followed():
    """Half-way the machine becomes half as fast."""
    calls = iter(range(10**6))
    clock = lambda tokens, pairs: linear(tokens, pairs) * (1 + (next(calls) > 100))  # noqa: E731
    seconds = Simulation(clock, step_time=TARGET, prompt=30_000).seconds
    late = seconds[100 - 30 + 15 :]
    assert len(late) > 30
    assert np.percentile(late, 95) < 1.1 * TARGET


def test_one_slow_step_does_not_stop_the_prompt():
    calls = iter(range(10**6))
    clock = lambda tokens, pairs: 10.0 if next(calls) == 32 else linear(tokens, pairs)  # noqa: E731
    slow = Simulation(clock, step_time=TARGET)
    quick = Simulation(linear, step_time=TARGET)
    assert len(slow.seconds) < 1.4 * len(quick.seconds)


def test_a_target_that_decodes_alone_exceed_still_lets_prompts_advance():
    run = Simulation(linear, step_time=1e-6, prompt=200)
    assert set(run.chunks[:-1]) == {16}  # a block a step
    assert sum(run.chunks) == 200


def test_several_prompts_share_a_step_within_the_target():
    scheduler = Simulation(linear, step_time=TARGET).scheduler
    for number in range(20):
        tokens = tuple(range(number, number + 90))
        scheduler.add(Request(f"s{number}", tokens, SamplingParams(max_tokens=1)))
    step = scheduler.plan()
    chunks = [len(item.tokens) for item in step.items if len(item.tokens) > 1]
    assert len(chunks) > 2
    assert 0.9 * TARGET < linear(*step_work(step)[:2]) < 1.05 * TARGET


def test_pairs_are_counted_as_queries_see_keys():
    assert chunk_pairs(10, 4) == 11 + 12 + 13 + 14
    assert chunk_pairs(0, 1) == 1


@pytest.mark.parametrize("start", [0, 1000, 50_000])
def test_the_most_tokens_within_the_target(start):
    """One more would exceed it, by the model's own prediction."""
    model = StepTime(TARGET, 16)
    rng = random.Random(start)
    for _ in range(50):
        tokens, at = rng.randrange(8, 300), rng.randrange(8_000)
        pairs = chunk_pairs(at, tokens)
        model.observe(tokens, pairs, True, linear(tokens, pairs))
    model.observe(400, chunk_pairs(0, 400), True, linear(400, chunk_pairs(0, 400)))
    n = model.tokens_within(8, 800, start)
    assert model.seconds(8 + n, 800 + chunk_pairs(start, n)) <= model.aim
    assert model.seconds(8 + n + 1, 800 + chunk_pairs(start, n + 1)) > model.aim
    assert 0.8 * TARGET < model.aim <= TARGET
