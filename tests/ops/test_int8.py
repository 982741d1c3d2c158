"""8-bit linear maps: the kernel against the definition, and whole runs with them."""

import pytest
import torch

from stoker import LLM, SamplingParams
from stoker.errors import ConfigError
from stoker.ops.int8 import Int8Linear, Int8Reference, quantize_rows
from stoker.ops.linear import linear_reference
from stoker.ops.native.build import load_kernels

native = pytest.mark.skipif(load_kernels("linear_int8") is None, reason="no C compiler")


def test_integers_times_scales_give_the_rows_back():
    torch.manual_seed(0)
    x = torch.randn(50, 300) * torch.logspace(-6, 6, 50)[:, None]
    x[7] = 0
    integers, scales = quantize_rows(x)
    assert integers.abs().amax(dim=1).tolist() == [127] * 7 + [0] + [127] * 42
    error = (integers * scales[:, None] - x).abs()
    assert (error <= scales[:, None] * 0.5001).all()


@native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("k", "n"), [(384, 640), (1024, 96), (33, 7), (1, 65), (70, 100)])
def test_kernel_equals_the_definition(k, n, bias):
    torch.manual_seed(0)
    x, weight, add = torch.randn(300, k), torch.randn(n, k) / k**0.5, torch.randn(300, n)
    x[3] = 0
    b = torch.randn(n) if bias else None
    parts = quantize_rows(weight)
    linear, reference = Int8Linear(*parts, b), Int8Reference(*parts, b)
    whole, added = linear(x), linear(x, add)
    torch.testing.assert_close(whole, reference(x), rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(added, reference(x, add), rtol=1e-6, atol=2e-6)
    for rows in (1, 2, 15, 64):
        assert torch.equal(linear(x[5 : 5 + rows], add[5 : 5 + rows]), added[5 : 5 + rows])
    assert linear(x[:0]).shape == (0, n)


def test_close_to_the_float_product():
    torch.manual_seed(0)
    x, weight = torch.randn(64, 512), torch.randn(256, 512)
    exact = linear_reference(x, weight)
    error = (Int8Reference(*quantize_rows(weight), None)(x) - exact).norm() / exact.norm()
    assert error < 0.015


@native
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_stay_so_and_alone(value):
    linear, x = Int8Linear(*quantize_rows(torch.randn(40, 64)), None), torch.randn(20, 64)
    clean = linear(x)
    x[4, 63] = value
    y = linear(x)
    assert y[4].isnan().all()
    keep = [row for row in range(20) if row != 4]
    assert torch.equal(y[keep], clean[keep])


def test_a_result_does_not_depend_on_its_neighbours(checkpoint, prompts):
    params = SamplingParams(temperature=1, seed=1, max_tokens=12, ignore_eos=True)
    runs = []
    for options in ({}, {"max_batch_tokens": 7}, {"max_running": 1}):
        with LLM(checkpoint("qwen3").folder, dtype="int8", **options) as llm:
            assert (llm.plan.dtype, llm.plan.quantization) == ("float32", "int8")
            outputs = llm.generate(prompts[:10], params)
            runs.append([output.outputs[0].token_ids for output in outputs])
    assert runs[0] == runs[1] == runs[2]


def test_logits_are_near_those_of_float32(checkpoint, prompts):
    def first_logits(dtype):
        rows = []
        with LLM(checkpoint("llama").folder, dtype=dtype) as llm:
            forward = llm.engine.runner.forward
            llm.engine.runner.forward = lambda *asked, **how: (
                rows.append(forward(*asked, **how)) or rows[-1]
            )
            llm.generate(prompts[:8], SamplingParams(temperature=0, max_tokens=1))
        return torch.cat(rows)

    exact, rough = first_logits("float32"), first_logits("int8")
    assert 0 < (exact - rough).norm() / exact.norm() < 0.1


def test_int8_is_for_a_cpu(checkpoint):
    if torch.cuda.is_available():
        with pytest.raises(ConfigError, match="int8 serves a CPU"):
            LLM(checkpoint("llama").folder, dtype="int8", device="cuda")
    with pytest.raises(ConfigError, match=r"dtype=.int4. is not known.*int8"):
        LLM(checkpoint("llama").folder, dtype="int4")
