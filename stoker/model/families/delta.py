"""Gated delta nets with attention in some layers: Qwen3-Next, Qwen3.5 and 3.6, OLMo Hybrid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stoker.model.families.experts import experts, routing, ways
from stoker.model.families.fields import Fields
from stoker.model.families.layer_kinds import attention_layers
from stoker.model.families.mixtures import QWEN2_MOE, qwen_layers
from stoker.model.families.olmo import OLMO
from stoker.model.families.parts import (
    ATTENTION,
    LAYER,
    LLAMA,
    Family,
    activation,
    attention,
    decoder,
    gated,
)
from stoker.model.families.wrapped import text_fields
from stoker.model.spec.delta import DeltaSpec
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import PartSpec
from stoker.model.weights import From, Names, changed, names
from stoker.ops.delta_rule import DeltaRule


def delta_net(f: Fields, **changes: Any) -> DeltaSpec:
    """A gated delta net with the usual fields of the config; `changes` are of its rule."""
    f.insist("hidden_act", "silu", "silu")  # of the convolution
    rule = {
        "key_heads": f.size("linear_num_key_heads", 16),
        "heads": f.size("linear_num_value_heads", 32),
        "keys": f.size("linear_key_head_dim", 128),
        "values": f.size("linear_value_head_dim", 128),
        "eps": f.number("rms_norm_eps", 1e-6, above=0),
    }
    return DeltaSpec(DeltaRule(**{**rule, **changes}), f.size("linear_conv_kernel_dim", 4))


def _mixers(f: Fields) -> list[PartSpec]:
    f.insist("attn_output_gate", True, True)
    f.insist("output_gate_type", "silu", "silu")
    f.values.setdefault("head_dim", 256)
    interval = f.size("full_attention_interval", 4)
    full = attention(f, partial=0.25, qk_norm="head", gate="sigmoid")
    types = attention_layers(f, lambda index: (index + 1) % interval == 0)
    return [full if attends else delta_net(f) for attends in types]


def _mixture(f: Fields, normalised: bool, active: int, count: int) -> ExpertsSpec:
    f.values.setdefault("num_experts_per_tok", active)
    f.values.setdefault("num_experts", count)
    for name in ("moe_intermediate_size", "shared_expert_intermediate_size"):
        f.values.setdefault(name, 512)
    shared = DenseSpec(f.size("shared_expert_intermediate_size"), activation(f))
    routes = routing(f, normalised=normalised)
    return experts(f, routes, "moe_intermediate_size", shared=shared, shared_gate=True)


def _qwen3_next(f: Fields) -> ModelSpec:
    mixture = _mixture(f, f.flag("norm_topk_prob", True), 10, 512)
    return decoder(f, _mixers(f), ffn=qwen_layers(f, mixture))


def _qwen3_5(f: Fields) -> ModelSpec:
    return decoder(f, _mixers(f), ffn=gated(f))


def _qwen3_5_moe(f: Fields) -> ModelSpec:
    return decoder(f, _mixers(f), ffn=_mixture(f, True, 8, 256))


def _text(f: Fields) -> Fields:
    """The text model's config; its own word on whether the head is tied means nothing."""
    text = text_fields(f, {})
    text.values["tie_word_embeddings"] = f.flag("tie_word_embeddings")
    return text


def _qwen3_5_text(f: Fields) -> ModelSpec:
    return _qwen3_5(_text(f))


def _qwen3_5_moe_text(f: Fields) -> ModelSpec:
    return _qwen3_5_moe(_text(f))


def _olmo_hybrid(f: Fields) -> ModelSpec:
    heads, count = f.size("num_attention_heads"), f.layers()
    keys = f.size("linear_num_key_heads", heads)
    default = int(0.75 * f.size("hidden_size") / keys)
    width = f.size("linear_key_head_dim", default)
    f.values.setdefault("linear_num_key_heads", keys)
    f.values.setdefault("linear_num_value_heads", heads)
    f.values.setdefault("linear_key_head_dim", width)
    f.values.setdefault("linear_value_head_dim", 2 * width)
    f.values.pop("head_dim", None)  # which the model does not read
    full = attention(f, qk_norm="projection")
    if "rope_theta" in f.nulls | f.within("rope_parameters").nulls:
        full = replace(full, rope=None)
    most = 2.0 if f.flag("linear_allow_neg_eigval", True) else 1.0
    net = delta_net(f, beta_most=most, eps=1e-5)
    types = attention_layers(f, lambda index: index % 4 == 3 or index == count - 1 < 3)
    model = decoder(f, [full if attends else net for attends in types])
    layers = (
        replace(layer, pre_norms=False, post_norms=True) if attends else layer
        for layer, attends in zip(model.layers, types, strict=True)
    )
    return replace(model, layers=tuple(layers))


def _with_gate(source: From) -> From:
    """Queries and their gates are stored head by head in one tensor."""
    return From(source.tensors, fills=((1, 0), (2,), (3,)), by_head=True)


def apart_or_joined(block: str) -> From:
    """The convolution of queries, keys and values, which are stored apart or in one."""
    apart = tuple(f"{block}{one}_conv1d.weight" for one in "qkv")
    return From(apart, otherwise=(From((block + "conv1d.weight",)),))


DELTA = names(
    LAYER + "linear_attn.",
    {
        "layers.{i}.mixer.conv.weight": "conv1d.weight",
        "layers.{i}.mixer.decay.log_rate": "A_log",
        "layers.{i}.mixer.decay.bias": "dt_bias",
        "layers.{i}.mixer.norm.weight": "norm.weight",
        "layers.{i}.mixer.out_proj.weight": "out_proj.weight",
    },
)
_IN = "layers.{i}.mixer.in_proj.weight"
_SPLIT = "in_proj_qkv.weight in_proj_z.weight in_proj_b.weight in_proj_a.weight"
_JOINED = "in_proj_qkvz.weight in_proj_ba.weight"


def _qwen(table: Names, in_proj: dict[str, From]) -> dict[str, From]:
    """A table with norms stored as 1 + w, gates beside queries, and delta nets."""
    gates = {
        ours: _with_gate(source)
        for ours, source in names(LAYER + "self_attn.", ATTENTION).items()
        if ".qkv." in ours
    }
    return {**changed(table, "norm", plus=1.0), **gates, **DELTA, **in_proj}


_FROM_SPLIT = changed(
    names(LAYER + "linear_attn.", {_IN: _SPLIT}),
    "in_proj",
    fills=((0, 1, 2), (3,), (4,), (5,)),
)
_FROM_JOINED = changed(
    names(LAYER + "linear_attn.", {_IN: _JOINED}),
    "in_proj",
    fills=((0, 1, 2, 3), (4, 5)),
    by_group=True,
)
QWEN3_5 = _qwen(LLAMA, _FROM_SPLIT)
QWEN3_5_MOE = _qwen(QWEN2_MOE, _FROM_SPLIT)
QWEN3_NEXT = _qwen(QWEN2_MOE, _FROM_JOINED)

OLMO_HYBRID = {
    **OLMO,
    **DELTA,
    **names(
        LAYER + "linear_attn.",
        {
            _IN: "q_proj.weight k_proj.weight v_proj.weight g_proj.weight b_proj.weight "
            "a_proj.weight",
            "layers.{i}.mixer.norm.weight": "o_norm.weight",
            "layers.{i}.mixer.out_proj.weight": "o_proj.weight",
        },
    ),
    "layers.{i}.mixer.conv.weight": apart_or_joined(LAYER + "linear_attn."),
    # transformers saves the norms of attention layers by the names of those of delta nets
    "layers.{i}.mixer_norm.weight": ways(
        LAYER + "attention_layer_norm.weight", LAYER + "input_layernorm.weight"
    ),
    **dict.fromkeys(
        ("layers.{i}.ffn_norm.weight", "layers.{i}.mixer.post_norm.weight"),
        ways(LAYER + "feedforward_layer_norm.weight", LAYER + "post_attention_layernorm.weight"),
    ),
}

_DRAFTS = ("mtp.",)
_WRAPPED: dict[str, Any] = {
    "renamed": (("model.language_model.", "model."),),
    "beside": (*_DRAFTS, "model.visual."),
}
_ABOUT = "gated delta nets, attention with output gates in one layer of four"

FAMILIES = {
    "Qwen3_5ForConditionalGeneration": Family(
        "Qwen3.5 and 3.6 (dense)",
        _qwen3_5_text,
        QWEN3_5,
        f"{_ABOUT}; the model of images is left out",
        **_WRAPPED,
    ),
    "Qwen3_5MoeForConditionalGeneration": Family(
        "Qwen3.5 and 3.6 (35B-A3B and others)",
        _qwen3_5_moe_text,
        QWEN3_5_MOE,
        "as the dense ones, with experts and a shared one; the model of images is left out",
        **_WRAPPED,
    ),
    "Qwen3_5ForCausalLM": Family(
        "Qwen3.5 text models (dense)", _qwen3_5, QWEN3_5, _ABOUT, beside=_DRAFTS
    ),
    "Qwen3_5MoeForCausalLM": Family(
        "Qwen3.5 text models (MoE)",
        _qwen3_5_moe,
        QWEN3_5_MOE,
        f"{_ABOUT}, experts and a shared one",
        beside=_DRAFTS,
    ),
    "OlmoHybridForCausalLM": Family(
        "OLMo Hybrid 7B",
        _olmo_hybrid,
        OLMO_HYBRID,
        "gated delta nets with norms before, attention of OLMo 3 in one layer of four",
    ),
    "Qwen3NextForCausalLM": Family(
        "Qwen3-Next 80B-A3B, Qwen3-Coder-Next",
        _qwen3_next,
        QWEN3_NEXT,
        f"{_ABOUT}, experts in all layers or some",
        beside=_DRAFTS,
    ),
}
