"""The overlap loop gives what the plain loop gives, on a fake model that answers late."""

import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.engine import Engine
from stoker.engine.request.params import RepetitionDetectionParams, SamplingParams
from stoker.engine.request.pooling import PoolingParams
from stoker.engine.request.request import Request
from stoker.engine.request.vectors import FIRST_VECTOR_ID, content_ids
from stoker.engine.scheduling.replay import FakeCache, hash_context, replay, save_trace
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.scheduling.sequence import Status
from stoker.llm.prompt_vectors import join_parts

VOCAB = 23
EOS = frozenset({7})
PROBLEMS = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()]


class Words:
    """A tokenizer with a letter for each id."""

    special_tokens: ClassVar[dict[int, str]] = {}

    def decode(self, ids, skip_special_tokens=True):
        return "".join(chr(ord("a") + one) for one in ids)


class Late:
    """A step that a thread computes. `late` draws are made when the tokens before are known."""

    def __init__(self, future, late):
        self.future, self.late = future, late

    def draw(self):
        self.late = False

    def wait(self):
        undrawn, self.late = self.late, False
        result = self.future.result()
        assert not undrawn, "draws are made before they are waited for, unless they are discarded"
        return result


class Runner:
    """The fake model in a thread of its own, with pauses; `fails` may tell steps to.

    It sees nothing of the host's but the steps, so it must find the tokens under way by itself.
    """

    def __init__(self, scheduler, rng, fails):
        self.cache = FakeCache(scheduler.pool.groups, scheduler.block_size, hash_context(VOCAB))
        self.thread = ThreadPoolExecutor(1)
        self.rng, self.fails, self.launched, self.ahead = rng, fails, 0, 0
        self.pending = None

    def launch(self, step, draws, pools, vectors):
        check_vectors(step, vectors)
        self.launched += 1
        ahead = any(item.tokens[-1] < 0 for item in step.items)
        self.ahead += ahead
        assert self.pending is None or not self.pending.late, "no step starts before its tokens"
        problem = self.fails(self.launched, step)
        pause = self.rng.choice([0, 0, 1e-5, 3e-4])
        if problem == "at launch":
            raise PROBLEMS[self.launched % 2]
        for scores in draws.scores:
            scores.scores.found.extend(([target], [0.0], [1]) for target in scores.targets)
        pooled = [item for item in step.items if item.states[1]]
        for item, pool in zip(pooled, pools, strict=True):
            pool.vector = [float(item.end)]
        late = ahead and draws.reads_tokens
        self.pending = Late(self.thread.submit(self.compute, step, pause, problem), late)
        return self.pending

    def compute(self, step, pause, problem):
        time.sleep(pause)
        tokens = self.cache.run(step)
        if problem == "late":
            raise PROBLEMS[len(step.items) % 2]
        return tokens


def check_vectors(step, vectors):
    """They are those whose ids the step has, in its order."""
    tokens = [token for item in step.items for token in item.tokens]
    rows = [at for at, token in enumerate(tokens) if token >= FIRST_VECTOR_ID]
    assert rows == ([] if vectors is None else vectors.rows.tolist())
    if rows:
        assert content_ids(vectors.values) == [tokens[at] for at in rows]


def make(rng, overlap, fails=lambda launched, step: None, **changes):
    sizes = {
        "num_blocks": 24,
        "block_size": 4,
        "max_batch_tokens": 32,
        "max_running": 8,
        "max_context": 64,
    }
    sizes |= changes
    blocks = sizes.pop("num_blocks")
    groups = [GroupSize(blocks, window) for window in sizes.pop("windows", [None])]
    groups += [GroupSize(count, keeps_state=True) for count in sizes.pop("snapshots", [])]
    scheduler = Scheduler(**sizes, groups=groups, eos_ids=EOS)
    runner = Runner(scheduler, rng, fails)
    return Engine(scheduler, runner, Words(), VOCAB, record=True, overlap=overlap, vector_width=1)


def shown(output):
    return [(one.token_ids, one.text, one.finish_reason) for one in output.outputs], output.vector


class Run:
    """An engine that is checked after each step."""

    def __init__(self, engine, requests):
        self.engine, self.done, self.steps = engine, {}, 0
        for one in requests:
            engine.add(one)

    def step(self):
        scheduler = self.engine.scheduler
        for output in self.engine.step():
            if output.finished:
                assert output.request_id not in self.done
                self.done[output.request_id] = shown(output)
        scheduler.check()
        for seq in scheduler.sequences():
            assert all(token >= 0 for token in seq.tokens), "a placeholder outlived its turn"
        self.steps += 1
        assert self.steps < 5000

    def finish(self):
        while self.engine.has_work:
            self.step()
        assert self.engine.scheduler.pool.held == 0
        assert not self.engine.loop._flights
        self.engine.runner.thread.shutdown()
        return self.done


def random_requests(rng, count, special):
    """`special` is the share of requests whose tokens the host must see one by one."""
    stems = [[rng.randrange(VOCAB) for _ in range(rng.randint(0, 16))] for _ in range(3)]
    for number in range(count):
        prompt = rng.choice(stems) + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 9))]
        rest = {}
        if rng.random() < special:
            rest = rng.choice(
                [
                    {"n": 3},
                    {"logit_bias": {1: 1.0}},
                    {"prompt_logprobs": 0},
                    {"presence_penalty": 0.5, "n": 2},
                ]
            )
        if rng.random() < 0.2:
            rest["stop"] = ["".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 2)))]
        if rng.random() < 0.2:
            rest["repetition_detection"] = RepetitionDetectionParams(
                max_pattern_size=2, min_count=2
            )
        params = SamplingParams(
            max_tokens=rng.randint(1, 20),
            ignore_eos=rng.random() < 0.3,
            stop_token_ids=[rng.randrange(VOCAB)] if rng.random() < 0.3 else [],
            **rest,
        )
        pooling = PoolingParams(pooling="last") if rng.random() < special / 3 else None
        if pooling:
            params = SamplingParams()
        streams = rng.random() < 0.2
        vectors = None
        if rng.random() < 0.3 and params.prompt_logprobs is None:
            prompt, vectors = with_vectors(rng, prompt)
        yield Request(
            f"r{number}", tuple(prompt), params, 0, None, streams, pooling, vectors=vectors
        )


def with_vectors(rng, prompt):
    """A prompt with a vector of one number, its id, in place of each token of a span or two."""
    cuts = sorted(rng.randint(0, len(prompt)) for _ in range(4))
    parts = [prompt[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    for at in (1, 3):
        if parts[at]:
            parts[at] = np.array(parts[at], np.float32)[:, None]
    return join_parts(parts)


CHANGES = {
    "block_size": st.sampled_from([1, 2, 4, 16]),
    "budget": st.integers(1, 40),
    "max_running": st.integers(1, 12),
    "prefix_cache": st.booleans(),
    "spare": st.integers(0, 30),
    "windows": st.sampled_from([(None,), (None,), (None, 6), (5,), (3, 11)]),
}


def sizes(block_size, budget, max_running, prefix_cache, spare, windows):
    return {
        "windows": windows,
        "num_blocks": -(-48 // block_size) + spare,
        "block_size": block_size,
        "max_batch_tokens": budget,
        "max_running": max_running,
        "prefix_cache": prefix_cache,
    }


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    special=st.sampled_from([0, 0, 0.1, 0.5]),
    hopeful=st.booleans(),
    **CHANGES,
)
def test_the_same_outputs(seed, special, hopeful, **changes):
    requests = list(
        random_requests(random.Random(seed), random.Random(seed).randint(1, 12), special)
    )
    found = []
    for overlap in (False, True):
        engine = make(random.Random(seed), overlap, **sizes(**changes))
        if hopeful:  # a forecast that expects short completions leads to preemption
            engine.scheduler.lengths.observe(1)
        found.append(Run(engine, requests).finish())
    assert found[0] == found[1]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    every=st.integers(2, 12),
    special=st.sampled_from([0, 0.3]),
    **CHANGES,
)
def test_out_of_memory_in_a_step_under_way(seed, every, special, **changes):
    requests = list(random_requests(random.Random(seed), 8, special))
    expected = Run(make(random.Random(seed), False, **sizes(**changes)), requests).finish()
    rng = random.Random(seed)

    def fails(launched, step):
        if step.num_tokens > 1 and rng.randrange(every) == 0:
            return rng.choice(["at launch", "late"])

    run = Run(make(random.Random(seed), True, fails, **sizes(**changes)), requests)
    assert run.finish() == expected


class Guesser:
    """Drafts that are right up to a random place."""

    def __init__(self, rng):
        self.rng = rng

    def propose(self, sequences, limits):
        return [self.guess(seq) for seq in sequences]

    def guess(self, seq):
        tokens, right = list(seq.tokens), self.rng.randint(0, 5)
        for place in range(self.rng.randint(0, 6)):
            token = hash_context(VOCAB)(tuple(tokens), seq.index)
            tokens.append(token if place < right else self.rng.randrange(VOCAB))
        return tokens[len(seq.tokens) :]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    every=st.integers(2, 12),
    special=st.sampled_from([0, 0.3]),
    overlap=st.booleans(),
    **CHANGES,
)
def test_drafts_change_no_output(seed, every, special, overlap, **changes):
    """Stop strings and repetitions within drafts, and memory that runs out while they stand."""
    requests = list(random_requests(random.Random(seed), 8, special))
    expected = Run(make(random.Random(seed), False, **sizes(**changes)), requests).finish()
    rng = random.Random(seed)

    def fails(launched, step):
        if step.num_tokens > 1 and rng.randrange(every) == 0:
            return rng.choice(["at launch", "late"])

    for problems in (lambda launched, step: None, fails):
        engine = make(random.Random(seed), overlap, problems, **sizes(**changes))
        engine.scheduler.proposer = Guesser(random.Random(seed))
        run = Run(engine, requests)
        assert run.finish() == expected
        tokens = [len(one[0]) for outputs, _ in run.done.values() for one in outputs]
        assert engine.stats.output_tokens == sum(tokens)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), special=st.sampled_from([0, 0.3]), **CHANGES)
def test_cancelled_at_any_time(seed, special, **changes):
    """What remains is what it is without the cancelled; these got a beginning of theirs."""
    requests = list(random_requests(random.Random(seed), 10, special))
    expected = Run(make(random.Random(seed), False, **sizes(**changes)), requests).finish()
    rng = random.Random(seed)
    run, cut = Run(make(rng, True, **sizes(**changes)), requests), {}
    while run.engine.has_work:
        run.step()
        if rng.random() < 0.2:
            output = run.engine.cancel(rng.choice(requests).id)
            run.engine.scheduler.check()
            if output is not None:
                cut[output.request_id] = shown(output)
        if rng.random() < 0.02:
            run.engine.abort_all()
            assert not run.engine.loop._flights
            assert run.engine.scheduler.pool.available == run.engine.scheduler.pool.num_blocks
            for one in requests:
                if one.id not in run.done and one.id not in cut:
                    run.engine.add(one)
    run.finish()
    assert {**expected, **cut} == {**run.done, **cut}
    assert run.done.keys() | cut.keys() == expected.keys()
    for name, (outputs, _) in cut.items():
        for (tokens, text, _), (whole, whole_text, _) in zip(
            outputs, expected[name][0], strict=True
        ):
            assert tokens == whole[: len(tokens)]
            assert text == whole_text[: len(text)] or len(tokens) == len(whole)


def plain_requests(count, **params):
    params = SamplingParams(**{"max_tokens": 10, "ignore_eos": True, **params})
    return [Request(f"r{n}", (n, 1, 2), params) for n in range(count)]


def test_steps_are_launched_before_the_tokens_are_known():
    run = Run(make(random.Random(0), True), plain_requests(4))
    run.finish()
    runner = run.engine.runner
    assert runner.launched == run.steps == 10, "ends by length are known, so no step is too many"
    assert runner.ahead == 9


def test_an_end_found_late_costs_one_token_and_its_blocks_come_back():
    engine = make(random.Random(0), True, num_blocks=16)
    (one,) = plain_requests(1, ignore_eos=False, max_tokens=40)
    run = Run(engine, [one])
    ((tokens, _, reason),) = run.finish()["r0"][0]
    assert reason == "stop"
    assert engine.stats.steps == len(tokens)
    assert engine.runner.launched == len(tokens) + 1


@pytest.mark.parametrize("rest", [{"n": 2}, {"prompt_logprobs": 0}])
def test_a_step_whose_outcome_the_host_must_see_is_waited_for(rest):
    run = Run(make(random.Random(0), True), plain_requests(3, max_tokens=2, **rest))
    run.finish()
    assert run.engine.runner.ahead == 0


@pytest.mark.parametrize("rest", [{"logit_bias": {1: 1.0}}, {"frequency_penalty": 0.5}])
def test_draws_under_controls_are_launched_ahead(rest):
    run = Run(make(random.Random(0), True), plain_requests(3, **rest))
    run.finish()
    assert run.engine.runner.ahead == 9


@pytest.mark.parametrize("when", ["at launch", "late"])
def test_other_failures_come_after_the_tokens_before_them(when, monkeypatch):
    def fails(launched, step):
        return when if launched == 6 else None

    monkeypatch.setattr(f"{__name__}.PROBLEMS", [RuntimeError("broken")] * 2)
    run = Run(make(random.Random(0), True, fails), plain_requests(3))
    with pytest.raises(RuntimeError, match="broken"):
        run.finish()
    assert run.steps == 5
    assert run.engine.stats.output_tokens == 15
    assert not run.engine.has_work
    assert not run.engine.loop._flights
    run.engine.runner.fails = lambda launched, step: None
    for one in plain_requests(3):
        run.engine.add(one)
    assert len(run.finish()) == 3


def test_a_block_is_entered_when_its_last_token_is_known():
    engine = make(random.Random(0), True, block_size=4)
    (one,) = plain_requests(1)  # 3 of prompt: token 3 is the first drawn
    run = Run(engine, [one])
    index = engine.scheduler.pool.index
    engine.add(Request("other", (5,), SamplingParams(max_tokens=12, ignore_eos=True)))
    entered = []
    while engine.has_work:
        run.step()
        entered.append(len(index))
        for _, tokens in index._nodes:
            assert min(tokens) >= 0
    assert max(entered) >= 5
    again = Request("again", (0, 1, 2, *run.done["r0"][0][0][0]), SamplingParams(max_tokens=1))
    engine.add(again)
    while engine.has_work:
        engine.step()
    assert engine.scheduler.tables.num_hit_tokens == 12


def test_a_preempted_sequence_gets_its_token_while_it_waits():
    engine = make(random.Random(0), True, num_blocks=8, prefix_cache=False)
    engine.scheduler.lengths.observe(1)
    requests = plain_requests(8, ignore_eos=False, max_tokens=20)
    run, met = Run(engine, requests), 0
    commit = engine.scheduler.commit

    def watch(step, tokens):
        nonlocal met
        advanced = commit(step, tokens)
        met += sum(seq.status is Status.WAITING for seq in advanced)
        return advanced

    engine.scheduler.commit = watch
    found = run.finish()
    assert met > 0
    expected = Run(make(random.Random(0), False), requests).finish()
    assert found == expected


def reused_at_once(steps):
    """Slots that a step has for another sequence than the step before it, which dropped its own."""
    pairs = [
        ({item.slot: item.sequence for item in one.items}, two.items)
        for one, two in itertools.pairwise(steps)
    ]
    return sum(
        before.get(item.slot, item.sequence) != item.sequence
        for before, items in pairs
        for item in items
    )


@pytest.mark.parametrize("max_running", [1, 3])
def test_a_slot_is_reused_while_a_step_under_way_has_its_last_owner(max_running):
    """The drawing of slot_pool.py: what the step under way draws for the owner is not read."""
    requests = plain_requests(12, ignore_eos=False, max_tokens=30)
    expected = Run(make(random.Random(0), False, max_running=max_running), requests).finish()
    assert {reason for ((_, _, reason),), _ in expected.values()} == {"stop", "length"}
    engine = make(random.Random(0), True, max_running=max_running)
    steps, launch = [], engine.runner.launch

    def watch(step, *rest):
        steps.append(step)
        return launch(step, *rest)

    engine.runner.launch = watch
    assert Run(engine, requests).finish() == expected
    assert reused_at_once(steps) >= 5
    assert {item.slot for step in steps for item in step.items} == set(range(max_running))


def test_a_trace_of_the_overlap_loop_replays(tmp_path):
    run = Run(make(random.Random(0), True), random_requests(random.Random(5), 12, 0.2))
    run.finish()
    path = tmp_path / "trace"
    save_trace(path, [GroupSize(24)], 4, run.engine.loop.trace)
    assert replay(path) == run.engine.runner.launched
