"""Models with experts in every format of weights, however the work is cut."""

import copy
from pathlib import Path

import pytest
import torch
from tiny import VOCAB
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from stoker import LLM, SamplingParams
from stoker.errors import ConfigError, ModelError
from stoker.model import loader
from stoker.model.checkpoint import SafetensorsFolder
from stoker.model.loader import weights
from stoker.ops.experts import ReferenceExperts
from stoker.ops.experts_grouped import GroupedExperts
from stoker.ops.experts_int8 import NativeInt8Experts
from stoker.ops.experts_native import NativeExperts
from stoker.ops.native.build import load_kernels
from stoker.quant.choose import choose_formats

native = pytest.mark.skipif(load_kernels("experts") is None, reason="no C compiler")
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
}


@pytest.fixture(scope="module")
def mixture(save_checkpoint):
    torch.manual_seed(0)
    return save_checkpoint("mixture", Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES)))


def run(folder, prompts, **options):
    """The run of the experts' first layer, tokens, and all logits that were drawn from."""
    rows = []
    with LLM(folder, device="cpu", **options) as llm:
        runner = llm.engine.runner
        forward = runner.forward
        runner.forward = lambda *asked, **how: rows.append(forward(*asked, **how)) or rows[-1]
        outputs = llm.generate(prompts, GREEDY)
        made = runner.model.layers[0].ffn._run
        kept = {
            name.partition("ffn.")[2]: tensor.dtype
            for name, tensor in weights(runner.model)
            if name.startswith("layers.0.ffn.")
        }
    logits = torch.cat([row for row in rows if row.shape[1] == VOCAB])
    return made, [output.outputs[0].token_ids for output in outputs], logits, kept


@native
def test_bf16_weights_take_two_bytes_and_change_no_bit(mixture, prompts, tmp_path, monkeypatch):
    copy.deepcopy(mixture.model).bfloat16().save_pretrained(tmp_path)
    narrow = run(str(tmp_path), prompts[:6])
    monkeypatch.setattr("stoker.quant.floats.Bf16Format.from_dense", lambda self, weight: None)
    wide = run(str(tmp_path), prompts[:6])
    for run_of, dtype in ((narrow, torch.bfloat16), (wide, torch.float32)):
        assert isinstance(run_of[0], NativeExperts)
        assert {run_of[3][f"expert_{way}.weight"] for way in ("up", "down")} == {dtype}
    assert narrow[1] == wide[1]
    assert torch.equal(narrow[2], wide[2])


@native
def test_int8_serves_experts_and_leaves_the_router(mixture, prompts):
    runs = [
        run(mixture.folder, prompts[:8], dtype="int8", **options)
        for options in ({}, {"max_batch_tokens": 7}, {"max_running": 1})
    ]
    assert isinstance(runs[0][0], NativeInt8Experts)
    assert runs[0][3]["router.weight"] == torch.float32
    assert runs[0][1] == runs[1][1] == runs[2][1]
    exact = run(mixture.folder, prompts[:8])
    assert 0 < (runs[0][2][0] - exact[2][0]).norm() < 0.2 * exact[2][0].norm()


@pytest.mark.parametrize("kind", [GroupedExperts, ReferenceExperts])
def test_bfloat16_takes_what_there_is(mixture, prompts, kind, monkeypatch):
    if kind is ReferenceExperts:
        monkeypatch.setattr("stoker.ops.experts_select.grouped_serves", lambda weights: False)
    found = run(mixture.folder, prompts[:4], dtype="bfloat16")
    assert isinstance(found[0], kind)
    assert found[3]["router.weight"] == torch.float32
    expected = [mixture.greedy(prompt, 1)[0] for prompt in prompts[:4]]
    assert sum(one[0] == first for one, first in zip(found[1], expected, strict=True)) >= 3


@pytest.mark.parametrize("quantization", ["llm_int8", "fp8"])
def test_what_serves_no_experts_is_refused_by_name(mixture, quantization, monkeypatch):
    monkeypatch.setattr("stoker.quant.choose.why_not_fp8", lambda device: None)
    with pytest.raises(ConfigError, match=f"{quantization} does not serve mixtures of experts"):
        LLM(mixture.folder, quantization=quantization)


def test_the_size_is_known_before_weights_are_read(mixture):
    """Sizes are no multiples of a panel's width, so what is packed is a little larger."""
    source, cpu = SafetensorsFolder(Path(mixture.folder)), torch.device("cpu")
    plain = choose_formats("auto", torch.float32, cpu)
    model = loader.load_model(source, cpu, "float32").model
    held = sum(parameter.nbytes for parameter in model.parameters())
    assert loader.weight_bytes(source, cpu, "float32", plain) == held
    experts = sum(one.nbytes for name, one in model.named_parameters() if "expert_" in name)
    integers = choose_formats("int8", torch.float32, cpu)
    saved = held - loader.weight_bytes(source, cpu, "float32", integers)
    assert 0.7 * experts < saved < 0.75 * held


def test_a_weight_that_is_not_a_number_is_named(mixture, tmp_path):
    model = copy.deepcopy(mixture.model)
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[5, 3, 2] = float("nan")
    model.save_pretrained(tmp_path)
    with (
        LLM(str(tmp_path)) as llm,
        pytest.raises(ModelError, match=r"layers.1.ffn.expert_down.weight hold NaN"),
    ):
        llm.generate([[1, 2, 3]], GREEDY)
