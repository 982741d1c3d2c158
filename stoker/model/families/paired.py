"""Families whose rotary embedding turns neighbouring pairs: GLM-4 and Cohere's Command."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.experts import (
    after_dense,
    expert_names,
    experts,
    routing,
    shared_names,
    sparse_layers,
    whole,
)
from stoker.model.families.fields import Fields
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    decoder,
    layer_types,
    rms,
    with_windows,
)
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec
from stoker.model.weights import changed, names


def _glm(f: Fields, *, post_norms: bool = False) -> ModelSpec:
    bias = f.flag("attention_bias", True)
    mixer = attention(f, partial=0.5, qkv_bias=bias, out_bias=False)
    return decoder(f, mixer, layer={"post_norms": post_norms})


def _glm4(f: Fields) -> ModelSpec:
    return _glm(f, post_norms=True)


def _command(f: Fields, *, windows: bool = False) -> ModelSpec:
    own = "own" if f.flag("use_qk_norm") else None
    mixer = attention(f, theta=10000.0 if windows else 500000.0, qk_norm=own)
    mixers = [mixer] * f.layers()
    if windows:
        pattern = f.size("sliding_window_pattern", 4)
        slides = layer_types(f, lambda index: (index + 1) % pattern != 0)
        # Layers that see everything are blind to positions.
        near = replace(mixer, window=f.size("sliding_window") if any(slides) else None)
        mixers = [near if slide else replace(mixer, rope=None) for slide in slides]
    return decoder(
        f,
        mixers,
        norm=NormSpec("layer", f.number("layer_norm_eps", 1e-5)),
        tied=True,
        layer={"parallel": "one norm"},
        logit_scale=f.number("logit_scale", 0.0625),
    )


def _cohere2(f: Fields) -> ModelSpec:
    return _command(f, windows=True)


def _cohere2_moe(f: Fields) -> ModelSpec:
    first = whole(f, "first_k_dense_replace", 0)
    near, later = (
        f.size("prefix_dense_sliding_window_pattern", 1),
        f.size("sliding_window_pattern", 4),
    )

    def sliding(index: int) -> bool:
        return (index + 1) % near != 0 if index < first else (index - first + 1) % later != 0

    sparse, slides = after_dense(f), layer_types(f, sliding)
    mixers = with_windows(f, attention(f), slides)
    # Layers that see everything are blind to positions, but for dense ones that all do.
    mixers = [
        one if slide or (not mixes and near == 1) else replace(one, rope=None)
        for one, slide, mixes in zip(mixers, slides, sparse, strict=True)
    ]
    chosen = f.choice("expert_selection_fn", ("softmax", "sigmoid"), "function", "softmax")
    routes = routing(f, scores="softmax of chosen")
    if chosen == "sigmoid":
        routes = routing(f, scores="sigmoid", normalised=f.flag("norm_topk_prob", True))
    size, count = f.size("intermediate_size"), whole(f, "num_shared_experts", 0)
    shared = DenseSpec(size * count, activation(f)) if count else None
    joined = f.choice(
        "shared_expert_combination_strategy", ("average", "sum"), "strategy", "average"
    )
    scale = 0.5 if shared and joined == "average" else 1.0
    mixture = experts(f, routes, "intermediate_size", shared=shared, scale=scale)
    dense = None
    if not all(sparse):
        dense = DenseSpec(f.size("prefix_dense_intermediate_size"), activation(f))
    eps = f.number("rms_norm_eps", None)
    norm = NormSpec("layer", f.number("layer_norm_eps", 1e-5)) if eps is None else rms(f)
    return decoder(
        f,
        mixers,
        ffn=sparse_layers(f, mixture, sparse, dense),
        norm=norm,
        tied=True,
        layer={"parallel": "one norm"},
        logit_scale=f.number("logit_scale", 0.0625),
    )


PAIRED = changed(LLAMA, "qkv q_norm k_norm", pairs=True)
GLM = {
    **PAIRED,
    **names(LAYER, {"layers.{i}.ffn.up.weight": "mlp.gate_up_proj.weight"}),
}
GLM4 = {
    **GLM,
    **names(
        LAYER,
        {
            "layers.{i}.mixer.post_norm.weight": "post_self_attn_layernorm.weight",
            "layers.{i}.ffn.post_norm.weight": "post_mlp_layernorm.weight",
        },
    ),
}
COHERE2_MOE = {
    **PAIRED,
    **expert_names(LAYER + "mlp."),
    **shared_names(LAYER + "mlp.shared_experts."),
    **names(LAYER, {"layers.{i}.ffn.router.weight": "mlp.gate.weight"}),
}

FAMILIES = {
    "GlmForCausalLM": Family(
        "GLM-4 9B (hf)", _glm, GLM, "rotary embedding in pairs over half of each head, QKV biases"
    ),
    "Glm4ForCausalLM": Family(
        "GLM-4-0414, GLM-Z1", _glm4, GLM4, "as GLM, with norms before and after each part"
    ),
    "CohereForCausalLM": Family(
        "Command R, Command R+, Aya",
        _command,
        PAIRED,
        "mixer and network in parallel, layer norms without bias, rotary embedding in pairs, "
        "scaled logits, norms on heads in some",
    ),
    "Cohere2ForCausalLM": Family(
        "Command R7B, Command A",
        _cohere2,
        PAIRED,
        "as Command R; windows on three layers of four, no positions on the fourth",
    ),
    "Cohere2MoeForCausalLM": Family(
        "Command with experts",
        _cohere2_moe,
        COHERE2_MOE,
        "as Cohere2, with experts, shared ones or none, dense layers first",
    ),
}
