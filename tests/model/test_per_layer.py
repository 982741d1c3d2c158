"""Models whose layers differ: what is kept of each, formats of configs, and what is refused."""

import copy
import json

import pytest
import torch
import transformers as hf
from plain import (
    LINEAR,
    PLAIN,
    PlainCheckpoint,
    blocks,
    heads_in_group,
    multiplier,
)
from test_families import COUNT, SETTINGS, generate, keep_logits, short_prompts, worst_difference
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from zoo import SIZES

from stoker import LLM
from stoker.errors import ModelError
from stoker.model.cache import PagedCache
from stoker.model.families import spec_from_config
from stoker.model.families.decilm import ffn_size
from stoker.model.work import kv_bytes_per_token
from stoker.ops.kv_pages import FP8

__all__ = ["short_prompts"]  # a fixture

OVERRIDES = {
    0: {"skip": ["attention"]},
    1: {"num_key_value_heads": 4, "intermediate_size": 40},
    2: {"skip": ["mlp"]},
    3: {"num_key_value_heads": 1, "attention_bias": True},
    5: {"skip": ["attention", "mlp"]},
}


class Nothing(torch.nn.Module):
    """A part that is skipped: adds 0."""

    def forward(self, hidden_states, **_):
        return torch.zeros_like(hidden_states)


class NoAttention(Nothing):
    def forward(self, hidden_states, **_):
        return torch.zeros_like(hidden_states), None


@pytest.fixture(scope="module")
def per_layer(save_checkpoint):
    """A Llama of transformers' own layers, each made from its entry of `per_layer_config`."""
    sizes = {**SIZES, "num_hidden_layers": 6}
    config = hf.LlamaConfig(**sizes, per_layer_config=OVERRIDES)
    torch.manual_seed(0)
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes)).eval()
    model.config._attn_implementation = "eager"  # masks as the layers want them
    for index, layer_config in enumerate(config.per_layer_config):
        layer_config._attn_implementation = "eager"
        layer = LlamaDecoderLayer(layer_config, index).apply(model._init_weights)
        if "attention" in layer_config.skip:
            layer.self_attn, layer.input_layernorm = NoAttention(), torch.nn.Identity()
        if "mlp" in layer_config.skip:
            layer.mlp, layer.post_attention_layernorm = Nothing(), torch.nn.Identity()
        model.model.layers[index] = layer
    for parameter in model.model.layers.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.8, 0.3)
    model.generation_config.use_cache = False  # whose length is that of layer 0
    checkpoint = save_checkpoint("per_layer", model)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(checkpoint.folder)
    return checkpoint


@pytest.mark.parametrize("setting", SETTINGS)
def test_per_layer_config_equals_layers_of_transformers(setting, per_layer, short_prompts):
    with LLM(per_layer.folder, **SETTINGS[setting]) as llm:
        assert [pages is None for pages in llm.engine.runner.cache.layers] == [
            index in (0, 5) for index in range(6)
        ]
        seen = keep_logits(llm)
        tokens = generate(llm, short_prompts)
    assert tokens == [[per_layer.greedy(prompt, COUNT)] for prompt in short_prompts]
    assert 0 < worst_difference(seen, per_layer) < 1e-4


def test_keys_and_values_are_allocated_for_each_layer():
    config, layers = PLAIN["decilm"]
    spec = spec_from_config(config)[0]
    heads = [kv if isinstance(kv, int) else 0 for kv, _ in layers]
    for dtype in (torch.float32, FP8):
        cache = PagedCache(spec, [3] * len(spec.cache_groups), 16, dtype, torch.device("cpu"))
        found = [0 if pages is None else pages[0].shape[2] for pages in cache.layers]
        assert found == heads
        assert cache.nbytes == 3 * 16 * kv_bytes_per_token(spec, dtype.itemsize)
    assert kv_bytes_per_token(spec, 4) == 4 * 2 * 12 * sum(heads)


def test_a_cache_in_fp8_has_scales_for_the_layers_it_has(tmp_path, short_prompts):
    model = PlainCheckpoint(tmp_path, "decilm")
    with LLM(model.folder, kv_dtype="fp8") as llm:
        tokens = generate(llm, short_prompts)
    expected = [model.greedy(prompt, COUNT) for prompt in short_prompts]
    same = [one[0][0] == other[0] for one, other in zip(tokens, expected, strict=True)]
    assert sum(same) >= 8


def test_sizes_of_published_networks():
    # Llama-3_1-Nemotron-51B-Instruct: hidden 8192, and its multipliers
    assert ffn_size(1.3125, 8192) == 7168
    assert ffn_size(2.625, 8192) == 14336
    assert ffn_size(5.25, 8192) == 28672
    assert ffn_size(1.0, 4096) == 2816  # 2730 up to 11 * 256


def test_behind_the_last_attention_only_sampled_rows_are_computed(tmp_path):
    model = PlainCheckpoint(tmp_path, "decilm_ends")
    with LLM(model.folder) as llm:
        rows, blocks_ = [], llm.engine.runner.model._blocks
        for block in blocks_:
            forward = block.__call__

            def watched(x, step, forward=forward):
                rows.append(len(x))
                return forward(x, step)

            block.forward = watched
        llm.engine.runner.model._blocks = tuple(block.forward for block in blocks_)
        generate(llm, [[1] * 9, [2] * 5])
    assert rows[:5] == [14, 14, 14, 2, 2]


def changed(path, value):
    """The config of `decilm`, with another value at a path such as "block_configs.0.ffn"."""
    config = copy.deepcopy(PLAIN["decilm"][0])
    *way, last = path.split(".")
    inside = config
    for name in way:
        inside = inside[int(name) if isinstance(inside, list) else name]
    inside[int(last) if isinstance(inside, list) else last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("num_hidden_layers", 8, r"block_configs .* has 7 entries for 8 layers"),
        ("block_configs", None, r"lacks the field 'block_configs'"),
        ("block_configs.2", 3, r"block_configs\[2\] .* must be an object, not 3"),
        ("block_configs.1.moe", {"experts": 4}, r"block_configs\[1\].moe=.* is not supported"),
        ("block_configs.0.attention.window_length", 64, r"\[0\].attention.window_length=64"),
        ("block_configs.0.attention.num_sink_tokens", 4, r"\[0\].attention.num_sink_tokens=4"),
        ("block_configs.0.ffn.sparsify", ["x"], r"\[0\].ffn.sparsify=\['x'\]"),
        ("block_configs.0.ffn.fn_mult", 2.0, r"\[0\].ffn.fn_mult=2.0 .*did you mean 'ffn_mult'"),
        ("block_configs.0.attention.n_heads_in_group", 3, r"n_heads_in_group .* 4 attention heads"),
        ("block_configs.0.attention", {}, r"lacks the field 'block_configs\[0\].attention.n_heads"),
        ("block_configs.0.ffn", {}, r"lacks the field 'block_configs\[0\].ffn.ffn_mult'"),
        ("block_configs.0.ffn.no_op", 1, r"block_configs\[0\].ffn.no_op .* true or false, not 1"),
        ("block_configs.0.ffn.ffn_mult", -1.0, r"\[0\].ffn.ffn_mult .* greater than 0"),
        (
            "block_configs.0.ffn",
            {"no_op": True, "replace_with_linear": True},
            r"block_configs\[0\].ffn.no_op and .* are both true",
        ),
    ],
)
def test_bad_blocks(path, value, message):
    with pytest.raises(ModelError, match=message):
        spec_from_config(changed(path, value))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"6": {}}, r"names layer '6'; the layers are 0 to 5"),
        ({"x": {}}, r"names layer 'x'"),
        ({"1": 5}, r"per_layer_config.1 .* must be an object, not 5"),
        ({"01": {}, "1": {}}, r"names layer 1 twice"),
        ({"2": {"skip": ["ffn"]}}, r"per_layer_config.2.skip .* 'ffn', which is not supported"),
        ({"2": {"skip": "mlp"}}, r"per_layer_config.2.skip .* must be a list, not 'mlp'"),
        ({"3": {"experts": 4}}, r"per_layer_config.3.experts .* LlamaForCausalLM has no such"),
        ({"3": {"hidden_size": 96}}, r"changes what is not a layer's own: .*hidden"),
        ({"3": {"num_key_value_heads": 3}}, r"4 attention heads .* can't share 3"),
    ],
)
def test_bad_per_layer_configs(value, message):
    config = {**SIZES, "num_hidden_layers": 6, "rms_norm_eps": 1e-5, "per_layer_config": value}
    with pytest.raises(ModelError, match=message):
        spec_from_config({**config, "architectures": ["LlamaForCausalLM"]})


def test_tensors_that_disagree_with_the_blocks(tmp_path):
    model = PlainCheckpoint(tmp_path, "decilm")
    wider = blocks(
        (heads_in_group(4), multiplier(1.3125)),
        *[(block["attention"], block["ffn"]) for block in PLAIN["decilm"][0]["block_configs"][1:]],
    )
    (tmp_path / "config.json").write_text(json.dumps(wider))
    name, shape = r"model.layers.0.self_attn.k_proj.weight", r"\(24, 48\)"
    with pytest.raises(ModelError, match=rf"{name} has shape {shape} .* implies \(12, 48\)"):
        LLM(model.folder)
    fewer = changed("block_configs.0.attention", {"no_op": True})
    (tmp_path / "config.json").write_text(json.dumps(fewer))
    with pytest.raises(ModelError, match=r"no place for: model.layers.0.input_layernorm"):
        LLM(model.folder)


def test_a_model_without_attention_has_no_cache(tmp_path):
    config, layers = PLAIN["no_attention"]
    assert layers == [(None, 40), (LINEAR, 24)]
    spec = spec_from_config(config)[0]
    assert (spec.cache_groups, spec.last_mixing_layer) == ((), -1)
    model = PlainCheckpoint(tmp_path, "no_attention")
    prompts = [[1, 2, 3], [4], [5] * 20]
    for budget in (7, 512):
        with LLM(model.folder, max_batch_tokens=budget) as llm:
            tokens = generate(llm, prompts)
        assert tokens == [[model.greedy(prompt, COUNT)] for prompt in prompts]
