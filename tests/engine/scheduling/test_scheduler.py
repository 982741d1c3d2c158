"""Random traces of the scheduler on the fake model, against texts computed one by one."""

import collections
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.blocks.groups import GroupSize, policy_of
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.request.vectors import content_ids
from stoker.engine.scheduling.forecast import LengthEstimator
from stoker.engine.scheduling.replay import FakeCache, hash_context, replay, save_trace
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.scheduling.sequence import Status
from stoker.engine.scheduling.step import Step
from stoker.errors import InvalidRequestError

VOCAB = 50
NEXT = hash_context(VOCAB)
EOS = frozenset({7})
VECTOR_IDS = content_ids(np.eye(3))


def expected_text(request, index, limit, window=None):
    """What one sample must be, with nothing else in the world."""
    tokens, out = list(request.prompt_token_ids), []
    params = request.params
    while len(out) < params.max_tokens and len(tokens) < limit:
        token = NEXT(tuple(tokens[-(window or limit) :]), index)
        tokens.append(token)
        out.append(token)
        if (token in EOS and not params.ignore_eos) or token in params.stop_ids:
            break
    return out


def make_scheduler(**changes):
    options = {
        "num_blocks": 16,
        "block_size": 4,
        "max_batch_tokens": 16,
        "max_running": 8,
        "max_context": 64,
        "eos_ids": EOS,
    }
    options |= changes
    groups = options.pop("groups", [GroupSize(options.pop("num_blocks"))])
    return Scheduler(**options, groups=groups)


def request(name, prompt, **params):
    return Request(name, tuple(prompt), SamplingParams(**{"max_tokens": 8, **params}))


class Driver:
    """Steps a scheduler over the fake model and checks everything after each step."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.cache = FakeCache(scheduler.pool.groups, scheduler.block_size, NEXT)
        self.done, self.steps = {}, []
        self.scored = collections.defaultdict(list)  # by request, positions in order

    def step(self):
        scheduler = self.scheduler
        had_work = scheduler.has_work
        decoding = {s.serial for s in scheduler.running if s.remaining == 1}
        step = scheduler.plan()
        scheduler.check()
        assert bool(step.items) == had_work, "no progress"
        assert step.num_tokens <= scheduler.max_batch_tokens
        ran = {item.sequence for item in step.items}
        assert len(ran) == len(step.items)
        assert decoding <= ran | set(step.preempted), "a decode was paused"
        assert Step.from_json(step.to_json()) == step
        self.steps.append(step)
        self.check_windows(step)
        for item in step.items:
            seq = scheduler[item.sequence]
            self.scored[seq.request.id] += range(item.start, item.end)[slice(*item.scored)]
        for seq in scheduler.commit(step, self.cache.run(step)):
            if seq.status is Status.FINISHED:
                self.done[seq.request.id, seq.index] = (
                    seq.tokens[seq.prompt_len :],
                    seq.finish_reason,
                )
        scheduler.check()

    def check_windows(self, step):
        """No group holds more than what the last chunk saw, in whole blocks, or one block more."""
        size = self.scheduler.block_size
        for item in step.items:
            for (_, window, _), table in zip(self.cache._groups, item.tables, strict=True):
                first = max(0, item.start - item.start % size - window + 1) if window else 0
                assert table[: first // size] == (-1,) * (first // size)
                assert -1 not in table[first // size + 1 :]

    def run(self, most=5000):
        while self.scheduler.has_work:
            self.step()
            assert len(self.steps) < most
        assert self.scheduler.pool.held == 0


def random_requests(rng, count, capacity):
    stems = [[rng.randrange(VOCAB) for _ in range(rng.randint(0, 20))] for _ in range(3)]
    stems[0] = [rng.choice(VECTOR_IDS) if rng.random() < 0.7 else token for token in stems[0]]
    for number in range(count):
        prompt = rng.choice(stems)[: rng.randint(0, 20)]
        prompt = prompt + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 8))]
        most = max(1, min(rng.randint(1, 24), capacity - len(prompt)))
        yield request(
            f"r{number}",
            prompt,
            max_tokens=most,
            n=rng.choice([1, 1, 1, 2, 3]),
            prompt_logprobs=rng.choice([None, None, 1]),
            ignore_eos=rng.random() < 0.3,
            stop_token_ids=[rng.randrange(VOCAB)] if rng.random() < 0.3 else [],
        )


def run_all(rng, driver, requests, cancel):
    """Add `requests` while others run, and cancel some if asked to; returns the ids of those."""
    scheduler, cancelled = driver.scheduler, set()
    for one in requests:
        scheduler.add(one)
        while rng.random() < 0.4 and scheduler.has_work:
            driver.step()
        if cancel and rng.random() < 0.2 and scheduler.has_work:
            victim = rng.choice(scheduler.sequences())
            cancelled.add(victim.request.id)
            scheduler.cancel(victim)
            scheduler.check()
    driver.run()
    return cancelled


LAYOUTS = [(None,), (None, 6), (9,), (3, 10), (None, 1), (None, 4, 20)]  # windows of groups


@settings(max_examples=1500, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    layout=st.sampled_from(LAYOUTS),
    block_size=st.sampled_from([1, 2, 4, 16]),
    spare=st.integers(0, 40),
    budget=st.integers(1, 40),
    max_running=st.integers(1, 12),
    prefix_cache=st.booleans(),
    policy=st.sampled_from(["fcfs", "prefix"]),
    cancel=st.booleans(),
)
def test_random_traces(
    seed, layout, block_size, spare, budget, max_running, prefix_cache, policy, cancel
):
    rng = random.Random(seed)
    groups = [GroupSize(-(-52 // block_size) + spare)]
    if layout != (None,):
        groups = [
            GroupSize(policy_of(GroupSize(0, window), block_size).most_blocks(52) + spare, window)
            for window in layout
        ]
    scheduler = make_scheduler(
        groups=groups,
        block_size=block_size,
        max_batch_tokens=budget,
        max_running=max_running,
        prefix_cache=prefix_cache,
        policy=policy,
    )
    driver = Driver(scheduler)
    widest = None if None in layout else max(layout)
    requests = list(random_requests(rng, rng.randint(1, 14), 52))
    cancelled = run_all(rng, driver, requests, cancel)
    for one in requests:
        for index in range(one.params.n):
            if (one.id, index) in driver.done:
                text = expected_text(one, index, 64, widest)
                assert driver.done[one.id, index][0] == text
                wanted = one.params.prompt_logprobs is not None
                scored = list(range(len(one.prompt_token_ids) - 1)) if wanted else []
                assert driver.scored[one.id] == scored, "each position once, in order"
            else:
                assert one.id in cancelled


def test_sharing_starts_within_one_step():
    scheduler = make_scheduler(num_blocks=64, max_batch_tokens=64)
    for number in range(4):
        scheduler.add(request(f"r{number}", [1, 2, 3, 4, 5, 6, 7, 8, number]))
    driver = Driver(scheduler)
    driver.step()
    assert [len(item.tokens) for item in driver.steps[0].items] == [9, 1, 1, 1]
    driver.run()


def test_samples_share_the_prompt_and_copy_on_write():
    scheduler = make_scheduler(num_blocks=64, max_batch_tokens=64)
    one = request("r", [1, 2, 3, 4, 5, 6], n=3, ignore_eos=True)
    scheduler.add(one)
    driver = Driver(scheduler)
    driver.step()
    tables = [seq.tables for seq in scheduler.sequences()]
    assert tables[0] == tables[1] == tables[2]
    driver.step()
    assert len(driver.steps[1].copies) == 2  # the last writer keeps the original
    assert len({seq.tables[0][0] for seq in scheduler.sequences()}) == 1
    assert len({seq.tables[0][1] for seq in scheduler.sequences()}) == 3
    driver.run()
    for index in range(3):
        assert driver.done["r", index][0] == expected_text(one, index, 64)


def test_preemption_keeps_the_tokens():
    scheduler = make_scheduler(num_blocks=6, prefix_cache=False)
    scheduler.lengths.observe(1)  # a forecast that is far too hopeful
    requests = [request(f"r{n}", [n] * 3, max_tokens=20, stop_token_ids=[49]) for n in range(3)]
    for one in requests:
        scheduler.add(one)
    driver = Driver(scheduler)
    driver.run()
    assert scheduler.num_preemptions > 0
    for one in requests:
        assert driver.done[one.id, 0][0] == expected_text(one, 0, 64)


def test_forecast_admits_more_than_the_worst_case_and_less_than_blindly():
    def peak_running(history):
        scheduler = make_scheduler(num_blocks=40, max_running=40, max_batch_tokens=400)
        for length in history:
            scheduler.lengths.observe(length)
        for number in range(40):
            scheduler.add(request(f"r{number}", [number] * 4, max_tokens=36))
        scheduler.plan()
        return len(scheduler.running)

    worst_case = 40 // 10
    blind = 40
    assert worst_case < peak_running([8] * 20) < blind
    assert peak_running([36] * 20) <= worst_case + 1


def test_steps_are_full_while_prompts_wait():
    """Long prompts are cut and short ones joined, so that each pass has the same size."""
    rng = random.Random(0)
    scheduler = make_scheduler(num_blocks=2000, max_batch_tokens=64, max_running=64)
    for number in range(60):
        prompt = [rng.randrange(VOCAB) for _ in range(rng.choice([1, 3, 9, 40, 55]))]
        scheduler.add(request(f"r{number}", prompt, max_tokens=8, ignore_eos=True))
    driver = Driver(scheduler)
    while scheduler.waiting:
        driver.step()
    assert len(driver.steps) > 15
    assert {step.num_tokens for step in driver.steps[:-1]} == {64}


def test_a_request_joins_the_next_step_and_the_others_do_not_notice():
    def run(late_at):
        scheduler = make_scheduler(num_blocks=200, max_batch_tokens=64)
        for number in range(4):
            scheduler.add(request(f"r{number}", [number] * 5, max_tokens=4 + 3 * number))
        driver = Driver(scheduler)
        while scheduler.has_work or len(driver.steps) == late_at:
            if len(driver.steps) == late_at:
                late = scheduler.add(request("late", [9, 9, 9], max_tokens=6))
                driver.step()
                assert late.serial in [item.sequence for item in driver.steps[-1].items]
            else:
                driver.step()
            live = {seq.serial for seq in scheduler.sequences()}
            ended = {item.sequence for item in driver.steps[-1].items} - live
            assert not ended & {seq.serial for seq in scheduler.running}, "a finished row stayed"
        return {key: tokens for key, tokens in driver.done.items() if key[0] != "late"}

    alone = run(None)
    for late_at in range(1, 14):
        assert run(late_at) == alone


def test_forecast_runs_more_at_once_than_reserving_the_longest():
    def run(lengths):
        scheduler = make_scheduler(
            num_blocks=80, block_size=8, max_batch_tokens=256, max_running=64, max_context=320
        )
        if lengths is not None:
            scheduler.lengths = lengths
        for number in range(200):
            scheduler.add(request(f"r{number}", [number % VOCAB, number], max_tokens=256))
        driver = Driver(scheduler)
        driver.run()
        running = [len(step.items) for step in driver.steps]
        return driver.done, sum(running) / len(running), scheduler.num_preemptions

    class Longest(LengthEstimator):
        def ranked(self, generated, limit, ranks):
            return limit

    class Hopeful(LengthEstimator):
        def ranked(self, generated, limit, ranks):
            return np.minimum(generated + 10, limit)

    done, mean, _ = run(None)
    reserved, mean_reserved, preempted_reserved = run(Longest())
    overrun, _, preemptions = run(Hopeful())
    assert mean > 1.3 * mean_reserved
    assert preempted_reserved == 0 < preemptions
    assert done == reserved == overrun


@pytest.mark.parametrize("policy", ["fcfs", "prefix"])
def test_nothing_starves_under_steady_arrivals(policy):
    scheduler = make_scheduler(policy=policy, max_running=2)
    driver = Driver(scheduler)
    loner = scheduler.add(request("loner", [9, 9, 9, 9, 1]))
    for number in range(200):
        scheduler.add(request(f"r{number}", [1, 2, 3, 4, 5, 6, 7, 8, number % VOCAB]))
        driver.step()
        if loner.status is Status.FINISHED:
            break
    assert loner.status is Status.FINISHED


def test_what_can_never_fit_is_refused_with_its_numbers():
    scheduler = make_scheduler(num_blocks=4)
    with pytest.raises(InvalidRequestError, match=r"30 tokens \(10 of prompt\), 8 cache blocks"):
        scheduler.add(request("r", [1] * 10, max_tokens=20))
    with pytest.raises(InvalidRequestError, match="64 tokens and the context is 64"):
        scheduler.add(request("r", [1] * 64))
    with pytest.raises(InvalidRequestError, match="empty"):
        scheduler.add(request("r", []))
    assert not scheduler.has_work


def test_a_saved_trace_replays_without_a_model(tmp_path):
    scheduler = make_scheduler(num_blocks=14)
    for one in random_requests(random.Random(3), 10, 40):
        scheduler.add(one)
    driver = Driver(scheduler)
    driver.run()
    path, shown = tmp_path / "trace.jsonl", []
    save_trace(path, [GroupSize(14)], 4, driver.steps)
    assert replay(path, shown.append) == len(driver.steps) == len(shown)
    lines = path.read_text().splitlines()
    (last,) = driver.steps[-1].items[0].tables
    broken = driver.steps[-1].items[0]._replace(tables=((13,) * len(last),))
    bad = Step(999, (broken,))
    path.write_text("\n".join([*lines, bad.to_json()]) + "\n")
    with pytest.raises(ValueError, match=r"sees other tokens|not written|was written"):
        replay(path)
