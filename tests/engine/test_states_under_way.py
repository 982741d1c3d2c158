"""Layers with states in the loop: late steps, steps that fail, requests that are cancelled.

An engine whose layers keep states answers as one that keeps pages, on the fake model, which finds
out if a sequence goes on from the state of another context.
"""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from test_overlap import Run, make, random_requests, shown

CHANGES = {
    "block_size": st.sampled_from([1, 2, 4, 16]),
    "max_batch_tokens": st.integers(1, 40),
    "max_running": st.integers(1, 12),
    "prefix_cache": st.booleans(),
}
STATES = {
    "windows": st.sampled_from([(), (None,), (None, 6)]),
    "snapshots": st.sampled_from([(0,), (1,), (2, 2), (7,), (40,)]),
    "snapshot_every": st.integers(1, 6),
}


def pools(changes, spare):
    return {**changes, "num_blocks": -(-48 // changes["block_size"]) + spare}


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    special=st.sampled_from([0, 0, 0.3]),
    every=st.integers(2, 12),
    hopeful=st.booleans(),
    spare=st.integers(0, 30),
    of_answer=st.integers(1, 4),
    changes=st.fixed_dictionaries(CHANGES),
    states=st.fixed_dictionaries(STATES),
)
def test_the_same_outputs(seed, special, every, hopeful, spare, of_answer, changes, states):
    rng = random.Random(seed)
    requests = list(random_requests(rng, rng.randint(1, 12), special))
    changes = pools(changes, spare)
    expected = Run(make(random.Random(seed), False, **changes), requests).finish()

    def fails(launched, step):
        if step.num_tokens > 1 and rng.randrange(every) == 0:
            return rng.choice(["at launch", "late"])

    def works(launched, step):
        return None

    for overlap, problems in ((False, works), (True, works), (True, fails)):
        engine = make(random.Random(seed), overlap, problems, **changes, **states)
        engine.scheduler.states.every_of_answer = of_answer
        if hopeful:  # a forecast that expects short completions leads to preemption
            engine.scheduler.lengths.observe(1)
        assert Run(engine, requests).finish() == expected


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    spare=st.integers(0, 30),
    changes=st.fixed_dictionaries(CHANGES),
    states=st.fixed_dictionaries(STATES),
)
def test_cancelled_at_any_time(seed, spare, changes, states):
    requests = list(random_requests(random.Random(seed), 10, 0.1))
    changes = pools(changes, spare)
    expected = Run(make(random.Random(seed), False, **changes), requests).finish()
    rng = random.Random(seed)
    run, cut = Run(make(rng, True, **changes, **states), requests), {}
    while run.engine.has_work:
        run.step()
        if rng.random() < 0.2:
            output = run.engine.cancel(rng.choice(requests).id)
            if output is not None:
                cut[output.request_id] = shown(output)
        if rng.random() < 0.02:
            run.engine.abort_all()
            for one in requests:
                if one.id not in run.done and one.id not in cut:
                    run.engine.add(one)
    run.finish()
    assert {**expected, **cut} == {**run.done, **cut}
