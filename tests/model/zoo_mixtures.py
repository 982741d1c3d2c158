"""Rows of the zoo with experts."""

from zoo_sizes import DERIVED, EACH_TYPE, GRANITE, LONG, VOCAB, WINDOW, theta

MSCALES = {"short_mscale": 1.2, "long_mscale": 1.2}
DBRX = {
    "vocab_size": VOCAB,
    "d_model": 48,
    "n_heads": 4,
    "n_layers": 3,
    "max_seq_len": 256,
    "initializer_range": 0.1,
    "attn_config": {"clip_qkv": 0.9, "kv_n_heads": 2, "rope_theta": 5000.0},
    "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 8, "moe_top_k": 3},
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}
# by all names that configs have for them
EXPERTS = {
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "moe_topk": 3,
    "moe_k": 3,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 20,
    "shared_expert_intermediate_size": 32,
    "intermediate_size": 40,
}
MIXTURES = {
    "mixtral": ("Mixtral", {**WINDOW, **EXPERTS}),
    "qwen3_moe": (
        "Qwen3Moe",
        {**WINDOW, **EXPERTS, "num_hidden_layers": 4, "decoder_sparse_step": 2}
        | {"use_sliding_window": True, "mlp_only_layers": [3], "norm_topk_prob": True},
    ),
    "qwen2_moe": ("Qwen2Moe", {**DERIVED, **EXPERTS, "mlp_only_layers": [1]}),
    "qwen2_moe_window": (
        "Qwen2Moe",
        {**DERIVED, **EXPERTS, **WINDOW, "use_sliding_window": True, "norm_topk_prob": True},
    ),
    "olmoe": ("Olmoe", {**DERIVED, **EXPERTS}),
    "flex_olmo": ("FlexOlmo", {**DERIVED, **EXPERTS, "norm_topk_prob": True}),
    "granite_moe": ("GraniteMoe", {**DERIVED, **EXPERTS, **GRANITE}),
    "granite_moe_swa": (
        "GraniteMoeSWA",
        {**DERIVED, **EXPERTS, **GRANITE, **WINDOW, "shared_intermediate_size": 32}
        | {"layer_rope_theta": [10000.0, 0, 500.0]},
    ),
    "granite_moe_shared": (
        "GraniteMoeShared",
        {**DERIVED, **EXPERTS, **GRANITE, "shared_intermediate_size": 32},
    ),
    "afmoe": (
        "Afmoe",
        {**EXPERTS, **WINDOW, "num_hidden_layers": 4, "mup_enabled": True, "route_scale": 1.7},
    ),
    "laguna": (
        "Laguna",
        {**EXPERTS, **WINDOW, "layer_types": ["full_attention", *["sliding_attention"] * 2]}
        | {"num_attention_heads_per_layer": [4, 2, 6], "moe_routed_scaling_factor": 1.7}
        | {"moe_router_logit_softcapping": 1.5},
    ),
    "laguna_elements": (
        "Laguna",
        {**EXPERTS, **WINDOW, "gating": "per-element"}
        | {"mlp_layer_types": ["sparse", "dense", "sparse"]},
    ),
    "mellum": (
        "Mellum",
        {**EXPERTS, **WINDOW, "layer_types": ["full_attention", *["sliding_attention"] * 2]}
        | {"rope_parameters": EACH_TYPE},
    ),
    "kolibri": ("Kolibri1", {**EXPERTS, **WINDOW, "num_hidden_layers": 5}),
    "flint": ("Flint", {**EXPERTS, **WINDOW, "num_hidden_layers": 5}),
    "phimoe": (
        "Phimoe",
        {**DERIVED, **EXPERTS, "num_experts_per_tok": 2, "attention_bias": True}
        | {"lm_head_bias": True, "router_jitter_noise": 0.2, "max_position_embeddings": 512}
        | theta({**LONG, "original_max_position_embeddings": 256, **MSCALES}),
    ),
    "dbrx": ("Dbrx", DBRX),
    "jetmoe": (
        "JetMoe",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 3}
        | {"num_hidden_layers": 2, "kv_channels": 12, "rms_norm_eps": 0.1, "intermediate_size": 40}
        | {"num_attention_heads": None, "head_dim": None},
    ),
    "mimo_v2_flash": (
        "MiMoV2Flash",
        {**EXPERTS, **WINDOW, "num_key_value_heads": 1, "v_head_dim": 12, "attention_bias": True}
        | {"n_group": 4, "topk_group": 2, "num_local_experts": None, "num_hidden_layers": 4}
        | {
            "layer_types": ["full_attention", "sliding_attention"] * 2,
            "attention_value_scale": 0.6,
        },
    ),
    "hunyuan_moe": ("HunYuanMoEV1", {**EXPERTS, "moe_intermediate_size": 40}),
    "aria_text": ("AriaText", {**DERIVED, **EXPERTS, "mlp_bias": True}),
    "glm4_moe": (
        "Glm4Moe",
        {**EXPERTS, "use_qk_norm": True, "attention_bias": True, "n_group": 4, "topk_group": 2}
        | {"routed_scaling_factor": 1.7},
    ),
    "solar_open": ("SolarOpen", {**EXPERTS, "n_shared_experts": 2, "norm_topk_prob": False}),
    "dots1": (
        "Dots1",
        {**DERIVED, **EXPERTS, **WINDOW, "max_window_layers": 1, "n_shared_experts": 2},
    ),
    "exaone_moe": (
        "ExaoneMoe",
        {**DERIVED, **EXPERTS, **WINDOW, "num_hidden_layers": 4, "num_shared_experts": 2},
    ),
    "hy_v3": ("HYV3", {**EXPERTS, "mlp_bias": True}),
    "minimax_m2": ("MiniMaxM2", {**EXPERTS, "rotary_dim": 10}),
    "ernie4_5_moe": (
        "Ernie4_5_Moe",
        {**DERIVED, **EXPERTS, "hidden_size": 64, "moe_layer_interval": 2},
    ),
    "cohere2_moe": ("Cohere2Moe", {**EXPERTS, **WINDOW, "num_hidden_layers": 4}),
    "cohere2_moe_dense_first": (
        "Cohere2Moe",
        {**EXPERTS, **WINDOW, "num_hidden_layers": 5, "first_k_dense_replace": 1}
        | {"prefix_dense_intermediate_size": 32, "num_shared_experts": 2, "rms_norm_eps": 1e-5}
        | {"expert_selection_fn": "sigmoid"},
    ),
}
