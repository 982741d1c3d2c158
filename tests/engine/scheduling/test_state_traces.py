"""States of sequences over random traces: each goes on from the tokens that it has seen."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduler import Driver, expected_text, make_scheduler, random_requests, request, run_all

from stoker.engine.blocks.groups import GroupSize, StatePolicy, policy_of
from stoker.engine.scheduling.replay import replay, save_trace

PAGES = [(), (None,), (6,), (None, 6)]  # windows of the groups beside those of states


def state_groups(windows, block_size, spare, kinds, snapshots):
    pages = [
        GroupSize(policy_of(GroupSize(0, window), block_size).most_blocks(52) + spare, window)
        for window in windows
    ]
    return [*pages, *[GroupSize(snapshots, keeps_state=True)] * kinds]


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    windows=st.sampled_from(PAGES),
    kinds=st.integers(1, 2),
    snapshots=st.sampled_from([0, 1, 2, 5, 40]),
    every=st.integers(1, 6),
    of_answer=st.integers(1, 6),
    block_size=st.sampled_from([1, 2, 4, 16]),
    spare=st.integers(0, 40),
    budget=st.integers(1, 40),
    max_running=st.integers(1, 12),
    prefix_cache=st.booleans(),
    policy=st.sampled_from(["fcfs", "prefix"]),
    cancel=st.booleans(),
)
def test_random_traces(
    seed,
    windows,
    kinds,
    snapshots,
    every,
    of_answer,
    block_size,
    spare,
    budget,
    max_running,
    prefix_cache,
    policy,
    cancel,
):
    rng = random.Random(seed)
    scheduler = make_scheduler(
        groups=state_groups(windows, block_size, spare, kinds, snapshots),
        snapshot_every=every,
        block_size=block_size,
        max_batch_tokens=budget,
        max_running=max_running,
        prefix_cache=prefix_cache,
        policy=policy,
    )
    scheduler.states.every_of_answer = of_answer
    driver = Driver(scheduler)
    requests = list(random_requests(rng, rng.randint(1, 14), 52))
    cancelled = run_all(rng, driver, requests, cancel)
    for one in requests:
        for index in range(one.params.n):
            if (one.id, index) in driver.done:
                assert driver.done[one.id, index][0] == expected_text(one, index, 64)
            else:
                assert one.id in cancelled
    if not prefix_cache or not snapshots:
        assert scheduler.tables.num_hit_tokens == scheduler.states.num_saved == 0


def computed(driver, prompts, **params):
    """Tokens that are computed for `prompts`, one after the other, with one token out for each."""
    steps = len(driver.steps)
    for prompt in prompts:
        driver.scheduler.add(request("r", prompt, max_tokens=1, ignore_eos=True, **params))
        driver.run()
    return sum(step.num_tokens for step in driver.steps[steps:])


def make(snapshots, pages=True, every=100, of_answer=1, **options):
    groups = [GroupSize(200)] * pages + [GroupSize(snapshots, keeps_state=True)] * 2
    options = {"max_batch_tokens": 16, "max_context": 200, **options}
    driver = Driver(make_scheduler(groups=groups, snapshot_every=every, **options))
    driver.scheduler.states.every_of_answer = of_answer
    return driver


def test_the_example():
    """The one at the head of states.py."""
    driver = make(3, every=3, max_batch_tokens=9, max_running=4)
    driver.scheduler.add(request("r", range(18), max_tokens=1))
    driver.run()
    assert [(item.start, item.end) for step in driver.steps for item in step.items] == [
        (0, 9),
        (9, 12),
        (12, 16),
        (16, 18),
    ]
    assert [list(step.saves) for step in driver.steps] == [
        [],
        [(1, 0, 5), (2, 0, 5)],
        [(1, 0, 6), (2, 0, 6)],
        [],
    ]
    assert computed(driver, [range(18)]) == 2
    assert driver.steps[-1].copies == ((1, 6, 0), (2, 6, 0))


def test_the_example_of_an_answer():
    """The second one at the head of states.py: there is a copy before the step that computes i."""
    driver = make(3, max_running=4)
    driver.scheduler.add(request("r", range(6), max_tokens=6, ignore_eos=True))
    driver.run()
    assert [step.saves for step in driver.steps if step.saves] == [((1, 0, 5), (2, 0, 5))]
    copying = [step for step in driver.steps if step.copies]
    assert [(step.items[0].start, step.copies) for step in copying] == [(8, ((1, 0, 6), (2, 0, 6)))]


def test_snapshots_of_an_answer_are_64_tokens_apart():
    scheduler = make_scheduler(groups=state_groups((None,), 4, 60, 1, 9), max_context=210)
    driver = Driver(scheduler)
    scheduler.add(request("r", range(6), max_tokens=200, ignore_eos=True))
    driver.run()
    starts = [step.items[0].start for step in driver.steps if step.copies]
    assert starts == [64, 128, 192]


def follow_ups(driver, turns, rounds):
    """What is computed of the prompts of each round, of which each goes on from its answer."""
    found = []
    for _ in range(rounds):
        steps = len(driver.steps)
        talks = [
            driver.scheduler.add(request("r", turn, max_tokens=9, ignore_eos=True))
            for turn in turns
        ]
        driver.run()
        found.append(sum(step.num_tokens for step in driver.steps[steps:]) - 8 * len(turns))
        turns = [[*seq.tokens, n, n] for n, seq in enumerate(talks)]
    return found


@pytest.mark.parametrize("pages", [True, False])
def test_a_prompt_goes_on_from_an_answer(pages):
    """The last end of a block is there: 12 of 15 tokens, of which the last was never computed."""
    assert follow_ups(make(40, pages), [[1] * 6], 5) == [6, 5, 4, 7, 6]


@pytest.mark.parametrize("pages", [True, False])
def test_talks_come_to_need_one_place_each(pages):
    """Of four with six places, two find but the end of their prompt at first."""
    turns = [[n] * 6 for n in range(4)]
    found, best = (follow_ups(make(places, pages), turns, 8) for places in (6, 40))
    assert found[1] > best[1]
    assert found[-4:] == best[-4:]


@pytest.mark.parametrize("pages", [True, False])
def test_answers_push_out_no_prompts(pages):
    """Of five conversations that go on otherwise than the engine's answers, with six places."""
    driver = make(6, pages)
    turns = [[n] * 13 for n in range(5)]
    for computed in (13, 9, 9):
        steps = len(driver.steps)
        for n, turn in enumerate(turns):
            driver.scheduler.add(request("r", turn, max_tokens=9, ignore_eos=True))
            driver.run()
            turns[n] = [*turn, *[20 + n] * 8]
        assert sum(step.num_tokens for step in driver.steps[steps:]) == 5 * (computed + 8)


def test_a_fork_is_saved_from_where_its_state_lies():
    """The second sample's state is still its sibling's when its first token begins a block."""
    driver = make(6, max_running=2)
    driver.scheduler.add(request("r", range(8), n=2, max_tokens=3, ignore_eos=True))
    driver.run()
    assert [step.copies for step in driver.steps if step.copies] == [
        ((1, 0, 1), (2, 0, 1), (1, 0, 4), (2, 0, 4))
    ]


@pytest.mark.parametrize("pages", [True, False])
def test_a_third_prompt_goes_on_from_where_two_part(pages):
    driver = make(8, pages)
    stem = list(range(1, 10))
    assert computed(driver, [[*stem, *[20 + n] * 8] for n in range(3)]) == 17 + 17 + 17 - 8
    assert driver.scheduler.states.num_restored == 1


@pytest.mark.parametrize("pages", [True, False])
def test_a_conversation_leaves_its_earlier_turns_behind(pages):
    """Three of them in turn, with places for four: the newest state of each is there."""
    driver = make(4, pages)
    turns = [[n] * 12 for n in range(3)]
    assert computed(driver, turns) == 36
    for _ in range(10):
        turns = [[*one, *[len(one)] * 8] for one in turns]
        assert computed(driver, turns) == 3 * (8 + 4)


def test_two_samples_and_a_place_for_one():
    """A fork copies the state of its sibling, which may have ended by then."""
    driver = make(0, max_running=2)
    driver.scheduler.add(request("r", range(5), n=2, max_tokens=4, ignore_eos=True))
    driver.run()
    copies = [one for step in driver.steps for one in step.copies if one[0]]
    assert copies == [(1, 0, 1), (2, 0, 1)]
    assert {index for _, index in driver.done} == {0, 1}


def test_a_saved_trace_runs_again(tmp_path):
    driver = make(3, every=2)
    for one in random_requests(random.Random(5), 6, 52):
        driver.scheduler.add(one)
    driver.run()
    save_trace(tmp_path / "trace", driver.scheduler.pool.groups, 4, driver.steps)
    assert replay(tmp_path / "trace") == len(driver.steps)
    assert any(step.saves for step in driver.steps)


def test_a_state_of_other_tokens_is_noticed(tmp_path):
    driver = make(3, every=2)
    driver.scheduler.add(request("r", range(9), max_tokens=3, ignore_eos=True))
    driver.run()
    wrong = [
        replace(step, items=tuple(item._replace(slot=at % 2) for item in step.items))
        for at, step in enumerate(driver.steps)
    ]
    save_trace(tmp_path / "trace", driver.scheduler.pool.groups, 4, wrong)
    with pytest.raises(ValueError, match="goes on from position 8 with the state in slot 1"):
        replay(tmp_path / "trace")


def test_an_end_is_reusable_if_there_is_a_snapshot_of_it():
    assert StatePolicy().reusable([None, 4, None], 0, 3) == 2
    assert StatePolicy().reusable([None, 4, None], 5, 1) == 0
