"""How memory is shared out among the pools of a cache with groups."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from stoker.engine.blocks.groups import GroupSize
from stoker.engine.setup.cache_sizes import CacheSizes

GEMMA = CacheSizes((1, 5), (None, 1024), 16, 32_768, 256, 2048)


def test_the_example():
    """The one at the head of cache_sizes.py."""
    assert GEMMA.blocks(30_000) == (30_000, 5_793)
    without = GEMMA.nbytes(30_000) // 6
    assert without == 9_827
    assert 30_000 // 2048 == 14
    assert without // 2048 == 4
    assert round(5_793 / without, 2) == 0.59


def test_one_group_has_what_fits():
    for window in (None, 100):
        sizes = CacheSizes((10,), (window,), 16, 4096, 8, 512)
        assert sizes.most_in(12_345) == 1234
        assert sizes.blocks(1234) == (1234,)
        assert sizes.useful == 8 * 256


def test_windows_get_what_running_sequences_can_use():
    sizes = CacheSizes((1, 5), (None, 64), 16, 32_768, 4, 256)
    assert sizes.blocks(8192)[1] == 4 * 5 + 16 + 4
    assert sizes.blocks(10)[1] == 10, "no more than a sequence that fits"


def test_a_window_beyond_the_context_is_none():
    assert CacheSizes((1, 5), (None, 5000), 16, 4096, 8, 512).blocks(77) == (77, 77)


@given(
    groups=st.lists(
        st.tuples(st.integers(1, 50), st.one_of(st.none(), st.integers(1, 5000))),
        min_size=1,
        max_size=4,
    ),
    size=st.sampled_from([1, 4, 16]),
    context=st.integers(1, 20_000),
    running=st.integers(1, 300),
    chunk=st.integers(1, 3000),
    memory=st.integers(0, 10**7),
)
def test_memory_is_used_and_both_ends_get_half(groups, size, context, running, chunk, memory):
    block_bytes, windows = zip(*groups, strict=True)
    sizes = CacheSizes(block_bytes, windows, size, context, running, chunk)
    most = sizes.most_in(memory)
    assert sizes.nbytes(most) <= memory < sizes.nbytes(most + 1)
    counts, needs = sizes.blocks(most), sizes._most
    assert max(counts) == counts[needs.index(max(needs))] == most
    enough = [min(need * running + chunk // size, most) for need in needs]
    equal = sizes.nbytes(most) // sum(block_bytes)
    for count, need, bound in zip(counts, needs, enough, strict=True):
        assert count >= bound or (
            count + 1 >= need / max(needs) * most and 2 * (count + 1) >= equal
        )


HYBRID = CacheSizes((1 << 16,), (None,), 16, 4096, 100, 512, 2 << 20, 1, True)


def test_the_example_of_states():
    """The one at the head of cache_sizes.py, in MiB."""
    most = HYBRID.most_in(1000 << 20)
    assert (most, HYBRID.num_snapshots(most), HYBRID.snapshot_every(most)) == (9599, 99, 97)
    assert HYBRID.running_states == 202 << 20
    assert round(HYBRID.page_bytes(most) / 2**20) == 600
    assert HYBRID.snapshot_bytes(most) == 198 << 20
    assert HYBRID.groups(most) == [GroupSize(9599), GroupSize(99, keeps_state=True)]
    assert HYBRID.state_places(most) == [100 + 1 + 99]


def test_snapshots_are_few_or_none_where_there_is_no_memory():
    assert HYBRID.most_in(202 << 20) == 0
    assert [HYBRID.num_snapshots(blocks) for blocks in (31, 32, 100, 300, 900)] == [0, 1, 3, 8, 9]
    none = dataclasses.replace(HYBRID, snapshots=False)
    assert none.num_snapshots(9599) == none.snapshot_bytes(9599) == 0
    assert none.snapshot_every(9599) == 32, "what a step computes"


def test_states_without_pages():
    states = CacheSizes((), (), 16, 4096, 100, 512, 2 << 20, 2, True)
    assert states.most_in(1000 << 20) == 500 - 101
    assert states.useful == 400
    assert states.groups(7) == [GroupSize(7, keeps_state=True)] * 2
    assert states.nbytes(7) == (101 + 7) * (2 << 20)
    assert dataclasses.replace(states, snapshots=False).most_in(1000 << 20) == 0
