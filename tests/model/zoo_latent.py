"""Rows of the zoo for families with latent attention; as `ZOO` in zoo.py."""

HEADS = {
    "num_key_value_heads": 4,
    "head_dim": None,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
}
DIRECT = {"q_lora_rank": "null"}  # queries straight from the input
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 0.7,
    "mscale_all_dim": 0.9,
}
EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
GROUPS = {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.7}
GROWING = {**YARN, "original_max_position_embeddings": 16, "llama_4_scaling_beta": 0.7}

LATENT = {
    "youtu": ("Youtu", {**HEADS, "tie_word_embeddings": True}),
    "youtu_bias": (
        "Youtu",
        {**HEADS, "rope_interleave": False, "attention_bias": True, "tie_word_embeddings": True},
    ),
    "minicpm3": (
        "MiniCPM3",
        {**HEADS, "v_head_dim": None, "dim_model_base": 24, "scale_emb": 3.0, "hidden_act": "gelu"},
    ),
}
# those whose bits may depend on the batch
LATENT_MIXTURES = {
    "deepseek_v2": (
        "DeepseekV2",
        {**HEADS, **EXPERTS, **GROUPS, "topk_method": "group_limited_greedy"},
    ),
    "deepseek_v2_lite": (
        "DeepseekV2",
        {**HEADS, **DIRECT, **EXPERTS, "n_shared_experts": 2, "rope_parameters": YARN},
    ),
    "deepseek_v3": ("DeepseekV3", {**HEADS, **EXPERTS, **GROUPS, "rope_parameters": YARN}),
    "glm4_moe_lite": (
        "Glm4MoeLite",
        {**HEADS, **EXPERTS, "mlp_layer_types": ["dense", "sparse", "dense"]},
    ),
    "deepseek_v32": (
        "DeepseekV32",
        {**HEADS, **EXPERTS, **GROUPS, "index_n_heads": 2, "index_head_dim": 12},
    ),
    "glm_moe_dsa": (
        "GlmMoeDsa",
        {**HEADS, **EXPERTS, "index_n_heads": 2, "index_head_dim": 12, "index_topk_freq": 2},
    ),
    "axk1": ("AXK1", {**HEADS, **EXPERTS, **GROUPS}),
    "longcat": (
        "LongcatFlash",
        {**HEADS, "head_dim": 8, "num_hidden_layers": None, "num_layers": 2}
        | {"intermediate_size": None}
        | {"ffn_hidden_size": 72, "expert_ffn_hidden_size": 24, "n_routed_experts": 6}
        | {"zero_expert_num": 3, "moe_topk": 3, "routed_scaling_factor": 2.0},
    ),
    "mistral4": (
        "Mistral4",
        {**HEADS, **EXPERTS, **GROUPS, "head_dim": None, "rope_parameters": GROWING},
    ),
}
