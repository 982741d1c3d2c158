"""The Triton kernel of head norms, rotation and cache write against the reference."""

import pytest
import torch

from stoker.ops.kv_pages import Fp8Pages
from stoker.ops.rope import HeadNorms, rope_table, rotate, rotate_and_store
from stoker.ops.triton.available import interpreted

pytest.importorskip("triton", reason="Triton is not installed")
kernel = pytest.importorskip("stoker.ops.triton.rope")
fused = kernel.rotate_and_store

DEVICE = "cpu" if interpreted() else "cuda"
NAN = float("nan")
# Both round alike, but where float32 falls on a boundary: one step of the type, relative and at 8.
CLOSE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 2**-9, "atol": 2**-8},
    torch.bfloat16: {"rtol": 2**-6, "atol": 2**-5},
}


def both(heads, kv_heads, dim, rotary, norms, dtype):
    """(queries, k cache, v cache) of the reference and of the kernel, over poisoned caches."""
    torch.manual_seed(dim + rotary)
    tokens = 7
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim, device=DEVICE).to(dtype) * 2
    weights = None
    if norms:
        q_norm, k_norm, v_norm = (torch.randn(dim, device=DEVICE).to(dtype) for _ in range(3))
        weights = HeadNorms(q_norm, k_norm, 1e-5, v_norm if norms == "values" else None)
    rope = rope_table(torch.rand(rotary // 2), 40, 1.2)[torch.randperm(40)[:tokens]].to(DEVICE)
    cells = torch.tensor([3, -1, 0, 23, -7, 11, 12], device=DEVICE)
    found = []
    for function in (rotate_and_store, fused):
        caches = torch.full((2, 6, 4, kv_heads, dim), NAN, device=DEVICE, dtype=dtype)
        found.append((function(qkv, weights, rope, cells, *caches), *caches.flatten(1, 2)))
    written = cells[cells >= 0]
    untouched = [cell for cell in range(24) if cell not in written.tolist()]
    assert not found[1][0].isnan().any()
    assert not found[1][1][written].isnan().any()
    assert not found[1][2][written].isnan().any()
    assert found[1][1][untouched].isnan().all()
    assert found[1][2][untouched].isnan().all()
    return found


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("norms", [True, "values", False])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "rotary"),
    [
        *((4, 2, 64, 64), (3, 1, 80, 20), (2, 2, 96, 0), (11, 1, 128, 128), (2, 1, 256, 64)),
        (0, 2, 12, 0),  # keys or values alone
    ],
)
def test_as_the_reference(heads, kv_heads, dim, rotary, norms, dtype):
    expected, found = both(heads, kv_heads, dim, rotary, norms, dtype)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, **CLOSE[dtype], equal_nan=True)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("heads", "dim", "rotary"), [(4, 64, 64), (3, 80, 20), (1, 512, 512)])
def test_queries_alone(heads, dim, rotary, norm, dtype):
    q = torch.randn(7, heads, dim, device=DEVICE).to(dtype) * 2
    weight = torch.randn(dim, device=DEVICE).to(dtype) if norm else None
    rope = rope_table(torch.rand(rotary // 2), 7, 1.2).to(DEVICE)
    expected = rotate(q, weight, 1e-5, rope)
    torch.testing.assert_close(kernel.rotate(q, weight, 1e-5, rope), expected, **CLOSE[dtype])
    assert kernel.rotate(q[:0], weight, 1e-5, rope[:0]).shape == (0, heads, dim)


def test_without_rounding_in_between_values_are_copied():
    """No rotation and no norm: bit for bit."""
    for one, other in zip(*both(5, 2, 64, 0, False, torch.bfloat16), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_an_8_bit_cache_is_scaled_and_stops_at_its_largest_number():
    """With numbers of the type times powers of two, since the interpreter rounds them wrongly."""
    heads, kv_heads, dim, tokens = 3, 2, 64, 5
    numbers = torch.randint(0, 127, (tokens, heads + 2 * kv_heads, dim), dtype=torch.uint8)
    numbers = numbers.view(torch.float8_e4m3fn).to(DEVICE).bfloat16()
    numbers[:, ::2] *= -1
    scales = torch.tensor([[0.25, 2.0], [1.0, 0.125]], device=DEVICE)
    qkv = numbers.clone()
    qkv[:, heads:] *= scales.flatten()[:, None]
    qkv[0, heads:, :2] = torch.tensor([1e4, -1e4])
    cells = torch.tensor([4, -1, 0, 7, 2], device=DEVICE)
    rope, rows = torch.empty(tokens, 2, 0, device=DEVICE), cells[cells >= 0]
    for function in (rotate_and_store, fused):
        caches = torch.full((2, 2, 4, kv_heads, dim), NAN, device=DEVICE).to(torch.float8_e4m3fn)
        pages = [Fp8Pages(cache, scale) for cache, scale in zip(caches, scales, strict=True)]
        q = function(qkv.flatten(1), None, rope, cells, *pages)
        assert torch.equal(q, numbers[:, :heads])
        stored = caches.flatten(1, 2).float()
        expected = numbers[cells >= 0][:, heads:].view(-1, 2, kv_heads, dim).transpose(0, 1).float()
        expected[:, 0, :, :2] = torch.tensor([448.0, -448.0])
        assert torch.equal(stored[:, rows], expected)
        assert stored[:, [1, 3, 5, 6]].isnan().all()


def test_no_tokens():
    qkv, cells = torch.empty(0, 4 * 64, device=DEVICE), torch.empty(0, device=DEVICE).long()
    cache = torch.zeros(2, 4, 1, 64, device=DEVICE)
    q = fused(qkv, None, torch.empty(0, 2, 32, device=DEVICE), cells, cache, cache.clone())
    assert q.shape == (0, 2, 64)


def test_rows_may_lie_apart():
    wide = torch.randn(5, 400, device=DEVICE)
    rope, cells = torch.empty(5, 2, 0, device=DEVICE), torch.arange(5, device=DEVICE)
    caches = torch.full((2, 2, 4, 1, 64), NAN, device=DEVICE)
    q = fused(wide[:, 16 : 16 + 256], None, rope, cells, caches[0], caches[1])
    assert torch.equal(q.flatten(1), wide[:, 16:144])
    assert torch.equal(caches[1].flatten(0, 1)[:5, 0], wide[:, 208:272])
