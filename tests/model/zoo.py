"""A tiny random model of every family, made with transformers: a row for each."""

import torch
import transformers as hf
from zoo_delta import DELTA, DELTA_CLASSES, DELTA_WRAPPED
from zoo_latent import LATENT, LATENT_MIXTURES
from zoo_mixtures import EXPERTS, MIXTURES
from zoo_modern import INSIDE, MODERN, MODERN_MIXTURES, MODERN_TEXTS, TOKENS
from zoo_older import FUSED, OLDER, OWN_SIZES
from zoo_sizes import (
    DERIVED,
    EACH_TYPE,
    GRANITE,
    LLAMA3,
    LONG,
    MINISTRAL3,
    OLMO3_TYPES,
    SIZES,
    VOCAB,
    WINDOW,
    YARN,
    theta,
)
from zoo_states import STATES

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
    "llama_llama3": ("Llama", theta(LLAMA3)),
    "llama_linear": ("Llama", theta({"rope_type": "linear", "factor": 3.0})),
    "llama_dynamic": ("Llama", theta({"rope_type": "dynamic", "factor": 3.0})),
    "llama_yarn": ("Llama", theta(YARN)),
    "mistral": ("Mistral", WINDOW),
    "ministral": (
        "Ministral",
        {**WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "ministral3": ("Ministral3", theta(MINISTRAL3)),
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
        {**DERIVED, "original_max_position_embeddings": 256, **theta(LONG)},
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
            **theta({"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0}),
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
MIXTURES |= MODERN_MIXTURES | LATENT_MIXTURES
ZOO |= MODERN | LATENT | MIXTURES | OLDER | DELTA | STATES
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
QWEN2_VISION = {"depth": 1, "embed_dim": 16, "hidden_size": 48, "num_heads": 2}
VISIONS = {
    "Aria": lambda: hf.Idefics3VisionConfig(**VISION),
    "Gemma3": lambda: hf.SiglipVisionConfig(**VISION),
    "Gemma4": lambda: None,
    "Gemma4Unified": lambda: None,
    "Mistral3": lambda: hf.PixtralVisionConfig(**VISION),
    "Qwen2VL": lambda: hf.Qwen2VLConfig(vision_config=QWEN2_VISION).vision_config,
    "Qwen2_5_VL": lambda: hf.Qwen2_5_VLConfig(vision_config=QWEN_VISION).vision_config,
    "Qwen3VL": lambda: hf.Qwen3VLConfig(vision_config=QWEN_VISION).vision_config,
    "Qwen3VLMoe": lambda: hf.Qwen3VLMoeConfig(vision_config=QWEN_VISION).vision_config,
    "Qwen3_5": lambda: hf.Qwen3_5Config(vision_config=QWEN_VISION).vision_config,
    "Qwen3_5Moe": lambda: hf.Qwen3_5MoeConfig(vision_config=QWEN_VISION).vision_config,
}
# Text models that have no class of their own for texts alone
MROPE = theta({"rope_type": "default", "mrope_section": [4, 3, 3], "mrope_interleaved": True})
MROPE2 = theta({"rope_type": "default", "mrope_section": [2, 2, 2]})
TEXTS = {
    "qwen2_vl_text": ("Qwen2VLText", {**DERIVED, **MROPE2}),
    "qwen2_5_vl_text": (
        "Qwen2_5_VLText",
        {**DERIVED, **MROPE2, **WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3_vl_text": ("Qwen3VLText", MROPE),
    "qwen3_vl_moe_text": ("Qwen3VLMoeText", {**EXPERTS, **MROPE, "mlp_only_layers": [1]}),
}
# Text models inside others: (class, its options, the row of the text model)
WRAPPED = {
    "gemma3_wrapped": ("Gemma3", {}, "gemma3"),
    "gemma4_wrapped": ("Gemma4", {}, "gemma4"),
    "gemma4_unified_wrapped": ("Gemma4Unified", {}, "gemma4_unified"),
    "mistral3": ("Mistral3", {"tie_word_embeddings": False}, "mistral"),
    "mistral4_wrapped": ("Mistral3", {"tie_word_embeddings": False}, "mistral4"),
    "mistral3_tied": ("Mistral3", {"tie_word_embeddings": True}, "ministral3"),
    "qwen2_vl": ("Qwen2VL", {}, "qwen2_vl_text"),
    "qwen2_5_vl": ("Qwen2_5_VL", {"tie_word_embeddings": True}, "qwen2_5_vl_text"),
    "qwen3_vl": ("Qwen3VL", {"tie_word_embeddings": True}, "qwen3_vl_text"),
    "qwen3_vl_moe": ("Qwen3VLMoe", {"tie_word_embeddings": False}, "qwen3_vl_moe_text"),
    "aria": ("Aria", {}, "aria_text"),
    **DELTA_WRAPPED,
}
MIXTURES |= {name: WRAPPED[name] for name in ("qwen3_vl_moe", "aria")}
ZOO |= {name: (family, changes) for name, (family, changes, _) in WRAPPED.items()}
ZOO |= {f"{name}_wrapped": (name, ZOO[name][1]) for name in INSIDE}
MIXTURES["llama4_wrapped"] = ZOO["llama4_wrapped"]
# Frequencies that depend on the length: the context for which they are those of short sequences
CONTEXTS = {"llama_dynamic": 256, "phimoe": 256, "phi4_mini": 64}
CLASSES = {
    "Gemma3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM),
    **{name: (getattr(hf, ZOO[name][0] + "TextConfig"), model) for name, model in INSIDE.items()},
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
    fields = changes if family in OWN_SIZES | {"GPT2", "Dbrx"} else {**SIZES, **changes}
    fields = {key: value for key, value in fields.items() if value is not None}
    config = config_class(
        **{key: None if value == "null" else value for key, value in fields.items()}
    )
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, token, 0 if token in TOKENS.get(family, ()) else None)
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
        plain = parameter.dim() == 1 and "lambda" not in key  # whose products are exponents
        if plain or "norm" in key or key.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.0 if key.endswith("bias") else 0.8, 0.3)
    for key, buffer in model.named_buffers():
        if key.endswith("bias") and buffer.dim() == 1:  # corrections of experts, and no masks
            torch.nn.init.normal_(buffer, 0.0, 0.3)
    for key, buffer in model.named_buffers():
        if key.endswith("layer_scalar"):
            torch.nn.init.normal_(buffer, 0.8, 0.3)
    return model
