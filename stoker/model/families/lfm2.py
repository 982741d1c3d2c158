"""LFM2: short convolutions between gates, and some attention."""

from __future__ import annotations

from typing import Any

from stoker.model.families.experts import expert_names, routing, sparse_layers, whole
from stoker.model.families.fields import Fields
from stoker.model.families.layer_kinds import ATTENDS, SLIDES, kinds_of
from stoker.model.families.parts import LAYER, OUTER, Family, attention, decoder
from stoker.model.spec.convolution import ConvSpec
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.model.weights import From, names


def _lfm2_kinds(f: Fields) -> list[str]:
    kinds = kinds_of(f, (ATTENDS, "conv"), "layer_types", count=f.layers())
    if kinds is not None:
        return kinds
    attends = f.indices("full_attn_idxs")
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


# transformers' defaults, which its configs write down
_LFM3_ROPES = {
    SLIDES: {"rope_type": "default", "rope_theta": 10000.0},
    ATTENDS: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
}


def _lfm3(f: Fields) -> ModelSpec:
    f.insist("attention_bias", False, False)
    f.insist("use_attention_gate", True, True)
    f.values.setdefault("rope_parameters", _LFM3_ROPES)
    kinds = kinds_of(f, (ATTENDS, SLIDES, "conv"), "layer_types", count=f.layers())
    if kinds is None:
        cycle = (SLIDES, "conv", ATTENDS, "conv")
        kinds = [cycle[n % 4] if n else "conv" for n in range(f.layers())]
    changes: dict[str, Any] = {"qk_norm": "head", "gate": "sigmoid", "gates_heads": True}
    parts: dict[str, PartSpec] = {
        "conv": ConvSpec(f.size("hidden_size"), f.size("conv_L_cache", 7), f.flag("conv_bias"))
    }
    if ATTENDS in kinds:
        parts[ATTENDS] = attention(f, kind=ATTENDS, **changes)
    if SLIDES in kinds:
        window = f.size("sliding_window", 256)
        parts[SLIDES] = attention(f, kind=SLIDES, window=window, **changes)
    return decoder(
        f,
        [parts[kind] for kind in kinds],
        ffn=DenseSpec(f.size("intermediate_size")),
        norm=_lfm2_norm(f),
        tied=True,
        layer={"post_norms": f.flag("use_sandwich_norm", True)},
    )


_FEED_FORWARD = LAYER + "feed_forward."
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
LFM3 = {
    **LFM2,
    **names(
        LAYER,
        {
            "layers.{i}.mixer.post_norm.weight": "post_operator_norm.weight",
            "layers.{i}.ffn.post_norm.weight": "post_ffn_norm.weight",
            "layers.{i}.mixer.qkv.weight": " ".join(
                f"self_attn.{name}_proj.weight" for name in ("gate", "q", "k", "v")
            ),
            "layers.{i}.mixer.out.weight": "self_attn.o_proj.weight",
            "layers.{i}.mixer.q_norm.weight": "self_attn.q_norm.weight",
            "layers.{i}.mixer.k_norm.weight": "self_attn.k_norm.weight",
        },
    ),
}

FAMILIES = {
    "Lfm2ForCausalLM": Family(
        "LFM2 350M to 2.6B", _lfm2, LFM2, "short convolutions between gates, some attention"
    ),
    "Lfm3ForCausalLM": Family(
        "LFM3",
        _lfm3,
        LFM3,
        "as LFM2, with windows, two rotary embeddings, gated heads and norms around each part",
    ),
    "Lfm2MoeForCausalLM": Family("LFM2 8B-A1B", _lfm2_moe, LFM2_MOE, "as LFM2, with experts"),
}
