"""Dense decoders of 2025 and 2026 that differ from Llama in a few places each."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.fields import Fields
from stoker.model.families.llama import granite
from stoker.model.families.parts import LAYER, LLAMA, Family, attention, layer_types, with_windows
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.weights import names


def _granite_swa(f: Fields) -> ModelSpec:
    mixer = attention(f, scale=f.number("attention_multiplier", 1.0), sinks=True)
    mixers = with_windows(f, mixer, layer_types(f, lambda index: index % 4 != 0), 128)
    thetas = f.items("layer_rope_theta", len(mixers))
    if thetas is not None:
        mixers = [_turned(f, one, theta) for one, theta in zip(mixers, thetas, strict=True)]
    return granite(f, mixers=mixers, tied=True)


def _turned(f: Fields, mixer: AttentionSpec, theta: object) -> AttentionSpec:
    """The mixer with another base of its rotary embedding, or without one if that is 0."""
    if theta == 0:
        return replace(mixer, rope=None)
    base = Fields({"layer_rope_theta": theta}, f.architecture).number("layer_rope_theta", above=1)
    assert mixer.rope is not None
    return replace(mixer, rope=replace(mixer.rope, theta=float(base)))


SINKS = names(LAYER, {"layers.{i}.mixer.sinks": "self_attn.sinks"})

FAMILIES = {
    "GraniteSWAForCausalLM": Family(
        "Granite with windows",
        _granite_swa,
        {**LLAMA, **SINKS},
        "as Granite 3; attention sinks, windows on three layers of four, "
        "a rotary embedding for each layer or none",
    ),
}
