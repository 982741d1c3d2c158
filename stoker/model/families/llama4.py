"""Llama 4: attention in chunks, layers without positions, experts whose input is weighed."""

from __future__ import annotations

from dataclasses import replace

from stoker.errors import ModelError
from stoker.model.families.experts import routing, sparse_layers
from stoker.model.families.fields import Fields
from stoker.model.families.llama import rotating_layers
from stoker.model.families.parts import (
    ATTENTION,
    FFN,
    LAYER,
    OUTER,
    PRE_NORMS,
    Family,
    activation,
    attention,
    decoder,
)
from stoker.model.families.wrapped import RENAMED, text_fields
from stoker.model.rope import Growth
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.weights import From, changed, names


def _llama4(f: Fields) -> ModelSpec:
    kind = activation(f)
    expert = DenseSpec(f.size("intermediate_size"), kind)
    routes = routing(f, scores="sigmoid")
    mixture = ExpertsSpec(routes, expert, weighs_input=True, shared=expert)
    dense = DenseSpec(f.size("intermediate_size_mlp"), kind)
    networks = sparse_layers(f, mixture, _sparse(f), dense)
    return decoder(f, _mixers(f), ffn=networks)


def _mixers(f: Fields) -> list[AttentionSpec]:
    mixer = attention(f, theta=500_000.0)
    assert mixer.rope is not None
    if f.flag("use_qk_norm", True) and mixer.rope.factor != 1:
        raise ModelError(
            "use_qk_norm in config.json with a rope type that scales queries and keys is not "
            "supported for Llama 4; use default, linear or llama3"
        )
    # a norm without weights after a rotation is the same before it
    turned = replace(mixer, qk_norm="unit" if f.flag("use_qk_norm", True) else None)
    growth = None
    if f.values.get("attn_temperature_tuning", True):  # early configs have a number there
        growth = Growth(f.number("attn_scale", 0.1), f.size("floor_scale", 8192), offset=1)
    still = replace(mixer, rope=None, growth=growth)
    rotating = rotating_layers(f)
    mixers = [turned if turns else still for turns in rotating]
    chunk = f.size("attention_chunk_size", f.default_or_null("attention_chunk_size", 8192))
    known = ("chunked_attention", "full_attention")
    kinds = f.words("layer_types", known, "layer type", len(mixers))
    if kinds is None:
        cut = [turns and chunk is not None for turns in rotating]
    else:
        cut = [one == "chunked_attention" for one in kinds]
    if any(cut) and chunk is None:
        raise ModelError("layers of chunked_attention in config.json lack an attention_chunk_size")
    return [
        replace(one, window=chunk, chunked=True) if chunks else one
        for one, chunks in zip(mixers, cut, strict=True)
    ]


def _sparse(f: Fields) -> list[bool]:
    """Whether each layer has experts."""
    count, step = f.layers(), f.size("interleave_moe_layer_step", 1)
    layers = f.indices("moe_layers")
    if layers is None:
        return [(index + 1) % step == 0 for index in range(count)]
    return [index in layers for index in range(count)]


def _wrapped(f: Fields) -> ModelSpec:
    return _llama4(text_fields(f, {}))


_FEED = LAYER + "feed_forward."
LLAMA4 = {
    **names("", OUTER),
    **names(LAYER, PRE_NORMS),
    **changed(names(LAYER + "self_attn.", ATTENTION), "qkv", pairs=True),
    **names(_FEED, FFN),
    **names(
        _FEED,
        {
            "layers.{i}.ffn.router.weight": "router.weight",
            "layers.{i}.ffn.shared.up.weight": (
                "shared_expert.gate_proj.weight shared_expert.up_proj.weight"
            ),
            "layers.{i}.ffn.shared.down.weight": "shared_expert.down_proj.weight",
        },
    ),
    "layers.{i}.ffn.expert_up.weight": From((_FEED + "experts.gate_up_proj",), transpose=True),
    "layers.{i}.ffn.expert_down.weight": From((_FEED + "experts.down_proj",), transpose=True),
}

FAMILIES = {
    "Llama4ForCausalLM": Family(
        "Llama 4 text",
        _llama4,
        LLAMA4,
        "attention in chunks on three layers of four, no positions on the fourth, where queries "
        "grow; experts that read weighed input, beside a shared one",
    ),
    "Llama4ForConditionalGeneration": Family(
        "Llama 4 Scout and Maverick",
        _wrapped,
        LLAMA4,
        "the text model of Llama 4; the model of images is left out",
        renamed=RENAMED,
        beside=("vision_model.", "multi_modal_projector."),
    ),
}
