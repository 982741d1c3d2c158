"""Gemma: scaled embeddings, norms stored as their difference from one, soft caps, windows."""

from __future__ import annotations

import math
from typing import Any

from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    decoder,
    layer_types,
)
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.weights import changed, names


def _ffn(f: Fields) -> DenseSpec:
    return DenseSpec(f.size("intermediate_size"), _activation(f))


def _activation(f: Fields) -> str:
    # Early configs say hidden_act "gelu" and mean the approximation.
    if "hidden_activation" not in f.values and f.values.get("hidden_act") == "gelu":
        return "gelu_tanh"
    name = "hidden_activation" if "hidden_activation" in f.values else "hidden_act"
    return activation(f, name, "gelu_pytorch_tanh")


def _decoder(f: Fields, mixers: list[AttentionSpec] | AttentionSpec, **changes: Any) -> ModelSpec:
    f.insist("use_bidirectional_attention", False, False)
    scale = math.sqrt(f.size("hidden_size"))
    return decoder(f, mixers, ffn=_ffn(f), tied=True, embedding_scale=scale, **changes)


def _gemma(f: Fields) -> ModelSpec:
    return _decoder(f, attention(f))


def _gemma2(f: Fields, *, post_norms: bool = True) -> ModelSpec:
    slides = layer_types(f, lambda index: index % 2 == 0)
    score_cap, logit_cap = (
        f.number(name, f.default_or_null(name, default))
        for name, default in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0))
    )
    mixer = {"scale": f.number("query_pre_attn_scalar", 256, above=0) ** -0.5, "softcap": score_cap}
    mixers = [
        attention(f, window=f.size("sliding_window") if slide else None, **mixer)
        for slide in slides
    ]
    return _decoder(
        f,
        mixers,
        layer={"post_norms": post_norms},
        logit_softcap=logit_cap,
    )


def _vault_gemma(f: Fields) -> ModelSpec:
    return _gemma2(f, post_norms=False)


def _gemma3(f: Fields) -> ModelSpec:
    f.insist("attn_logit_softcapping", None, None)
    pattern = f.size("sliding_window_pattern", f.size("_sliding_window_pattern", 6))
    slides = layer_types(f, lambda index: (index + 1) % pattern != 0)
    scale = f.number("query_pre_attn_scalar", 256, above=0) ** -0.5
    full = attention(f, theta=1e6, kind="full_attention", scale=scale, qk_norm="head")
    window = f.size("sliding_window") if any(slides) else None
    sliding = attention(
        of_windows(f), kind="sliding_attention", scale=scale, qk_norm="head", window=window
    )
    return _decoder(
        f,
        [sliding if slide else full for slide in slides],
        layer={"post_norms": True},
        logit_softcap=f.number("final_logit_softcapping", None),
    )


def of_windows(f: Fields) -> Fields:
    """The config of layers with a window, whose rotary embedding is their own, never stretched."""
    local = Fields(f.values, f.architecture)
    if not any("attention" in name for name in f.within("rope_parameters").values):
        for name in ("rope_scaling", "rope_parameters", "rope_theta"):
            local.values.pop(name, None)
        local.values["rope_theta"] = f.number("rope_local_base_freq", 10000.0)
    return local


GEMMA = changed(LLAMA, "norm.weight", plus=1.0)
GEMMA2 = {
    **GEMMA,
    **changed(
        names(
            LAYER,
            {
                "layers.{i}.mixer.post_norm.weight": "post_attention_layernorm.weight",
                "layers.{i}.ffn_norm.weight": "pre_feedforward_layernorm.weight",
                "layers.{i}.ffn.post_norm.weight": "post_feedforward_layernorm.weight",
            },
        ),
        "norm",
        plus=1.0,
    ),
}

FAMILIES = {
    "GemmaForCausalLM": Family(
        "Gemma 1 and 1.1", _gemma, GEMMA, "scaled embeddings, norms stored as 1 + w, tanh GELU"
    ),
    "Gemma2ForCausalLM": Family(
        "Gemma 2",
        _gemma2,
        GEMMA2,
        "as Gemma; norms before and after, soft caps on scores and logits, alternating windows",
    ),
    "VaultGemmaForCausalLM": Family(
        "VaultGemma", _vault_gemma, GEMMA2, "as Gemma 2, with norms before the parts only"
    ),
    "Gemma3ForCausalLM": Family(
        "Gemma 3 text (270M, 1B)",
        _gemma3,
        GEMMA2,
        "as Gemma 2 without score caps; norms on heads, a rotary embedding for each layer type",
    ),
}
