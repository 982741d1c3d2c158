"""Hybrids: some layers attend, the others keep a state of the sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.experts import (
    balanced_routing,
    expert_names,
    experts,
    routing,
    sparse_layers,
    whole,
)
from stoker.model.families.fields import Fields
from stoker.model.families.llama import granite
from stoker.model.families.mamba import (
    MAMBA,
    MAMBA2,
    hybrid_mamba2,
    mamba2,
    mixer_names,
    rank_of,
    widened,
)
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
from stoker.model.spec.convolution import ConvSpec
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.model.spec.side_by_side import SideBySideSpec
from stoker.model.spec.state_space import MambaSpec
from stoker.model.weights import From, names
from stoker.ops.gated_norm import GateNorm
from stoker.ops.routing import Routing

STATE, ATTENDS = "linear_attention", "full_attention"
# as older configs call the types of layers
_OLD_TYPES = {"mamba": STATE, "mamba2": STATE, "attention": ATTENDS}


def kinds_of(
    f: Fields, known: Sequence[str], *fields: str, count: int | None = None
) -> list[str] | None:
    """The type of each layer, by the first of these fields that is given; None if none is.

    Args:
        known: the types that the family has.
        count: of layers, if they must be as many.
    """
    for name in fields:
        given = f.items(name, count)
        if given is None:
            continue
        found = [_OLD_TYPES.get(kind, kind) if isinstance(kind, str) else kind for kind in given]
        for kind in found:
            Fields({name: kind}, f.architecture).choice(name, known, "layer type")
        return found
    return None


def _lfm2_kinds(f: Fields) -> list[str]:
    kinds = kinds_of(f, (ATTENDS, "conv"), "layer_types", count=f.layers())
    if kinds is not None:
        return kinds
    attends = f.items("full_attn_idxs")
    if attends is None:
        return [ATTENDS] * f.layers()
    return [ATTENDS if index in attends else "conv" for index in range(f.layers())]


def _lfm2_layers(f: Fields) -> list[PartSpec]:
    attends = attention(f, theta=1e6, qk_norm="head", qkv_bias=False, out_bias=False)
    convolves = ConvSpec(f.size("hidden_size"), f.size("conv_L_cache", 3), f.flag("conv_bias"))
    return [attends if kind == ATTENDS else convolves for kind in _lfm2_kinds(f)]


def _lfm2_norm(f: Fields) -> NormSpec:
    return NormSpec("rms", f.number("norm_eps", 1e-5, above=0))


def _lfm2_size(f: Fields) -> int:
    """Inner numbers of the network, of which configs give what they are reckoned from."""
    size = f.size("block_ff_dim", None) or f.size("intermediate_size")
    if not f.flag("block_auto_adjust_ff_dim", True):
        return size
    size = int(2 * size / 3)
    multiple = f.size("block_multiple_of", 256)
    size = int(f.number("block_ffn_dim_multiplier", 1.0, above=0) * size)
    return multiple * ((size + multiple - 1) // multiple)


def _lfm2(f: Fields) -> ModelSpec:
    ffn = DenseSpec(_lfm2_size(f))
    tied = f.flag("tie_embedding", f.flag("tie_word_embeddings", True))
    return decoder(f, _lfm2_layers(f), ffn=ffn, norm=_lfm2_norm(f), tied_head=tied)


def _lfm2_moe(f: Fields) -> ModelSpec:
    routes = routing(
        f,
        scores="sigmoid",
        correction="score" if f.flag("use_expert_bias", True) else None,
        normalised=f.flag("norm_topk_prob", True),
        floor=1e-6,
        scale=f.number("routed_scaling_factor", 1.0),
    )
    mixture = ExpertsSpec(routes, DenseSpec(f.size("moe_intermediate_size")))
    dense = whole(f, "num_dense_layers", 2)
    sparse = [index >= dense for index in range(f.layers())]
    ffn = sparse_layers(f, mixture, sparse, DenseSpec(f.size("intermediate_size")))
    tied = f.flag("tie_embedding", f.flag("tie_word_embeddings", True))
    return decoder(f, _lfm2_layers(f), ffn=ffn, norm=_lfm2_norm(f), tied_head=tied)


def _bamba(f: Fields) -> ModelSpec:
    f.insist("hidden_act", "silu", "silu")
    attends = f.items("attn_layer_indices") or []
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


# the letters of Nemotron-H's hybrid_override_pattern
_LETTERS = {"M": STATE, "*": ATTENDS, "-": "mlp", "E": "moe"}


def _nemotron_kinds(f: Fields) -> list[str]:
    kinds = kinds_of(f, tuple(_LETTERS.values()), "layers_block_type", "layer_types")
    if kinds is None:
        pattern = f.values.get("hybrid_override_pattern", "")
        f.read.add("hybrid_override_pattern")
        if not isinstance(pattern, str) or not pattern or set(pattern) - _LETTERS.keys():
            raise ModelError(
                f"{f.named('hybrid_override_pattern')} must be letters of "
                f"{' '.join(_LETTERS)}, one for each layer, not {short(pattern)}"
            )
        kinds = [_LETTERS[letter] for letter in pattern]
    if f.size("num_hidden_layers", len(kinds)) != len(kinds):
        raise ModelError(
            f"config.json gives the kinds of {len(kinds)} layers, and num_hidden_layers "
            f"{f.layers()}"
        )
    return kinds


def _nemotron_experts(f: Fields, act: str, bias: bool) -> ExpertsSpec:
    return ExpertsSpec(
        balanced_routing(f),
        DenseSpec(f.size("moe_intermediate_size"), act, gated=False),
        shared=DenseSpec(f.size("moe_shared_expert_intermediate_size"), act, False, bias),
        latent=f.size("moe_latent_size", None),
    )


def _nemotron_h(f: Fields) -> ModelSpec:
    """Layers of one part each. Steps have a least size, as transformers has it in a prefill."""
    f.insist("mamba_hidden_act", "silu", "silu")
    f.insist("sliding_window", None, None)
    kinds = _nemotron_kinds(f)
    norm = NormSpec("rms", f.number("layer_norm_epsilon", 1e-5, above=0))
    head_dim = f.size("head_dim", None) or f.size("attention_head_dim", 128)
    mixer = attention(f, head_dim=head_dim, scale=head_dim**-0.5, rope=None)
    groups = f.size("mamba_n_groups", None) or f.size("n_groups", 8)
    heads, dim, bias = (
        f.size("mamba_num_heads", 128),
        f.size("mamba_head_dim", 64),
        f.flag("use_bias"),
    )
    state = mamba2(
        f,
        heads * dim,
        heads,
        dim,
        groups=groups,
        state=f.size("ssm_state_size", 128),
        taps=f.size("mamba_d_conv", None) or f.size("conv_kernel", 4),
        norm=GateNorm(groups, norm.eps),
        limit=(f.number("mamba_dt_min", f.number("time_step_min", 0.001)), float("inf")),
        bias=bias,
        out_bias=bias,
        conv_bias=f.flag("mamba_conv_bias", f.flag("use_conv_bias", True)),
    )
    act, wide = activation(f, "mlp_hidden_act", "relu2"), f.flag("mlp_bias")
    parts: dict[str, tuple[PartSpec | None, PartSpec | None]] = {
        STATE: (state, None),
        ATTENDS: (mixer, None),
    }
    if "mlp" in kinds:
        parts["mlp"] = (None, DenseSpec(f.size("intermediate_size"), act, False, wide))
    if "moe" in kinds:
        parts["moe"] = (None, _nemotron_experts(f, act, wide))
    mixers, networks = zip(*(parts[kind] for kind in kinds), strict=True)
    f.values.setdefault("num_hidden_layers", len(kinds))
    return decoder(f, mixers, ffn=networks, norm=norm)


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
    attends = _every(f, "attn_layer", 8, 4)
    dense: PartSpec = gated(f)
    ffn = [dense] * f.layers()
    if f.size("num_experts", 16) > 1:
        routes = Routing(f.size("num_experts", 16), f.size("num_experts_per_tok", 2))
        mixture = experts(f, routes, "intermediate_size")
        sparse = _every(f, "expert_layer", 2, 1)
        ffn = [mixture if one else dense for one in sparse]
    return decoder(f, [mixer if one else state for one in attends], ffn=ffn)


def _every(f: Fields, what: str, period: int, offset: int) -> list[bool]:
    """Whether each layer is one of those at an offset in each period."""
    period, offset = f.size(f"{what}_period", period), whole(f, f"{what}_offset", offset)
    if offset >= period:
        raise ModelError(
            f"{what}_offset {offset} in config.json must be less than {what}_period {period}"
        )
    return [index % period == offset for index in range(f.layers())]


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
LFM2 = {
    **names("", OUTER),
    "norm.weight": From(("model.embedding_norm.weight",)),
    **names(
        LAYER,
        {
            "layers.{i}.mixer_norm.weight": "operator_norm.weight",
            "layers.{i}.ffn_norm.weight": "ffn_norm.weight",
            "layers.{i}.mixer.in_proj.weight": "conv.in_proj.weight",
            "layers.{i}.mixer.in_proj.bias": "conv.in_proj.bias",
            "layers.{i}.mixer.conv.bias": "conv.conv.bias",
            "layers.{i}.mixer.out_proj.weight": "conv.out_proj.weight",
            "layers.{i}.mixer.out_proj.bias": "conv.out_proj.bias",
            "layers.{i}.ffn.up.weight": "feed_forward.w1.weight feed_forward.w3.weight",
            "layers.{i}.ffn.down.weight": "feed_forward.w2.weight",
        },
    ),
    "layers.{i}.mixer.conv.weight": From((LAYER + "conv.conv.weight",), transpose=True),
    **names(
        LAYER + "self_attn.",
        {
            "layers.{i}.mixer.qkv.weight": "q_proj.weight k_proj.weight v_proj.weight",
            "layers.{i}.mixer.out.weight": "out_proj.weight",
            "layers.{i}.mixer.q_norm.weight": "q_layernorm.weight",
            "layers.{i}.mixer.k_norm.weight": "k_layernorm.weight",
        },
    ),
}
LFM2_MOE = {
    **LFM2,
    **expert_names(_FEED_FORWARD, "w1 w3 w2"),
    "layers.{i}.ffn.router.weight": From((_FEED_FORWARD + "gate.weight",)),
    "layers.{i}.ffn.router.correction": From((_FEED_FORWARD + "expert_bias",)),
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
_MIXER = LAYER + "mixer."
NEMOTRON_H = {
    "embedding": From(("model.embeddings.weight",)),
    "norm.weight": From(("model.norm_f.weight",)),
    "head.weight": From(("lm_head.weight",)),
    "layers.{i}.mixer_norm.weight": From((LAYER + "norm.weight",)),
    "layers.{i}.ffn_norm.weight": From((LAYER + "norm.weight",)),
    **mixer_names(_MIXER, MAMBA2),
    **names(_MIXER, ATTENTION),
    **names(
        _MIXER,
        {
            "layers.{i}.ffn.up.weight": "up_proj.weight",
            "layers.{i}.ffn.up.bias": "up_proj.bias",
            "layers.{i}.ffn.down.weight": "down_proj.weight",
            "layers.{i}.ffn.down.bias": "down_proj.bias",
            "layers.{i}.ffn.router.weight": "gate.weight",
            "layers.{i}.ffn.router.correction": "gate.e_score_correction_bias",
            "layers.{i}.ffn.shared.up.weight": "shared_experts.up_proj.weight",
            "layers.{i}.ffn.shared.up.bias": "shared_experts.up_proj.bias",
            "layers.{i}.ffn.shared.down.weight": "shared_experts.down_proj.weight",
            "layers.{i}.ffn.shared.down.bias": "shared_experts.down_proj.bias",
            "layers.{i}.ffn.to_latent.weight": "fc1_latent_proj.weight",
            "layers.{i}.ffn.from_latent.weight": "fc2_latent_proj.weight",
        },
    ),
    "layers.{i}.ffn.expert_up.weight": From(
        (_MIXER + "experts.{e}.up_proj.weight",), otherwise=(From((_MIXER + "experts.up_proj",)),)
    ),
    "layers.{i}.ffn.expert_down.weight": From(
        (_MIXER + "experts.{e}.down_proj.weight",),
        otherwise=(From((_MIXER + "experts.down_proj",)),),
    ),
}

FAMILIES = {
    "Lfm2ForCausalLM": Family(
        "LFM2 350M to 2.6B", _lfm2, LFM2, "short convolutions between gates, some attention"
    ),
    "Lfm2MoeForCausalLM": Family("LFM2 8B-A1B", _lfm2_moe, LFM2_MOE, "as LFM2, with experts"),
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
    "NemotronHForCausalLM": Family(
        "Nemotron-H, Nemotron Nano 2, Nemotron 3 Nano and Super",
        _nemotron_h,
        NEMOTRON_H,
        "layers of one part each: Mamba 2, attention without positions, a network, or experts",
        renamed=(("backbone.", "model."),),
        beside=("mtp.",),
    ),
    "JambaForCausalLM": Family(
        "Jamba 1.5 and 1.6, Jamba Reasoning 3B",
        _jamba,
        JAMBA,
        "Mamba 1 and some attention without positions, experts in some layers",
    ),
}
