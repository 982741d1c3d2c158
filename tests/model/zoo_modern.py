"""Rows of the zoo for families from 2025 on; as `ZOO` in zoo.py."""

import json
from pathlib import Path

import torch
import transformers as hf
from safetensors.torch import load_file, save_file

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

LLAMA4 = {
    "attention_chunk_size": 16,
    "intermediate_size": 40,
    "intermediate_size_mlp": 72,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "floor_scale": 8,
    "attn_scale": 0.5,
}

MODERN = {
    "gemma3n": (
        "Gemma3n",
        {**WINDOW, "num_hidden_layers": 5, "head_dim": 12, "num_kv_shared_layers": 2}
        | {"layer_types": [*["sliding_attention", "full_attention"] * 2, "sliding_attention"]}
        | {"intermediate_size": [72, 64, 72, 72, 40], "laurel_rank": 6}
        | {"activation_sparsity_pattern": [0.6, 0.0, 0.8, 0.0, 0.0], "altup_num_inputs": 3}
        | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 190}
        | {"hidden_activation": "gelu_pytorch_tanh", "altup_active_idx": 1},
    ),
    "gemma4": ("Gemma4", GEMMA4_SHARED),
    "gemma4_unified": ("Gemma4Unified", GEMMA4_KEYS),
    "exaone4": ("Exaone4", {**DERIVED, **WINDOW, "num_hidden_layers": 4}),
    "exaone4_full": ("Exaone4", {**DERIVED, "layer_types": ["full_attention"] * 3}),
    "seed_oss": ("SeedOss", {"mlp_bias": True}),
    "helium": ("Helium", {"head_dim": 12}),
    "cwm": ("Cwm", WINDOW),
    "emu3": ("Emu3", DERIVED),
    "hyperclovax": ("HyperCLOVAX", {**DERIVED, **GRANITE}),
    "vault_gemma": ("VaultGemma", {**WINDOW, "query_pre_attn_scalar": 10}),
    "arcee": ("Arcee", {"mlp_bias": True}),
    "nemotron": ("Nemotron", {"mlp_bias": True, "attention_bias": True}),
    "jais2": ("Jais2", {}),
    "apertus": ("Apertus", DERIVED),
    "apertus1p5": ("Apertus1p5Text", {**DERIVED, "hidden_act": "relu2"}),
    "nanochat": ("NanoChat", {**DERIVED, "attention_bias": True}),
    "bitnet": ("BitNet", DERIVED),
    "granite_swa": (
        "GraniteSWA",
        {**DERIVED, **WINDOW, **GRANITE, "layer_rope_theta": [0, 1e4, 5e3]},
    ),
}
MODERN["diffllama"] = (
    "DiffLlama",
    {"num_key_value_heads": 4, "num_attention_heads": 8}
    | {"attention_bias": True, "lambda_std_dev": 0.2, "head_dim": 10},
)
MODERN["doge"] = ("Doge", {"attention_bias": True, "mlp_bias": True})
MODERN["modernbert_decoder"] = (
    "ModernBertDecoder",
    {**DERIVED, "num_key_value_heads": None, "local_attention": 32, "attention_bias": True}
    | {"mlp_bias": True, "norm_bias": True, "classifier_bias": True, "initializer_range": 0.4},
)
# tokens that their configs want
_BOTH = ("bos_token_id", "pad_token_id")
TOKENS = {"Cwm": ("bos_token_id",), "Emu3": _BOTH, "ModernBertDecoder": _BOTH}
# their config classes, where they are not named after the family
MODERN_TEXTS = ("Emu3", "Gemma3n", "Gemma4", "Gemma4Unified", "Llama4")
# those whose bits may depend on the batch
MODERN_MIXTURES = {
    "llama4": (
        "Llama4",
        {**LLAMA4, "num_hidden_layers": 4, "interleave_moe_layer_step": 2},
    ),
    "llama4_plain": (
        "Llama4",
        {**LLAMA4, "no_rope_layers": [0, 1, 1], "use_qk_norm": False, "moe_layers": [0]}
        | {"attn_temperature_tuning": False},
    ),
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


def inside(family, renamed):
    """A class of text models that are saved as those inside models of images and texts.

    transformers can't make Gemma 3n's without timm, or call Llama 4's. `renamed` gives the name of
    a tensor there.
    """

    class Inside(getattr(hf, f"{family}ForCausalLM")):
        def save_pretrained(self, folder, **how):
            super().save_pretrained(folder, **how)
            file = Path(folder) / "config.json"
            text = json.loads(file.read_text())
            self.config.architectures = [f"{family}ForConditionalGeneration"]
            whole = {"architectures": self.config.architectures, "text_config": text}
            file.write_text(json.dumps(whole))
            weights = Path(folder) / "model.safetensors"
            tensors = {renamed(key): tensor for key, tensor in load_file(weights).items()}
            save_file({**tensors, "multi_modal_projector.weight": torch.zeros(1)}, weights)

    Inside.__name__ = f"{family}ForCausalLM"  # of the config that they are made of
    return Inside


INSIDE = {
    "gemma3n": inside("Gemma3n", lambda key: key.replace("model.", "model.language_model.", 1)),
    "llama4": inside("Llama4", lambda key: f"language_model.{key}"),
}
