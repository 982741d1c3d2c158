"""Mixtures of experts: what their configs say in many spellings, and how checkpoints store them.

A checkpoint holds each expert by itself, as it was published, or all of a layer in one tensor, as
transformers 5 keeps and may save them. Both are in each table here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError, short
from stoker.model.families.fields import Fields
from stoker.model.families.parts import activation, gated
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.spec.part import PartSpec
from stoker.model.weights import From, Names
from stoker.ops.routing import Routing


def either(f: Fields, *names: str, default: Any = None) -> int:
    """A size that configs call by one of several names.

    Raises:
        ModelError: none is there and there is no default, or two differ.
    """
    given = {name: f.size(name) for name in names if name in f.values}
    if len(set(given.values())) > 1:
        said = ", ".join(f"{name} {size}" for name, size in given.items())
        raise ModelError(f"config.json gives the same number twice, and differently: {said}")
    if not given and default is not None:
        return int(default)
    return f.size(next(iter(given), names[0]))


def routing(
    f: Fields,
    counts: Sequence[str] = ("num_experts", "num_local_experts"),
    actives: Sequence[str] = ("num_experts_per_tok",),
    **changes: Any,
) -> Routing:
    """How many experts there are and are active, by the names of these fields.

    `changes` are fields of `Routing`.
    """
    return Routing(either(f, *counts), either(f, *actives), **changes)


def balanced_routing(f: Fields, **changes: Any) -> Routing:
    """Sigmoids with a learned correction and groups, as DeepSeek-V3 has them.

    `changes` are arguments of `routing`.
    """
    fields: dict[str, Any] = {
        "counts": ("n_routed_experts", "num_local_experts"),
        "scores": "sigmoid",
        "correction": "score",
        "groups": f.size("n_group", 1),
        "top_groups": f.size("topk_group", 1),
        "group_best": 2,
        "normalised": f.flag("norm_topk_prob", True),
        "scale": f.number("routed_scaling_factor", 1.0),
    }
    return routing(f, **{**fields, **changes})


def experts(f: Fields, routes: Routing, size: str, **changes: Any) -> ExpertsSpec:
    """Gated experts of the usual activation, as wide as the field `size` says."""
    return ExpertsSpec(routes, DenseSpec(f.size(size), activation(f)), **changes)


def sparse_layers(
    f: Fields, mixture: PartSpec, sparse: Sequence[bool], dense: DenseSpec | None = None
) -> list[PartSpec]:
    """The network of each layer: the mixture where `sparse` says so, else a dense one."""
    if all(sparse):
        return [mixture] * len(sparse)
    usual = dense or gated(f)
    return [mixture if one else usual for one in sparse]


def after_dense(f: Fields, default: int = 0) -> list[bool]:
    """Whether each layer is sparse: all after the first `first_k_dense_replace`.

    `mlp_layer_types` says it layer by layer where it is given.
    """
    count = f.layers()
    kinds = f.words("mlp_layer_types", ("dense", "sparse"), "network", count)
    if kinds is not None:
        return [kind == "sparse" for kind in kinds]
    return [index >= whole(f, "first_k_dense_replace", default) for index in range(count)]


def whole(f: Fields, name: str, default: int) -> int:
    """A whole number that may be 0."""
    value = f.number(name, default)
    if type(value) is not int or value < 0:
        raise ModelError(f"{f.named(name)} must be a whole number, not {short(value)}")
    return value


def ways(*names: str, **how: Any) -> From:
    """A parameter that one tensor fills, which goes by one of these names."""
    first, *others = (From((name,), **how) for name in names)
    return replace(first, otherwise=tuple(others))


def expert_names(
    block: str, each: str = "gate_proj up_proj down_proj", new_block: str | None = None
) -> Names:
    """Experts below `block` one by one, or together as transformers 5 has them in memory.

    Args:
        block: what their names begin with, as "model.layers.{i}.mlp.".
        each: what the gate, the up and the down projection are called.
        new_block: the block in the names of transformers 5, if it is another.
    """
    gate, up, down = (f"{block}experts.{{e}}.{name}.weight" for name in each.split())
    fused = (block if new_block is None else new_block) + "experts."
    return {
        "layers.{i}.ffn.expert_up.weight": From(
            (gate, up), otherwise=(From((fused + "gate_up_proj",), either=True),)
        ),
        "layers.{i}.ffn.expert_down.weight": From(
            (down,), otherwise=(From((fused + "down_proj",), either=True),)
        ),
    }


def shared_names(*blocks: str) -> Names:
    """What every token goes through besides, below the first of `blocks` that a checkpoint has."""
    found: dict[str, From] = {}
    for kind in ("weight", "bias"):
        gate_up = [From((f"{block}gate_proj.{kind}", f"{block}up_proj.{kind}")) for block in blocks]
        first, *others = gate_up
        found[f"layers.{{i}}.ffn.shared.up.{kind}"] = replace(first, otherwise=tuple(others))
        down = ways(*(f"{block}down_proj.{kind}" for block in blocks))
        found[f"layers.{{i}}.ffn.shared.down.{kind}"] = down
    return found
