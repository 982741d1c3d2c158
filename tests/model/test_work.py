"""What specs say of themselves, against models made from them."""

from dataclasses import replace

import pytest
import torch
from zoo import ZOO, make_config

from stoker.model.families import spec_from_config
from stoker.model.heads import resolve
from stoker.model.layers.linear import Linear
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import LayerSpec, ModelSpec
from stoker.model.spec.networks import DenseSpec, LinearMapSpec
from stoker.model.spec.part import NormSpec
from stoker.model.transformer import Transformer
from stoker.model.work import attention_flops, kv_bytes_per_token, matmul_flops, step_bytes
from stoker.ops.routing import Routing

MIXED = ModelSpec(
    hidden=48,
    vocab=100,
    layers=(
        LayerSpec(None, DenseSpec(32, bias=True)),
        LayerSpec(AttentionSpec(4, 2, 12, 0.1, window=64, qkv_bias=True), LinearMapSpec()),
        LayerSpec(LinearMapSpec(bias=True), DenseSpec(16, gated=False)),
        LayerSpec(AttentionSpec(4, 1, 12, 0.1, qk_norm="head", out_bias=True), None),
        LayerSpec(None, None),
    ),
    norm=NormSpec("layer", 1e-5, bias=True),
    context=64,
    tied_head=False,
)


def spec_of(name):
    config, model_class = make_config(name)
    return resolve(config.to_dict() | {"architectures": [model_class.__name__]})[0]


def model_of(spec):
    with torch.device("meta"):
        return Transformer(spec)


@pytest.mark.parametrize("name", ZOO)
def test_a_spec_counts_the_parameters_of_its_model(name):
    spec = spec_of(name)
    assert spec.parameters() == sum(one.numel() for one in model_of(spec).parameters())


def test_layers_may_lack_parts_and_differ():
    model = model_of(MIXED)
    assert MIXED.parameters() == sum(one.numel() for one in model.parameters())
    products = [one for one in model.layers.modules() if isinstance(one, Linear)]
    weights = sum(one.outputs * one.inputs for one in products)
    assert matmul_flops(MIXED, 7, 2) == 2 * (7 * weights + 2 * 48 * 100)
    assert attention_flops(MIXED, 5) == 2 * 5 * 4 * 4 * 12  # 2 layers
    assert [group.layers for group in MIXED.cache_groups] == [(1,), (3,)]
    assert kv_bytes_per_token(MIXED, 2) == 2 * (2 * 2 * 12 + 2 * 1 * 12)
    assert MIXED.last_mixing_layer == 3


def test_a_step_reads_weights_once_and_what_its_windows_show():
    weights = MIXED.parameters() - 100 * 48  # rows of the embedding are looked up
    seen = (30 + 64) * 48 + (30 + 100) * 24
    assert step_bytes(MIXED, [30, 100], 4, 2) == 4 * weights + 2 * seen


def test_a_step_reads_the_experts_that_its_tokens_take():
    dense = MIXED.layers[1]
    experts = ExpertsSpec(Routing(16, 2), DenseSpec(24))
    spec = replace(MIXED, layers=(replace(dense, ffn=experts),))
    weights, each = spec.parameters() - 100 * 48, 3 * 48 * 24
    seen = spec.cache_groups[0].elements_per_token
    for tokens, taken in ((1, 2), (2, 3.75), (8, 16 - 16 * (14 / 16) ** 8)):
        expected = weights - (16 - taken) * each + tokens * seen
        assert step_bytes(spec, [1] * tokens, 1, 1) == pytest.approx(expected, abs=1)


def test_layers_that_read_a_cache_of_others_are_counted():
    """Gemma 3n's last layers: of 5, 2 have windows of 16 and a cache, 1 of which another reads."""
    config, made = make_config("gemma3n")
    spec, _ = spec_from_config({**config.to_dict(), "architectures": [made.__name__]})
    assert [group.layers for group in spec.cache_groups] == [(0, 2), (1,)]
    each = 2 * 2 * 12  # keys and values of 2 heads
    read = step_bytes(spec, [30], 0, 1)
    assert read == each * (3 * 16 + 2 * 30)
    assert kv_bytes_per_token(spec, 1) == 3 * each


def test_a_known_model():
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
    }
    spec = spec_from_config(config)[0]
    assert spec.parameters() == 8_030_261_248  # Llama 3 8B
    assert kv_bytes_per_token(spec, 2) == 131_072
