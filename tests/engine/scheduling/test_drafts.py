"""Drafts that are often wrong give the tokens that no drafts give, and break no invariant."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduler import (
    LAYOUTS,
    NEXT,
    VOCAB,
    Driver,
    expected_text,
    make_scheduler,
    random_requests,
    request,
    run_all,
)

from stoker.engine.blocks.groups import GroupSize, policy_of
from stoker.engine.scheduling.replay import replay, save_trace
from stoker.engine.scheduling.step import Step, StepItem


class Guesser:
    """Drafts of random lengths, sometimes longer than allowed, right up to a random place."""

    def __init__(self, rng, window=None):
        self.rng, self.window = rng, window or 10**6

    def propose(self, sequences, limits):
        return [self.guess(seq, limit) for seq, limit in zip(sequences, limits, strict=True)]

    def guess(self, seq, limit):
        assert limit >= 1
        tokens, right = list(seq.tokens), self.rng.randint(0, 6)
        assert min(tokens) >= 0, "the newest token is known"
        for place in range(self.rng.choice([0, 1, 2, 5, limit + 2])):
            wrong = self.rng.randrange(VOCAB)
            true = NEXT(tuple(tokens[-self.window :]), seq.index)
            tokens.append(true if place < right else wrong)
        return tokens[len(seq.tokens) :]


class DraftDriver(Driver):
    """Checks the draft items of each step too."""

    kept = drafted = 0

    def step(self):
        super().step()
        scheduler, step = self.scheduler, self.steps[-1]
        for seq in scheduler.sequences():
            assert seq.num_drafts == 0, "drafts outlived their step"
            assert len(seq.tokens) <= seq.length_limit
        assert step.num_decodes <= step.num_tokens
        for item in step.items:
            assert item.verify < len(item.tokens)
            assert len(item.draws) == 1 or not item.verify
        self.drafted += sum(item.verify for item in step.items)
        self.kept += sum(scheduler.accepted.values())
        for _, tokens in scheduler.pool.index._nodes:
            assert min(tokens) >= 0


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    layout=st.sampled_from(LAYOUTS),
    block_size=st.sampled_from([1, 2, 4, 16]),
    spare=st.integers(0, 40),
    budget=st.integers(1, 40),
    max_running=st.integers(1, 12),
    prefix_cache=st.booleans(),
    cancel=st.booleans(),
)
def test_random_traces(seed, layout, block_size, spare, budget, max_running, prefix_cache, cancel):
    """Stop ids, lengths, forks and preemption; what was cached is found by later requests."""
    rng = random.Random(seed)
    groups = [
        GroupSize(policy_of(GroupSize(0, window), block_size).most_blocks(60) + spare, window)
        for window in layout
    ]
    scheduler = make_scheduler(
        groups=groups,
        block_size=block_size,
        max_batch_tokens=budget,
        max_running=max_running,
        prefix_cache=prefix_cache,
    )
    window = None if None in layout else max(layout)
    scheduler.proposer = Guesser(rng, window)
    driver = DraftDriver(scheduler)
    requests = list(random_requests(rng, rng.randint(1, 10), 52))
    cancelled = run_all(rng, driver, requests, cancel)
    for one in requests:
        for index in range(one.params.n):
            if (one.id, index) in driver.done:
                assert driver.done[one.id, index][0] == expected_text(one, index, 64, window)
            else:
                assert one.id in cancelled


class Fixed:
    """Drafts as told: so many right tokens, then so many wrong ones."""

    def __init__(self, right, wrong=0):
        self.right, self.wrong = right, wrong

    def propose(self, sequences, limits):
        return [self.guess(seq) for seq in sequences]

    def guess(self, seq):
        tokens = list(seq.tokens)
        for _ in range(self.right):
            tokens.append(NEXT(tuple(tokens), seq.index))
        if self.wrong:
            tokens.append((NEXT(tuple(tokens), seq.index) + 1) % VOCAB)
            tokens += [0] * (self.wrong - 1)
        return tokens[len(seq.tokens) :]


@pytest.mark.parametrize(
    ("right", "wrong", "steps"), [(0, 3, 13), (3, 0, 4), (1, 2, 7), (20, 0, 2)]
)
def test_what_is_right_saves_steps(right, wrong, steps):
    """13 tokens: the prompt's step draws one, each step after it 1 + right."""
    scheduler = make_scheduler(max_batch_tokens=32)
    scheduler.proposer = Fixed(right, wrong)
    one = request("r", [1, 2, 3], max_tokens=13, ignore_eos=True)
    scheduler.add(one)
    driver = DraftDriver(scheduler)
    driver.run()
    assert driver.done["r", 0] == (expected_text(one, 0, 64), "length")
    assert len(driver.steps) == steps


def test_an_end_within_the_drafts_ends_the_sequence_there():
    prompt = [1, 2, 3]
    text = expected_text(request("r", prompt, max_tokens=10, ignore_eos=True), 0, 64)
    scheduler = make_scheduler(max_batch_tokens=32)
    scheduler.proposer = Fixed(8)
    stop = next(token for at, token in enumerate(text) if at >= 2 and token not in text[:at])
    one = request("r", prompt, max_tokens=10, ignore_eos=True, stop_token_ids=[stop])
    scheduler.add(one)
    driver = DraftDriver(scheduler)
    driver.run()
    assert driver.done["r", 0] == (text[: text.index(stop) + 1], "stop")
    assert len(driver.steps) == 2


def test_no_wrong_draft_enters_the_index():
    scheduler = make_scheduler(block_size=2, num_blocks=32, max_batch_tokens=32)
    scheduler.proposer = Fixed(1, 6)
    one = request("r", [1, 2, 3], max_tokens=12, ignore_eos=True)
    scheduler.add(one)
    driver = DraftDriver(scheduler)
    driver.run()
    tokens = [1, 2, 3, *expected_text(one, 0, 64)]
    pairs = {tuple(tokens[at : at + 2]) for at in range(0, len(tokens) - 1, 2)}
    assert {tokens for _, tokens in scheduler.pool.index._nodes} == pairs


def test_nobody_is_preempted_for_drafts():
    """Two sequences fill the cache but for one block each."""
    scheduler = make_scheduler(num_blocks=6, block_size=4, max_batch_tokens=32, prefix_cache=False)
    scheduler.proposer = Fixed(0, 12)
    for number in range(2):
        scheduler.add(request(f"r{number}", [number] * 8, max_tokens=4, ignore_eos=True))
    driver = DraftDriver(scheduler)
    driver.run()
    assert scheduler.num_preemptions == 0
    assert driver.drafted > 0
    assert driver.kept == 0


def test_sequences_that_may_not_be_drafted_are_not():
    scheduler = make_scheduler(max_batch_tokens=32)
    scheduler.proposer = Fixed(3)
    for number in range(2):
        seq = scheduler.add(request(f"r{number}", [number, 1], max_tokens=9, ignore_eos=True))
        seq.draftable = number == 1
    driver = DraftDriver(scheduler)
    driver.run()
    drafted = {item.sequence for step in driver.steps for item in step.items if item.verify}
    assert drafted == {2}


def test_a_trace_with_drafts_replays(tmp_path):
    scheduler = make_scheduler(max_batch_tokens=32)
    scheduler.proposer = Guesser(random.Random(3))
    for one in random_requests(random.Random(3), 8, 52):
        scheduler.add(one)
    driver = DraftDriver(scheduler)
    driver.run()
    assert driver.kept > 10
    assert driver.drafted - driver.kept > 10
    path = tmp_path / "trace"
    save_trace(path, [GroupSize(16)], 4, driver.steps)
    assert replay(path) == len(driver.steps)


def test_a_step_says_what_it_verifies():
    step = Step(1, (StepItem(4, 0, 5, (1, 2, 3), ((0, 1),), (0,), verify=2),))
    assert "#4 decode [5:8] blocks [0, 1] draws [0] verifies 2" in str(step)
    assert step.num_decodes == step.num_tokens == step.num_logits == 3
