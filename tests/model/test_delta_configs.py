"""Configs of delta nets: what is refused, by field and value, and how parameters are counted."""

import pytest
from zoo import make
from zoo_delta import DELTA

from stoker.errors import ModelError
from stoker.model.families import spec_from_config


@pytest.fixture(scope="module")
def configs():
    """The config of each row, as transformers writes it."""
    found = {}
    for name in DELTA:
        model = make(name)
        config = {**model.config.to_dict(), "architectures": [type(model).__name__]}
        tied = bool(model.config.tie_word_embeddings)
        count = sum(one.numel() for one in model.parameters())
        found[name] = (config, count, tied)
    return found


@pytest.mark.parametrize("name", DELTA)
def test_parameters_are_counted(configs, name):
    config, count, tied = configs[name]
    spec, _ = spec_from_config(config)
    assert spec.tied_head == tied
    corrections = sum(  # buffers in transformers
        layer.ffn.routing.experts
        for layer in spec.layers
        if hasattr(layer.ffn, "routing") and layer.ffn.routing.correction
    )
    assert spec.parameters() == count + corrections


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen3_5", {"linear_key_head_dim": 512}, "keys of 512 numbers"),
        ("qwen3_5", {"linear_num_value_heads": 3}, "3 value heads in config.json can't share 2"),
        ("qwen3_5", {"linear_conv_kernel_dim": 40}, "linear_conv_kernel_dim"),
        ("qwen3_5", {"attn_output_gate": False}, "attn_output_gate=False"),
        ("qwen3_5", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ("qwen3_5", {"layer_types": ["linear_attention", "mamba", "mamba"]}, "'mamba'"),
        ("kimi_linear", {"mla_use_nope": False}, "mla_use_nope=False"),
        (
            "kimi_linear",
            {
                "layer_types": None,
                "linear_attn_config": {"full_attn_layers": [2], "kda_layers": [1]},
            },
            "each number from 1 to 3 once",
        ),
        ("recurrent_gemma", {"lru_width": 50}, "lru_width 50"),
        ("recurrent_gemma", {"block_types": ["recurrent", "lstm"]}, "'lstm'"),
    ],
)
def test_what_is_not_supported_is_refused(configs, name, changes, message):
    with pytest.raises(ModelError) as refused:
        spec_from_config({**configs[name][0], **changes})
    assert message in str(refused.value)
