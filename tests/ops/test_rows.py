"""Linear, norm, activation and rotation: fast paths against their references."""

import cmath

import pytest
import torch

from stoker.ops.activation import (
    ACTIVATIONS,
    NativeActivate,
    NativeSigmoidGate,
    NativeSoftCap,
    NativeXielu,
    activate,
    sigmoid_gate,
    soft_cap,
    xielu,
)
from stoker.ops.linear import NativeLinear, OneDnnLinear, linear_reference, prepare_linear
from stoker.ops.native.build import load_kernels
from stoker.ops.norm import NativeLayerNorm, NativeRmsNorm, layer_norm, rms_norm
from stoker.ops.rope import (
    HeadNorms,
    NativeRotateAndStore,
    apply_rope,
    rope_table,
    rotate,
    rotate_and_store,
)

LIBRARY = load_kernels("elementwise")
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


@pytest.mark.parametrize("bias", [True, False])
def test_other_dtypes_add_the_residual(bias):
    torch.manual_seed(0)
    x, weight, add = (torch.randn(size).bfloat16() for size in [(3, 8), (5, 8), (3, 5)])
    b = torch.randn(5).bfloat16() if bias else None
    exact = linear_reference(*(None if t is None else t.double() for t in (x, weight, b, add)))
    found = prepare_linear(weight, b)(x, add)
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-6)


@native
@pytest.mark.parametrize("shape", [(1, 64), (7, 384), (300, 128), (3, 5, 33)])
def test_rms_norm(shape):
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1])
    torch.testing.assert_close(NativeRmsNorm(LIBRARY)(x, weight, 1e-6), rms_norm(x, weight, 1e-6))


@native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (7, 384), (300, 33), (9, 4, 24)])
def test_layer_norm(bias, shape):
    torch.manual_seed(0)
    x, weight = torch.randn(shape) * 3 + 5, torch.randn(shape[1:])
    b = torch.randn(shape[1:]) if bias else None
    expected = layer_norm(x, weight, b, 1e-5)
    out = NativeLayerNorm(LIBRARY)(x, weight, b, 1e-5)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    if len(shape) == 2:
        plain = torch.nn.functional.layer_norm(x, weight.shape, weight, b, 1e-5)
        torch.testing.assert_close(expected, plain, rtol=1e-5, atol=1e-5)
    assert torch.equal(NativeLayerNorm(LIBRARY)(x[:1], weight, b, 1e-5), out[:1])


@native
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("rows", [1, 5, 200])
def test_activate(rows, kind, gated):
    torch.manual_seed(0)
    x = torch.randn(rows, 133 * (2 if gated else 1)) * 10
    x[0, :4] = torch.tensor([200.0, -200.0, 0.0, 88.0])
    out = NativeActivate(LIBRARY)(x, kind, gated)
    expected = activate(x.double(), kind, gated).float()
    torch.testing.assert_close(out, expected, rtol=5e-6, atol=1e-6)
    torch.testing.assert_close(activate(x, kind, gated), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(NativeActivate(LIBRARY)(x[:1], kind, gated), out[:1])


@native
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_pass_nan_on(kind):
    x = torch.tensor([[float("nan")] * 9])
    assert NativeActivate(LIBRARY)(x, kind, False).isnan().all()


@native
@pytest.mark.parametrize("size", [1e-4, 0.5, 3.0, 1000.0])
def test_soft_cap(size):
    x = torch.randn(7, 301) * size
    expected = (30 * torch.tanh(x.double() / 30)).float()
    torch.testing.assert_close(NativeSoftCap(LIBRARY)(x, 30.0), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(soft_cap(x, 30.0), expected, rtol=1e-6, atol=0)
    assert NativeSoftCap(LIBRARY)(torch.full((1, 9), float("nan")), 30.0).isnan().all()


@native
@pytest.mark.parametrize("size", [1e-7, 0.3, 4.0, 200.0])
def test_xielu(size):
    x = torch.randn(5, 203) * size
    low = (torch.expm1(x.double().clamp(max=-1e-6)) - x) * 0.9
    expected = (torch.where(x > 0, 0.7 * x.double() ** 2, low) + x / 2).float()
    for function in (xielu, NativeXielu(LIBRARY)):
        torch.testing.assert_close(function(x, 0.7, 0.9), expected, rtol=2e-6, atol=1e-7)


@native
@pytest.mark.parametrize("norms", [True, "values", False])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 64), (4, 4, 20), (3, 1, 128)])
def test_rotate_and_store(norms, share, heads, kv_heads, dim):
    torch.manual_seed(0)
    tokens = 9
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim)
    q_norm, k_norm, v_norm = torch.randn(3, dim)
    weights = HeadNorms(q_norm, k_norm, 1e-5, v_norm if norms == "values" else None)
    weights = weights if norms else None
    rope = rope_table(torch.rand(int(share * dim / 2)), 40, 1.2)[torch.randperm(40)[:tokens]]
    cells = torch.randperm(32)[:tokens]
    cells[4] = -1
    results = []
    for function in (rotate_and_store, NativeRotateAndStore(LIBRARY)):
        caches = torch.zeros(2, 8, 4, kv_heads, dim)
        q = function(qkv, weights, rope, cells, caches[0], caches[1])
        results.append((q, caches))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-5)
    untouched = [cell for cell in range(32) if cell not in cells.tolist()]
    assert not results[1][1].flatten(1, 2)[:, untouched].any()
    q = qkv.view(tokens, -1, dim)[:, :heads].contiguous()  # by themselves the same bits
    alone = NativeRotateAndStore(LIBRARY).rotate(q, q_norm if norms else None, 1e-5, rope)
    assert torch.equal(alone, results[1][0])
    alone = rotate(q, q_norm if norms else None, 1e-5, rope)
    torch.testing.assert_close(alone, results[0][0], rtol=1e-6, atol=1e-6)


def test_what_is_past_the_rotated_part_stays():
    x, table = torch.randn(3, 2, 12), rope_table(torch.rand(2), 9)[3:6]
    out = apply_rope(x, table)
    assert torch.equal(out[..., 4:], x[..., 4:])
    assert torch.equal(out[..., :4], apply_rope(x[..., :4], table))


def test_rotation_is_a_complex_product():
    inv_freq = torch.tensor([1.0, 0.25])
    table = rope_table(inv_freq, 10)
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    out = apply_rope(x, table[7:8])[0, 0]
    for at, frequency in enumerate(inv_freq.tolist()):
        turned = complex(x[0, 0, at], x[0, 0, at + 2]) * cmath.exp(7j * frequency)
        assert out[at].item() == pytest.approx(turned.real, abs=1e-5)
        assert out[at + 2].item() == pytest.approx(turned.imag, abs=1e-5)


@native
@pytest.mark.parametrize("size", [1, 7, 16, 60])
@pytest.mark.parametrize("heads", [1, 3, 20])
@pytest.mark.parametrize("each", [True, False])
def test_sigmoid_gate(heads, size, each):
    torch.manual_seed(0)
    x = torch.randn(50, heads * size) * 3
    gates = (torch.randn(50, 5 + (heads * size if each else heads)) * 20)[:, 5:]
    found = NativeSigmoidGate(LIBRARY)(x, gates)
    torch.testing.assert_close(found, sigmoid_gate(x, gates), rtol=1e-6, atol=1e-6)
    for row in range(3):
        one = NativeSigmoidGate(LIBRARY)(x[row : row + 1].contiguous(), gates[row : row + 1])
        assert torch.equal(one, found[row : row + 1])
