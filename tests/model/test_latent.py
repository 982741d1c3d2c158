"""Latent attention: what it caches, when it expands, and that both ways agree."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo import make

from stoker import LLM, SamplingParams
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.model.families import FAMILIES, spec_from_config
from stoker.model.layers import latent as layer
from stoker.model.spec.latent import LatentSpec
from stoker.ops.attention_cpu import CpuAttention
from stoker.ops.head_maps import PlainHeadMaps
from stoker.ops.select import Operations

DEEPSEEK_V3 = LatentSpec(128, 512, 128, 64, 128, 192**-0.5, 1e-6, query_rank=1536)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_the_cache_holds_a_row_for_each_token_and_no_more(dtype):
    spec, _ = spec_from_config(make("youtu").config.to_dict())
    cache = PagedCache(spec, (7,), 16, dtype, torch.device("cpu"))
    assert cache.nbytes == 3 * 7 * 16 * (20 + 8) * dtype.itemsize
    assert spec.cache_groups[0].elements_per_token == 3 * 28


def test_the_row_of_deepseek_v3_has_576_numbers():
    assert DEEPSEEK_V3.cache_spec().elements_per_token == 512 + 64


@pytest.mark.parametrize("context", [1, 100, 5000, 100_000])
def test_decodes_are_absorbed_and_prompts_expanded(context):
    assert not DEEPSEEK_V3.expands(1, context)
    assert DEEPSEEK_V3.expands(context, context) == (context >= 16)


@pytest.mark.parametrize(
    ("queries", "context", "expands"),
    # a chunk must repay the expansion of what came before: 1536 FLOPs saved for a pair, and
    # 262144 for a token of the context
    [(169, 10_000, False), (172, 10_000, True), (100, 300, False), (160, 300, True)],
)
def test_a_chunk_must_be_worth_the_context(queries, context, expands):
    assert DEEPSEEK_V3.expands(queries, context) == expands
    pairs = queries * context - queries * (queries - 1) // 2
    assert (pairs * 1536 > (context - queries) * 262_144) == expands


@pytest.mark.parametrize("name", ["youtu_bias", "deepseek_v2_lite", "mistral4"])
@pytest.mark.parametrize("budget", [7, 30, 2000])
def test_expanded_equals_transformers(name, budget, save_checkpoint, monkeypatch):
    """Where no kernel keeps the bits: whole prompts expanded, short chunks and decodes absorbed."""
    monkeypatch.setattr(layer, "prepare_head_maps", PlainHeadMaps)
    ways = []
    expansion = layer.LatentAttention._expansion
    monkeypatch.setattr(
        layer.LatentAttention, "_expansion", lambda *args: ways.append(expansion(*args)) or ways[-1]
    )
    model = save_checkpoint(name, make(name))
    prompts = [[(7 * i + 3 * j) % 200 for i in range(n)] for j, n in enumerate((1, 3, 33, 40, 90))]
    params = SamplingParams(temperature=0, max_tokens=8, stop_token_ids=[10**6])
    with LLM(model.folder, max_batch_tokens=budget) as llm:
        llm.engine.runner.model.ops = Operations(CpuAttention())
        tokens = [output.outputs[0].token_ids for output in llm.generate(prompts, params)]
    assert tokens == [model.greedy(prompt, 8) for prompt in prompts]
    assert None in ways, "decodes are absorbed"
    mixed = [way for way in ways if way is not None and way.plan is not None]
    assert budget == 7 or mixed, "a step has both"


def test_sparse_attention_is_served_where_it_sees_all(save_checkpoint):
    """The context ends where the indexer would begin to choose."""
    config = make("deepseek_v32").config.to_dict()
    spec, _ = spec_from_config(config | {"index_topk": 40})
    assert spec.context == 40
    with pytest.raises(ConfigError, match="max_context=300 is more than the model's 256 positions"):
        LLM(save_checkpoint("deepseek_v32", make("deepseek_v32")).folder, max_context=300)


def test_a_correction_that_is_not_stored_is_zero(save_checkpoint, tmp_path):
    """Released A.X K1 has none, and norms of dense layers that nothing uses."""
    uncorrected = make("axk1")
    for key, buffer in uncorrected.named_buffers():
        if "correction" in key:
            buffer.zero_()
    model = save_checkpoint("axk1_uncorrected", uncorrected)
    uncorrected.save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = {name: tensor for name, tensor in load_file(file).items() if "correction" not in name}
    save_file(tensors | {"model.layers.0.post_mlp_layernorm.weight": torch.ones(48)}, file)
    prompt = list(range(30))
    with LLM(tmp_path) as llm:
        (output,) = llm.generate(
            [prompt], SamplingParams(temperature=0, max_tokens=8, stop_token_ids=[10**6])
        )
    assert output.outputs[0].token_ids == model.greedy(prompt, 8)


def test_layers_that_draft_are_passed_over():
    family = FAMILIES["DeepseekV3ForCausalLM"]
    assert family.passes_over("model.layers.61.eh_proj.weight", 61)
    assert not family.passes_over("model.layers.60.eh_proj.weight", 61)
