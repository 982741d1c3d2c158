"""Mixtures of experts routed by sigmoids with a learned correction, as DeepSeek-V3's.

GLM-4.5, dots, Solar, EXAONE, Hunyuan 3, MiniMax M2; and Ernie 4.5, which corrects a softmax.
"""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.experts import (
    after_dense,
    balanced_routing,
    expert_names,
    experts,
    routing,
    shared_names,
    sparse_layers,
    ways,
    whole,
)
from stoker.model.families.fields import Fields
from stoker.model.families.mixtures import MLP, QWEN3_MOE
from stoker.model.families.paired import PAIRED
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    decoder,
    gated,
    layer_types,
    with_windows,
)
from stoker.model.families.recent import window_pattern
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.weights import Names

BLOCK = LAYER + "block_sparse_moe."


def shared_experts(f: Fields, size: int, count: int, bias: bool = False) -> DenseSpec | None:
    """`count` experts of `size` that every token takes, side by side; None if there are none."""
    return DenseSpec(size * count, activation(f), bias=bias) if count else None


def _glm4_moe(f: Fields) -> ModelSpec:
    norm = "head" if f.flag("use_qk_norm") else None
    mixer = attention(f, partial=0.5, out_bias=False, qk_norm=norm)
    size = f.size("moe_intermediate_size")
    shared = shared_experts(f, size, whole(f, "n_shared_experts", 1))
    mixture = experts(f, balanced_routing(f), "moe_intermediate_size", shared=shared)
    return decoder(f, mixer, ffn=sparse_layers(f, mixture, after_dense(f, 1)))


def _solar_open(f: Fields) -> ModelSpec:
    size = f.size("moe_intermediate_size")
    shared = shared_experts(f, size, whole(f, "n_shared_experts", 1))
    mixture = experts(f, balanced_routing(f), "moe_intermediate_size", shared=shared)
    return decoder(f, attention(f, theta=1e6, out_bias=False), ffn=mixture)


def _dots1(f: Fields) -> ModelSpec:
    first = f.size("max_window_layers", 62)
    windowed = "sliding_window" in f.values
    slides = layer_types(f, lambda index: windowed and index >= first)
    mixers = with_windows(f, attention(f, qk_norm="head"), slides)
    routes = balanced_routing(f, normalised=f.flag("norm_topk_prob"))
    size = f.size("moe_intermediate_size")
    shared = shared_experts(f, size, whole(f, "n_shared_experts", 0))
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    return decoder(f, mixers, ffn=sparse_layers(f, mixture, after_dense(f)))


def _exaone_moe(f: Fields) -> ModelSpec:
    windowed = "sliding_window" in f.values
    slides = layer_types(f, window_pattern(f, windowed))
    mixer = attention(f, qk_norm="head", qkv_bias=False, out_bias=False)
    mixers = with_windows(f, mixer, slides)
    if windowed:  # layers that see everything are blind to positions
        mixers = [one if one.window else replace(one, rope=None) for one in mixers]
    scale = f.number("routed_scaling_factor", 2.5)
    routes = balanced_routing(f, counts=("num_experts",), scale=scale)
    size = f.size("moe_intermediate_size")
    shared = shared_experts(f, size, whole(f, "num_shared_experts", 1))
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    return decoder(f, mixers, ffn=sparse_layers(f, mixture, after_dense(f, 1)))


def _hy_v3(f: Fields) -> ModelSpec:
    mixer = attention(f, theta=11_158_840.0, qk_norm="head")
    scale = f.number("router_scaling_factor", 2.826)
    routes = balanced_routing(
        f, counts=("num_experts",), groups=1, top_groups=1, normalised=True, scale=scale
    )
    size, bias = f.size("moe_intermediate_size"), f.flag("mlp_bias")
    shared = shared_experts(f, size, whole(f, "num_shared_experts", 1), bias)
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    return decoder(f, mixer, ffn=sparse_layers(f, mixture, after_dense(f, 1)))


def _minimax_m2(f: Fields) -> ModelSpec:
    # fields of published configs that name what else this code could do
    f.insist("scoring_func", "sigmoid", "sigmoid")
    f.insist("use_routing_bias", True, True)
    f.insist("use_qk_norm", True, True)
    f.insist("qk_norm_type", "per_layer", "per_layer")
    f.insist("shared_intermediate_size", 0, 0)
    f.insist("attn_type_list", [1] * f.layers(), [1] * f.layers())
    head_dim = f.size("head_dim", 128)
    partial = f.size("rotary_dim", head_dim) / head_dim
    mixer = attention(f, theta=5e6, partial=partial, qk_norm="projection")
    mixer = replace(mixer, qkv_bias=False, out_bias=False)
    routes = routing(f, scores="sigmoid", correction="score", normalised=True)
    return decoder(f, mixer, ffn=experts(f, routes, "intermediate_size"))


def _ernie(f: Fields) -> ModelSpec:
    bias = f.flag("use_bias")
    mixer = attention(f, theta=500000.0, qkv_bias=bias, out_bias=bias)
    return decoder(f, mixer, ffn=replace(gated(f), bias=bias), tied=True)


def _ernie_moe(f: Fields) -> ModelSpec:
    f.insist("use_bias", False, False)
    count = f.layers()
    first, step = whole(f, "moe_layer_start_index", 1), f.size("moe_layer_interval", 1)
    last = f.number("moe_layer_end_index", -1)
    last = count - 1 if last == -1 else last
    sparse = [(i + 1) % step == 0 and first <= i <= last for i in range(count)]
    # transformers bounds the sum from below, where we add: in float32 the same
    floor = f.number("moe_norm_min", 1e-12, above=0, most=1e-7)
    counts, actives = ("moe_num_experts", "num_experts"), ("moe_k", "num_experts_per_tok")
    routes = routing(f, counts, actives, correction="score", normalised=True, floor=floor)
    size = f.size("moe_intermediate_size")
    shared = shared_experts(f, size, whole(f, "moe_num_shared_experts", 2))
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    mixer = attention(f, theta=500000.0)
    return decoder(f, mixer, ffn=sparse_layers(f, mixture, sparse), tied=True)


def _correction(*tensors: str) -> Names:
    return {"layers.{i}.ffn.router.correction": ways(*tensors)}


BALANCED = {
    **QWEN3_MOE,
    **shared_names(MLP + "shared_experts."),
    **_correction(MLP + "gate.e_score_correction_bias"),
}
EXAONE_MOE = {
    **BALANCED,
    **_correction(MLP + "e_score_correction_bias", MLP + "gate.e_score_correction_bias"),
}
HY_V3 = {
    **BALANCED,
    **shared_names(MLP + "shared_mlp.", MLP + "shared_experts."),
    **_correction(MLP + "expert_bias", MLP + "e_score_correction_bias"),
    "layers.{i}.ffn.router.weight": ways(MLP + "router.gate.weight", MLP + "gate.weight"),
}
MINIMAX_M2 = {
    **LLAMA,
    **expert_names(BLOCK, "w1 w3 w2", MLP),
    **_correction(BLOCK + "e_score_correction_bias", MLP + "e_score_correction_bias"),
    "layers.{i}.ffn.router.weight": ways(BLOCK + "gate.weight", MLP + "gate.weight"),
}
ERNIE_MOE = {
    **BALANCED,
    **PAIRED,
    **_correction(
        MLP + "moe_statics.e_score_correction_bias",
        MLP + "gate.moe_statics.e_score_correction_bias",
    ),
}

FAMILIES = {
    "Glm4MoeForCausalLM": Family(
        "GLM-4.5, GLM-4.5 Air, GLM-4.6, GLM-4.7",
        _glm4_moe,
        BALANCED,
        "experts in groups, corrected sigmoids, a shared expert, dense layers first; layers that "
        "draft further tokens are left out",
        drafts=True,
    ),
    "SolarOpenForCausalLM": Family(
        "Solar Open 100B", _solar_open, BALANCED, "as GLM-4.5, experts in all layers"
    ),
    "Dots1ForCausalLM": Family(
        "dots.llm1", _dots1, BALANCED, "as GLM-4.5, norms on heads, windows on later layers"
    ),
    "ExaoneMoeForCausalLM": Family(
        "K-EXAONE",
        _exaone_moe,
        EXAONE_MOE,
        "as GLM-4.5, norms on heads, windows, no positions on layers without; drafts left out",
        beside=("mtp.",),
    ),
    "HYV3ForCausalLM": Family(
        "Hunyuan 3",
        _hy_v3,
        HY_V3,
        "as GLM-4.5 without groups, norms on heads; layers that draft are left out",
        drafts=True,
    ),
    "MiniMaxM2ForCausalLM": Family(
        "MiniMax M2 and M2.1",
        _minimax_m2,
        MINIMAX_M2,
        "experts by corrected sigmoids, norms over all heads, partial rotary embedding; drafts "
        "left out",
        beside=("model.mtp", "mtp."),
    ),
    "Ernie4_5ForCausalLM": Family(
        "Ernie 4.5 0.3B", _ernie, PAIRED, "as Llama, rotary embedding in pairs"
    ),
    "Ernie4_5_MoeForCausalLM": Family(
        "Ernie 4.5 21B-A3B and 300B-A47B",
        _ernie_moe,
        ERNIE_MOE,
        "as Ernie 4.5, experts by a corrected softmax, shared experts; drafts left out",
        beside=("model.mtp", "mtp."),
    ),
}
