"""Dense decoders of 2025 and 2026 that differ from Llama in a few places each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.fields import Fields
from stoker.model.families.llama import granite
from stoker.model.families.olmo import OLMO, POST
from stoker.model.families.paired import PAIRED
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    attention,
    decoder,
    layer_types,
    with_windows,
)
from stoker.model.families.rope import given_rope
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.weights import names


def llama3_rope(factor: float) -> dict[str, Any]:
    """The rope of Llama 3.1, stretched from 8,192 positions, for configs that name none."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }


def _exaone4(f: Fields) -> ModelSpec:
    mixer = attention(f, qk_norm="head", qkv_bias=False, out_bias=False)
    window = f.size("sliding_window", f.default_or_null("sliding_window", 4096))
    slides = layer_types(f, window_pattern(f, window is not None))
    mixers = [replace(mixer, window=window) if slide else mixer for slide in slides]
    if window is not None:  # layers that see everything are blind to positions
        mixers = [one if one.window else replace(one, rope=None) for one in mixers]
    return decoder(f, mixers, layer=POST)


def window_pattern(f: Fields, windowed: bool) -> Callable[[int], bool]:
    """Which layers have a window: every n-th does not, or those of letters L in "LLLG"."""
    pattern, count = f.values.get("sliding_window_pattern", 4), f.layers()
    if not windowed or "layer_types" in f.values:
        return lambda index: False
    if isinstance(pattern, str) and pattern and set(pattern) <= set("LG"):
        return lambda index: pattern[index % len(pattern)] == "L" and index < count - 1
    if type(pattern) is not int or pattern < 1:
        raise ModelError(
            "sliding_window_pattern in config.json must be a number or letters L and G, not "
            f"{short(pattern)}"
        )
    return lambda index: (index + 1) % pattern != 0


def _seed_oss(f: Fields) -> ModelSpec:
    out_bias, bias = f.flag("attention_out_bias"), f.flag("attention_bias", True)
    return decoder(f, attention(f, qkv_bias=bias, out_bias=out_bias))


def _helium(f: Fields) -> ModelSpec:
    return decoder(f, attention(f, theta=100_000.0, out_bias=False))


def _emu3(f: Fields) -> ModelSpec:
    return decoder(f, attention(f, theta=1e6))


def _cwm(f: Fields) -> ModelSpec:
    if not given_rope(f):
        f.values["rope_parameters"] = llama3_rope(16.0)
    f.insist("attention_bias", False, False)
    slides = layer_types(f, lambda index: index % 4 != 0)
    return decoder(f, with_windows(f, attention(f, theta=1e6), slides, 8192))


def _hyperclovax(f: Fields) -> ModelSpec:
    mixer = attention(f)
    scale = f.number("attention_multiplier", mixer.scale)
    layer = {
        "residual_scale": f.number("residual_multiplier", 1.0),
        "post_norms": f.flag("use_post_norm", True),
    }
    mixers = [replace(mixer, scale=scale)] * f.layers()
    return granite(f, mixers=mixers, layer=layer, logit_scale=f.number("logits_scaling", 1.0))


def granite_swa_mixers(f: Fields) -> list[AttentionSpec]:
    """With sinks, windows on three layers of four, and each layer's own rotary embedding."""
    mixer = attention(f, scale=f.number("attention_multiplier", 1.0), sinks=True)
    mixers = with_windows(f, mixer, layer_types(f, lambda index: index % 4 != 0), 128)
    thetas = f.items("layer_rope_theta", len(mixers))
    if thetas is not None:
        mixers = [_turned(f, one, theta) for one, theta in zip(mixers, thetas, strict=True)]
    return mixers


def _granite_swa(f: Fields) -> ModelSpec:
    return granite(f, mixers=granite_swa_mixers(f), tied=True)


def _turned(f: Fields, mixer: AttentionSpec, theta: object) -> AttentionSpec:
    """The mixer with another base of its rotary embedding, or without one if that is 0."""
    if theta == 0:
        return replace(mixer, rope=None)
    base = Fields({"layer_rope_theta": theta}, f.architecture).number("layer_rope_theta", above=1)
    assert mixer.rope is not None
    return replace(mixer, rope=replace(mixer.rope, theta=float(base)))


SINKS = names(LAYER, {"layers.{i}.mixer.sinks": "self_attn.sinks"})

HYPERCLOVAX = {
    **LLAMA,
    **names(
        LAYER,
        {
            "layers.{i}.mixer.post_norm.weight": "post_norm1.weight",
            "layers.{i}.ffn.post_norm.weight": "post_norm2.weight",
        },
    ),
}

FAMILIES = {
    "Exaone4ForCausalLM": Family(
        "EXAONE 4 (1.2B, 32B)",
        _exaone4,
        OLMO,
        "norms after each part and on heads; windows on three layers of four, no positions on the "
        "fourth",
    ),
    "SeedOssForCausalLM": Family("Seed-OSS 36B", _seed_oss, LLAMA, "QKV biases"),
    "HeliumForCausalLM": Family("Helium 1", _helium, PAIRED, "rotary embedding in pairs"),
    "Emu3ForCausalLM": Family("Emu 3 text", _emu3, LLAMA, "the plain form"),
    "CwmForCausalLM": Family("CWM 32B", _cwm, LLAMA, "windows on three layers of four"),
    "HyperCLOVAXForCausalLM": Family(
        "HyperCLOVA X SEED",
        _hyperclovax,
        HYPERCLOVAX,
        "multipliers as Granite's, norms before and after each part",
    ),
    "GraniteSWAForCausalLM": Family(
        "Granite with windows",
        _granite_swa,
        {**LLAMA, **SINKS},
        "as Granite 3; attention sinks, windows on three layers of four, "
        "a rotary embedding for each layer or none",
    ),
}
