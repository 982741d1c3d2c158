"""Rows of the zoo for families from 2025 on; as `ZOO` in zoo.py."""

DERIVED = {"head_dim": None}
WINDOW = {"sliding_window": 16}
GRANITE = {
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.7,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
}

MODERN = {
    "granite_swa": (
        "GraniteSWA",
        {**DERIVED, **WINDOW, **GRANITE, "layer_rope_theta": [0, 1e4, 5e3]},
    ),
}
# those whose bits may depend on the batch
MODERN_MIXTURES = {
    "gpt_oss": (
        "GptOss",
        {**WINDOW, "intermediate_size": 32, "num_local_experts": 5, "num_experts_per_tok": 2}
        | {"swiglu_limit": 0.5},
    ),
}
