"""Which experts of a mixture are loaded, and how many of them a token takes in each layer.

A mask drops experts that a kind of text hardly uses (Koishekenov et al., "Memory-efficient
NLLB-200", 2023): it comes from what `stoker experts` has counted. Fewer active experts save time:
given an average, each layer gets the number that its weights bear (Chitty-Venkata et al., "LExI",
2025). Its loss is what random inputs make of fewer experts; the best division is then exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from stoker.errors import ConfigError, ModelError
from stoker.model.json_files import parse_json
from stoker.model.layers.block import Block
from stoker.model.layers.experts import Experts
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.transformer import Transformer
from stoker.ops.routing import Routing

SAMPLE = 256  # random inputs of a layer

ActiveExperts = float | tuple[int, ...]


def mixtures(spec: ModelSpec) -> dict[int, ExpertsSpec]:
    """The layers with experts, by their indices."""
    return {
        index: layer.ffn
        for index, layer in enumerate(spec.layers)
        if isinstance(layer.ffn, ExpertsSpec)
    }


def active_experts(spec: ModelSpec) -> tuple[int, ...]:
    """How many experts a token takes in each layer that has some."""
    return tuple(experts.routing.active for experts in mixtures(spec).values())


def with_experts(spec: ModelSpec, changed: dict[int, ExpertsSpec]) -> ModelSpec:
    """The model with other experts in some layers."""
    layers = (
        replace(layer, ffn=changed[index]) if index in changed else layer
        for index, layer in enumerate(spec.layers)
    )
    return replace(spec, layers=tuple(layers))


def masked(spec: ModelSpec, path: str) -> ModelSpec:
    """The model without the experts that the file at `path` leaves out.

    Args:
        path: as `stoker experts --keep` writes it: `layers`, each with its number `layer` and the
            list of experts `kept`. Layers that it does not name keep all.

    Raises:
        ConfigError: the file is none of these, or does not fit the model.
    """
    found = mixtures(spec)
    changed = {}
    for index, kept in _read_mask(path):
        if index not in found:
            raise ConfigError(f"expert_mask {path} is for another model: layer {index} has none")
        if index in changed:
            raise ConfigError(f"expert_mask {path} names layer {index} twice")
        experts = found[index]
        if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= experts.stored:
            raise ConfigError(
                f"expert_mask {path} must list experts of layer {index} in order, from 0 to "
                f"{experts.stored - 1}, each once"
            )
        require_maskable(experts.routing)
        if len(kept) + experts.identities < experts.routing.active:
            raise ConfigError(
                f"expert_mask {path} leaves {len(kept)} experts of layer {index}, and a token "
                f"takes {experts.routing.active}; keep more"
            )
        changed[index] = replace(experts, kept=tuple(kept))
    return with_experts(spec, changed)


def require_maskable(routing: Routing) -> None:
    """Raise ConfigError if no expert can be left out where tokens are routed so."""
    if routing.groups > 1 or routing.logit_cap is not None:
        what = "groups of experts" if routing.groups > 1 else "soft-capped router logits"
        raise ConfigError(f"expert_mask does not serve a model with {what}; leave it out")


def _read_mask(path: str) -> list[tuple[int, list[int]]]:
    try:
        told = parse_json(Path(path))
    except ModelError as problem:
        raise ConfigError(f"expert_mask: {problem}") from None
    try:
        found = [(layer["layer"], layer["kept"]) for layer in told["layers"]]
    except (TypeError, KeyError):
        found = []
    whole = (
        isinstance(kept, list) and all(type(one) is int for one in (index, *kept))
        for index, kept in found
    )
    if not found or not all(whole):
        raise ConfigError(
            f"expert_mask {path} names no experts to keep; `stoker experts --keep SHARE` writes "
            "such a file"
        )
    return found


def limit_active(model: Transformer, active: ActiveExperts) -> tuple[int, ...]:
    """Let tokens of the prepared `model` take fewer experts; returns how many in each layer.

    Args:
        active: the number for each layer with experts, or the average that `divide` gets.

    Raises:
        ConfigError: the model has no experts, or the numbers don't fit it.
    """
    found = mixtures(model.spec)
    if not found:
        raise ConfigError("active_experts is for mixtures of experts; this model has none")
    own = list(active_experts(model.spec))
    if isinstance(active, tuple):
        if len(active) != len(own) or any(
            not 1 <= count <= most for count, most in zip(active, own, strict=True)
        ):
            raise ConfigError(
                f"active_experts must have a number for each of the {len(own)} layers with "
                f"experts, from 1 to {', '.join(map(str, own))}, not {list(active)}"
            )
        counts = list(active)
    else:
        average = sum(own) / len(own)
        if not 1 <= active <= average:
            raise ConfigError(
                f"active_experts={active} must lie between 1 and {average:g}, the model's own "
                "average over its layers"
            )
        counts = own if active == average else divide(losses(model), math.floor(active * len(own)))
    for (index, experts), count in zip(found.items(), counts, strict=True):
        block = model.layers[index]
        assert isinstance(block, Block)
        assert isinstance(block.ffn, Experts)
        block.ffn.router.send_to(count)
        found[index] = replace(experts, routing=replace(experts.routing, active=count))
    model.spec = with_experts(model.spec, found)
    return tuple(counts)


@torch.inference_mode()
def losses(model: Transformer) -> list[list[float]]:
    """For each layer with experts what it loses with 1, 2, ... active ones, the last of them 0.

    The norm of the difference that it makes to what the layer gives for random inputs, which are
    always the same; nothing but its weights is asked.
    """
    assert model.ops is not None, "the model must be prepared"
    found = []
    for index, experts in mixtures(model.spec).items():
        block = model.layers[index]
        assert isinstance(block, Block)
        assert isinstance(block.ffn, Experts)
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(SAMPLE, model.spec.hidden, generator=generator).to(model.embedding)
        x, router, given = block.ffn_norm(x, model.ops), block.ffn.router, []
        for count in range(1, experts.routing.active + 1):
            router.send_to(count)
            given.append(block.ffn.routed(x).float())
        found.append([float((one - given[-1]).norm()) for one in given])
    return found


def divide(costs: Sequence[Sequence[float]], total: int) -> list[int]:
    """The number of active experts of each layer, `total` in all, that costs least.

    With 3 in all for two layers, the second of which bears less:

        costs      1 active  2 active         division
        layer 0    0.3       0                1
        layer 1    0.9       0                2

    Args:
        costs: of each layer for 1, 2, ... experts; `total` is not below the number of layers.
    """
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # by the number spent
    for left, layer in zip(range(len(costs) - 1, -1, -1), costs, strict=True):
        after: dict[int, tuple[float, list[int]]] = {}
        for spent, (cost, counts) in best.items():
            for count, own in enumerate(layer, 1):
                if spent + count + left > total:
                    break
                reached = (cost + own, [*counts, count])
                if spent + count not in after or reached[0] < after[spent + count][0]:
                    after[spent + count] = reached
        best = after
    # of equal costs the one that leaves nothing unused
    return min(best.values(), key=lambda one: (one[0], -sum(one[1])))[1]
