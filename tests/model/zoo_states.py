"""Rows of zoo.py for models that keep states: state spaces, short convolutions, hybrids of them."""

ALONE = {"num_hidden_layers": 2, "state_size": 5, "conv_kernel": 3, "hidden_size": 40}
MAMBA2 = {
    "mamba_n_heads": 6,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
    "head_dim": None,
}
NEMOTRON = {
    "mamba_num_heads": 6,
    "mamba_head_dim": 10,
    "n_groups": 3,
    "ssm_state_size": 6,
    "chunk_size": 16,
    "num_hidden_layers": None,
}
LFM2 = {"head_dim": None, "layer_types": ["conv", "full_attention", "conv"]}
ZAMBA2 = {
    "hidden_size": 40,
    "num_key_value_heads": 4,
    "mamba_d_state": 8,
    "mamba_ngroups": 2,
    "n_mamba_heads": 4,
    "chunk_size": 16,
    "head_dim": None,
}
STATES = {
    "lfm2": ("Lfm2", {**LFM2, "block_multiple_of": 8}),
    "lfm2_bias": (
        "Lfm2",
        {**LFM2, "conv_bias": True, "conv_L_cache": 5, "tie_word_embeddings": False},
    ),
    "lfm3": (
        "Lfm3",
        {
            "num_hidden_layers": 4,
            "layer_types": ["conv", "sliding_attention", "full_attention", "conv"],
            "sliding_window": 16,
            "conv_L_cache": 7,
        },
    ),
    "lfm3_plain": (
        "Lfm3",
        {
            "layer_types": ["conv", "full_attention", "conv"],
            "use_sandwich_norm": False,
            "conv_bias": True,
        },
    ),
    "mamba": ("Mamba", ALONE),
    "mamba_bias": (
        "Mamba",
        {
            **ALONE,
            "use_bias": True,
            "use_conv_bias": False,
            "time_step_rank": 7,
            "tie_word_embeddings": False,
            "initializer_range": 0.25,
        },
    ),
    "falcon_mamba": ("FalconMamba", {**ALONE, "expand": 3}),
    "mamba2": (
        "Mamba2",
        {**ALONE, "num_heads": 8, "head_dim": 10, "n_groups": 4, "chunk_size": 16},
    ),
    "mamba2_bias": (
        "Mamba2",
        {
            **ALONE,
            "num_heads": 5,
            "head_dim": 16,
            "n_groups": 1,
            "chunk_size": 16,
            "use_bias": True,
            "use_conv_bias": False,
        },
    ),
    "bamba": ("Bamba", {**MAMBA2, "attn_layer_indices": [1]}),
    "falcon_h1": (
        "FalconH1",
        {
            **MAMBA2,
            "num_hidden_layers": 2,
            "mamba_d_ssm": 80,
            "mamba_n_heads": 4,
            "mamba_d_head": 20,
            "attention_in_multiplier": 0.9,
            "attention_out_multiplier": 1.3,
            "key_multiplier": 0.7,
            "ssm_in_multiplier": 1.2,
            "ssm_out_multiplier": 0.8,
            "ssm_multipliers": [0.8, 1.1, 0.7, 1.3, 0.9],
            "mlp_multipliers": [0.8, 1.2],
            "embedding_multiplier": 3.0,
            "lm_head_multiplier": 0.5,
        },
    ),
    "falcon_h1_norm": (
        "FalconH1",
        {
            **MAMBA2,
            "num_hidden_layers": 2,
            "mamba_d_ssm": 96,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
            "projectors_bias": True,
            "mamba_proj_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "key_multiplier": 0.7,
            "attention_out_multiplier": 1.3,
            "ssm_out_multiplier": 0.8,
        },
    ),
    "granite_hybrid": (
        "GraniteMoeHybrid",
        {
            **MAMBA2,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 0,
            "shared_intermediate_size": 72,
            "attention_multiplier": 0.3,
            "residual_multiplier": 0.7,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
        },
    ),
    "granite_hybrid_moe": (
        "GraniteMoeHybrid",
        {
            **MAMBA2,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
            "num_local_experts": 4,
            "intermediate_size": 24,
            "shared_intermediate_size": 32,
            "position_embedding_type": "rope",
        },
    ),
    "nemotron_h": (
        "NemotronH",
        {
            **NEMOTRON,
            "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention"],
        },
    ),
    "nemotron_3": (
        "NemotronH",
        {
            **NEMOTRON,
            "layers_block_type": ["linear_attention", "moe", "full_attention"],
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_group": 2,
            "topk_group": 2,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 24,
            "moe_latent_size": 20,
            "routed_scaling_factor": 1.5,
        },
    ),
    "jamba": (
        "Jamba",
        {
            "head_dim": None,
            "num_hidden_layers": 4,
            "attn_layer_period": 3,
            "attn_layer_offset": 1,
            "num_experts": 4,
            "intermediate_size": 32,
            "mamba_d_state": 5,
        },
    ),
    "zamba": (
        "Zamba",
        {
            "hidden_size": 40,
            "head_dim": None,
            "attention_head_dim": 16,
            "num_key_value_heads": 2,
            "layers_block_type": ["hybrid", "linear_attention", "hybrid"],
            "mamba_d_state": 5,
            "n_mamba_heads": 4,
            "mamba_dt_rank": 7,
            "use_associative_scan": False,
        },
    ),
    "zamba2": (
        "Zamba2",
        {
            **ZAMBA2,
            "num_hidden_layers": 6,
            "layers_block_type": [
                "hybrid" if n in (1, 2, 4, 5) else "linear_attention" for n in range(6)
            ],
            "num_mem_blocks": 2,
            "use_shared_attention_adapter": True,
            "use_mem_rope": True,
            "adapter_rank": 5,
        },
    ),
    "zamba2_plain": (
        "Zamba2",
        {
            **ZAMBA2,
            "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "add_bias_linear": True,
            "adapter_rank": 3,
        },
    ),
    "lfm2_moe": (
        "Lfm2Moe",
        {
            **LFM2,
            "num_dense_layers": 1,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "routed_scaling_factor": 1.5,
        },
    ),
}
