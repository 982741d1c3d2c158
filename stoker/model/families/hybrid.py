"""Hybrids: some layers attend, the others keep a state of the sequence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.experts import expert_names, experts, routing, whole
from stoker.model.families.fields import Fields
from stoker.model.families.layer_kinds import ATTENDS, STATE, kinds_of
from stoker.model.families.llama import granite
from stoker.model.families.mamba import MAMBA, MAMBA2, hybrid_mamba2, mixer_names, rank_of, widened
from stoker.model.families.mixtures import GRANITE_MOE
from stoker.model.families.parts import (
    ATTENTION,
    FFN,
    LAYER,
    OUTER,
    Family,
    activation,
    attention,
    decoder,
    gated,
    rms,
)
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import PartSpec
from stoker.model.spec.side_by_side import SideBySideSpec
from stoker.model.spec.state_space import MambaSpec
from stoker.model.weights import From, names
from stoker.ops.gated_norm import GateNorm
from stoker.ops.routing import Routing


def _bamba(f: Fields) -> ModelSpec:
    f.insist("hidden_act", "silu", "silu")
    attends = f.indices("attn_layer_indices") or []
    mixer = attention(f, partial=0.5)
    state = hybrid_mamba2(f, rms(f).eps, widened(f, "mamba_expand"))
    layers = [mixer if index in attends else state for index in range(f.layers())]
    return decoder(f, layers)


def _granite_hybrid(f: Fields) -> ModelSpec:
    f.insist("hidden_act", "silu", "silu")
    kinds = kinds_of(f, (STATE, ATTENDS), "layer_types", "layers_block_type", count=f.layers())
    kind = f.values.get("position_embedding_type")
    if kind not in (None, "rope", "nope"):
        raise ModelError(
            f"position_embedding_type={short(kind)} in config.json of {f.architecture} is not "
            "supported; only 'rope', 'nope' and null are"
        )
    changes: dict[str, Any] = {} if kind == "rope" else {"rope": None}
    mixer = attention(f, scale=f.number("attention_multiplier", 1.0), **changes)
    kinds = kinds or [STATE] * f.layers()
    mixers: list[PartSpec] = [mixer] * len(kinds)
    if STATE in kinds:  # whose sizes mean nothing otherwise
        state = hybrid_mamba2(f, rms(f).eps, widened(f, "mamba_expand"))
        mixers = [state if kind == STATE else mixer for kind in kinds]
    shared = DenseSpec(f.size("shared_intermediate_size", 1024), activation(f))
    ffn: PartSpec = shared
    if whole(f, "num_local_experts", 8):
        routes = routing(f, scores="softmax of chosen")
        ffn = experts(f, routes, "intermediate_size", shared=shared)
    return granite(f, ffn, mixers)


def _multipliers(f: Fields, name: str, count: int) -> tuple[float, ...]:
    return f.factors(name, count) if f.values.get(name) is not None else (1.0,) * count


def _falcon_h1(f: Fields) -> ModelSpec:
    f.insist("hidden_act", "silu", "silu")
    eps, groups = rms(f).eps, f.size("mamba_n_groups", 1)
    channels = f.size("mamba_d_ssm", f.default_or_null("mamba_d_ssm", 1024))
    mixer = attention(f)
    first = f.flag("mamba_norm_before_gate", True)
    state = hybrid_mamba2(
        f,
        eps,
        channels or widened(f, "mamba_expand"),
        norm=GateNorm(groups, eps, first) if f.flag("mamba_rms_norm") else None,
        out_bias=f.flag("projectors_bias"),
        scales=_multipliers(f, "ssm_multipliers", 5),
    )

    def scales(part: str) -> tuple[float, float]:
        return f.number(f"{part}_in_multiplier", 1.0), f.number(f"{part}_out_multiplier", 1.0)

    both = SideBySideSpec(
        replace(mixer, scale=mixer.scale * f.number("key_multiplier", 1.0)),
        state,
        scales("attention"),
        scales("ssm"),
    )
    gate, down = _multipliers(f, "mlp_multipliers", 2)
    return decoder(
        f,
        both,
        ffn=replace(gated(f), gate_scale=gate),
        layer={"residual_scale": down},
        embedding_scale=f.number("embedding_multiplier", 1.0),
        logit_scale=f.number("lm_head_multiplier", 1.0),
    )


def _jamba(f: Fields) -> ModelSpec:
    f.insist("hidden_act", "silu", "silu")
    norm, bias = rms(f), f.flag("mamba_proj_bias")
    state = MambaSpec(
        channels=widened(f, "mamba_expand"),
        state=f.size("mamba_d_state", 16),
        taps=f.size("mamba_d_conv", 4),
        rank=rank_of(f, "mamba_dt_rank"),
        bias=bias,
        conv_bias=f.flag("mamba_conv_bias", True),
        norm=norm,
    )
    mixer = attention(f, rope=None, qkv_bias=False, out_bias=False)
    attends = every(f, "attn_layer", 8, 4, f.layers())
    dense: PartSpec = gated(f)
    ffn = [dense] * f.layers()
    if f.size("num_experts", 16) > 1:
        routes = Routing(f.size("num_experts", 16), f.size("num_experts_per_tok", 2))
        mixture = experts(f, routes, "intermediate_size")
        sparse = every(f, "expert_layer", 2, 1, f.layers())
        ffn = [mixture if one else dense for one in sparse]
    return decoder(f, [mixer if one else state for one in attends], ffn=ffn)


def every(f: Fields, what: str, period: int, offset: int, count: int) -> list[bool]:
    """Whether each of `count` layers is one of those at an offset in each period."""
    period, offset = f.size(f"{what}_period", period), whole(f, f"{what}_offset", offset)
    if offset >= period:
        raise ModelError(
            f"{what}_offset {offset} in config.json must be less than {what}_period {period}"
        )
    return [index % period == offset for index in range(count)]


_PRE_FF = {
    "layers.{i}.mixer_norm.weight": "input_layernorm.weight",
    "layers.{i}.ffn_norm.weight": "pre_ff_layernorm.weight",
}
_FEED_FORWARD = LAYER + "feed_forward."
HYBRID = {
    **names("", OUTER),
    "norm.weight": From(("model.final_layernorm.weight",)),
    **names(LAYER, _PRE_FF),
    **names(LAYER + "self_attn.", ATTENTION),
    **names(_FEED_FORWARD, FFN),
}
JAMBA = {
    **HYBRID,
    **mixer_names(LAYER + "mamba.", MAMBA),
    **expert_names(_FEED_FORWARD),
    "layers.{i}.ffn.router.weight": From((_FEED_FORWARD + "router.weight",)),
}
FALCON_H1 = {
    **HYBRID,
    **{
        name.replace(".mixer.", ".mixer.attention."): source
        for name, source in names(LAYER + "self_attn.", ATTENTION).items()
    },
    **{
        name.replace(".mixer.", ".mixer.state."): source
        for name, source in mixer_names(LAYER + "mamba.", MAMBA2).items()
    },
}
GRANITE_HYBRID = {
    **GRANITE_MOE,
    **mixer_names(LAYER + "mamba.", MAMBA2),
    **names(
        LAYER + "shared_mlp.",
        {
            "layers.{i}.ffn.up.weight": "input_linear.weight",
            "layers.{i}.ffn.down.weight": "output_linear.weight",
        },
    ),
}
FAMILIES = {
    "BambaForCausalLM": Family(
        "Bamba 9B",
        _bamba,
        {**HYBRID, **mixer_names(LAYER + "mamba.", MAMBA2)},
        "Mamba 2, some attention",
    ),
    "FalconH1ForCausalLM": Family(
        "Falcon-H1 0.5B to 34B",
        _falcon_h1,
        FALCON_H1,
        "attention and Mamba 2 beside each other in each layer, with many scales",
    ),
    "GraniteMoeHybridForCausalLM": Family(
        "Granite 4 (Micro, Tiny, Small, Nano; hybrid or not)",
        _granite_hybrid,
        GRANITE_HYBRID,
        "Mamba 2 and attention in any order, experts or none, with Granite's scales",
    ),
    "JambaForCausalLM": Family(
        "Jamba 1.5 and 1.6, Jamba Reasoning 3B",
        _jamba,
        JAMBA,
        "Mamba 1 and some attention without positions, experts in some layers",
    ),
}
