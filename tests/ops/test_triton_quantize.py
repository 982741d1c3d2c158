"""The Triton kernel that quantises rows against the definition."""

import pytest
import torch

from stoker.ops.fp8 import quantize_rows
from stoker.ops.kv_pages import FP8
from stoker.ops.triton.available import interpreted

pytest.importorskip("triton", reason="Triton is not installed")
fused = pytest.importorskip("stoker.ops.triton.quantize").quantize_rows

DEVICE = "cpu" if interpreted() else "cuda"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 33, 4100])
def test_as_the_definition(size, dtype):
    """Of numbers that the type holds, since the interpreter rounds others wrongly."""
    torch.manual_seed(0)
    x = torch.randint(0, 127, (9, size), dtype=torch.uint8).view(FP8).to(dtype)
    x[:, ::2] *= -1
    x[:, 0] = 448
    x *= 2.0 ** torch.arange(-4, 5)[:, None].to(dtype)
    x[3] = 0
    wide = torch.zeros(9, size + 5, dtype=dtype, device=DEVICE)
    wide[:, :size] = x.to(DEVICE)
    numbers, scales = fused(wide[:, :size])
    expected, expected_scales = quantize_rows(x)
    assert torch.equal(scales.cpu(), expected_scales)
    assert torch.equal(numbers.cpu().float(), expected.float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_show_in_their_scale(value):
    x = torch.randn(4, 64, device=DEVICE)
    x[2, 63] = value
    scales = fused(x)[1]
    assert scales.isfinite()[:, 0].tolist() == [True, True, False, True]


def test_no_rows():
    numbers, scales = fused(torch.empty(0, 64, device=DEVICE))
    assert (numbers.shape, scales.shape) == ((0, 64), (0, 1))
