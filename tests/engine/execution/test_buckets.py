"""Sizes of CUDA graphs and padding to them: nothing real moves, the dummy keeps to itself."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.execution.buckets import LARGEST, PER_GRAPH, Buckets, pad, sizes
from stoker.engine.execution.step_arrays import to_arrays
from stoker.engine.execution.table_rows import IDLE, TableRows
from stoker.engine.scheduling.step import Step, StepItem


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
    for serial in range(rng.randint(1, running)):
        start = rng.randint(0, 60)
        count = 1 if decodes or rng.random() < 0.5 else rng.randint(1, 40)
        tokens = [rng.randrange(1, 99) for _ in range(count)]
        draws = (0,) if rng.random() < 0.8 else ()
        if draws and rng.random() < 0.5:
            tokens[-1] = ~serial
        table = tuple(blocks.pop() for _ in range(-(-(start + count) // block_size)))
        items.append(StepItem(serial, start, tuple(tokens), table, draws))
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
    real = to_arrays(step, block_size, TableRows(dummy))
    buckets = Buckets(running, most)
    bucket = buckets.find(real.counts)
    tokens, sequences = len(real.tokens), len(real.counts)
    if bucket is None:
        assert not decodes
        assert tokens > most
        return
    padded = pad(real, bucket, block_size, dummy)
    assert bucket.tokens <= buckets.largest.tokens
    assert bucket.sequences <= buckets.largest.sequences
    assert (bucket.tokens == bucket.sequences) == (tokens == sequences)
    assert bucket.tokens >= bucket.sequences
    # the shapes are the bucket's
    assert len(padded.tokens) == len(padded.owners) == bucket.tokens
    assert len(padded.counts) == len(padded.contexts) == len(padded.tables) == bucket.sequences
    assert len(padded.shifts) == len(padded.table_rows) == bucket.sequences
    assert len(padded.rows) == bucket.sequences
    assert padded.counts.sum() == bucket.tokens
    if tokens == sequences:
        assert (padded.counts == 1).all(), "decodes stay decodes"
    # little is added
    assert bucket.tokens - tokens < max(8, 1 + tokens / 8)
    # what is real keeps its place
    for name in ("tokens", "owners", "shifts", "rows", "counts", "contexts", "table_rows"):
        own = getattr(real, name)
        assert np.array_equal(getattr(padded, name)[: len(own)], own)
    height, width = real.tables.shape
    assert np.array_equal(padded.tables[:height, :width], real.tables)
    assert padded.late == real.late
    assert padded.changes is real.changes
    # the dummy has its block and no other
    assert (padded.owners[tokens:] < 0).all()
    assert (padded.owners[:tokens] >= 0).all()
    assert (padded.table_rows[sequences:] == IDLE).all()
    assert (padded.tables[sequences:] == dummy).all()
    used = -(-padded.contexts // block_size)
    assert (used <= padded.tables.shape[1]).all()


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
    from stoker.config import EngineConfig
    from stoker.errors import ConfigError

    with pytest.raises(ConfigError, match="cuda_graphs must be True, False or 'auto'"):
        EngineConfig(cuda_graphs=setting)
    with pytest.raises(ConfigError, match="cuda_graphs=True needs device='cuda', not 'cpu'"):
        EngineConfig(cuda_graphs=True)
