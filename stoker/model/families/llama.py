"""Llama and its near relatives: pre-norm decoders with RMS norms and gated networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    attention,
    decoder,
    layer_types,
    with_windows,
)
from stoker.model.families.rope import growth
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.part import PartSpec
from stoker.model.weights import names


def _llama(f: Fields) -> ModelSpec:
    return decoder(f, attention(f))


def _mistral(f: Fields) -> ModelSpec:
    # sliding_window is null in later releases: full attention
    window = f.size("sliding_window", f.default_or_null("sliding_window", 4096))
    return decoder(f, attention(f, window=window))


def _ministral(f: Fields) -> ModelSpec:
    slides = layer_types(f, lambda index: "sliding_window" in f.values)
    return decoder(f, with_windows(f, attention(f), slides))


def _ministral3(f: Fields) -> ModelSpec:
    return decoder(f, attention(f, window=f.size("sliding_window", None), growth=growth(f)))


def _qwen(f: Fields, **changes: Any) -> ModelSpec:
    mixer = attention(f, **changes)
    if not f.flag("use_sliding_window"):  # then layer_types does not matter
        return decoder(f, mixer)
    first = f.size("max_window_layers", 28)
    return decoder(f, with_windows(f, mixer, layer_types(f, lambda index: index >= first)))


def _qwen2(f: Fields) -> ModelSpec:
    return _qwen(f, qkv_bias=True, out_bias=False)


def _qwen3(f: Fields) -> ModelSpec:
    return _qwen(f, qk_norm="head")


def _phi3(f: Fields) -> ModelSpec:
    scaling = f.within("rope_scaling").values
    if scaling.get("type") == "yarn":  # the first Phi-3 releases mean longrope by it
        f.values["rope_scaling"] = {**scaling, "type": "longrope"}
    return decoder(f, attention(f, window=f.size("sliding_window", None)))


def rotating_layers(f: Fields) -> list[bool]:
    """Whether each layer has a rotary embedding: 1 in no_rope_layers, or else by the interval."""
    interval = f.size("no_rope_layer_interval", 4)
    count = f.layers()
    if f.values.get("no_rope_layers") == []:  # as in Llama 4: not given
        del f.values["no_rope_layers"]
    turns = f.items("no_rope_layers", count) or [(i + 1) % interval for i in range(count)]
    for turn in turns:
        if type(turn) not in (int, bool):
            raise ModelError(
                f"no_rope_layers in config.json must hold 0 or 1 for each layer, not {short(turn)}"
            )
    return [bool(turn) for turn in turns]


def _smollm3(f: Fields) -> ModelSpec:
    turns = rotating_layers(f)
    windowed = f.flag("use_sliding_window") and "sliding_window" in f.values
    slides = layer_types(f, lambda index: windowed and not turns[index])
    slides = [windowed and slide for slide in slides]
    mixers = with_windows(f, attention(f, theta=2000000.0), slides)
    mixers = [
        mixer if turn else replace(mixer, rope=None)
        for mixer, turn in zip(mixers, turns, strict=True)
    ]
    return decoder(f, mixers, tied=True)


def granite(
    f: Fields,
    ffn: PartSpec | None = None,
    mixers: Sequence[PartSpec] | None = None,
    **changes: Any,
) -> ModelSpec:
    fields: dict[str, Any] = {
        "layer": {"residual_scale": f.number("residual_multiplier", 1.0)},
        "embedding_scale": f.number("embedding_multiplier", 1.0),
        "scales_vectors": True,
        "logit_scale": 1.0 / f.number("logits_scaling", 1.0, above=0),
    }
    usual = attention(f, scale=f.number("attention_multiplier", 1.0))
    return decoder(f, mixers or usual, ffn=ffn, **{**fields, **changes})


PHI3 = {
    **LLAMA,
    **names(LAYER, {"layers.{i}.mixer.qkv.weight": "self_attn.qkv_proj.weight"}),
    **names(LAYER, {"layers.{i}.ffn.up.weight": "mlp.gate_up_proj.weight"}),
}

FAMILIES = {
    "LlamaForCausalLM": Family(
        "Llama 2, 3, 3.1, 3.2, 3.3, and the many models of its shape",
        _llama,
        LLAMA,
        "the plain form",
    ),
    "MistralForCausalLM": Family(
        "Mistral 7B, Nemo, Small", _mistral, LLAMA, "a window on all layers, or none"
    ),
    "MinistralForCausalLM": Family("Ministral 8B", _ministral, LLAMA, "a window on some layers"),
    "Ministral3ForCausalLM": Family(
        "Ministral 3 (3B, 8B, 14B)",
        _ministral3,
        LLAMA,
        "yarn, and queries that grow with their position",
    ),
    "Qwen2ForCausalLM": Family(
        "Qwen2, Qwen2.5, QwQ", _qwen2, LLAMA, "QKV biases, windows on later layers"
    ),
    "Qwen3ForCausalLM": Family(
        "Qwen3", _qwen3, LLAMA, "norms on each query and key head, windows on later layers"
    ),
    "Phi3ForCausalLM": Family(
        "Phi-3 mini and medium, Phi-3.5 mini, Phi-4, Phi-4 mini",
        _phi3,
        PHI3,
        "fused projections in the checkpoint, longrope, partial rotary embedding",
    ),
    "SmolLM3ForCausalLM": Family(
        "SmolLM3", _smollm3, LLAMA, "some layers without rotary embedding"
    ),
    "GraniteForCausalLM": Family(
        "Granite 3 (dense)",
        granite,
        LLAMA,
        "multipliers on embeddings, scores, residuals and logits",
    ),
}
