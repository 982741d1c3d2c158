"""transformers' `per_layer_config`: fields of the config that are other ones in some layers.

Any family may have it. A layer is that of the model in which its fields hold everywhere:

    "num_key_value_heads": 8, "intermediate_size": 64,
    "per_layer_config": {"1": {"intermediate_size": 128}, "3": {"skip": ["attention"]}}

    layer    0    1    2    3
    size     64   128  64   64
    kv heads 8    8    8    none

The format is that of `PreTrainedConfig.per_layer_config` in transformers 5; "skip" leaves out
"attention" or "mlp", with the norm before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from stoker.errors import ModelError, suggest
from stoker.model.families.fields import Fields
from stoker.model.spec.model import LayerSpec, ModelSpec

SKIPPED = ("attention", "mlp")


def per_layer_spec(
    family: Callable[[Fields], ModelSpec], config: Mapping[str, Any], architecture: str
) -> ModelSpec:
    """The spec of a config with a `per_layer_config`.

    Args:
        family: makes the spec of a config without.

    Raises:
        ModelError: an index of no layer, a field that the family does not read or that is not a
            layer's own, or what `family` raises.
    """
    fields = Fields(config, architecture)
    count = fields.layers()
    overrides = _overrides(fields, count)
    shared = {**config, "per_layer_config": None}
    made: dict[str, ModelSpec] = {}
    layers = []
    for index in range(count):
        changes = dict(overrides.get(index, {}))
        skipped = _skipped(changes.pop("skip", None), index)
        key = json.dumps(changes, sort_keys=True)
        if key not in made:
            made[key] = _changed(family, shared, changes, architecture, index)
        layers.append(_without(made[key].layers[index], skipped))
    return _joined(list(made.values()), layers)


def _overrides(fields: Fields, count: int) -> dict[int, dict[str, Any]]:
    found = {}
    for key, changes in fields.within("per_layer_config").values.items():
        if not key.isdecimal() or int(key) >= count:
            raise ModelError(
                f"per_layer_config in config.json names layer {key!r}; the layers are "
                f"0 to {count - 1}"
            )
        if not isinstance(changes, dict):
            raise ModelError(
                f"per_layer_config.{key} in config.json must be an object, not {changes!r}"
            )
        if int(key) in found:
            raise ModelError(f"per_layer_config in config.json names layer {int(key)} twice")
        found[int(key)] = changes
    return found


def _skipped(names: Any, index: int) -> list[str]:
    """What a layer lacks, some of `SKIPPED`."""
    if names is None:
        return []
    if not isinstance(names, list):
        raise ModelError(
            f"per_layer_config.{index}.skip in config.json must be a list, not {names!r}"
        )
    for name in names:
        if name not in SKIPPED:
            raise ModelError(
                f"per_layer_config.{index}.skip in config.json holds {name!r}, which is not "
                f"supported; {suggest(str(name), list(SKIPPED))}"
            )
    return names


def _changed(
    family: Callable[[Fields], ModelSpec],
    shared: dict[str, Any],
    changes: dict[str, Any],
    architecture: str,
    index: int,
) -> ModelSpec:
    """The spec of a model whose layers all have `changes`."""
    fields = Fields({**shared, **changes}, architecture)
    spec = family(fields)
    for name in changes:
        if name not in fields.read:
            raise ModelError(
                f"per_layer_config.{index}.{name} in config.json is not supported: "
                f"{architecture} has no such field"
            )
    return spec


def _without(layer: LayerSpec, skipped: list[str]) -> LayerSpec:
    if skipped and layer.parallel:
        raise ModelError(
            "per_layer_config in config.json can't skip parts of layers whose parts run in parallel"
        )
    mixer = None if "attention" in skipped else layer.mixer
    return replace(layer, mixer=mixer, ffn=None if "mlp" in skipped else layer.ffn)


def _joined(specs: list[ModelSpec], layers: list[LayerSpec]) -> ModelSpec:
    first, *others = (replace(spec, layers=tuple(layers)) for spec in specs)
    for spec in others:
        if spec != first:
            names = [name for name in vars(first) if vars(spec).get(name) != vars(first)[name]]
            raise ModelError(
                "per_layer_config in config.json changes what is not a layer's own: "
                f"{', '.join(names)}"
            )
    return first
