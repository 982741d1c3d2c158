"""A tiny random model of every family, made with transformers: a row for each."""

import torch
import transformers as hf
from zoo_delta import DELTA, DELTA_CLASSES, DELTA_WRAPPED
from zoo_modern import MODERN, MODERN_MIXTURES, MODERN_TEXTS
from zoo_older import FUSED, OLDER, OWN_SIZES

VOCAB = 200
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "intermediate_size": 72,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,  # large, so that tokens do not repeat themselves
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
# Families that derive the head size or have one key-value head for each query head
DERIVED = {"head_dim": None}
WINDOW = {"sliding_window": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
MINISTRAL3 = {
    **YARN,
    "original_max_position_embeddings": 16,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.7,
}
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 2.5, 3.0, 4.0],
}
EACH_TYPE = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
}
OLMO3_TYPES = {
    "full_attention": {**YARN, "rope_theta": 5e5},
    "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
}

GRANITE = {
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.7,
    "embedding_multiplier": 3.0,
    "logits_scaling": 2.0,
}
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


def _theta(scaling, theta=10000.0):
    return {"rope_parameters": {**scaling, "rope_theta": theta}}


GPT2_SIZES = {
    "vocab_size": VOCAB,
    "n_positions": 256,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 4,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
}

# name -> (transformers' class, changes to SIZES)
ZOO = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama_bias": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_llama3": ("Llama", _theta(LLAMA3)),
    "llama_linear": ("Llama", _theta({"rope_type": "linear", "factor": 3.0})),
    "llama_dynamic": ("Llama", _theta({"rope_type": "dynamic", "factor": 3.0})),
    "llama_yarn": ("Llama", _theta(YARN)),
    "mistral": ("Mistral", WINDOW),
    "ministral": (
        "Ministral",
        {**WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "ministral3": ("Ministral3", _theta(MINISTRAL3)),
    "qwen2": ("Qwen2", {"head_dim": None}),
    "qwen2_window": (
        "Qwen2",
        {**DERIVED, **WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "qwen3_window": ("Qwen3", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "phi3": ("Phi3", {**DERIVED, **WINDOW}),
    "phi3_longrope": (
        "Phi3",
        {**DERIVED, "original_max_position_embeddings": 256, **_theta(LONG)},
    ),
    "phi4_mini": (
        "Phi3",
        {
            **DERIVED,
            "hidden_size": 64,
            "original_max_position_embeddings": 64,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "rope_parameters": {**LONG, "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
        },
    ),
    "smollm3": ("SmolLM3", {**DERIVED, "no_rope_layers": [1, 0, 1]}),
    "granite": ("Granite", {**DERIVED, **GRANITE}),
    "gemma": ("Gemma", {}),
    "gemma2": (
        "Gemma2",
        {
            **WINDOW,
            "query_pre_attn_scalar": 10,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma3": (
        "Gemma3",
        {
            **WINDOW,
            "num_hidden_layers": 4,
            "query_pre_attn_scalar": 10,
            "sliding_window_pattern": 3,
            "rope_parameters": EACH_TYPE,
        },
    ),
    "olmo2": ("Olmo2", DERIVED),
    "olmo3": (
        "Olmo3",
        {**DERIVED, **WINDOW, "num_hidden_layers": 4, "rope_parameters": OLMO3_TYPES},
    ),
    "glm": ("Glm", {}),
    "glm4": ("Glm4", {}),
    "hunyuan": (
        "HunYuanDenseV1",
        {
            "tie_word_embeddings": True,
            **_theta({"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0}),
        },
    ),
    "ernie4_5": ("Ernie4_5", {"use_bias": True}),
    "cohere": ("Cohere", DERIVED),
    "cohere_qk_norm": ("Cohere", {**DERIVED, "use_qk_norm": True, "logit_scale": 0.3}),
    "cohere2": ("Cohere2", {**DERIVED, **WINDOW, "num_hidden_layers": 4}),
    "starcoder2": ("Starcoder2", {**DERIVED, **WINDOW}),
    "gpt_neox": ("GPTNeoX", {**DERIVED, "hidden_size": 64, "num_key_value_heads": None}),
    "gpt_neox_serial": (
        "GPTNeoX",
        {**DERIVED, "hidden_size": 64, "num_key_value_heads": None, "use_parallel_residual": False},
    ),
    "gpt2": ("GPT2", GPT2_SIZES),
    "gpt2_scaled": ("GPT2", {**GPT2_SIZES, "scale_attn_by_inverse_layer_idx": True}),
    "opt": (
        "OPT",
        {**DERIVED, "num_key_value_heads": None, "ffn_dim": 72, "initializer_range": 0.35},
    ),
    "opt_350m": (
        "OPT",
        {
            **DERIVED,
            "num_key_value_heads": None,
            "ffn_dim": 72,
            "initializer_range": 0.35,
            "word_embed_proj_dim": 32,
            "do_layer_norm_before": False,
        },
    ),
    "opt_narrow": (
        "OPT",
        {
            **DERIVED,
            "num_key_value_heads": None,
            "ffn_dim": 72,
            "initializer_range": 0.35,
            "word_embed_proj_dim": 32,
        },
    ),
}
MIXTURES = {  # whose products are not computed row by row
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
        | _theta({**LONG, "original_max_position_embeddings": 256, **MSCALES}),
    ),
    "dbrx": ("Dbrx", DBRX),
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
MIXTURES |= MODERN_MIXTURES
ZOO |= MODERN | MIXTURES | OLDER | DELTA
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 48,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [],
}
VISIONS = {
    "Aria": lambda: hf.Idefics3VisionConfig(**VISION),
    "Gemma3": lambda: hf.SiglipVisionConfig(**VISION),
    "Gemma4": lambda: None,
    "Gemma4Unified": lambda: None,
    "Mistral3": lambda: hf.PixtralVisionConfig(**VISION),
    "Qwen3VL": lambda: hf.Qwen3VLConfig(vision_config=QWEN_VISION).vision_config,
    "Qwen3VLMoe": lambda: hf.Qwen3VLMoeConfig(vision_config=QWEN_VISION).vision_config,
    "Qwen3_5": lambda: hf.Qwen3_5Config(vision_config=QWEN_VISION).vision_config,
    "Qwen3_5Moe": lambda: hf.Qwen3_5MoeConfig(vision_config=QWEN_VISION).vision_config,
}
# Text models that have no class of their own for texts alone
MROPE = _theta({"rope_type": "default", "mrope_section": [4, 3, 3], "mrope_interleaved": True})
TEXTS = {
    "qwen3_vl_text": ("Qwen3VLText", MROPE),
    "qwen3_vl_moe_text": ("Qwen3VLMoeText", {**EXPERTS, **MROPE, "mlp_only_layers": [1]}),
}
# Text models inside others: (class, its options, the row of the text model)
WRAPPED = {
    "gemma3_wrapped": ("Gemma3", {}, "gemma3"),
    "gemma4_wrapped": ("Gemma4", {}, "gemma4"),
    "gemma4_unified_wrapped": ("Gemma4Unified", {}, "gemma4_unified"),
    "mistral3": ("Mistral3", {"tie_word_embeddings": False}, "mistral"),
    "mistral3_tied": ("Mistral3", {"tie_word_embeddings": True}, "ministral3"),
    "qwen3_vl": ("Qwen3VL", {"tie_word_embeddings": True}, "qwen3_vl_text"),
    "qwen3_vl_moe": ("Qwen3VLMoe", {"tie_word_embeddings": False}, "qwen3_vl_moe_text"),
    "aria": ("Aria", {}, "aria_text"),
    **DELTA_WRAPPED,
}
MIXTURES |= {name: WRAPPED[name] for name in ("qwen3_vl_moe", "aria")}
ZOO |= {name: (family, changes) for name, (family, changes, _) in WRAPPED.items()}
# Frequencies that depend on the length: the context for which they are those of short sequences
CONTEXTS = {"llama_dynamic": 256, "phimoe": 256, "phi4_mini": 64}
CLASSES = {
    "Gemma3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM),
    **{
        name: (getattr(hf, f"{name}TextConfig"), getattr(hf, f"{name}ForCausalLM"))
        for name in MODERN_TEXTS
    },
    "GPT2": (hf.GPT2Config, hf.GPT2LMHeadModel),
    "OpenAIGPT": (hf.OpenAIGPTConfig, hf.OpenAIGPTLMHeadModel),
    **DELTA_CLASSES,
}


def make_config(name):
    """The config of a row, and the class of its model."""
    if name in WRAPPED:
        return _wrapped(*WRAPPED[name])
    family, changes = ZOO.get(name) or TEXTS[name]
    config_class, model_class = CLASSES.get(family) or (
        getattr(hf, f"{family}Config"),
        getattr(hf, f"{family}ForCausalLM", None),
    )
    fields = changes if family in OWN_SIZES | {"GPT2"} else {**SIZES, **changes}
    fields = changes if family in ("GPT2", "Dbrx") else {**SIZES, **changes}
    config = config_class(**{key: value for key, value in fields.items() if value is not None})
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, token, None)
    return config, model_class


def _wrapped(family, changes, text):
    """As `make_config`, for a text model inside another."""
    inner = make_config(text)[0].to_dict()
    if family in MODERN_TEXTS:  # which look at its embedding
        inner["pad_token_id"] = 0
    config = getattr(hf, f"{family}Config")(
        text_config=inner, vision_config=VISIONS[family](), **changes
    )
    return config, getattr(hf, f"{family}ForConditionalGeneration")


def make(name):
    """The model of a row; its norms and biases are random too, as ones and zeros hide mistakes."""
    config, model_class = make_config(name)
    # the others leave out soft caps; Falcon's adds its biases twice
    config._attn_implementation = "sdpa" if name in FUSED else "eager"
    torch.manual_seed(0)
    model = model_class(config).eval()
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1 or "norm" in key or key.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0 if key.endswith("bias") else 0.8, 0.3)
    for key, buffer in model.named_buffers():
        if key.endswith("bias") and buffer.dim() == 1:  # corrections of experts, and no masks
            torch.nn.init.normal_(buffer, 0.0, 0.3)
    for key, buffer in model.named_buffers():
        if key.endswith("layer_scalar"):
            torch.nn.init.normal_(buffer, 0.8, 0.3)
    return model
