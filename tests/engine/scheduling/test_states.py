"""States of sequences over random traces: each goes on from the tokens that it has seen."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduler import Driver, expected_text, make_scheduler, random_requests

from stoker.engine.blocks.groups import GroupSize, policy_of

PAGES = [(), (None,), (6,), (None, 6)]  # windows of the groups beside those of states


def state_groups(windows, block_size, spare, kinds, snapshots):
    pages = [
        GroupSize(policy_of(GroupSize(0, window), block_size).most_blocks(52) + spare, window)
        for window in windows
    ]
    return [*pages, *[GroupSize(snapshots, keeps_state=True)] * kinds]


@settings(max_examples=500, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    windows=st.sampled_from(PAGES),
    kinds=st.integers(1, 2),
    snapshots=st.sampled_from([0, 1, 2, 5, 40]),
    every=st.integers(1, 6),
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
    driver, cancelled = Driver(scheduler), set()
    requests = list(random_requests(rng, rng.randint(1, 14), 52))
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
    for one in requests:
        for index in range(one.params.n):
            if (one.id, index) in driver.done:
                assert driver.done[one.id, index][0] == expected_text(one, index, 64)
            else:
                assert one.id in cancelled
    if not prefix_cache or not snapshots:
        assert scheduler.tables.num_hit_tokens == scheduler.states.num_saved == 0
