"""Lara 4 Mini: delta nets, windows with positions, full attention without them, experts."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.delta import DELTA, delta_net
from stoker.model.families.experts import experts, routing, shared_names, ways
from stoker.model.families.fields import Fields
from stoker.model.families.mixtures import MLP, QWEN3_MOE
from stoker.model.families.parts import LAYER, Family, activation, attention, decoder
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import PartSpec
from stoker.model.weights import From

PERIOD = (
    "linear_attention",
    "sliding_attention",
    "linear_attention",
    "full_attention",
    "sliding_attention",
)


def _lara_mini(f: Fields) -> ModelSpec:
    count = f.layers()
    f.values.setdefault("linear_num_key_heads", 8)
    f.values.setdefault("linear_num_value_heads", 16)
    f.values.setdefault("head_dim", 128)
    turned = attention(f, qk_norm="head")
    of: dict[str, PartSpec] = {
        "linear_attention": delta_net(f),
        "sliding_attention": replace(turned, window=f.size("sliding_window", 512)),
        "full_attention": replace(turned, rope=None),
    }
    kinds = f.words("layer_types", of, "layer type", count)
    if kinds is None:
        kinds = [PERIOD[index % len(PERIOD)] for index in range(count)]
    shared = DenseSpec(f.size("shared_expert_intermediate_size", 512), activation(f))
    f.values.setdefault("moe_intermediate_size", 512)
    f.values.setdefault("num_experts", 128)
    f.values.setdefault("num_experts_per_tok", 4)
    routes = routing(f, normalised=f.flag("norm_topk_prob", True))
    mixture = experts(f, routes, "moe_intermediate_size", shared=shared)
    return decoder(f, [of[kind] for kind in kinds], ffn=mixture, tied=True)


_NET = LAYER + "linear_attn."
LARA = {
    **QWEN3_MOE,
    **shared_names(MLP + "shared_expert."),
    **DELTA,
    "layers.{i}.mixer.in_proj.weight": From((_NET + "in_proj.weight",)),
    "layers.{i}.mixer.norm.weight": ways(_NET + "out_norm.weight", _NET + "norm.weight"),
}

FAMILIES = {
    "LaraMiniForCausalLM": Family(
        "Lara 4 Mini (Translated)",
        _lara_mini,
        LARA,
        "gated delta nets, windows, attention without positions, experts and a shared one",
    ),
}
