"""Configs as they were published: their spellings are read, and the sizes come out."""

import pytest
import torch

from stoker.model.families import spec_from_config
from stoker.model.rope import Llama3Scaling

GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "vocab_size": 201088,
}
LLAMA_4_SCOUT = {
    "architectures": ["Llama4ForConditionalGeneration"],
    "text_config": {
        "attention_chunk_size": 8192,
        "attn_scale": 0.1,
        "attn_temperature_tuning": 4,
        "floor_scale": 8192,
        "head_dim": 128,
        "hidden_size": 5120,
        "interleave_moe_layer_step": 1,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "max_position_embeddings": 10485760,
        "no_rope_layers": [],
        "num_attention_heads": 40,
        "num_experts_per_tok": 1,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "num_local_experts": 16,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 16.0,
            "high_freq_factor": 1.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "use_qk_norm": True,
        "vocab_size": 202048,
    },
}
GEMMA_3N_E4B = {
    "architectures": ["Gemma3nForConditionalGeneration"],
    "text_config": {
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 25,
        "altup_num_inputs": 4,
        "hidden_size": 2048,
        "hidden_size_per_layer_input": 256,
        "intermediate_size": [16384] * 35,
        "laurel_rank": 64,
        "layer_types": [*["sliding_attention"] * 4, "full_attention"] * 7,
        "num_attention_heads": 8,
        "num_hidden_layers": 35,
        "num_key_value_heads": 2,
        "num_kv_shared_layers": 15,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "vocab_size": 262400,
    },
}
GEMMA_4_31B = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "text_config": {
        "attention_k_eq_v": True,
        "final_logit_softcapping": 30.0,
        "global_head_dim": 512,
        "hidden_size": 5376,
        "hidden_size_per_layer_input": 0,
        "intermediate_size": 21504,
        "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 10,
        "num_attention_heads": 32,
        "num_experts": None,
        "num_global_key_value_heads": 4,
        "num_hidden_layers": 60,
        "num_key_value_heads": 16,
        "sliding_window": 1024,
        "use_bidirectional_attention": "vision",
    },
}


@pytest.mark.parametrize(
    ("config", "billions", "groups"),
    [
        (GPT_OSS_20B, 20.9, [(128, 64, 12), (None, 64, 12)]),
        (LLAMA_4_SCOUT, 107.8, [(8192, 128, 36), (None, 128, 12)]),
        (GEMMA_3N_E4B, 6.8, [(512, 256, 16), (None, 256, 4)]),
        (GEMMA_4_31B, 30.7, [(1024, 256, 50), (None, 512, 10)]),
    ],
    ids=["gpt-oss-20b", "Llama-4-Scout", "gemma-3n-E4B", "gemma-4-31B"],
)
def test_sizes(config, billions, groups):
    """Parameters of the text model; window, head size and layers of each group that caches."""
    spec, _ = spec_from_config(config)
    assert round(spec.parameters() / 1e9, 1) == billions
    found = [(one.window, one.spec.head_dim, len(one.layers)) for one in spec.cache_groups]
    assert found == groups


def test_llama_3s_rope_without_a_ramp():
    """Scout's two factors are equal: frequencies are whole or divided, and none lies between."""
    found = Llama3Scaling(16.0, 1.0, 1.0, 8192).inv_freq(128, 5e5, 0)
    plain = 5e5 ** -(torch.arange(0, 128, 2) / 128)
    whole = torch.isclose(found, plain)
    assert 0 < whole.sum() < 64
    torch.testing.assert_close(found[~whole], plain[~whole] / 16)


def test_ettin_150m():
    """Of the fields that ModernBERT's encoders have too, half the window counts."""
    spec, _ = spec_from_config(
        {
            "architectures": ["ModernBertDecoderForCausalLM"],
            "attention_bias": False,
            "classifier_activation": "gelu",
            "classifier_bias": False,
            "decoder_bias": True,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "hidden_activation": "gelu",
            "hidden_size": 768,
            "intermediate_size": 1152,
            "local_attention": 128,
            "local_rope_theta": 160000.0,
            "max_position_embeddings": 7999,
            "mlp_bias": False,
            "norm_bias": False,
            "norm_eps": 1e-05,
            "num_attention_heads": 12,
            "num_hidden_layers": 22,
            "vocab_size": 50368,
        }
    )
    assert round(spec.parameters() / 1e6) == 150
    assert [one.window for one in spec.cache_groups] == [None, 64]
    assert spec.cache_groups[0].layers == tuple(range(0, 22, 3))
    assert {rope.theta for rope in spec.ropes} == {160000.0}
