"""Linear, norm, activation and rotation: fast paths against their references."""

import cmath

import pytest
import torch

from stoker.ops.activation import NativeSiluMul, silu_mul
from stoker.ops.linear import NativeLinear, OneDnnLinear, linear_reference, prepare_linear
from stoker.ops.native.build import load
from stoker.ops.norm import NativeRmsNorm, rms_norm
from stoker.ops.rope import (
    HeadNorms,
    NativeRotateAndStore,
    apply_rope,
    rope_table,
    rotate_and_store,
)

LIBRARY = load("elementwise")
native = pytest.mark.skipif(LIBRARY is None, reason="no C compiler")
PACKED = [OneDnnLinear, *([NativeLinear] if LIBRARY else [])]


@pytest.mark.parametrize("make", PACKED)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("k", "n"), [(384, 640), (1152, 384), (33, 7), (1, 65), (70, 100)])
def test_packed_linear(make, k, n, bias):
    torch.manual_seed(0)
    x, weight, add = torch.randn(900, k), torch.randn(n, k) / k**0.5, torch.randn(900, n)
    b = torch.randn(n) if bias else None
    linear = make(weight, b)
    whole, added = linear(x), linear(x, add)
    torch.testing.assert_close(whole, linear_reference(x, weight, b), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(added, linear_reference(x, weight, b, add), rtol=1e-5, atol=1e-5)
    for rows in (1, 2, 3, 16, 17, 64, 350):
        assert torch.equal(linear(x[:rows]), whole[:rows]), "a row depends on the batch"
        assert torch.equal(linear(x[5 : 5 + rows], add[5 : 5 + rows]), added[5 : 5 + rows])
    assert linear(x[:0]).shape == (0, n)


def test_other_dtypes_take_the_reference():
    x, weight = torch.randn(3, 8).bfloat16(), torch.randn(5, 8).bfloat16()
    assert torch.equal(prepare_linear(weight)(x), linear_reference(x, weight))


@native
@pytest.mark.parametrize("shape", [(1, 64), (7, 384), (300, 128), (3, 5, 33)])
def test_rms_norm(shape):
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1])
    torch.testing.assert_close(NativeRmsNorm(LIBRARY)(x, weight, 1e-6), rms_norm(x, weight, 1e-6))


@native
@pytest.mark.parametrize("rows", [1, 5, 200])
def test_silu_mul(rows):
    x = torch.randn(rows, 2 * 133) * 10
    x[0, :4] = torch.tensor([200.0, -200.0, 0.0, 88.0])
    torch.testing.assert_close(NativeSiluMul(LIBRARY)(x), silu_mul(x), rtol=2e-6, atol=1e-6)


@native
@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 64), (4, 4, 16), (3, 1, 128)])
def test_rotate_and_store(norms, heads, kv_heads, dim):
    torch.manual_seed(0)
    tokens = 9
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim)
    weights = HeadNorms(torch.randn(dim), torch.randn(dim), 1e-5) if norms else None
    rope = rope_table(torch.rand(dim // 2), 40)[torch.randperm(40)[:tokens]]
    slots = torch.randperm(32)[:tokens]
    results = []
    for function in (rotate_and_store, NativeRotateAndStore(LIBRARY)):
        caches = torch.zeros(2, 8, 4, kv_heads, dim)
        q = function(qkv, weights, rope, slots, caches[0], caches[1])
        results.append((q, caches))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-5)
    untouched = [slot for slot in range(32) if slot not in slots.tolist()]
    assert not results[1][1].flatten(1, 2)[:, untouched].any()


def test_rotation_is_a_complex_product():
    inv_freq = torch.tensor([1.0, 0.25])
    table = rope_table(inv_freq, 10)
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    out = apply_rope(x, table[7:8])[0, 0]
    for at, frequency in enumerate(inv_freq.tolist()):
        turned = complex(x[0, 0, at], x[0, 0, at + 2]) * cmath.exp(7j * frequency)
        assert out[at].item() == pytest.approx(turned.real, abs=1e-5)
        assert out[at + 2].item() == pytest.approx(turned.imag, abs=1e-5)
