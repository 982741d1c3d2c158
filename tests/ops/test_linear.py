"""Packed linear maps: weights in bfloat16, and fused gates, change no bit."""

import copy

import pytest
import torch

from stoker import LLM, SamplingParams
from stoker.model.loader import weights
from stoker.ops.activation import ACTIVATIONS, NativeActivate
from stoker.ops.linear import NativeLinear, linear_reference, prepare_gated, prepare_linear
from stoker.ops.native.build import load_kernels
from stoker.quant.floats import Bf16Format, FloatFormat

native = pytest.mark.skipif(load_kernels("linear") is None, reason="no C compiler")
SHAPES = [(384, 640), (1024, 96), (33, 7), (1, 65), (70, 100)]


def bf16_valued(*shape):
    return torch.randn(shape).bfloat16().float()


def wide(make):
    """What `make` gives where no weight is kept in 2 bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bf16Format, "from_dense", lambda self, weight: None)
        return make()


@native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_narrow_panels_give_the_bits_of_wide_ones(k, n, bias):
    torch.manual_seed(0)
    weight, b = bf16_valued(n, k), torch.randn(n) if bias else None
    narrow, full = NativeLinear(weight.bfloat16(), b), prepare_linear(weight, b)
    assert narrow.weight.element_size() == 2
    assert full.weight.element_size() == 4
    assert narrow.weight.shape == full.weight.shape
    for rows in range(1, 41):
        x, add = torch.randn(rows, k), torch.randn(rows, n)
        assert torch.equal(narrow(x), full(x))
        assert torch.equal(narrow(x, add), full(x, add))
    torch.testing.assert_close(narrow(x), linear_reference(x, weight, b), rtol=1e-4, atol=1e-4)


@native
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_survive(value):
    weight = bf16_valued(50, 40)
    weight[49, 39] = value
    linear = NativeLinear(weight.bfloat16(), None)
    assert linear.weight.dtype == torch.bfloat16
    y = linear(torch.ones(3, 40))
    assert torch.equal(y[:, 49], torch.full((3,), value)) or y[:, 49].isnan().all()
    assert y[:, :49].isfinite().all()


@native
@pytest.mark.parametrize("name", ["llama_bias", "qwen3"])
def test_a_model_saved_in_bf16_gives_the_same_logits(name, checkpoint, prompts, tmp_path):
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    copy.deepcopy(checkpoint(name).model).bfloat16().save_pretrained(tmp_path)

    def run():
        rows = []
        with LLM(str(tmp_path), device="cpu") as llm:
            runner = llm.engine.runner
            forward = runner.forward
            runner.forward = lambda *asked, **how: rows.append(forward(*asked, **how)) or rows[-1]
            outputs = llm.generate(prompts[:8], params)
            found = weights(runner.model)
        kept = {tensor.element_size() for key, tensor in found if "mixer.qkv.weight" in key}
        return kept, torch.cat(rows), [output.outputs[0].token_ids for output in outputs]

    narrow, full = run(), wide(run)
    assert narrow[0] == {2}
    assert full[0] == {4}
    assert torch.equal(narrow[1], full[1])
    assert narrow[2] == full[2]


@native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize(("k", "n"), SHAPES)
def test_a_fused_gate_gives_the_bits_of_two_passes(k, n, kind, bias):
    torch.manual_seed(0)
    b = torch.randn(2 * n) * 3 if bias else None
    activate = NativeActivate(load_kernels("elementwise"))
    for weight in (torch.randn(2 * n, k), torch.randn(2 * n, k).bfloat16()):
        linear, gated = NativeLinear(weight, b), NativeLinear(weight, b, kind)
        assert gated.weight.dtype == linear.weight.dtype == weight.dtype
        for rows in (*range(1, 16), 29, 64):
            x = torch.randn(rows, k)
            assert torch.equal(gated(x), activate(linear(x), kind, True))
    assert gated(x[:0]).shape == (0, n)


def test_what_has_no_kernel_is_not_fused():
    assert prepare_gated(torch.randn(8, 4).bfloat16(), None, "silu") is None


@native
def test_a_model_gives_the_same_logits_with_and_without_fusing(checkpoint, prompts, monkeypatch):
    def run():
        rows = []
        with LLM(checkpoint("llama_bias").folder, device="cpu") as llm:
            runner = llm.engine.runner
            forward = runner.forward
            runner.forward = lambda *asked, **how: rows.append(forward(*asked, **how)) or rows[-1]
            llm.generate(prompts[:8], SamplingParams(temperature=0, max_tokens=4))
        return runner.model.layers[0].ffn.fused, torch.cat(rows)

    fused = run()
    for kind in (FloatFormat, Bf16Format):
        monkeypatch.setattr(kind, "prepare_gated", lambda *args: None)
    apart = run()
    assert (fused[0], apart[0]) == (True, False)
    assert torch.equal(fused[1], apart[1])
