"""Hunyuan 1, dense and with experts: norms of queries and keys after their rotation."""

from __future__ import annotations

from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.experts import expert_names, experts, routing, shared_names
from stoker.model.families.fields import Fields
from stoker.model.families.parts import LAYER, LLAMA, Family, activation, attention, decoder
from stoker.model.families.rope import given_rope
from stoker.model.spec.attention import AttentionSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.weights import names


def _mixer(f: Fields) -> AttentionSpec:
    f.insist("use_qk_norm", True, True)
    f.insist("use_cla", False, False)  # keys and values of an earlier layer
    return attention(_stretched(f), qk_norm="head", rotates_first=True)


def _stretched(f: Fields) -> Fields:
    """The config with the base of the rotary embedding that `alpha` makes of it.

    A rope of type dynamic with an alpha does not depend on the length: alpha ** (D / (D - 2))
    multiplies the base once and for all (bloc97, NTK-aware scaling, 2023).
    """
    given = given_rope(f)
    alpha = Fields(given, f.architecture).number("alpha", None, above=0)
    if given.get("rope_type", given.get("type")) != "dynamic" or alpha is None:
        return f
    theta = Fields({**f.values, **given}, f.architecture).number("rope_theta", 10000.0, above=1)
    dim = f.size("head_dim", None) or f.size("hidden_size") // f.size("num_attention_heads")
    plain = {name: value for name, value in f.values.items() if name != "rope_scaling"}
    base = theta * alpha ** (dim / (dim - 2))
    return Fields({**plain, "rope_parameters": {"rope_theta": base}}, f.architecture)


def _context(f: Fields) -> int:
    return f.size("max_position_embeddings")


def _dense(f: Fields) -> ModelSpec:
    return decoder(f, _mixer(f), context=_context(f))


def _mixture(f: Fields) -> ModelSpec:
    size = _same(f, "moe_intermediate_size", f.size("intermediate_size"))
    _same(f, "num_shared_expert", 1)
    for name in ("num_experts", "moe_topk"):
        _same(f, name, None)
    routes = routing(
        f,
        ("num_experts", "num_local_experts"),
        ("moe_topk", "num_experts_per_tok"),
        normalised=True,
    )
    shared = DenseSpec(size, activation(f))
    mixture = experts(f, routes, "intermediate_size", shared=shared)
    return decoder(f, _mixer(f), ffn=mixture, context=_context(f))


def _same(f: Fields, name: str, wanted: Any) -> Any:
    """What a field says of every layer: a number, or a list of the same for each layer.

    Raises:
        ModelError: layers differ, or it is not `wanted`, unless that is None.
    """
    value = f.values.get(name, wanted)
    if isinstance(value, list):
        if not value or any(one != value[0] for one in value):
            raise ModelError(
                f"{f.named(name)} differs between layers, which is not supported: {short(value)}"
            )
        value = f.values[name] = value[0]
    if wanted is not None:
        f.insist(name, wanted, wanted)
    return value


_MLP = LAYER + "mlp."
HUNYUAN = {
    **LLAMA,
    **names(
        LAYER + "self_attn.",
        {
            "layers.{i}.mixer.q_norm.weight": "query_layernorm.weight",
            "layers.{i}.mixer.k_norm.weight": "key_layernorm.weight",
        },
    ),
}
HUNYUAN_MOE = {
    **HUNYUAN,
    **expert_names(_MLP),
    **shared_names(_MLP + "shared_mlp."),
    **names(_MLP, {"layers.{i}.ffn.router.weight": "gate.wg.weight"}),
}

FAMILIES = {
    "HunYuanDenseV1ForCausalLM": Family(
        "Hunyuan 0.5B to 7B, Hunyuan-MT",
        _dense,
        HUNYUAN,
        "norms on heads after the rotary embedding, which an alpha may stretch",
    ),
    "HunYuanMoEV1ForCausalLM": Family(
        "Hunyuan A13B", _mixture, HUNYUAN_MOE, "as Hunyuan, with experts and a shared one"
    ),
}
