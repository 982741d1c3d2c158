"""Zamba: state spaces, and transformer blocks whose weights are used at several depths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError
from stoker.model.families.fields import Fields
from stoker.model.families.hybrid import HYBRID, every
from stoker.model.families.layer_kinds import STATE, kinds_of
from stoker.model.families.mamba import MAMBA, MAMBA2, mamba2, mixer_names, rank_of, widened
from stoker.model.families.parts import FFN, LAYER, Family, activation, decoder
from stoker.model.families.rope import rope
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import NormSpec, PartSpec
from stoker.model.spec.shared import SharedBlockSpec
from stoker.model.spec.state_space import MambaSpec
from stoker.model.weights import From, Names, changed, names
from stoker.ops.gated_norm import GateNorm

HYBRID_LAYER = "hybrid"
# Zamba 2's layers where a config doesn't tell them: those with a block, of 54
USUAL = (*range(6, 43, 6), 47, 51)


def _zamba2(f: Fields) -> ModelSpec:
    f.insist("use_conv_bias", True, True)
    f.insist("use_long_context", False, False)
    f.insist("time_step_limit", None, None)
    shares = _shares(f, [index in USUAL for index in range(54)])
    uses = [index for index, one in enumerate(shares) if one]
    f.insist("hybrid_layer_ids", uses, uses)
    groups, bias = f.size("mamba_ngroups", 1), f.flag("add_bias_linear")
    channels, heads = widened(f, "mamba_expand"), f.size("n_mamba_heads", 8)
    f.insist("mamba_headdim", channels // heads, channels // heads)
    state = mamba2(
        f,
        channels,
        heads,
        channels // heads,
        groups=groups,
        state=f.size("mamba_d_state", 64),
        taps=f.size("mamba_d_conv", 4),
        norm=GateNorm(groups, 1e-5),
        limit=(f.number("time_step_min", 0.001), math.inf),
        bias=bias,
        out_bias=bias,
    )
    hidden = f.size("hidden_size")
    attention = _attention(f)
    f.insist("attention_head_dim", attention.head_dim, attention.head_dim)
    if f.flag("use_mem_rope"):
        attention = replace(attention, rope=rope(f, attention.head_dim))
    rank, whole = f.size("adapter_rank", 128), attention.heads * attention.head_dim
    adapted = f.flag("use_shared_attention_adapter")
    if adapted and (attention.kv_heads != attention.heads or whole != 2 * hidden):
        raise ModelError(
            "use_shared_attention_adapter in config.json needs as many num_key_value_heads as "
            f"num_attention_heads, a divisor of {2 * hidden} (2 * hidden_size); they are "
            f"{attention.kv_heads} and {attention.heads}"
        )
    size = f.size("intermediate_size", 4 * hidden)
    block = SharedBlockSpec(
        attention,
        DenseSpec(size, activation(f, default="gelu"), bias=bias),
        layer=0,
        users=(0,),
        use=0,
        attention_rank=rank if adapted else 0,
        ffn_rank=rank,
    )
    return _decoder(f, state, block, shares, f.size("num_mem_blocks", 1))


def _zamba(f: Fields) -> ModelSpec:
    f.insist("hidden_mamba_act", "silu", "silu")
    # the first three are the same in all, and periods count from the fourth
    usual = [False, False, True, *every(f, "attn_layer", 6, 4, f.layers() - 3)]
    shares = _shares(f, usual[: f.layers()])
    state = MambaSpec(
        channels=widened(f, "mamba_expand"),
        state=f.size("mamba_d_state", 16),
        taps=f.size("mamba_d_conv", 4),
        rank=rank_of(f, "mamba_dt_rank"),
        groups=f.size("n_mamba_heads", 2),
        bias=f.flag("mamba_proj_bias"),
        conv_bias=f.flag("mamba_conv_bias", True),
    )
    attention = _attention(f, f.size("attention_head_dim", None) or f.size("head_dim", None))
    size = f.size("intermediate_size", 14848)
    ffn = DenseSpec(size, activation(f, default="gelu"))
    block = SharedBlockSpec(attention, ffn, layer=0, users=(0,), use=0)
    return _decoder(f, state, block, shares, 1)


def _attention(f: Fields, head_dim: int | None = None) -> AttentionSpec:
    """Over residual and embedding, so with heads twice as large as the width would give."""
    width, heads = 2 * f.size("hidden_size"), f.size("num_attention_heads")
    f.insist("attention_hidden_size", width, width)
    head_dim = head_dim or max(width // heads, 1)
    scale = (head_dim / 2) ** -0.5
    return AttentionSpec(heads, f.size("num_key_value_heads", heads), head_dim, scale)


def _shares(f: Fields, usual: Sequence[bool]) -> list[bool]:
    """Whether each layer has a block before its mixer: by its type, or else as is usual."""
    known, count = (STATE, HYBRID_LAYER), f.layers()
    kinds = kinds_of(f, known, "layers_block_type", "layer_types", count=count)
    if kinds is not None:
        return [kind == HYBRID_LAYER for kind in kinds]
    if len(usual) != count:
        raise ModelError(
            f"config.json of {f.architecture} must list its {count} layers in layers_block_type; "
            f"only {len(usual)} layers have types without"
        )
    return list(usual)


def _decoder(
    f: Fields, state: PartSpec, block: SharedBlockSpec, shares: list[bool], blocks: int
) -> ModelSpec:
    """Layers of `state`, some behind one of so many blocks, which take turns."""
    # without, transformers gives each layer a block of its own
    f.insist("tie_word_embeddings", True, True)
    norm = NormSpec("rms", f.number("rms_norm_eps", 1e-5))
    changes: dict[str, Any] = {"norm": norm, "ffn": [None] * len(shares), "tied": True}
    plain = decoder(f, state, **changes)
    layers, behind = [*plain.layers], [index for index, one in enumerate(shares) if one]
    for use, index in enumerate(behind):
        users = tuple(behind[use % blocks :: blocks])
        shared = replace(block, layer=index, users=users, use=use)
        layers[index] = replace(layers[index], shared=shared)
    return replace(plain, layers=tuple(layers))


def _behind(table: Names) -> Names:
    """A table of a layer's mixer and its norm, which lie deeper in layers with a block."""

    def deeper(source: From) -> From:
        tensors = (one.replace(LAYER, LAYER + "mamba_decoder.") for one in source.tensors)
        return replace(source, tensors=tuple(tensors))

    return {name: replace(source, otherwise=(deeper(source),)) for name, source in table.items()}


def _block_names(stem: str, network: dict[str, str]) -> Names:
    """The names of a block below `stem` of a layer that uses it."""
    return {
        **names(
            "model.layers.{user}." + stem,
            {
                "layers.{i}.shared.in_norm.weight": "input_layernorm.weight",
                "layers.{i}.shared.ffn_norm.weight": "pre_ff_layernorm.weight",
                "layers.{i}.shared.attention.qkv.base.weight": (
                    "self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight"
                ),
                "layers.{i}.shared.attention.out.base.weight": "self_attn.o_proj.weight",
                "layers.{i}.shared.ffn.down.base.weight": "feed_forward.down_proj.weight",
                "layers.{i}.shared.ffn.down.base.bias": "feed_forward.down_proj.bias",
            },
        ),
        **names("model.layers.{user}." + stem + "feed_forward.", network),
        **names(LAYER, {"layers.{i}.shared.linear.weight": "linear.weight"}),
    }


# The maps of all uses lie in one layer, numbered
_ADAPTERS = names(
    "model.layers.{user}.shared_transformer.",
    {
        "layers.{i}.shared.attention.qkv.down.weight": " ".join(
            f"self_attn.linear_{one}_adapter_list.{{use}}.0.weight" for one in "qkv"
        ),
        **{
            f"layers.{{i}}.shared.attention.qkv.ups.{index}.weight": (
                f"self_attn.linear_{one}_adapter_list.{{use}}.1.weight"
            )
            for index, one in enumerate("qkv")
        },
        "layers.{i}.shared.ffn.up.down.weight": (
            "feed_forward.gate_up_proj_adapter_list.{use}.0.weight"
        ),
        "layers.{i}.shared.ffn.up.ups.0.weight": (
            "feed_forward.gate_up_proj_adapter_list.{use}.1.weight"
        ),
    },
)
# Numbers of a head's channels have an axis of their own, and x and gate take turns
_HEADED = {
    **changed(mixer_names(LAYER + "mamba.", MAMBA), "in_proj", alternating=True),
    **names(
        LAYER + "mamba.",
        {
            "layers.{i}.mixer.x_proj.weight": "x_proj_weight",
            "layers.{i}.mixer.dt_proj.weight": "dt_proj_weight",
            "layers.{i}.mixer.decays.dt_bias": "dt_proj_bias",
        },
    ),
}
_NORM = {"layers.{i}.mixer_norm.weight": "input_layernorm.weight"}
_OUTER = {name: source for name, source in HYBRID.items() if "layers." not in name}
ZAMBA2 = {
    **_OUTER,
    **_behind({**names(LAYER, _NORM), **mixer_names(LAYER + "mamba.", MAMBA2)}),
    **_block_names(
        "shared_transformer.",
        {
            "layers.{i}.shared.ffn.up.base.weight": "gate_up_proj.weight",
            "layers.{i}.shared.ffn.up.base.bias": "gate_up_proj.bias",
        },
    ),
    **_ADAPTERS,
}
ZAMBA = {
    **_OUTER,
    **_behind({**names(LAYER, _NORM), **changed(_HEADED, "decays", headed=True)}),
    **_block_names(
        "shared_transf.",
        {
            "layers.{i}.shared.ffn.up.base.weight": FFN["layers.{i}.ffn.up.weight"],
        },
    ),
}

FAMILIES = {
    "ZambaForCausalLM": Family(
        "Zamba 7B",
        _zamba,
        ZAMBA,
        "Mamba 1 with heads, and a transformer block used at several depths",
    ),
    "Zamba2ForCausalLM": Family(
        "Zamba 2 1.2B, 2.7B, 7B",
        _zamba2,
        ZAMBA2,
        "Mamba 2, and one or two transformer blocks used at several depths, with maps of low rank "
        "for each",
    ),
}
