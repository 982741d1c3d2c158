"""Rows of the zoo whose layers keep a state that a delta rule or a linear recurrence updates."""

import transformers as hf

NET = {
    "initializer_range": 0.12,
    "rms_norm_eps": 1e-3,  # of norms behind states too, else small ones would magnify rounding
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
}
EXPERTS = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
}
# transformers saves the convolution in equal thirds, whatever the sizes
OLMO = {key: value for key, value in NET.items() if key != "head_dim"}
OLMO |= {"head_dim": None, "linear_value_head_dim": 4}
KIMI = {
    "initializer_range": 0.12,
    "rms_norm_eps": 1e-3,
    "head_dim": None,
    "num_key_value_heads": 4,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "num_experts": 6,
    "num_experts_per_token": 2,
    "moe_intermediate_size": 24,
    "linear_attn_config": {
        "full_attn_layers": [2],
        "kda_layers": [1, 3],
        "num_heads": 3,
        "head_dim": 8,
        "short_conv_kernel_size": 3,
    },
}
MINIMAX = {
    "head_dim": 16,
    "num_hidden_layers": 4,
    "initializer_range": 0.12,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "intermediate_size": 24,
    "full_attn_alpha_factor": 1.3,
    "full_attn_beta_factor": 0.8,
    "linear_attn_alpha_factor": 1.1,
    "linear_attn_beta_factor": 0.6,
    "mlp_alpha_factor": 1.2,
    "block_size": 8,
}
LARA = {
    **NET,
    **EXPERTS,
    "num_hidden_layers": 4,
    "sliding_window": 16,
    "tie_word_embeddings": True,
    "layer_types": ["linear_attention", "sliding_attention", "full_attention", "linear_attention"],
}
BAILING = {
    **{name: KIMI[name] for name in list(KIMI) if name.startswith(("kv_", "qk_", "v_", "rms"))},
    "head_dim": 12,  # of delta nets; latent attention rotates 8
    "num_key_value_heads": 4,
    "initializer_range": 0.12,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "first_k_dense_replace": 1,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 24,
}
DELTA = {
    "bailing_hybrid": ("BailingHybrid", BAILING),
    "lara_mini": ("LaraMini", LARA),
    "minimax": ("MiniMax", MINIMAX),
    "kimi_linear": ("KimiLinear", KIMI),
    "olmo_hybrid": ("OlmoHybrid", OLMO),
    "olmo_hybrid_nope": (
        "OlmoHybrid",
        {**OLMO, "rope_parameters": {"rope_theta": None, "rope_type": "default"}}
        | {"linear_allow_neg_eigval": False},
    ),
    "recurrent_gemma": (
        "RecurrentGemma",
        {"head_dim": None, "attention_window_size": 16, "num_hidden_layers": 4}
        | {"rms_norm_eps": 1e-3},
    ),
    "qwen3_next": ("Qwen3Next", {**NET, **EXPERTS, "mlp_only_layers": [1]}),
    "qwen3_5": ("Qwen3_5", NET),
    "qwen3_5_moe": ("Qwen3_5Moe", {**NET, **EXPERTS, "tie_word_embeddings": True}),
}
DELTA_WRAPPED = {
    "qwen3_5_wrapped": ("Qwen3_5", {"tie_word_embeddings": False}, "qwen3_5"),
    "qwen3_5_moe_wrapped": ("Qwen3_5Moe", {"tie_word_embeddings": True}, "qwen3_5_moe"),
}
DELTA_CLASSES = {
    "Qwen3_5": (hf.Qwen3_5TextConfig, hf.Qwen3_5ForCausalLM),
    "Qwen3_5Moe": (hf.Qwen3_5MoeTextConfig, hf.Qwen3_5MoeForCausalLM),
}
