"""LongCat-Flash: two layers with latent attention, and experts across them, for each of its own."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.experts import expert_names, experts, routing, whole
from stoker.model.families.fields import Fields
from stoker.model.families.latent import LATENT, latent
from stoker.model.families.parts import OUTER, Family, activation, decoder
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import PartSpec
from stoker.model.spec.shortcut import ShortcutEndSpec, ShortcutSpec
from stoker.model.weights import From, Names, names

PAIR = "model.layers.{pair}."


def _longcat(f: Fields) -> ModelSpec:
    f.insist("router_bias", False, False)
    f.insist("zero_expert_type", "identity", "identity")
    for name in ("mla_scale_q_lora", "mla_scale_kv_lora"):
        f.insist(name, True, True)
    count, hidden = f.layers("num_layers"), f.size("hidden_size")
    f.values["num_hidden_layers"] = 2 * count
    query_rank = f.size("q_lora_rank")
    mixer = latent(f, theta=1e7, pairs=True)
    mixer = replace(
        mixer,
        scale=mixer.scale * (hidden / query_rank) ** 0.5,
        latent_gain=(hidden / mixer.rank) ** 0.5,
    )
    routes = routing(
        f,
        ("n_routed_experts",),
        ("moe_topk",),
        correction="score",
        scale=f.number("routed_scaling_factor", 6.0),
    )
    idle = whole(f, "zero_expert_num", 256)
    routes = replace(routes, experts=routes.experts + idle)
    mixture = experts(f, routes, "expert_ffn_hidden_size", identities=idle)
    size, kind = f.size("ffn_hidden_size"), activation(f)
    pair: list[PartSpec] = [
        ShortcutSpec(DenseSpec(size, kind), mixture),
        ShortcutEndSpec(size, kind),
    ]
    return decoder(f, mixer, ffn=pair * count)


def _paired(table: Names, ours: str, theirs: str) -> Names:
    """A table for what lies in both halves of a layer, below `theirs` and its number."""
    return {
        name: replace(
            source, tensors=tuple(one.replace(ours, PAIR + theirs) for one in source.tensors)
        )
        for name, source in table.items()
    }


def _below(table: Names, part: str) -> Names:
    """A table of a network's parameters, for one that is the `part` of ours."""
    return {name.replace(".ffn.", f".ffn.{part}."): source for name, source in table.items()}


_MIXER = {name: source for name, source in LATENT.items() if ".mixer." in name}
_DENSE = names(
    PAIR + "mlps.{side}.",
    {
        "layers.{i}.ffn.up.weight": "gate_proj.weight up_proj.weight",
        "layers.{i}.ffn.down.weight": "down_proj.weight",
    },
)
_EXPERTS = {
    **expert_names(PAIR + "mlp."),
    "layers.{i}.ffn.router.weight": From((PAIR + "mlp.router.classifier.weight",)),
    "layers.{i}.ffn.router.correction": From((PAIR + "mlp.router.e_score_correction_bias",)),
}
LONGCAT: Names = {
    **names("", OUTER),
    **names(
        PAIR,
        {
            "layers.{i}.mixer_norm.weight": "input_layernorm.{side}.weight",
            "layers.{i}.ffn_norm.weight": "post_attention_layernorm.{side}.weight",
        },
    ),
    **_paired(_MIXER, "model.layers.{i}.self_attn.", "self_attn.{side}."),
    "layers.{i}.mixer.q.weight": From((PAIR + "self_attn.{side}.q_b_proj.weight",)),
    **_DENSE,
    **_below(_DENSE, "dense"),
    **_below(_EXPERTS, "experts"),
}

FAMILIES = {
    "LongcatFlashForCausalLM": Family(
        "LongCat Flash",
        _longcat,
        LONGCAT,
        "latent attention, experts whose sum comes a layer later and may give what they read",
        beside=("model.mtp.",),
    ),
}
