"""Slots: each is free or has one owner, and samples of one prompt get theirs when they run."""

import pytest

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.request.params import SamplingParams
from stoker.engine.request.request import Request
from stoker.engine.scheduling.replay import FakeCache, hash_context
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.scheduling.sequence import Status
from stoker.engine.scheduling.slot_pool import NO_SLOT, SlotPool
from stoker.engine.scheduling.step import LAST_TOKEN, Step, StepItem


def test_the_last_slot_given_back_goes_first():
    pool = SlotPool(3)
    assert [pool.take() for _ in range(3)] == [0, 1, 2]
    pool.release(1)
    pool.release(NO_SLOT)
    pool.check([0, 2])
    assert pool.take() == 1


@pytest.mark.parametrize("used", [[0, 0, 2], [0, 1, 2], [0]])
def test_the_check_finds_what_is_wrong(used):
    pool = SlotPool(3)
    assert [pool.take() for _ in range(3)] == [0, 1, 2]
    pool.release(1)
    with pytest.raises(AssertionError, match="a slot is shared, lost, or both free and used"):
        pool.check(used)


def test_samples_beyond_the_running_limit_wait_without_a_slot():
    scheduler = Scheduler(
        groups=[GroupSize(32)], block_size=4, max_batch_tokens=16, max_running=2, max_context=32
    )
    params = SamplingParams(max_tokens=4, n=5, ignore_eos=True)
    scheduler.add(Request("r", (1, 2, 3), params))
    cache, seen = FakeCache(scheduler.pool.groups, 4, hash_context(50)), set()
    while scheduler.has_work:
        step = scheduler.plan()
        scheduler.commit(step, cache.run(step))
        scheduler.check()
        seen.add(tuple(sorted(item.slot for item in step.items)))
        for seq in scheduler.sequences():
            assert (seq.slot == NO_SLOT) == (seq.status is Status.WAITING)
    assert seen - {(1,)} == {(0,), (0, 1)}


def test_a_step_is_resolved_by_slot():
    """The example of `Step.last_tokens`."""
    first = Step(
        1,
        (
            StepItem(8, 4, 0, (1,), ((0,),), (0, 1, 2)),
            StepItem(9, 0, 0, (1,), ((1,),), ()),
            StepItem(7, 1, 3, (1,), ((2,),), (0,)),
        ),
    )
    last = first.last_tokens([70, 71, 72, 55])
    assert last == {4: 70, 1: 55}
    items = (
        StepItem(7, 1, 4, (LAST_TOKEN,), ((2,),), (0,)),
        StepItem(9, 0, 1, (6,), ((1,),), (0,)),
    )
    assert [item.tokens for item in Step(2, items).resolved(last).items] == [(55,), (6,)]
    assert Step.from_json(Step(2, items).to_json()) == Step(2, items)
