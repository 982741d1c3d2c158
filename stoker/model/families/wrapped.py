"""Models of text and images, of which the text model alone is loaded: Gemma 3, Qwen3-VL and others.

Its config is the field text_config, its tensors lie below a prefix, and the tensors of the other
parts are passed over.
"""

from __future__ import annotations

from typing import Any

from stoker.model.families import gemma, latent, llama, mixtures
from stoker.model.families.fields import Fields
from stoker.model.families.gemma import GEMMA2
from stoker.model.families.mixtures import ARIA, MLP, QWEN3_MOE
from stoker.model.families.parts import LLAMA, Family
from stoker.model.spec.model import ModelSpec
from stoker.model.weights import From

# as stored, and as transformers names the tensors once they are loaded
RENAMED = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
PARTS = ("vision_tower.", "multi_modal_projector.")
BESIDE = (*PARTS, *("model." + part for part in PARTS))
QWEN_BESIDE = ("visual.", "model.visual.")

# What Gemma's configs leave out.
GEMMA3_DEFAULTS = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}
MISTRAL_TEXTS = {
    "mistral": llama.FAMILIES["MistralForCausalLM"],
    "ministral3": llama.FAMILIES["Ministral3ForCausalLM"],
    "mistral4": latent.FAMILIES["Mistral4ForCausalLM"],
}


def text_config(f: Fields) -> Fields:
    """The text model's config; whether the head is tied is said outside, if it is said there."""
    text = f.within("text_config")
    if "tie_word_embeddings" in f.values:
        text.values["tie_word_embeddings"] = f.values["tie_word_embeddings"]
    return text


def text_fields(f: Fields, defaults: dict[str, Any]) -> Fields:
    """That config, with defaults; it may not have a per_layer_config."""
    text = text_config(f)
    text.insist("per_layer_config", None, None)
    for name, value in defaults.items():
        text.values.setdefault(name, value)
    return text


def _gemma3(f: Fields) -> ModelSpec:
    return gemma.FAMILIES["Gemma3ForCausalLM"].spec(text_fields(f, GEMMA3_DEFAULTS))


def _mistral3(f: Fields) -> ModelSpec:
    text = text_fields(f, {})
    kind = text.choice("model_type", MISTRAL_TEXTS, "text model", "mistral")
    return MISTRAL_TEXTS[kind].spec(text)


def _qwen_vl(f: Fields, name: str, **defaults: Any) -> ModelSpec:
    """Positions in three dimensions are all alike in a text, and images add to no layer."""
    if "text_config" not in f.values:  # as Qwen2-VL and 2.5-VL are published
        f = Fields({"text_config": f.values}, f.architecture)
    text = text_fields(f, defaults)
    for field in ("rope_scaling", "rope_parameters"):  # of images
        text.values[field] = {
            key: value
            for key, value in text.within(field).values.items()
            if "mrope" not in key and value != "mrope"
        }
    return FAMILY_OF_TEXT[name].spec(text)


def _qwen2_vl(f: Fields) -> ModelSpec:
    return _qwen_vl(f, "Qwen2ForCausalLM", rope_theta=1e6, max_window_layers=80)


def _qwen3_vl(f: Fields) -> ModelSpec:
    return _qwen_vl(f, "Qwen3ForCausalLM", rope_theta=500000.0)


def _qwen3_vl_moe(f: Fields) -> ModelSpec:
    return _qwen_vl(f, "Qwen3MoeForCausalLM", rope_theta=500000.0, norm_topk_prob=True)


def _aria(f: Fields) -> ModelSpec:
    return FAMILY_OF_TEXT["AriaTextForCausalLM"].spec(text_fields(f, {}))


FAMILY_OF_TEXT = {**llama.FAMILIES, **mixtures.FAMILIES}
# published as (experts, inputs, outputs), and saved by transformers 5 the other way around, which
# it takes them for if they are square
QWEN3_VL_MOE = {
    **QWEN3_MOE,
    **{
        f"layers.{{i}}.ffn.expert_{ours}.weight": From((f"{MLP}experts.{theirs}",), either=True)
        for ours, theirs in (("up", "gate_up_proj"), ("down", "down_proj"))
    },
}

FAMILIES = {
    "Gemma3ForConditionalGeneration": Family(
        "Gemma 3 (4B, 12B, 27B)",
        _gemma3,
        GEMMA2,
        "the text model of Gemma 3; the model of images is left out",
        renamed=RENAMED,
        beside=BESIDE,
    ),
    "Mistral3ForConditionalGeneration": Family(
        "Mistral Small 3.1, 3.2 and 4, Ministral 3",
        _mistral3,
        latent.DEEPSEEK,  # and Llama's
        "the text model, Mistral, Ministral 3 or Mistral 4; the model of images is left out",
        renamed=RENAMED,
        beside=BESIDE,
    ),
    "Qwen2VLForConditionalGeneration": Family(
        "Qwen2-VL, QVQ",
        _qwen2_vl,
        LLAMA,
        "the text model, Qwen2; the model of images is left out",
        renamed=RENAMED,
        beside=QWEN_BESIDE,
    ),
    "Qwen2_5_VLForConditionalGeneration": Family(
        "Qwen2.5-VL",
        _qwen2_vl,
        LLAMA,
        "the text model, Qwen2.5; the model of images is left out",
        renamed=RENAMED,
        beside=QWEN_BESIDE,
    ),
    "Qwen3VLForConditionalGeneration": Family(
        "Qwen3-VL (2B, 4B, 8B, 32B)",
        _qwen3_vl,
        LLAMA,
        "the text model, Qwen3; the model of images is left out",
        renamed=RENAMED,
        beside=QWEN_BESIDE,
    ),
    "Qwen3VLMoeForConditionalGeneration": Family(
        "Qwen3-VL 30B-A3B and 235B-A22B",
        _qwen3_vl_moe,
        QWEN3_VL_MOE,
        "the text model, Qwen3 with experts; the model of images is left out",
        renamed=RENAMED,
        beside=QWEN_BESIDE,
    ),
    "AriaForConditionalGeneration": Family(
        "Aria",
        _aria,
        ARIA,
        "the text model with its experts; the model of images is left out",
        renamed=RENAMED,
        beside=BESIDE,
    ),
}
