"""Rows of the zoo for families from 2025 on; as `ZOO` in zoo.py."""

DERIVED = {"head_dim": None}
WINDOW = {"sliding_window": 16}
GRANITE = {
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.7,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
}

GEMMA4 = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "head_dim": 12,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size_per_layer_input": 0,
    **WINDOW,
}
GEMMA4_SHARED = {
    **GEMMA4,
    "global_head_dim": 20,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 200,
}
GEMMA4_KEYS = {
    **GEMMA4,
    "global_head_dim": 24,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "final_logit_softcapping": 8.0,
    "use_bidirectional_attention": "vision",
}

MODERN = {
    "gemma4": ("Gemma4", GEMMA4_SHARED),
    "gemma4_unified": ("Gemma4Unified", GEMMA4_KEYS),
    "granite_swa": (
        "GraniteSWA",
        {**DERIVED, **WINDOW, **GRANITE, "layer_rope_theta": [0, 1e4, 5e3]},
    ),
}
# their config classes, where they are not named after the family
MODERN_TEXTS = ("Gemma4", "Gemma4Unified")
# those whose bits may depend on the batch
MODERN_MIXTURES = {
    "gemma4_moe": (
        "Gemma4",
        {**GEMMA4_KEYS, "num_hidden_layers": 4, "layer_types": GEMMA4["layer_types"][:4]}
        | {"enable_moe_block": True, "num_experts": 5, "top_k_experts": 2}
        | {"moe_intermediate_size": 24},
    ),
    "gpt_oss": (
        "GptOss",
        {**WINDOW, "intermediate_size": 32, "num_local_experts": 5, "num_experts_per_tok": 2}
        | {"swiglu_limit": 0.5},
    ),
}
