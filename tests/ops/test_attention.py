"""The CPU implementations of attention against the definition."""

import pytest
import torch
from layouts import freed, make, shared

from stoker.ops.attention import RaggedLayout, ReferenceAttention, Scores, merge_partials
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.attention_native import NativeAttention
from stoker.ops.native.build import load_kernels

LIBRARY = load_kernels("attention")


def name(attention):
    return type(attention).__name__


IMPLEMENTATIONS = [CpuAttention()] + ([NativeAttention(LIBRARY)] if LIBRARY else [])


@pytest.mark.parametrize("attention", IMPLEMENTATIONS, ids=name)
@pytest.mark.parametrize("window", [None, 1, 7, 1000])
@pytest.mark.parametrize("softcap", [None, 2.5])
@pytest.mark.parametrize(
    "sizes", [(6, 2, 64, 16), (4, 4, 16, 1), (8, 1, 128, 64), (3, 1, 20, 5), (2, 1, 7, 3)], ids=str
)
def test_equals_the_definition(attention, window, softcap, sizes):
    heads, kv_heads, dim, block_size = sizes
    lens = [1, 5, 16, 17, 64, 100, 33, 2, 90, 12, 40, 41]
    counts = [1, 5, 1, 3, 1, 100, 1, 1, 1, 4, 1, 1]
    layout, q, k, v = make(
        counts, lens, block_size=block_size, heads=heads, kv_heads=kv_heads, dim=dim
    )
    options = Scores(0.2, window, softcap)
    expected, lse = ReferenceAttention().run_with_lse(layout, q, k, v, options)
    plan = attention.plan(layout)
    out = attention.run(plan, q, k, v, options)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    again, same = attention.run_with_lse(plan, q, k, v, options)
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(same, lse)


@pytest.mark.skipif(LIBRARY is None, reason="no C compiler")
def test_a_decode_does_not_depend_on_its_neighbours():
    attention = NativeAttention(LIBRARY)
    lens = [3, 50, 20, 21, 22, 49, 7, 33, 34, 35]
    layout, q, k, v = make([1] * 10, lens, block_size=16, heads=6, kv_heads=2, dim=64)
    together = attention.run(attention.plan(layout), q, k, v, Scores(0.1))
    for row, length in enumerate(lens):
        alone = RaggedLayout([0, 1], [length], layout.block_tables[row : row + 1], 16)
        out = attention.run(attention.plan(alone), q[row : row + 1], k, v, Scores(0.1))
        assert torch.equal(out[0], together[row])


@pytest.mark.skipif(LIBRARY is None, reason="no C compiler")
@pytest.mark.parametrize("window", [None, 9, 64])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("sizes", [(6, 2, 64, 16), (4, 4, 24, 5)], ids=str)
def test_a_query_does_not_depend_on_its_chunk(window, softcap, sizes):
    """The same bits from one prefill, from chunks, and from a decode for every token."""
    heads, kv_heads, dim, block_size = sizes
    attention, length = NativeAttention(LIBRARY), 150
    layout, q, k, v = make(
        [length], [length], block_size=block_size, heads=heads, kv_heads=kv_heads, dim=dim
    )
    sinks, slopes = torch.linspace(-1, 3, heads), torch.linspace(0.01, 0.3, heads)
    options = Scores(0.1, window, softcap, sinks, chunked=window == 9, slopes=slopes)
    whole, lse = attention.run_with_lse(attention.plan(layout), q, k, v, options)
    for size in (1, 7, 16, 40):
        for start in range(0, length, size):
            end = min(start + size, length)
            chunk = RaggedLayout([0, end - start], [end], layout.block_tables, block_size)
            out, same = attention.run_with_lse(attention.plan(chunk), q[start:end], k, v, options)
            assert torch.equal(out, whole[start:end])
            assert torch.equal(same, lse[start:end])


@pytest.mark.skipif(LIBRARY is None, reason="no C compiler")
@pytest.mark.parametrize("heads", [2, 130], ids=["few heads", "more heads than are taken at once"])
def test_a_query_of_latent_heads_does_not_depend_on_its_chunk(heads):
    """All share one key head, whose first numbers are the values."""
    attention, length = NativeAttention(LIBRARY), 70
    layout, q, k, v = make(
        [length], [length],
        block_size=16, heads=heads, kv_heads=1, dim=72, value_dim=64, latent=True,
    )  # fmt: skip
    whole, lse = attention.run_with_lse(attention.plan(layout), q, k, v, Scores(0.1))
    expected, _ = ReferenceAttention().run_with_lse(layout, q, k, v, Scores(0.1))
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5)
    for start, end in [(0, 1), (1, 40), (40, 69), (69, 70)]:
        chunk = RaggedLayout([0, end - start], [end], layout.block_tables, 16)
        out, same = attention.run_with_lse(attention.plan(chunk), q[start:end], k, v, Scores(0.1))
        assert torch.equal(out, whole[start:end])
        assert torch.equal(same, lse[start:end])


@pytest.mark.parametrize("attention", IMPLEMENTATIONS, ids=name)
@pytest.mark.parametrize("size", [1e-4, 0.03, 1.0, 30.0])
def test_soft_caps_of_scores_near_and_far_from_zero(attention, size):
    """One key sees all weight but its log-sum-exp is the score itself: its digits are kept."""
    layout, q, k, v = make([1], [1], block_size=4, heads=2, kv_heads=2, dim=16)
    _, lse = attention.run_with_lse(attention.plan(layout), q, k, v, Scores(size, softcap=5.0))
    key = k[layout.block_tables[0, 0], 0]
    expected = 5 * torch.tanh((q[0].double() * key.double()).sum(-1) * size / 5)
    torch.testing.assert_close(lse[0].double(), expected, rtol=2e-6, atol=1e-9)


def test_paged_equals_contiguous():
    layout, q, k, v = make([9], [9], block_size=4, heads=4, kv_heads=2, dim=16)
    keys, values = (
        c[layout.block_tables[0]].flatten(0, 1)[:9].repeat_interleave(2, 1) for c in (k, v)
    )
    plain = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in (q, keys, values)), is_causal=True, scale=0.3
    ).transpose(0, 1)
    out = ReferenceAttention().run(layout, q, k, v, Scores(0.3))
    torch.testing.assert_close(out, plain)


@pytest.mark.parametrize("attention", [ReferenceAttention(), *IMPLEMENTATIONS], ids=name)
@pytest.mark.parametrize(("window", "block_size"), [(1, 4), (6, 4), (23, 4), (30, 16), (9, 1)])
@pytest.mark.parametrize(("softcap", "chunked"), [(None, False), (2.5, False), (None, True)])
def test_blocks_behind_the_window_are_not_read(attention, window, block_size, softcap, chunked):
    lens = [100, 5, 90, 97, 64, 33, 91, 50]
    counts = [1, 5, 1, 1, 30, 1, 1, 50]
    layout, q, k, v = make(counts, lens, block_size=block_size, heads=6, kv_heads=2, dim=20)
    layout = shared(layout, [0, 2, 3, 6], 88 // block_size)
    scores = Scores(0.2, window, softcap, chunked=chunked)
    expected = attention.run_with_lse(attention.plan(layout), q, k, v, scores)
    layout, k, v = freed(layout, window, k, v)
    found = attention.run_with_lse(attention.plan(layout), q, k, v, scores)
    assert all(map(torch.equal, found, expected))
    out = attention.run(attention.plan(layout), q, k, v, scores)
    torch.testing.assert_close(out, expected[0], rtol=1e-5, atol=1e-5)


def test_partials_over_disjoint_keys_merge_exactly():
    layout, q, k, v = make([1, 1], [48, 37], block_size=16, heads=4, kv_heads=2, dim=16)
    reference = ReferenceAttention()
    whole, lse = reference.run_with_lse(layout, q, k, v, Scores(0.2))
    first = RaggedLayout([0, 1, 2], [32, 32], layout.block_tables[:, :2], 16)
    second = RaggedLayout([0, 1, 2], [16, 5], layout.block_tables[:, 2:], 16)
    parts = [reference.run_with_lse(part, q, k, v, Scores(0.2)) for part in (first, second)]
    merged, total = merge_partials(parts)
    torch.testing.assert_close(merged, whole)
    torch.testing.assert_close(total, lse)


@pytest.mark.skipif(LIBRARY is None, reason="no C compiler")
@pytest.mark.parametrize("window", [None, 9, 64])
@pytest.mark.parametrize("sizes", [(6, 2, 64, 16), (4, 4, 24, 5), (8, 1, 128, 64)], ids=str)
def test_a_decode_does_not_depend_on_sharing_its_prefix(window, sizes):
    """Met with its siblings or alone, a query gets the same bits, equal to the definition."""
    heads, kv_heads, dim, block_size = sizes
    attention, shared = NativeAttention(LIBRARY), 80 // block_size * block_size
    lens = [100, 81, 97, 131, 90, 88, 83, 120, 99, 130]
    layout, q, k, v = make(
        [1] * 10, lens, block_size=block_size, heads=heads, kv_heads=kv_heads, dim=dim
    )
    tables = layout.block_tables.clone()
    tables[1:9, : shared // block_size] = tables[0, : shared // block_size]
    tables[4:7, : 88 // block_size] = tables[5, : 88 // block_size]  # a branch of the tree
    layout = RaggedLayout(layout.query_starts, lens, tables, block_size)
    scores = Scores(0.1, window)
    together, lse = attention.run_with_lse(attention.plan(layout), q, k, v, scores)
    expected, _ = ReferenceAttention().run_with_lse(layout, q, k, v, scores)
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)
    for row, length in enumerate(lens):
        alone = RaggedLayout([0, 1], [length], tables[row : row + 1], block_size)
        out, same = attention.run_with_lse(attention.plan(alone), q[row : row + 1], k, v, scores)
        assert torch.equal(out[0], together[row])
        assert torch.equal(same[0], lse[row])
