"""The Triton kernels of norms, activations and the soft cap against their references."""

import pytest
import torch

from stoker.ops import activation, norm
from stoker.ops.triton.available import interpreted

pytest.importorskip("triton", reason="Triton is not installed")
fused = pytest.importorskip("stoker.ops.triton.activation")
fused_norm = pytest.importorskip("stoker.ops.triton.norm")

DEVICE = "cpu" if interpreted() else "cuda"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """What is allocated holds NaN, so that an output that nobody wrote is seen."""

    def poisoned(make):
        return lambda *args, **options: make(*args, **options).fill_(float("nan"))

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))


def assert_rounded(found, exact, dtype, steps=1):
    """Equal to the exact result, float64, but for `steps` roundings of the type."""
    assert found.dtype == dtype
    step = torch.finfo(dtype).eps * steps
    floor = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).tiny
    torch.testing.assert_close(found.double(), exact, rtol=step, atol=floor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 64), (7, 384), (70, 33), (3, 5, 33), (2, 4100)])
def test_rms_norm(shape, dtype):
    torch.manual_seed(0)
    x, weight = (torch.randn(shape).to(dtype).to(DEVICE) * 3, torch.randn(shape[-1]).to(dtype))
    weight = weight.to(DEVICE)
    exact = norm.rms_norm(x.double(), weight.double(), 1e-6)
    assert_rounded(fused_norm.rms_norm(x, weight, 1e-6), exact, dtype, 8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (7, 384), (70, 33), (9, 4, 24), (2, 4100)])
def test_layer_norm(shape, bias, dtype):
    torch.manual_seed(0)
    x = (torch.randn(shape) * 3 + 5).to(dtype).to(DEVICE)
    weight = torch.randn(shape[1:]).to(dtype).to(DEVICE)
    b = torch.randn(shape[1:]).to(dtype).to(DEVICE) if bias else None
    found = fused_norm.layer_norm(x, weight, b, 1e-5)
    mean = x.double().mean(-1, keepdim=True)
    exact = (x.double() - mean) / (x.double().var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    exact = exact * weight.double() + (0 if b is None else b.double())
    tolerance = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}[dtype]
    torch.testing.assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)
    assert found.dtype == dtype
    assert torch.equal(fused_norm.layer_norm(x[:1], weight, b, 1e-5), found[:1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("kind", activation.ACTIVATIONS)
def test_activate(kind, gated, dtype):
    torch.manual_seed(0)
    x = torch.randn(5, 1033 * (2 if gated else 1)) * 10
    large = 40.0 if kind == "relu2" else 200.0  # so that products stay within float16
    x[0, :4] = torch.tensor([large, -200.0, 0.0, large / 2])
    x = x.to(dtype).to(DEVICE)
    exact = activation.activate(x.double(), kind, gated)
    found = fused.activate(x, kind, gated)
    # the erf of a float32 below -3 has few digits left
    torch.testing.assert_close(
        found.double(), exact, rtol=max(5e-6, torch.finfo(dtype).eps), atol=2e-5
    )
    assert found.dtype == dtype
    assert torch.equal(fused.activate(x[:1], kind, gated), found[:1])
    assert fused.activate(torch.full_like(x, float("nan")), kind, gated).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1e-4, 0.5, 3.0, 1000.0])
def test_soft_cap(size, dtype):
    x = (torch.randn(7, 301) * size).to(dtype).to(DEVICE)
    exact = 30 * torch.tanh(x.double() / 30)
    step = max(1e-6, torch.finfo(dtype).eps)
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    torch.testing.assert_close(fused.soft_cap(x, 30.0).double(), exact, rtol=step, atol=tiny)
    assert fused.soft_cap(torch.full_like(x, float("nan")), 30.0).isnan().all()


def test_nothing_in_nothing_out():
    none = torch.empty(0, 64, device=DEVICE)
    assert fused.activate(none, "silu", True).shape == (0, 32)
    assert fused.soft_cap(none, 3.0).shape == (0, 64)
    assert fused_norm.rms_norm(none, torch.ones(64, device=DEVICE), 1e-5).shape == (0, 64)
