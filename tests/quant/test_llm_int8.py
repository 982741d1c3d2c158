"""LLM.int8(): outlier columns kept apart, where plain 8-bit rows fail."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from stoker import LLM, SamplingParams
from stoker.errors import ConfigError, ModelError
from stoker.model.layers.linear import Linear
from stoker.ops.int8 import Int8Matmul, Int8Reference, quantize_rows
from stoker.ops.linear import linear_reference
from stoker.quant.floats import Bf16Format, FloatFormat
from stoker.quant.format import make_product, nbytes
from stoker.quant.llm_int8 import LlmInt8, outlier_columns
from stoker.quant.rows8 import Int8Rows

FP32 = torch.float32
PLAIN = (Bf16Format(), FloatFormat(FP32))


def relative(found, exact):
    return float((found - exact).norm() / exact.norm())


def with_outliers(rows, size, columns):
    x = torch.randn(rows, size)
    x[:, columns] *= 60
    return x


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outliers_are_multiplied_as_floats(dtype, bias):
    torch.manual_seed(0)
    columns = (5, 100, 333)
    weight = torch.randn(96, 512).to(dtype).float()
    b, x = torch.randn(96) if bias else None, with_outliers(40, 512, columns)
    add, exact = torch.randn(40, 96), linear_reference(x, weight, b)
    kind = LlmInt8(columns, torch.bfloat16 if dtype == torch.bfloat16 else FP32, FP32, PLAIN)
    parts = kind.from_dense(weight)
    split, naive = kind.prepare(parts, b), make_product(weight, [Int8Rows()], b)
    assert relative(split(x), exact) < 0.002
    assert relative(naive(x), exact) > 10 * relative(split(x), exact)
    # what is left of each row is as it would be without outliers
    rest = x.index_fill(1, torch.tensor(columns), 0)
    lost = split(x) - linear_reference(x, kind.to_dense(parts), b)
    alone = naive(rest) - linear_reference(
        rest, Int8Rows().to_dense(Int8Rows().from_dense(weight)), b
    )
    assert lost.norm() < 1.1 * alone.norm()
    torch.testing.assert_close(split(x, add.clone()), split(x) + add, rtol=1e-4, atol=1e-3)
    for row in (0, 7):
        assert torch.equal(split(x[row : row + 1]), split(x)[row : row + 1])
    assert torch.equal(kind.to_dense(parts)[:, columns], weight[:, columns])


def test_it_takes_half_the_bytes_of_16_bits_and_the_columns():
    kind = LlmInt8((1, 4), torch.bfloat16, FP32, PLAIN)
    parts = kind.from_dense(torch.randn(64, 512).bfloat16().float())
    assert sum(part.nbytes for part in parts.values()) == nbytes(kind, 64, 512)
    assert nbytes(kind, 64, 512) == 64 * 512 + 64 * 4 + 2 * 8 + 64 * 2 * 2


def test_slices_share_the_columns():
    torch.manual_seed(0)
    kind, weight = LlmInt8((1, 4), torch.bfloat16, FP32, PLAIN), torch.randn(24, 32).bfloat16()
    whole = kind.from_dense(weight.float())
    for start, stop in ((0, 8), (8, 24)):
        sliced, alone = (
            kind.slice_outputs(whole, start, stop),
            kind.from_dense(weight[start:stop].float()),
        )
        for name, part in alone.items():
            assert torch.equal(sliced[name], part)


def test_which_columns_are_outliers():
    largest = torch.tensor([3.1, 2.8, 40.0, 3.3, 2.9, 7.5] + [3.0] * 122)
    assert outlier_columns(largest) == (2, 5)
    assert outlier_columns(largest * 1e-3) == (2, 5)
    assert outlier_columns(largest[:64]) == (2,)  # one of 64 at most
    assert outlier_columns(torch.ones(64)) == ()
    assert outlier_columns(torch.full((64,), float("nan"))) == ()


def test_torch_s_product_of_integers_is_the_definition():
    """What a GPU runs, here on a CPU."""
    torch.manual_seed(0)
    x, weight, b, add = (torch.randn(size) for size in ((40, 64), (24, 64), (24,), (40, 24)))
    parts = quantize_rows(weight)
    for bias in (b, None):
        defined, product = Int8Reference(*parts, bias), Int8Matmul(*parts, bias)
        for rows in (1, 16, 17, 40):
            expected = defined(x[:rows], add[:rows])
            found = product(x[:rows], add[:rows].clone())
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-6)
    y = product(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), defined(x.bfloat16().float()), rtol=2**-7, atol=1e-2)


@pytest.fixture
def extreme(checkpoint, tmp_path):
    """A copy of a model that computes the same through feature 3, 256 times as large.

    The norms before projections scale them up and the projections' weights down.
    """
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama").folder, folder)
    tensors = load_file(folder / "model.safetensors")
    into = {
        "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    }
    for name, tensor in tensors.items():
        for norm, projections in into.items():
            layer, _, found = name.rpartition(f"{norm}.weight")
            if layer and not found:
                tensor[3] *= 256
                for one in projections:
                    tensors[f"{layer}{one}.weight"][:, 3] /= 256
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def first_logits(folder, prompts, **options):
    rows = []
    with LLM(folder, **options) as llm:
        runner = llm.engine.runner
        forward = runner.forward
        runner.forward = lambda *asked, **how: rows.append(forward(*asked, **how)) or rows[-1]
        llm.generate(prompts[:8], SamplingParams(temperature=0, max_tokens=1))
        return torch.cat(rows), runner.model.layers, llm


def test_a_model_with_outliers_keeps_its_logits(extreme, prompts):
    exact, *_ = first_logits(extreme, prompts)
    naive, *_ = first_logits(extreme, prompts, quantization="int8")
    split, layers, llm = first_logits(extreme, prompts, quantization="llm_int8")
    assert relative(split, exact) < 0.1  # as int8 without outliers
    assert relative(naive, exact) > 5 * relative(split, exact)
    assert (llm.plan.dtype, llm.plan.quantization) == ("float32", "llm_int8")
    for layer in layers:
        assert layer.mixer.qkv.format.columns == layer.ffn.up.format.columns == (3,)
    report = llm.outliers
    projections = [one for one in layers.modules() if isinstance(one, Linear)]
    assert report.inputs == sum(one.inputs for one in projections)
    assert report.columns == sum(len(one.format.columns) for one in projections)
    sixteen = sum(2 * one.inputs * one.outputs for one in projections)
    scales = sum(4 * one.outputs + 8 * len(one.format.columns) for one in projections)
    assert report.weight_bytes == sixteen // 2 + scales + report.outlier_bytes
    assert f"{report.columns} of {report.inputs}" in str(report)


def test_a_row_does_not_depend_on_its_neighbours(checkpoint, prompts):
    params = SamplingParams(temperature=1, seed=1, max_tokens=12, ignore_eos=True)
    runs = []
    for options in ({}, {"max_batch_tokens": 7}, {"max_running": 1}):
        with LLM(checkpoint("qwen3").folder, quantization="llm_int8", **options) as llm:
            outputs = llm.generate(prompts[:10], params)
            runs.append([output.outputs[0].token_ids for output in outputs])
    assert runs[0] == runs[1] == runs[2]


def test_nan_is_still_found(checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama").folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"][3, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with (
        LLM(folder, quantization="llm_int8") as llm,
        pytest.raises(ModelError, match=r"layers.2.ffn.down.weight hold NaN"),
    ):
        llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2))


def test_a_cpu_computes_it_in_float32(checkpoint):
    with pytest.raises(ConfigError, match="llm_int8 computes in float32 on a CPU, not in dtype='b"):
        LLM(checkpoint("llama").folder, quantization="llm_int8", dtype="bfloat16")
