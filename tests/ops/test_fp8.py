"""8-bit floating-point linear maps: torch's product and the definition, the rule, the errors."""

import pytest
import torch
from torch_release import fp8_on_cpu

from stoker import LLM, SamplingParams
from stoker.engine.setup import build
from stoker.errors import ConfigError
from stoker.ops.fp8 import Fp8Linear, Fp8Reference, fp8_gains, quantize_rows
from stoker.ops.kv_pages import FP8
from stoker.ops.linear import linear_reference


@pytest.mark.parametrize(
    ("outputs", "inputs", "gains"),
    [
        (6144, 4096, True),
        (4096, 12288, True),
        (4096, 4096, True),
        (3072, 1024, False),
        (1024, 3072, False),
        (151936, 2048, False),
        (4096, 4088 + 16, False),
        (4095, 8192, False),
    ],
)
def test_only_large_even_shapes_gain(outputs, inputs, gains):
    assert fp8_gains(outputs, inputs) is gains


def test_numbers_times_scales_give_the_rows_back():
    torch.manual_seed(0)
    x = torch.randn(50, 300) * torch.logspace(-6, 6, 50)[:, None]
    x[7] = 0
    numbers, scales = quantize_rows(x)
    assert (numbers.dtype, scales.shape) == (FP8, (50, 1))
    assert numbers.float().abs().amax(dim=1).tolist() == [448] * 7 + [0] + [448] * 42
    error = (numbers.float() * scales - x).abs()
    assert (error <= x.abs() / 16 * 1.001 + scales * 2**-10).all()


@fp8_on_cpu
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("k", "n"), [(64, 32), (256, 48)])
def test_product_equals_the_definition(k, n, bias):
    torch.manual_seed(0)
    x, weight = torch.randn(20, k).bfloat16(), (torch.randn(n, k) / k**0.5).bfloat16()
    add, b = torch.randn(20, n).bfloat16(), torch.randn(n).bfloat16() if bias else None
    parts = quantize_rows(weight)
    linear, reference = Fp8Linear(*parts, b, quantize_rows), Fp8Reference(*parts, b)
    assert linear.weight.dtype == FP8
    torch.testing.assert_close(linear(x), reference(x), rtol=2**-7, atol=2**-6)
    expected = reference(x, add.clone())
    torch.testing.assert_close(linear(x, add.clone()), expected, rtol=2**-7, atol=2**-6)


def test_close_to_the_exact_product():
    torch.manual_seed(0)
    x, weight = torch.randn(64, 512).bfloat16(), torch.randn(256, 512).bfloat16()
    exact = linear_reference(x.double(), weight.double())
    error = (Fp8Reference(*quantize_rows(weight), None)(x).double() - exact).norm() / exact.norm()
    assert 0.01 < error < 0.05


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_stay_so_and_alone(value):
    torch.manual_seed(0)
    linear = Fp8Reference(*quantize_rows(torch.randn(40, 64).bfloat16()), None)
    x = torch.randn(20, 64).bfloat16()
    clean = linear(x)
    x[4, 63] = value
    y = linear(x)
    assert not y[4].isfinite().any()
    keep = [row for row in range(20) if row != 4]
    assert torch.equal(y[keep], clean[keep])


def test_a_cpu_and_an_old_gpu_are_refused(checkpoint, monkeypatch):
    with pytest.raises(ConfigError, match=r"fp8 needs .*8\.9.*, not cpu; use int8 or float32"):
        LLM(checkpoint("llama").folder, dtype="fp8")
    monkeypatch.setattr(build, "find_device", torch.device)
    monkeypatch.setattr(build, "DeviceMemory", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"this GPU is NVIDIA A100 \(8\.0\); use bfloat16"):
        LLM(checkpoint("llama").folder, dtype="fp8", device="cuda")


def test_a_model_that_gains_nothing_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr("stoker.quant.choose.why_not_fp8", lambda device: None)
    with pytest.raises(ConfigError, match=r"fp8 gains nothing here.*use bfloat16"):
        LLM(checkpoint("llama").folder, dtype="fp8")


@fp8_on_cpu
def test_a_whole_model_with_its_head_left_alone(checkpoint, prompts, monkeypatch):
    """On a CPU, which torch's product serves too, with shapes let through that it takes."""
    monkeypatch.setattr("stoker.quant.choose.why_not_fp8", lambda device: None)
    monkeypatch.setattr("stoker.quant.rows8.fp8_gains", lambda outputs, inputs: True)
    # the interpreter rounds to 8 bits wrongly
    monkeypatch.setattr("stoker.ops.fp8.triton_serves", lambda device_type: False)

    def first_logits(dtype, kind):
        rows = []
        with LLM(checkpoint("llama").folder, dtype=dtype) as llm:
            model = llm.engine.runner.model
            assert llm.plan.dtype == "bfloat16"
            assert isinstance(model.layers[0].ffn.up.product, kind)
            assert not isinstance(model._logits.product, Fp8Linear | Fp8Reference)
            forward = llm.engine.runner.forward
            llm.engine.runner.forward = lambda *asked, **how: (
                rows.append(forward(*asked, **how)) or rows[-1]
            )
            llm.generate(prompts[:8], SamplingParams(temperature=0, max_tokens=1))
        return torch.cat(rows).float()

    exact, found = first_logits("bfloat16", object), first_logits("fp8", Fp8Linear)
    monkeypatch.setattr("stoker.quant.rows8.prepare_fp8", Fp8Reference)
    defined = first_logits("fp8", Fp8Reference)
    assert 0 < (found - exact).norm() < 0.4 * exact.norm()
    assert (found - defined).norm() < 0.3 * (found - exact).norm()
