"""Mixtures of experts routed by softmax: Mixtral, Qwen's, OLMoE, Granite's, Phi's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.experts import (
    expert_names,
    experts,
    routing,
    shared_names,
    sparse_layers,
    ways,
)
from stoker.model.families.fields import Fields
from stoker.model.families.llama import granite
from stoker.model.families.parts import (
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    decoder,
    head_size,
    layer_types,
    with_windows,
)
from stoker.model.families.recent import SINKS, granite_swa_mixers
from stoker.model.families.rope import given_rope
from stoker.model.rope import Rope
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import LayerSpec, ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.model.weights import From, names

MLP = LAYER + "mlp."
BLOCK = LAYER + "block_sparse_moe."


def _mixtral(f: Fields) -> ModelSpec:
    window = f.size("sliding_window", None)
    routes = routing(f, normalised=True)
    mixer = attention(f, theta=1e6, window=window)
    return decoder(f, mixer, ffn=experts(f, routes, "intermediate_size"))


def qwen_layers(f: Fields, mixture: ExpertsSpec, default: Sequence[int] = ()) -> list[PartSpec]:
    """Each `decoder_sparse_step`-th layer is sparse, but for those of `mlp_only_layers`."""
    step, given = f.size("decoder_sparse_step", 1), f.indices("mlp_only_layers")
    dense = default if given is None else given
    sparse = [(index + 1) % step == 0 and index not in dense for index in range(f.layers())]
    return sparse_layers(f, mixture, sparse)


def _qwen_routing(f: Fields, **changes: Any) -> Any:
    return routing(f, normalised=f.flag("norm_topk_prob"), **changes)


def _qwen2_moe(f: Fields) -> ModelSpec:
    mixer = attention(f, qkv_bias=f.flag("qkv_bias", True), out_bias=False)
    mixers = [mixer] * f.layers()
    if f.flag("use_sliding_window"):  # then layer_types does not matter
        first = f.size("max_window_layers", 28)
        slides = layer_types(f, lambda index: index % 2 == 0 and index < first)
        mixers = with_windows(f, mixer, slides)
    shared = DenseSpec(f.size("shared_expert_intermediate_size"), activation(f))
    mixture = experts(f, _qwen_routing(f), "moe_intermediate_size", shared=shared, shared_gate=True)
    return decoder(f, mixers, ffn=qwen_layers(f, mixture))


def qwen3_moe(f: Fields) -> ModelSpec:
    window = f.size("sliding_window", None) if f.flag("use_sliding_window") else None
    mixture = experts(f, _qwen_routing(f), "moe_intermediate_size")
    mixer = attention(f, qk_norm="head", window=window)
    return decoder(f, mixer, ffn=qwen_layers(f, mixture))


def _olmoe(f: Fields) -> ModelSpec:
    f.insist("clip_qkv", None, None)
    mixture = experts(f, _qwen_routing(f), "intermediate_size")
    return decoder(f, attention(f, qk_norm="projection"), ffn=mixture)


def _flex_olmo(f: Fields) -> ModelSpec:
    mixture = experts(f, _qwen_routing(f), "intermediate_size")
    mixer = attention(f, theta=500000.0, qk_norm="projection")
    layer = {"pre_norms": False, "post_norms": True}
    return decoder(f, mixer, ffn=mixture, layer=layer)


def _aria(f: Fields) -> ModelSpec:
    size, bias = f.size("intermediate_size"), f.flag("mlp_bias")
    shared = DenseSpec(size * f.size("moe_num_shared_experts", 2), activation(f), bias=bias)
    # the experts' activation is silu whatever hidden_act says of the shared one
    routes = routing(f, ("moe_num_experts",), ("moe_topk",), scores="softmax of chosen")
    return decoder(f, attention(f), ffn=ExpertsSpec(routes, DenseSpec(size), shared=shared))


def _phi_moe(f: Fields) -> ModelSpec:
    f.insist("num_experts_per_tok", 2, 2)
    scaling = given_rope(f)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":  # the temperature of attention has a name of its own
        given = Fields(scaling, f.architecture)
        short_one, long_one = given.number("short_mscale"), given.number("long_mscale")
        if short_one != long_one:
            raise ModelError(
                f"short_mscale {short_one} and long_mscale {long_one} in config.json differ, which "
                "is not supported"
            )
        f.values["rope_scaling"] = {**scaling, "attention_factor": short_one}
        f.values.pop("rope_parameters", None)
        for name in ("rope_theta", "original_max_position_embeddings"):
            if name in scaling:
                f.values[name] = scaling[name]
    jitter = f.number("router_jitter_noise", 0.01)
    routes = routing(f, ("num_local_experts",), scores="sparse mixer", jitter=jitter)
    return decoder(
        f,
        attention(f, theta=1e6, window=f.size("sliding_window", None)),
        ffn=experts(f, routes, "intermediate_size"),
        norm=NormSpec("layer", f.number("rms_norm_eps"), bias=True),
        head_bias=f.flag("lm_head_bias"),
    )


def _dbrx(f: Fields) -> ModelSpec:
    inner, outer = f.within("ffn_config"), f.within("attn_config")
    heads, hidden, rows = f.size("n_heads"), f.size("d_model"), f.size("max_seq_len")
    dim = head_size(hidden, heads)
    rope = Rope(dim, float(outer.number("rope_theta", 10000.0, above=1)))
    clip = outer.number("clip_qkv", None, above=0)
    mixer = AttentionSpec(
        heads, outer.size("kv_n_heads", 1), dim, scale=dim**-0.5, rope=rope, clip=clip
    )
    norm = inner.number(
        "moe_normalize_expert_weights", inner.default_or_null("moe_normalize_expert_weights", 1.0)
    )
    if norm not in (None, 1):
        raise ModelError(
            f"moe_normalize_expert_weights {short(norm)} in config.json is not supported; only 1 "
            "and null are"
        )
    counts, actives = ("moe_num_experts",), ("moe_top_k",)
    routes = routing(inner, counts, actives, normalised=norm is not None)
    kind = activation(inner.within("ffn_act_fn"), "name", "silu")
    expert = DenseSpec(inner.size("ffn_hidden_size", 3584), kind)
    layer = LayerSpec(mixer, ExpertsSpec(routes, expert))
    return ModelSpec(
        hidden=hidden,
        vocab=f.size("vocab_size"),
        layers=(layer,) * f.layers("n_layers"),
        norm=NormSpec("layer", 1e-5),
        context=rows,
        tied_head=False,
    )


def _granite_moe(f: Fields, mixers: Sequence[PartSpec] | None = None) -> ModelSpec:
    size = f.number("shared_intermediate_size", 0)
    shared = DenseSpec(f.size("shared_intermediate_size"), activation(f)) if size else None
    routes = routing(f, ("num_local_experts",), scores="softmax of chosen")
    return granite(f, experts(f, routes, "intermediate_size", shared=shared), mixers)


def _granite_moe_swa(f: Fields) -> ModelSpec:
    return _granite_moe(f, granite_swa_mixers(f))


MIXTRAL = {
    **LLAMA,
    **expert_names(BLOCK, "w1 w3 w2", MLP),
    "layers.{i}.ffn.router.weight": ways(BLOCK + "gate.weight", MLP + "gate.weight"),
}
PHI_MOE = {
    **LLAMA,
    **expert_names(BLOCK, "w1 w3 w2", MLP),
    "layers.{i}.ffn.router.weight": ways(BLOCK + "gate.weight", MLP + "router.weight"),
    **names("", {"head.bias": "lm_head.bias"}),
}
_DBRX = "transformer.blocks.{i}."
DBRX = {
    **names("", {"head.weight": "lm_head.weight"}),
    **names("transformer.", {"embedding": "wte.weight", "norm.weight": "norm_f.weight"}),
    **names(
        _DBRX + "norm_attn_norm.",
        {
            "layers.{i}.mixer_norm.weight": "norm_1.weight",
            "layers.{i}.ffn_norm.weight": "norm_2.weight",
            "layers.{i}.mixer.qkv.weight": "attn.Wqkv.weight",
            "layers.{i}.mixer.out.weight": "attn.out_proj.weight",
        },
    ),
    "layers.{i}.ffn.router.weight": From((_DBRX + "ffn.router.layer.weight",)),
    "layers.{i}.ffn.expert_up.weight": From(
        (_DBRX + "ffn.experts.mlp.w1", _DBRX + "ffn.experts.mlp.v1"), flat=True
    ),
    "layers.{i}.ffn.expert_down.weight": From(
        (_DBRX + "ffn.experts.mlp.w2",), flat=True, transpose=True
    ),
}
QWEN3_MOE = {
    **LLAMA,
    **expert_names(MLP),
    "layers.{i}.ffn.router.weight": From((MLP + "gate.weight",)),
}
QWEN2_MOE = {
    **QWEN3_MOE,
    **shared_names(MLP + "shared_expert."),
    "layers.{i}.ffn.shared.gate.weight": From((MLP + "shared_expert_gate.weight",)),
}
FLEX_OLMO = {
    **QWEN3_MOE,
    **names(
        LAYER,
        {
            "layers.{i}.mixer.post_norm.weight": "post_attention_layernorm.weight",
            "layers.{i}.ffn.post_norm.weight": "post_feedforward_layernorm.weight",
        },
    ),
}
GRANITE_MOE = {
    **LLAMA,
    "layers.{i}.ffn.router.weight": ways(BLOCK + "router.layer.weight", BLOCK + "router.weight"),
    "layers.{i}.ffn.expert_up.weight": ways(
        BLOCK + "input_linear.weight", BLOCK + "experts.gate_up_proj"
    ),
    "layers.{i}.ffn.expert_down.weight": ways(
        BLOCK + "output_linear.weight", BLOCK + "experts.down_proj"
    ),
    **names(
        LAYER + "shared_mlp.",
        {
            "layers.{i}.ffn.shared.up.weight": "input_linear.weight",
            "layers.{i}.ffn.shared.down.weight": "output_linear.weight",
        },
    ),
}
ARIA = {
    **LLAMA,
    "layers.{i}.ffn.router.weight": From((MLP + "router.weight",)),
    "layers.{i}.ffn.expert_up.weight": ways(
        MLP + "experts.fc1.weight", MLP + "experts.gate_up_proj", transpose=True
    ),
    "layers.{i}.ffn.expert_down.weight": ways(
        MLP + "experts.fc2.weight", MLP + "experts.down_proj", transpose=True
    ),
    **shared_names(MLP + "shared_experts."),
}

FAMILIES = {
    "MixtralForCausalLM": Family(
        "Mixtral 8x7B and 8x22B", _mixtral, MIXTRAL, "experts routed by softmax"
    ),
    "Qwen3MoeForCausalLM": Family(
        "Qwen3 30B-A3B and 235B-A22B, Qwen3-Coder",
        qwen3_moe,
        QWEN3_MOE,
        "as Qwen3, with experts in all layers or some",
    ),
    "Qwen2MoeForCausalLM": Family(
        "Qwen1.5-MoE, Qwen2 57B-A14B",
        _qwen2_moe,
        QWEN2_MOE,
        "experts in all layers or some, a shared expert behind a gate",
    ),
    "PhimoeForCausalLM": Family(
        "Phi-3.5-MoE, Phi-mini-MoE",
        _phi_moe,
        PHI_MOE,
        "experts by a sparse mixer, layer norms and a head with biases, longrope",
    ),
    "DbrxForCausalLM": Family(
        "DBRX",
        _dbrx,
        DBRX,
        "experts below each other in the checkpoint, layer norms, clipped projections",
        base="transformer.",
    ),
    "OlmoeForCausalLM": Family(
        "OLMoE", _olmoe, QWEN3_MOE, "experts, norms over all query and all key heads"
    ),
    "FlexOlmoForCausalLM": Family("FlexOlmo", _flex_olmo, FLEX_OLMO, "as OLMo 2, with experts"),
    "AriaTextForCausalLM": Family(
        "Aria without its model of images", _aria, ARIA, "as Llama, with experts and shared ones"
    ),
    "GraniteMoeForCausalLM": Family(
        "Granite 3 1B-A400M and 3B-A800M", _granite_moe, GRANITE_MOE, "as Granite, with experts"
    ),
    "GraniteMoeSharedForCausalLM": Family(
        "Granite 4 previews with a shared expert",
        _granite_moe,
        GRANITE_MOE,
        "as Granite, with experts and a shared one or none",
    ),
    "GraniteMoeSWAForCausalLM": Family(
        "Granite with windows and experts",
        _granite_moe_swa,
        {**GRANITE_MOE, **SINKS},
        "as Granite with experts; attention sinks, windows on three layers of four, a rotary "
        "embedding for each layer or none",
    ),
}
