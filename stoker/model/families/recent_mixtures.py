"""Mixtures of experts of 2026: gated heads, windows with positions and full layers without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.balanced import BALANCED, shared_experts
from stoker.model.families.experts import (
    after_dense,
    experts,
    routing,
    shared_names,
    sparse_layers,
    ways,
    whole,
)
from stoker.model.families.fields import Fields
from stoker.model.families.mixtures import MLP, QWEN3_MOE, qwen_layers
from stoker.model.families.parts import (
    LAYER,
    Family,
    activation,
    attention,
    decoder,
    layer_types,
    with_windows,
)
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.weights import From, names

BOTH_NORMS = {"post_norms": True}


def blind_if_full(f: Fields, mixer: AttentionSpec, slides: list[bool]) -> list[AttentionSpec]:
    """The mixer of each layer: without positions where it sees everything."""
    mixers = with_windows(f, mixer, slides)
    return [one if one.window else replace(one, rope=None) for one in mixers]


def _by_type(f: Fields, slides: Callable[[int], bool], **changes: Any) -> list[AttentionSpec]:
    """The mixer of each layer, with a rotary embedding for each type of layer."""
    chosen = layer_types(f, slides)
    full = attention(f, theta=500000.0, kind="full_attention", **changes)
    near = attention(f, kind="sliding_attention", **changes)
    window = f.size("sliding_window") if any(chosen) else None
    return [replace(near, window=window) if slide else full for slide in chosen]


def _afmoe(f: Fields) -> ModelSpec:
    f.insist("attention_bias", False, False)
    f.insist("score_func", "sigmoid", "sigmoid")
    f.insist("route_norm", True, True)
    for name in ("n_group", "topk_group", "num_expert_groups", "num_limited_groups"):
        f.insist(name, 1, 1)
    every = f.size("global_attn_every_n_layers", 4)
    slides = layer_types(f, lambda index: (index + 1) % every != 0)
    mixer = attention(f, qk_norm="head", gate="sigmoid")
    routes = routing(
        f,
        ("num_experts",),
        scores="sigmoid",
        correction="score",
        normalised=True,
        scale=f.number("route_scale", 1.0),
    )
    size = f.size("moe_intermediate_size")
    shared = shared_experts(f, size, whole(f, "num_shared_experts", 2))
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    dense = whole(f, "num_dense_layers", 1)
    sparse = [index >= dense for index in range(f.layers())]
    scale = math.sqrt(f.size("hidden_size")) if f.flag("mup_enabled") else 1.0
    return decoder(
        f,
        blind_if_full(f, mixer, slides),
        ffn=sparse_layers(f, mixture, sparse),
        layer=BOTH_NORMS,
        embedding_scale=scale,
        scales_vectors=True,
    )


def _laguna(f: Fields) -> ModelSpec:
    f.insist("attention_bias", False, False)
    f.insist("moe_apply_router_weight_on_input", False, False)
    gating = f.values.get("gating", True)
    if gating not in (True, "per-head", "per-element"):
        f.choice("gating", ("per-head", "per-element"), "gate")
    changes: dict[str, Any] = {"gate": "softplus", "gates_heads": gating != "per-element"}
    if "rope_parameters" not in f.values:
        f.values["rope_parameters"] = {
            "full_attention": {"rope_theta": 500000.0, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_theta": 10000.0},
        }
    mixers = _by_type(f, lambda _: False, qk_norm="head", **changes)
    counts = f.items("num_attention_heads_per_layer", len(mixers))
    for heads in counts or []:
        if type(heads) is not int or heads < 1:
            raise ModelError(
                "num_attention_heads_per_layer in config.json must hold whole numbers, not "
                f"{short(heads)}"
            )
    if counts:
        mixers = [replace(one, heads=count) for one, count in zip(mixers, counts, strict=True)]
    cap = f.number("moe_router_logit_softcapping", 0.0)
    routes = routing(
        f,
        ("num_experts",),
        scores="sigmoid",
        correction="score",
        normalised=True,
        scale=f.number("moe_routed_scaling_factor", 1.0),
        logit_cap=cap if cap > 0 else None,
    )
    shared = DenseSpec(f.size("shared_expert_intermediate_size"), activation(f))
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    return decoder(f, mixers, ffn=sparse_layers(f, mixture, after_dense(f, 1)))


def _mellum(f: Fields) -> ModelSpec:
    mixers = _by_type(f, lambda _: False, qk_norm="head")
    routes = routing(f, normalised=f.flag("norm_topk_prob", True))
    mixture = experts(f, routes, "moe_intermediate_size")
    return decoder(f, mixers, ffn=sparse_layers(f, mixture, after_dense(f)))


def _kolibri(f: Fields) -> ModelSpec:
    slides = layer_types(f, lambda index: (index + 1) % 5 != 0)
    mixer = attention(f, qk_norm="head", qkv_bias=False, out_bias=False)
    mixers = (
        blind_if_full(f, mixer, slides) if "sliding_window" in f.values else [mixer] * f.layers()
    )
    routes = routing(f, scores="sigmoid", correction="logit", normalised=f.flag("norm_topk_prob"))
    shared = DenseSpec(f.size("shared_expert_intermediate_size"), activation(f))
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    return decoder(f, mixers, ffn=mixture, layer=BOTH_NORMS)


def _flint(f: Fields) -> ModelSpec:
    last = f.layers() - 1
    slides = layer_types(f, lambda index: index >= 2 and index % 4 != 1 and index != last)
    mixers = blind_if_full(f, attention(f, qk_norm="head", sinks=True), slides)
    routes = routing(
        f, ("num_experts",), scores="sigmoid", normalised=f.flag("norm_topk_prob", True)
    )
    shared = DenseSpec(f.size("shared_expert_intermediate_size"), activation(f))
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    return decoder(f, mixers, ffn=qwen_layers(f, mixture, [0, 1]))


def _gate_first(gate: str) -> From:
    """The fused projection of a gate, queries, keys and values."""
    parts = (gate, "q_proj", "k_proj", "v_proj")
    return From(tuple(f"{LAYER}self_attn.{part}.weight" for part in parts))


AFMOE = {
    **BALANCED,
    **names(
        LAYER,
        {
            "layers.{i}.mixer.post_norm.weight": "post_attention_layernorm.weight",
            "layers.{i}.ffn_norm.weight": "pre_mlp_layernorm.weight",
            "layers.{i}.ffn.post_norm.weight": "post_mlp_layernorm.weight",
        },
    ),
    "layers.{i}.mixer.qkv.weight": _gate_first("gate_proj"),
    **names(
        MLP,
        {
            "layers.{i}.ffn.router.weight": "router.gate.weight",
            "layers.{i}.ffn.router.correction": "expert_bias",
        },
    ),
}
LAGUNA = {
    **BALANCED,
    **shared_names(MLP + "shared_expert.", MLP + "shared_experts."),
    "layers.{i}.mixer.qkv.weight": _gate_first("g_proj"),
    "layers.{i}.ffn.router.correction": ways(
        MLP + "experts.e_score_correction_bias", MLP + "gate.e_score_correction_bias"
    ),
}
KOLIBRI = {
    **BALANCED,
    "layers.{i}.ffn.router.correction": ways(
        LAYER + "moe.router.expert_bias", MLP + "gate.e_score_correction_bias"
    ),
    "layers.{i}.mixer.post_norm.weight": ways(
        LAYER + "post_attn_norm.weight", LAYER + "post_self_attn_layernorm.weight"
    ),
    "layers.{i}.ffn.post_norm.weight": ways(
        LAYER + "post_ffn_norm.weight", LAYER + "post_mlp_layernorm.weight"
    ),
}
FLINT = {
    **QWEN3_MOE,
    **shared_names(MLP + "shared_expert."),
    "layers.{i}.mixer.sinks": ways(LAYER + "self_attn.softmax_offset", LAYER + "self_attn.sinks"),
}

FAMILIES = {
    "AfmoeForCausalLM": Family(
        "Trinity (Arcee)",
        _afmoe,
        AFMOE,
        "experts by corrected sigmoids, shared ones, gated heads, windows, norms before and "
        "after, no positions on layers that see everything",
    ),
    "LagunaForCausalLM": Family(
        "Laguna",
        _laguna,
        LAGUNA,
        "experts by corrected sigmoids, a shared one, gated heads of their own number and rotary "
        "embedding in each type of layer",
    ),
    "MellumForCausalLM": Family(
        "Mellum 2",
        _mellum,
        QWEN3_MOE,
        "as Qwen3-MoE, windows, a rotary embedding for each layer type; drafts left out",
        beside=("mtp.", "model.mtp"),
    ),
    "Kolibri1ForCausalLM": Family(
        "Kolibri 1",
        _kolibri,
        KOLIBRI,
        "experts by corrected logits, a shared one, windows, norms before and after, no positions "
        "on layers that see everything",
    ),
    "FlintForCausalLM": Family(
        "Flint",
        _flint,
        FLINT,
        "experts by sigmoids, a shared one, attention sinks, windows, no positions on layers that "
        "see everything",
    ),
}
