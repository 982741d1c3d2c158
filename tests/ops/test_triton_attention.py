"""The Triton attention against the definition: interpreted on a CPU, compiled where a GPU is."""

import dataclasses
import itertools

import pytest
import torch
from layouts import freed, make, shared
from score_functions import alibi, near_and_far

from stoker.ops.attention import RaggedLayout, ReferenceAttention, Scores
from stoker.ops.kv_pages import Fp8Pages, quantise
from stoker.ops.triton.attention import TritonAttention, blocks_of_key, compilable
from stoker.ops.triton.available import triton_serves
from stoker.ops.triton.tuning import Launch, Tuning

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(not triton_serves(DEVICE.type), reason="Triton is not installed")

TILE = Launch(rows=16, keys=16, warps=4, stages=2)
WIDE = dataclasses.replace(TILE, rows=32)
SMALL = Tuning(TILE, WIDE, WIDE, TILE, WIDE, TILE, WIDE, waves=6, piece=16, shared=16, merged=4)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
LENS = [1, 5, 16, 17, 64, 33, 2, 41, 40]
COUNTS = [1, 5, 1, 3, 1, 33, 1, 4, 1]  # prefills, chunks and decodes


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """What nobody writes is NaN."""
    empty = torch.empty

    def poisoned(*shape, **options):
        out = empty(*shape, **options)
        return out.fill_(float("nan")) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", poisoned)


def on_device(layout, *tensors):
    tables = layout.block_tables.to(DEVICE)
    layout = dataclasses.replace(
        layout, block_tables=tables, host_tables=layout.block_tables.numpy()
    )
    return layout, *(x.to(DEVICE) for x in tensors)


def fp8(cache, heads):
    """A quantised copy of a cache (blocks, block_size, G, D), with unlike scales."""
    scale = 2.0 ** -torch.arange(heads, device=cache.device, dtype=torch.float32)
    return Fp8Pages(quantise(cache, scale), scale)


def check(layout, q, k, v, scores, tuning=SMALL, attention=None):
    attention = attention or TritonAttention(DEVICE, tuning)
    plan = attention.plan(layout)
    expected, expected_lse = ReferenceAttention().run_with_lse(layout, q, k, v, scores)
    out, lse = attention.run_with_lse(plan, q, k, v, scores)
    bound = TOLERANCE[q.dtype]
    torch.testing.assert_close(out, expected, rtol=bound, atol=bound)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=2e-5)
    return plan


# heads, key-value heads, head size, block size
SIZES = [(4, 2, 64, 16), (6, 1, 80, 1), (2, 2, 128, 64), (8, 1, 256, 16), (20, 1, 16, 5)]
WINDOWS, CAPS, SINKS = [None, 7, 24], [None, 2.5], [False, True]


def cases():
    """Sizes, options, dtypes and caches: any two of their values are together in some case."""
    for i, size in enumerate(SIZES):
        # a size meets every other option, the next size those between
        options = [
            (window, softcap, sinks)
            for (w, window), (c, softcap), sinks in itertools.product(
                enumerate(WINDOWS), enumerate(CAPS), SINKS
            )
            if (i + w + c + sinks) % 2 == 0
        ]
        for n, option in enumerate(options):
            yield size, option, list(TOLERANCE)[(i + n) % 3], "fp8" if n % 3 == i % 3 else "same"


@pytest.mark.parametrize(("size", "option", "dtype", "cache"), cases(), ids=str)
def test_equals_the_definition(size, option, dtype, cache):
    heads, kv_heads, dim, block_size = size
    window, softcap, sinks = option
    layout, *tensors = make(
        COUNTS, LENS, block_size=block_size, heads=heads, kv_heads=kv_heads, dim=dim,
        poison=float("nan"),
    )  # fmt: skip
    layout, q, k, v = on_device(layout, *(x.to(dtype) for x in tensors))
    if cache == "fp8":
        k, v = fp8(k, kv_heads), fp8(v, kv_heads)
    sink = torch.linspace(-3, 3, heads, device=DEVICE) if sinks else None
    check(layout, q, k, v, Scores(dim**-0.5, window, softcap, sink))


# Of many heads a short prefill has as many rows as a long one of few.
FEW_LENS, FEW_COUNTS = [1, 21, 40, 11, 35], [1, 1, 1, 9, 2]
# heads, key-value heads, sizes of keys and values, whether values lie in the keys
WIDTHS = [
    (4, 2, 24, 16, False),  # 16 + 8
    (6, 3, 16, 40, False),
    (5, 1, 40, 32, True),  # 32 + 8, the values being the block of 32
    (3, 1, 30, 20, True),
    (40, 1, 24, 16, True),  # more heads than a tile has rows
    (70, 2, 20, 12, False),
]


@pytest.mark.parametrize(("sizes", "dtype"), list(zip(WIDTHS, itertools.cycle(TOLERANCE))), ids=str)
@pytest.mark.parametrize("cache", ["same", "fp8"])
def test_values_of_another_width_than_keys(sizes, dtype, cache):
    heads, kv_heads, dim, value_dim, latent = sizes
    layout, *tensors = make(
        FEW_COUNTS, FEW_LENS, block_size=16, heads=heads, kv_heads=kv_heads, dim=dim,
        value_dim=value_dim, poison=float("nan"),
    )  # fmt: skip
    layout, q, k, v = on_device(layout, *(x.to(dtype) for x in tensors))
    if cache == "fp8":
        k, v = fp8(k, kv_heads), fp8(v, kv_heads)
    if latent:
        v = Fp8Pages(k.data[..., :value_dim], k.scale) if cache == "fp8" else k[..., :value_dim]
    check(layout, q, k, v, Scores(dim**-0.5, sinks=torch.linspace(-3, 3, heads, device=DEVICE)))


def test_keys_are_cut_where_that_wastes_less():
    assert blocks_of_key(576, 512) == (512, 64)
    assert blocks_of_key(192, 128) == (128, 64)
    assert blocks_of_key(80, 80) == (128, 0)
    assert blocks_of_key(128, 192) == (128, 0)
    assert blocks_of_key(20, 12) == (16, 16)


@pytest.mark.parametrize("function", [alibi, near_and_far])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (24, 2.5)])
def test_a_score_function_is_compiled_in(function, window, softcap):
    layout, *tensors = make(
        COUNTS, LENS, block_size=16, heads=6, kv_heads=2, dim=32, poison=float("nan")
    )
    layout, q, k, v = on_device(layout, *tensors)
    check(layout, q, k, v, Scores(0.3, window, softcap, modify=function))


def test_a_score_function_needs_a_source():
    function = eval("lambda score, query, key, head: score")
    with pytest.raises(ValueError, match="define it with def, in a file"):
        compilable(function)


@pytest.mark.parametrize("pieces", range(1, 9))
@pytest.mark.parametrize("sinks", [False, True])
def test_a_decode_in_pieces(pieces, sinks):
    """One long decode and a short one; the long one is cut into `pieces`."""
    length = 16 * pieces - 3
    layout, *tensors = make(
        [1, 1], [length, 3], block_size=16, heads=4, kv_heads=2, dim=32, poison=float("nan")
    )
    layout, q, k, v = on_device(layout, *tensors)
    sink = torch.tensor([1.0, -2.0, 30.0, 0.0], device=DEVICE) if sinks else None
    attention = TritonAttention(DEVICE, SMALL)
    attention.programs = 2 * 16
    plan = check(layout, q, k, v, Scores(0.3, sinks=sink), attention=attention)
    (tasks,) = plan.tasks.values()
    assert tasks.sizes[0] == pieces + 1
    assert tasks.sizes[4] == (pieces if pieces > 1 else 0)


def test_a_short_chunk_over_a_long_context_is_cut_too():
    layout, *tensors = make(
        [5], [150], block_size=16, heads=4, kv_heads=2, dim=32, poison=float("nan")
    )
    layout, q, k, v = on_device(layout, *tensors)
    plan = check(layout, q, k, v, Scores(0.3, window=100))
    (tasks,) = plan.tasks.values()
    assert tasks.sizes[3] == 5


def test_without_the_log_sum_exp_the_output_is_the_same():
    layout, *tensors = make([1, 1, 20], [60, 3, 24], block_size=16, heads=2, kv_heads=1, dim=16)
    layout, q, k, v = on_device(layout, *tensors)
    attention = TritonAttention(DEVICE, SMALL)
    plan, scores = attention.plan(layout), Scores(0.3)
    out, _ = attention.run_with_lse(plan, q, k, v, scores)
    assert torch.equal(attention.run(plan, q, k, v, scores), out)


def test_the_shipped_tuning():
    """The tiles a GPU gets, with enough keys for a piece's end and a chunk's diagonal."""
    layout, *tensors = make(
        [1, 40, 1], [300, 90, 7], block_size=16, heads=4, kv_heads=1, dim=64, poison=float("nan")
    )
    layout, q, k, v = on_device(layout, *(x.to(torch.bfloat16) for x in tensors))
    check(layout, q, k, v, Scores(0.125), Tuning())


def tree():
    """Ten decodes: 80 tokens shared by all but one, branches of them longer ones, one in two."""
    lens = [100, 131, 97, 131, 128, 129, 118, 120, 99, 130]
    layout, *tensors = make(
        [1] * 10, lens, block_size=16, heads=6, kv_heads=2, dim=32, poison=float("nan")
    )
    tables = layout.block_tables.clone()
    tables[1:9, :5] = tables[0, :5]
    tables[3:6, 5:8] = tables[1, 5:8]
    tables[6, 5:7] = tables[7, 5:7]
    return on_device(dataclasses.replace(layout, block_tables=tables), *tensors)


@pytest.mark.parametrize(
    ("window", "cache"), [(None, "same"), (9, "fp8"), (60, "same"), (60, "fp8")]
)
def test_decodes_with_prefixes_in_common(window, cache):
    layout, q, k, v = tree()
    if cache == "fp8":
        k, v = fp8(k, 2), fp8(v, 2)
    scores = Scores(0.2, window, sinks=torch.linspace(-1, 1, 6, device=DEVICE))
    plan = check(layout, q, k, v, scores)
    alone = check(layout, q, k, v, scores, dataclasses.replace(SMALL, shared=None))
    (shared,), (own,) = plan.tasks.values(), alone.tasks.values()
    assert keys_read(shared) < 0.6 * keys_read(own)


def keys_read(tasks):
    narrow, wide, *_ = (x.cpu() for x in tasks.lists())
    ranges = torch.cat((narrow.view(-1, 6), wide.view(-1, 6)))
    return int((ranges[:, 4] - ranges[:, 3]).sum())


def test_many_samples_of_one_prompt_share_wide_tiles():
    count, prompt = 40, 70
    layout, *tensors = make(
        [1] * count, [prompt + 3 + s for s in range(count)],
        block_size=16, heads=2, kv_heads=1, dim=32, poison=float("nan"),
    )  # fmt: skip
    tables = layout.block_tables.clone()
    tables[:, :4] = tables[0, :4]
    layout, q, k, v = on_device(dataclasses.replace(layout, block_tables=tables), *tensors)
    plan = check(layout, q, k, v, Scores(0.2))
    (tasks,) = plan.tasks.values()
    assert tasks.sizes[1] >= 3  # 40 members, 16 to a tile


def test_without_tables_on_the_host_nothing_is_shared():
    layout, q, k, v = tree()
    hidden = dataclasses.replace(layout, host_tables=None)
    (tasks,) = check(hidden, q, k, v, Scores(0.2)).tasks.values()
    assert (tasks.sizes[1] > 0) == (DEVICE.type == "cpu")


def test_a_reserved_plan_follows_its_steps():
    """Steps of one bucket through the same tensors, with rows of padding; prefixes too."""
    attention, scores = TritonAttention(DEVICE, SMALL), Scores(0.2)
    _, q, k, v = tree()
    layout, *_ = tree()
    tables = layout.block_tables.clone()
    plan = attention.reserve(dataclasses.replace(layout, block_tables=tables), 10, 10)
    steps = [
        layout,
        RaggedLayout(
            [0, 1, 2, 3], [90, 3, 17], layout.block_tables[:3], 16, layout.host_tables[:3]
        ),
        dataclasses.replace(layout, context_lens=[n - 7 for n in layout.context_lens]),
        RaggedLayout([0, 1, 8], [90, 50], layout.block_tables[:2], 16, layout.host_tables[:2]),
    ]
    attention.run(plan, q, k, v, scores)
    ((_, reserved),) = plan.tasks.items()
    address = reserved.buffer.data_ptr()
    for step in steps:
        count = step.query_starts[-1]
        tables[: len(step.block_tables)] = step.block_tables
        plan.refill(step)
        out = attention.run(plan, q, k, v, scores)
        expected = ReferenceAttention().run(step, q[:count], k, v, scores)
        torch.testing.assert_close(out[:count], expected, rtol=1e-5, atol=1e-5)
    assert [x.buffer.data_ptr() for x in plan.tasks.values()] == [address]


@pytest.mark.parametrize(("window", "block_size"), [(6, 4), (23, 16)])
def test_blocks_behind_the_window_are_not_read(window, block_size):
    lens = [100, 5, 90, 97, 64, 33, 91, 50]
    counts = [1, 5, 1, 1, 30, 1, 1, 50]
    layout, q, k, v = make(counts, lens, block_size=block_size, heads=4, kv_heads=2, dim=16)
    layout, k, v = freed(shared(layout, [0, 2, 3, 6], 88 // block_size), window, k, v)
    check(*on_device(layout, q, k, v), Scores(0.2, window))
