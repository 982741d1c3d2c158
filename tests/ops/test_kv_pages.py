"""Keys and values in FP8: what is stored, and what attention makes of it."""

import dataclasses

import torch
from layouts import make

from stoker.ops.attention import ReferenceAttention, Scores
from stoker.ops.kv_pages import FP8, Fp8Pages, load_blocks, quantise, storage, store
from stoker.ops.rope import rope_table, rotate_and_store


def pages(blocks, block_size, heads, dim, scale=None):
    data = torch.zeros(blocks, block_size, heads, dim, dtype=torch.uint8).view(FP8)
    return Fp8Pages(data, torch.ones(heads) if scale is None else scale)


def test_what_is_stored_comes_back_within_a_sixteenth():
    scale = torch.tensor([1.0, 0.25, 4.0])
    cache = pages(4, 8, 3, 16, scale)
    x = torch.randn(20, 3, 16) * torch.logspace(-4, 1, 20)[:, None, None]
    cells = torch.randperm(32)[:20]
    store(cache, cells, x)
    back = load_blocks(cache, torch.arange(4))
    bound = torch.maximum(x.abs() / 16, scale[:, None] * 2.0**-10)
    assert ((back[cells] - x).abs() <= bound).all()
    rest = torch.ones(32, dtype=torch.bool)
    rest[cells] = False
    assert (back[rest] == 0).all()


def test_values_beyond_the_range_are_clamped():
    x = torch.tensor([[[1e6, -1e6, 448.0, 449.0]]])
    assert quantise(x, torch.tensor([1.0])).float().tolist() == [[[448, -448, 448, 448]]]
    assert quantise(x, torch.tensor([2.0])).float().tolist() == [[[448, -448, 224, 224]]]


def test_the_write_after_the_rotation_is_quantised():
    tokens, heads, kv_heads, dim = 5, 4, 2, 16
    qkv, cells = torch.randn(tokens, (heads + 2 * kv_heads) * dim), torch.tensor([3, 0, 9, 4, 15])
    rope = rope_table(torch.rand(dim // 2), 20)[[0, 4, 2, 9, 11]]
    plain = [torch.zeros(2, 8, kv_heads, dim) for _ in range(2)]
    scale = torch.tensor([0.5, 1.0])
    packed = [pages(2, 8, kv_heads, dim, scale) for _ in range(2)]
    q = rotate_and_store(qkv, None, rope, cells, *plain)
    assert torch.equal(rotate_and_store(qkv, None, rope, cells, *packed), q)
    for exact, cache in zip(plain, packed, strict=True):
        assert torch.equal(storage(cache), quantise(exact, scale).view(torch.uint8))


def test_attention_over_quantised_pages_is_near():
    """The error is that of one rounding: far below what leaving out a key would cost."""
    lens = [300, 40, 17]
    layout, q, k, v = make(
        [1, 40, 3], lens, block_size=16, heads=4, kv_heads=2, dim=64, poison=float("nan")
    )
    reference, scores = ReferenceAttention(), Scores(64**-0.5)
    exact, lse = reference.run_with_lse(layout, q, k, v, scores)
    k, v = (Fp8Pages(quantise(x, torch.ones(2)), torch.ones(2)) for x in (k, v))
    near, near_lse = reference.run_with_lse(layout, q, k, v, scores)
    assert (near - exact).norm() < 0.06 * exact.norm()
    assert (near_lse - lse).abs().max() < 0.1


def test_a_needle_is_found_in_quantised_pages():
    """Each of 64 queries seeks one key among 2,000; its value is the nearest to the output."""
    count, dim = 2000, 64
    layout, _, k, v = make([1], [count], block_size=16, heads=1, kv_heads=1, dim=dim)
    flat = layout.block_tables[0]
    k, v = (Fp8Pages(quantise(x, torch.ones(1)), torch.ones(1)) for x in (k, v))
    keys, values = (load_blocks(x, flat)[:count, 0] for x in (k, v))
    sought = torch.randperm(count, generator=torch.Generator().manual_seed(1))[:64]
    layout = dataclasses.replace(
        layout,
        query_starts=range(65),
        context_lens=[count] * 64,
        block_tables=flat.expand(64, -1),
    )
    out = ReferenceAttention().run(layout, keys[sought, None], k, v, Scores(dim**-0.5 * 2))
    assert torch.equal(torch.cdist(out[:, 0], values).argmin(1), sought)
