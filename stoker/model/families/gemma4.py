"""Gemma 4: layers of two sizes, values that are keys, shared caches, inputs of tokens, experts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError
from stoker.model.families.experts import whole
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
from stoker.model.families.per_layer import per_layer_spec
from stoker.model.families.wrapped import BESIDE, RENAMED, text_config
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.experts import NormedExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import PartSpec
from stoker.model.spec.token_inputs import TokenInputSpec, TokenInputsSpec
from stoker.model.weights import names
from stoker.ops.routing import Routing

# What configs leave out.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1_000_000.0,
        },
    },
}
SHARED = ("k_proj.weight", "v_proj.weight", "k_norm.weight")  # of layers that read another's cache


def sources(f: Fields, slides: list[bool], default: int) -> list[int | None]:
    """The layer whose keys and values each of the last `num_kv_shared_layers` reads.

    It is the last of its kind before those: with windows W, full attention F and 3 that share

        layers    W  W  F  W  F | W  W  F        sources  3, 3, 4
    """
    count = whole(f, "num_kv_shared_layers", default)
    first = len(slides) - count
    own = {slides[index]: index for index in range(max(first, 0))}
    for index in range(max(first, 0), len(slides)):
        if slides[index] not in own:
            raise ModelError(
                f"num_kv_shared_layers {count} in config.json leaves layer {index} no layer of "
                "its kind before it whose keys and values it could read"
            )
    return [own[slide] if index >= first else None for index, slide in enumerate(slides)]


def _gemma4(f: Fields) -> ModelSpec:
    for name, value in DEFAULTS.items():
        f.values.setdefault(name, value)
    if f.values.get("use_bidirectional_attention") != "vision":  # which text has no part in
        f.insist("use_bidirectional_attention", None, None)
    slides = layer_types(f, lambda index: (index + 1) % 6 != 0)
    slides[-1] = False
    reads = sources(f, slides, 0)
    sliding, full = _mixers(f)
    mixers = [
        replace(sliding if slide else full, reads=source)
        for slide, source in zip(slides, reads, strict=True)
    ]
    size, kind = (
        f.size("intermediate_size"),
        activation(f, "hidden_activation", "gelu_pytorch_tanh"),
    )
    wide = 2 if f.flag("use_double_wide_mlp") else 1
    networks = [_network(f, size if read is None else size * wide, kind) for read in reads]
    width, hidden = whole(f, "hidden_size_per_layer_input", 256), f.size("hidden_size")
    token_input = TokenInputSpec(width, kind) if width else None
    rows = f.size("vocab_size_per_layer_input", 262_144)
    layer = {"post_norms": True, "output_scale": True, "token_input": token_input}
    return decoder(
        f,
        mixers,
        ffn=networks,
        tied=True,
        layer=layer,
        embedding_scale=math.sqrt(hidden),
        logit_softcap=f.number("final_logit_softcapping", None),
        token_inputs=TokenInputsSpec(width, rows) if width else None,
    )


def _mixers(f: Fields) -> tuple[AttentionSpec, AttentionSpec]:
    """Attention with a window, and over all, which may have heads of another size and number."""
    fields: dict[str, Any] = {"scale": 1.0, "qk_norm": "head", "value_norm": True}
    sliding = attention(f, kind="sliding_attention", window=f.size("sliding_window"), **fields)
    keys_as_values = f.flag("attention_k_eq_v")
    whole_context = Fields(f.values, f.architecture)
    # a per_layer_config, even an empty one, takes the place of these fields
    if "per_layer_config" not in f.nulls:
        whole_context.values["head_dim"] = f.size("global_head_dim", 512)
        if keys_as_values and "num_global_key_value_heads" in f.values:
            heads = f.size("num_global_key_value_heads")
            whole_context.values["num_key_value_heads"] = heads
    fields["keys_as_values"] = keys_as_values
    return sliding, attention(whole_context, kind="full_attention", **fields)


def _network(f: Fields, size: int, kind: str) -> PartSpec:
    dense = DenseSpec(size, kind)
    if not f.flag("enable_moe_block"):
        return dense
    routing = Routing(
        f.size("num_experts"),
        f.size("top_k_experts"),
        normalised=True,
        floor=0.0,
        gains=True,
    )
    return NormedExpertsSpec(
        routing, DenseSpec(f.size("moe_intermediate_size"), kind), shared=dense
    )


def _unified(f: Fields) -> ModelSpec:
    for name, value in (("sliding_window", 1024), ("max_position_embeddings", 262_144)):
        f.values.setdefault(name, value)
    f.insist("enable_moe_block", False, False)
    f.values["hidden_size_per_layer_input"] = 0
    return _gemma4(f)


def _wrapped(f: Fields) -> ModelSpec:
    return _layered(_gemma4, f)


def _wrapped_unified(f: Fields) -> ModelSpec:
    return _layered(_unified, f)


def _layered(family: Any, f: Fields) -> ModelSpec:
    """The spec of the text model, whose config may have a per_layer_config."""
    text = text_config(f)
    if text.values.get("per_layer_config"):
        return per_layer_spec(family, text.values, f.architecture)
    return family(text)  # type: ignore[no-any-return]


TOKEN_INPUTS = {
    **names(
        "model.",
        {
            "token_inputs.table": "embed_tokens_per_layer.weight",
            "token_inputs.project.weight": "per_layer_model_projection.weight",
            "token_inputs.norm.weight": "per_layer_projection_norm.weight",
        },
    ),
    **names(
        LAYER,
        {
            "layers.{i}.token_input.gate.weight": "per_layer_input_gate.weight",
            "layers.{i}.token_input.project.weight": "per_layer_projection.weight",
            "layers.{i}.token_input.post_norm.weight": "post_per_layer_input_norm.weight",
        },
    ),
}
NORMS = names(
    LAYER,
    {
        "layers.{i}.mixer.post_norm.weight": "post_attention_layernorm.weight",
        "layers.{i}.ffn_norm.weight": "pre_feedforward_layernorm.weight",
        "layers.{i}.ffn.post_norm.weight": "post_feedforward_layernorm.weight",
    },
)
GEMMA4 = {
    **LLAMA,
    **TOKEN_INPUTS,
    **NORMS,
    **names(
        LAYER,
        {
            "layers.{i}.scale": "layer_scalar",
            "layers.{i}.ffn.shared.up.weight": "mlp.gate_proj.weight mlp.up_proj.weight",
            "layers.{i}.ffn.shared.down.weight": "mlp.down_proj.weight",
            "layers.{i}.ffn.router.weight": "router.proj.weight",
            "layers.{i}.ffn.router.gains": "router.per_expert_scale",
            "layers.{i}.ffn.router_norm.weight": "router.scale",
            "layers.{i}.ffn.expert_norm.weight": "pre_feedforward_layernorm_2.weight",
            "layers.{i}.ffn.shared_post_norm.weight": "post_feedforward_layernorm_1.weight",
            "layers.{i}.ffn.expert_post_norm.weight": "post_feedforward_layernorm_2.weight",
            "layers.{i}.ffn.expert_up.weight": "experts.gate_up_proj",
            "layers.{i}.ffn.expert_down.weight": "experts.down_proj",
        },
    ),
}
_OTHERS = ("vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.", "vision_embedder.")
_BESIDE = (*BESIDE, *_OTHERS, *("model." + part for part in _OTHERS))
_ABOUT = (
    "full attention with heads of its own size and number, values that are keys, layers that read "
    "an earlier layer's cache, inputs of each token for each layer, experts beside a dense network"
)


def _family(models: str, spec: Any, about: str, **fields: Any) -> Family:
    ignored = ("rotary_emb.inv_freq", *("self_attn." + one for one in SHARED))
    return Family(models, spec, GEMMA4, about, ignored=ignored, **fields)


FAMILIES = {
    "Gemma4ForCausalLM": _family("Gemma 4 text", _gemma4, _ABOUT),
    "Gemma4ForConditionalGeneration": _family(
        "Gemma 4 (E2B, E4B, 26B-A4B, 31B)",
        _wrapped,
        "the text model of Gemma 4; the models of images and sound are left out",
        renamed=RENAMED,
        beside=_BESIDE,
    ),
    "Gemma4UnifiedForCausalLM": _family(
        "Gemma 4 12B text", _unified, "as Gemma 4, without inputs of tokens and experts"
    ),
    "Gemma4UnifiedForConditionalGeneration": _family(
        "Gemma 4 12B",
        _wrapped_unified,
        "the text model; images and sound are left out",
        renamed=RENAMED,
        beside=_BESIDE,
    ),
}
