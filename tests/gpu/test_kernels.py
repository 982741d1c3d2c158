"""The kernels beside attention, compiled, at the sizes of real models, against the definitions."""

import pytest
import torch

from stoker.ops import activation, norm
from stoker.ops.draw import DrawParams, keep_top, uniforms
from stoker.ops.fp8 import Fp8Linear, Fp8Reference, prepare_fp8, quantize_rows
from stoker.ops.int8 import Int8Matmul
from stoker.ops.int8 import quantize_rows as quantize_int8
from stoker.ops.kv_pages import FP8, Fp8Pages
from stoker.ops.linear import linear_reference, prepare_linear
from stoker.ops.rope import HeadNorms, rope_table, rotate_and_store
from stoker.ops.step_tensors import FlatStep, PageTables, make_inputs
from stoker.ops.triton.select import fused_operations
from stoker.quant.floats import FloatFormat
from stoker.quant.llm_int8 import LlmInt8

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
STEP = 2.0**-7  # of bfloat16, from 1 to the next number


@pytest.fixture(autouse=True)
def _on_the_gpu():
    torch.manual_seed(0)
    with torch.device("cuda"):
        yield


@pytest.fixture(scope="module")
def fused():
    operations = fused_operations("cuda")
    assert operations, "Triton is not installed"
    return operations


def spread(shape, scale=1.0):
    return (torch.randn(shape) * scale).bfloat16()


def assert_steps(found, exact, steps, floor=1e-2):
    """Within some steps of bfloat16 of the exact result."""
    torch.testing.assert_close(found.double(), exact.double(), rtol=steps * STEP, atol=floor)


@pytest.mark.parametrize("size", [1024, 4096, 5120])
def test_norms(fused, size):
    x, weight, bias = spread((777, size), 3), spread(size), spread(size)
    exact = norm.rms_norm(x.double(), weight.double(), 1e-6)
    assert_steps(fused["rms_norm"](x, weight, 1e-6), exact, 2)
    exact = norm.layer_norm(x, weight, bias, 1e-5)
    assert_steps(fused["layer_norm"](x, weight, bias, 1e-5), exact, 2)


@pytest.mark.parametrize("last", [True, False])
def test_inputs(fused, last):
    counts = torch.tensor([1] * 1000 + [700, 1, 300])
    owners = torch.arange(len(counts)).repeat_interleave(counts)
    owners = torch.cat((owners, torch.full((24,), -1)))
    shifts = torch.randint(500, (len(counts),)) - (counts.cumsum(0) - counts)
    tables = torch.randint(10**6, (len(counts), 128))[:, :100]
    tokens, slots = torch.randint(10**5, owners.shape), torch.randperm(2000)[: len(counts)]
    last_tokens = torch.randint(10**5, (2000,)) if last else None
    if last:
        tokens[:1000] = -1
    given = FlatStep(tokens, owners, shifts, slots), PageTables(tables, 16, 10**6), last_tokens
    for found, exact in zip(fused["make_inputs"](*given), make_inputs(*given), strict=True):
        assert torch.equal(found, exact)


@pytest.mark.parametrize("kind", activation.ACTIVATIONS)
def test_activations(fused, kind):
    x = spread((300, 2 * 12288), 4)
    exact = activation.activate(x.double(), kind, True)
    assert_steps(fused["activate"](x, kind, True), exact, 1, 1e-4)
    exact = activation.soft_cap(x.double(), 30.0)
    assert_steps(fused["soft_cap"](x, 30.0), exact, 1, 1e-6)


@pytest.mark.parametrize("cache", [torch.bfloat16, FP8], ids=str)
@pytest.mark.parametrize(("dim", "rotary"), [(128, 128), (80, 20), (256, 64), (64, 64)])
def test_rotate_and_store(fused, dim, rotary, cache):
    tokens, heads, kv_heads = 300, 16, 8
    qkv = spread((tokens, (heads + 2 * kv_heads) * dim), 2)
    norms = HeadNorms(spread(dim), spread(dim), 1e-6)
    with torch.device("cpu"):
        table = rope_table(torch.rand(rotary // 2), 2000)
    rope, cells = table.cuda()[torch.arange(tokens)], torch.randperm(40 * 16)[:tokens]
    cells[::7] = -1
    scales, found = torch.rand(2, kv_heads) + 0.05, []
    for function in (rotate_and_store, fused["rotate_and_store"]):
        data = torch.zeros(2, 40, 16, kv_heads, dim).to(cache)
        pages = list(data)
        if cache == FP8:
            pages = [Fp8Pages(one, scale) for one, scale in zip(data, scales, strict=True)]
        found.append((function(qkv, norms, rope, cells, *pages), data.float()))
    assert_steps(found[1][0], found[0][0], 2, 2**-5)
    if cache == FP8:  # up to a step where the rounding before differs
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1 / 7, atol=2**-8)
        assert (found[1][1] != found[0][1]).float().mean() < 0.02
    else:
        assert_steps(found[1][1], found[0][1], 2, 2**-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (20, 0.95), (0, 0.9), (50, 1.0)])
@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_draws(fused, scale, top_k, top_p, dtype):
    rows, vocab = 300, 151936
    logits = (torch.randn(rows, vocab) * scale).to(dtype)
    temperature = torch.full((rows,), 0.8)
    temperature[::5] = 0
    params = DrawParams(
        temperature,
        torch.randint(-(2**62), 2**62, (rows,)),
        torch.arange(rows),
        torch.full((rows,), top_k),
        torch.full((rows,), top_p, dtype=torch.float64),
    )
    torch.cuda.set_sync_debug_mode("error")
    try:
        found, tops = fused["draw"](logits, params)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found[::5], logits[::5].argmax(-1))
    assert torch.equal(tops, logits.float().amax(-1))
    # the running sums on both sides of the token enclose the number, but for 2e-6
    scaled = (logits.float() - logits.float().amax(-1, keepdim=True)) / 0.8
    weights = scaled.double().exp() * keep_top(scaled, params.top_k, params.top_p)
    after = (weights.cumsum(-1) / weights.sum(-1, keepdim=True)).gather(-1, found[:, None])
    before = after - (weights / weights.sum(-1, keepdim=True)).gather(-1, found[:, None])
    number = uniforms(params.seeds, params.positions)[:, None]
    drawn = temperature[:, None] > 0
    assert ((before - 2e-6 <= number) & (number <= after + 2e-6) | ~drawn).all()


@pytest.mark.parametrize("size", [4096, 12288])
def test_rows_are_quantised_as_defined(size):
    from stoker.ops.triton.quantize import quantize_rows as kernel

    x = spread((300, size)) * torch.logspace(-3, 3, 300)[:, None].bfloat16()
    (numbers, scales), (expected, expected_scales) = kernel(x), quantize_rows(x)
    torch.testing.assert_close(scales, expected_scales, rtol=1e-6, atol=0)
    assert (numbers.float() != expected.float()).float().mean() < 1e-3


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9),
    reason="fp8 needs compute capability 8.9",
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 16, 300])
@pytest.mark.parametrize(("outputs", "inputs"), [(6144, 4096), (4096, 12288)])
def test_fp8_product(outputs, inputs, rows, bias):
    x, weight = spread((rows, inputs)), spread((outputs, inputs), inputs**-0.5)
    add, b = spread((rows, outputs)), spread(outputs) if bias else None
    parts = quantize_rows(weight)
    linear, defined = prepare_fp8(*parts, b), Fp8Reference(*parts, b)
    assert isinstance(linear, Fp8Linear)
    found, plain = linear(x, add.clone()).double(), prepare_linear(weight, b)(x, add.clone())
    # the fast sums of the matrix units keep fewer digits than float32
    error = (found - defined(x, add.clone()).double()).norm() / found.norm()
    assert error < 1e-2
    assert (found - plain.double()).norm() / found.norm() < 0.05


@pytest.mark.parametrize("rows", [1, 16, 17, 300])
def test_int8_product_with_outliers(rows):
    """As on a CPU, but for the rounding of bfloat16; plain 8-bit rows are far off."""
    x, weight = spread((rows, 512)), spread((96, 512), 512**-0.5)
    x[:, [5, 100]] *= 60
    plain = (FloatFormat(torch.bfloat16),)
    kind = LlmInt8((5, 100), torch.bfloat16, torch.bfloat16, plain)
    parts, b = kind.from_dense(weight), spread(96)
    product, add = kind.prepare(parts, b), spread((rows, 96))
    exact = linear_reference(*(t.double() for t in (x, weight, b, add)))
    found = product(x, add.clone()).double()
    assert (found - exact).norm() < 0.01 * exact.norm()
    naive = Int8Matmul(*quantize_int8(weight.float()), b)(x, add.clone()).double()
    assert (naive - exact).norm() > 3 * (found - exact).norm()
    alone = product(x[:1], add[:1].clone()).double()
    torch.testing.assert_close(alone, found[:1], rtol=0.01, atol=0.02)
