"""Models of text and images, of which the text model alone is loaded: Gemma 3 and Mistral Small 3.

Its config is the field text_config, its tensors lie below a prefix, and the tensors of the other
parts are passed over.
"""

from __future__ import annotations

from typing import Any

from stoker.model.families import gemma, llama
from stoker.model.families.fields import Fields
from stoker.model.families.gemma import GEMMA2
from stoker.model.families.parts import LLAMA, Family
from stoker.model.spec.model import ModelSpec

# as stored, and as transformers names the tensors once they are loaded
RENAMED = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
PARTS = ("vision_tower.", "multi_modal_projector.")
BESIDE = (*PARTS, *("model." + part for part in PARTS))

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
MISTRAL_TEXTS = {"mistral": "MistralForCausalLM", "ministral3": "Ministral3ForCausalLM"}


def _text(f: Fields, defaults: dict[str, Any]) -> Fields:
    """The text model's config; whether the head is tied is said outside, if it is said there."""
    text = f.within("text_config")
    text.insist("per_layer_config", None, None)
    for name, value in defaults.items():
        text.values.setdefault(name, value)
    if "tie_word_embeddings" in f.values:
        text.values["tie_word_embeddings"] = f.values["tie_word_embeddings"]
    return text


def _gemma3(f: Fields) -> ModelSpec:
    return gemma.FAMILIES["Gemma3ForCausalLM"].spec(_text(f, GEMMA3_DEFAULTS))


def _mistral3(f: Fields) -> ModelSpec:
    text = _text(f, {})
    kind = text.choice("model_type", MISTRAL_TEXTS, "text model", "mistral")
    return llama.FAMILIES[MISTRAL_TEXTS[kind]].spec(text)


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
        "Mistral Small 3.1 and 3.2, Ministral 3",
        _mistral3,
        LLAMA,
        "the text model, Mistral or Ministral 3; the model of images is left out",
        renamed=RENAMED,
        beside=BESIDE,
    ),
}
