"""Sizes of CUDA graphs and padding to them: nothing real moves, the dummy keeps to itself."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.execution.buckets import LARGEST, PER_GRAPH, Bucket, Buckets, pad, sizes
from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.step_tensors import to_arrays
from stoker.engine.scheduling.step import LAST_TOKEN, Step, StepItem


@given(most=st.integers(1, 5000))
def test_sizes_waste_little(most):
    found = sizes(most)
    assert found[-1] == most
    assert found == sorted(set(found))
    for small, large in pairwise(found):
        assert large - small <= max(8, small / 8)


def test_these_sizes():
    assert sizes(40) == [1, 2, 4, 8, 16, 24, 32, 40]
    assert sizes(300)[-6:] == [208, 224, 240, 256, 288, 300]
    assert len(Buckets(256, 2048)) == 27 + 43


def random_step(rng, running, block_size, decodes):
    items, blocks = [], list(range(rng.randrange(5), 4000))
    rng.shuffle(blocks)
    slots = rng.sample(range(running), running)
    for serial in range(rng.randint(1, running)):
        start = rng.randint(0, 60)
        count = 1 if decodes or rng.random() < 0.5 else rng.randint(1, 40)
        tokens = [rng.randrange(1, 99) for _ in range(count)]
        draws = (0,) if rng.random() < 0.8 else ()
        if draws and rng.random() < 0.5:
            tokens[-1] = LAST_TOKEN
        table = tuple(blocks.pop() for _ in range(-(-(start + count) // block_size)))
        items.append(StepItem(serial, slots[serial], start, tuple(tokens), (table,), draws))
    return Step(1, tuple(items))


@settings(max_examples=500, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    running=st.integers(1, 40),
    most=st.integers(1, 400),
    block_size=st.sampled_from([1, 4, 16]),
    decodes=st.booleans(),
)
def test_padding(seed, running, most, block_size, decodes):
    step = random_step(random.Random(seed), running, block_size, decodes)
    dummy = 5000
    buckets = Buckets(running, most)
    longest = max(100, buckets.largest.tokens)
    slots = DeviceSlots(running, longest, block_size, torch.device("cpu"), (dummy,))
    real = to_arrays(step, slots)
    bucket = buckets.find(real.counts)
    tokens, sequences = len(real.tokens), len(real.counts)
    if bucket is None:
        assert not decodes
        assert tokens > most
        return
    padded = pad(real, bucket, slots)
    assert bucket.tokens <= buckets.largest.tokens
    assert bucket.sequences <= buckets.largest.sequences
    assert (bucket.tokens == bucket.sequences) == (tokens == sequences)
    assert bucket.tokens >= bucket.sequences
    # the shapes are the bucket's
    assert len(padded.tokens) == len(padded.owners) == bucket.tokens
    (tables,) = padded.tables
    assert len(padded.counts) == len(padded.contexts) == len(tables) == bucket.sequences
    assert len(padded.shifts) == len(padded.slots) == bucket.sequences
    assert len(padded.rows) == bucket.sequences
    assert padded.counts.sum() == bucket.tokens
    if tokens == sequences:
        assert (padded.counts == 1).all(), "decodes stay decodes"
    # little is added
    assert bucket.tokens - tokens < max(8, 1 + tokens / 8)
    # what is real keeps its place
    for name in ("tokens", "owners", "shifts", "rows", "counts", "contexts", "slots"):
        own = getattr(real, name)
        assert np.array_equal(getattr(padded, name)[: len(own)], own)
    height, width = real.tables[0].shape
    assert np.array_equal(tables[:height, :width], real.tables[0])
    assert padded.has_last == real.has_last
    assert padded.drawing is real.drawing, "dummies draw nothing"
    assert padded.changes is real.changes
    # the dummy has its block and no other
    assert (padded.owners[tokens:] < 0).all()
    assert (padded.owners[:tokens] >= 0).all()
    assert (padded.slots[sequences:] == slots.dummy).all()
    assert (tables[sequences:] == dummy).all()
    used = -(-padded.contexts // block_size)
    assert (used <= tables.shape[1]).all()
    assert tables.shape[1] <= slots.width


def test_the_examples_of_padding():
    """Those at the head of buckets.py."""
    slots = DeviceSlots(8, 64, 16, torch.device("cpu"), (99,))
    decodes = [StepItem(n, slot, 3, (1,), ((n,),), (0,)) for n, slot in enumerate((6, 0, 2))]
    mixed = [
        StepItem(0, 6, 0, (1, 2, 3), ((1,),), (0,)),
        StepItem(1, 0, 3, (LAST_TOKEN,), ((2,),), (0,)),
    ]
    shown = []
    for items, bucket in ((decodes, (4, 4)), (mixed, (8, 5))):
        arrays = to_arrays(Step(1, tuple(items)), slots)
        padded = pad(arrays, Bucket(*bucket), slots)
        names = "counts", "owners", "rows", "slots"
        shown.append([getattr(padded, name).tolist() for name in names])
    assert shown == [
        [[1, 1, 1, 1], [0, 1, 2, -1], [0, 1, 2, 3], [6, 0, 2, 8]],
        [[3, 1, 4, 0, 0], [0, 0, 0, 1, -1, -1, -1, -1], [2, 3, 7, 7, 7], [6, 0, 8, 8, 8]],
    ]


def test_what_is_too_large_has_no_bucket():
    buckets = Buckets(4, 2048)
    assert buckets.find(np.ones(5, np.int64)) is None
    assert buckets.find(np.array([LARGEST + 1])) is None
    assert buckets.find(np.array([LARGEST])) == (LARGEST, 5)
    assert buckets.find(np.ones(3, np.int64)) == (4, 4)


def test_memory_set_aside():
    buckets = Buckets(256, 2048)
    assert buckets.reserve(2048, 2048, 7) == 1024 + 7 + PER_GRAPH * len(buckets)
    assert Buckets(8, 64).reserve(2048, 64, 7) - 2048 - 7 == PER_GRAPH * len(Buckets(8, 64))


@pytest.mark.parametrize("setting", [3, "on"])
def test_the_setting(setting):
    from stoker.config import EngineOptions
    from stoker.errors import ConfigError

    with pytest.raises(ConfigError, match="cuda_graphs must be True, False or 'auto'"):
        EngineOptions(cuda_graphs=setting)
    with pytest.raises(ConfigError, match="cuda_graphs=True needs device='cuda', not 'cpu'"):
        EngineOptions(cuda_graphs=True)
