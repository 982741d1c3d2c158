"""Formats of weights: parts, fused parts, dense matrices, and products against these."""

import pytest
import torch
from torch_release import fp8_on_cpu

from stoker.ops.linear import linear_reference
from stoker.ops.native.build import load_kernels
from stoker.quant.choose import choose_formats
from stoker.quant.floats import Bf16Format, FloatFormat
from stoker.quant.format import convert, make_product, nbytes
from stoker.quant.rows8 import Fp8Rows, Int8Rows

native = pytest.mark.skipif(load_kernels("linear") is None, reason="no C compiler")
CPU = torch.device("cpu")
# format, dtype of the arithmetic, error of a weight relative to the largest of its row, error of a
# product (activations in 8 bits err as much as weights do)
FORMATS = [
    pytest.param(FloatFormat(torch.float32), torch.float32, 0.0, 1e-6, id="float32"),
    pytest.param(FloatFormat(torch.bfloat16), torch.bfloat16, 0.0, 2**-8, id="bfloat16"),
    pytest.param(Bf16Format(), torch.float32, 0.0, 1e-6, id="bf16 in float32", marks=native),
    pytest.param(Int8Rows(), torch.float32, 0.5001 / 127, 0.01, id="int8"),
    pytest.param(Fp8Rows(), torch.bfloat16, 1 / 15, 0.05, id="fp8", marks=fp8_on_cpu),
]
each_format = pytest.mark.parametrize(("kind", "dtype", "rounding", "error"), FORMATS)


def weight_of(dtype, outputs=32, inputs=48):
    """bf16 numbers, which every format of floats holds exactly."""
    torch.manual_seed(0)
    return torch.randn(outputs, inputs).bfloat16().to(dtype)


@each_format
def test_parts_are_as_announced_and_stand_for_the_matrix(kind, dtype, rounding, error):
    weight = weight_of(dtype)
    parts, specs = kind.from_dense(weight), kind.parts(32, 48)
    assert {name: (tuple(part.shape), part.dtype) for name, part in parts.items()} == {
        name: (spec.shape, spec.dtype) for name, spec in specs.items()
    }
    assert nbytes(kind, 32, 48) == sum(part.numel() * part.itemsize for part in parts.values())
    dense = kind.to_dense(parts)
    assert (dense.shape, dense.dtype) == (weight.shape, dtype)
    assert ((dense - weight).abs() <= rounding * weight.abs().amax(1, keepdim=True)).all()


@each_format
def test_a_fused_matrix_is_filled_slice_by_slice(kind, dtype, rounding, error):
    weight = weight_of(dtype)
    whole = kind.from_dense(weight)
    filled = {name: torch.zeros_like(part) for name, part in whole.items()}
    for start, stop in ((0, 16), (16, 24), (24, 32)):
        view = kind.slice_outputs(filled, start, stop)
        for name, part in kind.from_dense(weight[start:stop].contiguous()).items():
            view[name].copy_(part)
    for name, part in whole.items():
        assert torch.equal(filled[name], part)


@pytest.mark.parametrize("bias", [True, False])
@each_format
def test_a_product_is_that_of_the_dense_matrix(kind, dtype, rounding, error, bias, monkeypatch):
    # Triton's interpreter rounds to 8 bits wrongly
    monkeypatch.setattr("stoker.ops.fp8.triton_serves", lambda device_type: False)
    weight, b = weight_of(dtype), torch.randn(32).to(dtype) if bias else None
    x, add = torch.randn(5, 48).to(dtype), torch.randn(5, 32).to(dtype)
    parts = kind.from_dense(weight)
    product, dense = kind.prepare(parts, b), kind.to_dense(parts)
    for found, expected in (
        (product(x), linear_reference(x, dense, b)),
        (product(x, add.clone()), linear_reference(x, dense, b, add.clone())),
    ):
        assert found.dtype == dtype
        assert (found - expected).norm() <= error * expected.norm()
    assert sum(one.nbytes for one in product.tensors) >= nbytes(kind, 32, 48)


@native
def test_bf16_numbers_take_two_bytes_and_others_four():
    formats = choose_formats("auto", torch.float32, CPU).projections
    weight = weight_of(torch.float32)
    narrow = make_product(weight, formats)
    assert [one.dtype for one in narrow.tensors] == [torch.bfloat16]
    weight[31, 47] = 1 + 2**-20
    wide = make_product(weight, formats)
    assert [one.dtype for one in wide.tensors] == [torch.float32]
    assert wide(torch.eye(48))[47, 31] == 1 + 2**-20


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_bf16_holds_what_is_not_finite(value):
    weight = weight_of(torch.float32)
    weight[3, 4] = value
    dense = Bf16Format().to_dense(Bf16Format().from_dense(weight))
    assert torch.equal(dense.view(torch.int32), weight.view(torch.int32))


def test_which_formats_are_chosen(monkeypatch):
    monkeypatch.setattr("stoker.quant.choose.why_not_fp8", lambda device: None)
    gpu, bf16, fp32 = torch.device("cuda"), torch.bfloat16, torch.float32
    assert choose_formats("auto", bf16, gpu).projections == (FloatFormat(bf16),)
    assert choose_formats("auto", bf16, CPU).projections == (FloatFormat(bf16),)
    plain = choose_formats("auto", fp32, CPU)
    assert plain.projections == plain.head == (Bf16Format(), FloatFormat(fp32))
    assert choose_formats("int8", fp32, CPU).head == (Int8Rows(),)
    fp8 = choose_formats("fp8", bf16, gpu)
    assert fp8.head == (FloatFormat(bf16),)
    small, large = (torch.empty(size, size, dtype=bf16, device="meta") for size in (64, 4096))
    assert convert(small, fp8.projections)[0] == FloatFormat(bf16)
    assert fp8.quantize_any([(64, 64), (4096, 4096)])
    assert not fp8.quantize_any([(64, 64)])
    assert fp8.nbytes(64, 64) == 64 * 64 * 2
    assert fp8.nbytes(4096, 4096) == 4096 * (4096 + 4)
    assert convert(large, fp8.projections)[0] == Fp8Rows()
