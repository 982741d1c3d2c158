"""Values of another width than keys (MiMo-V2-Flash): configs and the size of the cache."""

import pytest
from zoo import make_config

from stoker.errors import ModelError
from stoker.model.families import spec_from_config
from stoker.model.work import kv_bytes_per_token

PUBLISHED = {
    "add_full_attention_sink_bias": False,
    "add_swa_attention_sink_bias": True,
    "architectures": ["MiMoV2FlashForCausalLM"],
    "attention_bias": False,
    "attention_chunk_size": 128,
    "attention_value_scale": 0.707,
    "head_dim": 192,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "hybrid_layer_pattern": [0, *([1, 1, 1, 1, 0, 1] * 8)[:47]],
    "intermediate_size": 16384,
    "layernorm_epsilon": 1e-05,
    "max_position_embeddings": 262144,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": [0, *[1] * 47],
    "n_group": 1,
    "n_routed_experts": 256,
    "n_shared_experts": None,
    "norm_topk_prob": True,
    "num_attention_heads": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "partial_rotary_factor": 0.334,
    "rope_theta": 5000000,
    "routed_scaling_factor": None,
    "scoring_func": "sigmoid",
    "sliding_window": 128,
    "sliding_window_size": 128,
    "swa_head_dim": 192,
    "swa_num_attention_heads": 64,
    "swa_num_key_value_heads": 8,
    "swa_rope_theta": 10000,
    "swa_v_head_dim": 128,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 152576,
}


def test_as_it_was_published():
    spec, _ = spec_from_config(PUBLISHED)
    assert round(spec.parameters() / 1e9) == 309
    full, sliding = spec.layers[0].mixer, spec.layers[1].mixer
    assert (full.kv_heads, full.window, full.sinks) == (4, None, False)
    assert (sliding.kv_heads, sliding.window, sliding.sinks) == (8, 129, True)
    assert [(one.rope.dim, one.rope.theta) for one in (full, sliding)] == [(64, 5e6), (64, 1e4)]
    assert kv_bytes_per_token(spec, 2) == 2 * (192 + 128) * (9 * 4 + 39 * 8)


def test_the_class_says_the_same():
    """What transformers makes of the published config is read as that is."""
    config = type(make_config("mimo_v2_flash")[0])(**PUBLISHED)
    fields = {**config.to_dict(), "architectures": PUBLISHED["architectures"]}
    published, _ = spec_from_config(PUBLISHED)
    assert spec_from_config(fields)[0].layers == published.layers
    named = ("hybrid_layer_pattern", "moe_layer_freq", "sliding_window_size", "layernorm_epsilon")
    saved = {key: value for key, value in fields.items() if key not in named and "swa" not in key}
    assert spec_from_config(saved)[0].layers == published.layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"swa_v_head_dim": 64}, r"swa_v_head_dim=64 .*only 128"),
        ({"n_shared_experts": 1}, r"n_shared_experts=1"),
        ({"scoring_func": "softmax"}, r"scoring_func='softmax' .*only 'sigmoid'"),
        ({"hybrid_layer_pattern": [2] * 48}, r"hybrid_layer_pattern .* 0 or 1 for each layer"),
        ({"moe_layer_freq": [1]}, r"moe_layer_freq .* 1 entries for 48 layers"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        spec_from_config({**PUBLISHED, **changes})


def test_differences_need_pairs_of_heads():
    fields = {**make_config("diffllama")[0].to_dict(), "architectures": ["DiffLlamaForCausalLM"]}
    spec, _ = spec_from_config(fields)
    width = 10 + 20  # of a key, and of a value with its partner's
    assert kv_bytes_per_token(spec, 4) == 4 * 3 * 4 * width
    with pytest.raises(ModelError, match=r"num_key_value_heads .* must be even .* not 1"):
        spec_from_config({**fields, "num_key_value_heads": 1})


def test_doge_60m_within_its_window():
    config = {
        "architectures": ["DogeForCausalLM"],
        "hidden_size": 512,
        "intermediate_size": 1024,
        "is_moe": False,
        "keep_window_size": 1024,
        "max_position_embeddings": 2048,
        "num_attention_heads": 4,
        "num_hidden_layers": 16,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": 32768,
    }
    spec, _ = spec_from_config(config)
    assert spec.context == 1024
    assert kv_bytes_per_token(spec, 4) == 4 * 16 * 2 * (129 + 128)
    with pytest.raises(ModelError, match=r"is_moe=True .*only False"):
        spec_from_config({**config, "is_moe": True})
