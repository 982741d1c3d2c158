"""What a checkpoint still has to give while it is read, and what to say if it does not.

Knows names and shapes, no files. Parameters that checkpoints store in several ways want the
tensors of one of them: the first tensor that comes decides, and those of the others are
dropped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from stoker.errors import ModelError
from stoker.model.layers.experts import Router, StackedLinear
from stoker.model.weights import Place

# endings of the names of tensors that hold weights in a quantised form or belong to one
QUANTISED = {
    "_blocks": "MXFP4",
    "_scales": "MXFP4",
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "FP8 or INT8",
    ".weight_scale_inv": "FP8",
    ".absmax": "bitsandbytes",
}


class WantedTensors:
    """The tensors that fill a model's parameters, by name, until each has come."""

    def __init__(self, places: Iterable[tuple[str, Place]]) -> None:
        self._places = dict(places)
        self._ways: dict[str, dict[int, list[str]]] = {}
        for name, place in self._places.items():
            self._ways.setdefault(place.parameter, {}).setdefault(place.way, []).append(name)
        self._missing = dict.fromkeys(self._ways, 0)  # tensors, once one has come
        self._of_layer = Counter(layer_of(parameter) for parameter in self._ways)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def take(self, name: str) -> Place:
        """The place of a tensor, which is wanted no more; nor are those of other ways."""
        place = self._places.pop(name)
        ways = self._ways[place.parameter]
        if len(ways) > 1 or not self._missing[place.parameter]:
            self._missing[place.parameter] = len(ways[place.way])
            for way, names in ways.items():
                for other in names if way != place.way else []:
                    del self._places[other]
            self._ways[place.parameter] = {place.way: ways[place.way]}
        self._missing[place.parameter] -= 1
        if not self._missing[place.parameter]:
            self._of_layer[layer_of(place.parameter)] -= 1
        return place

    def lacks_of(self, layer: int | None) -> int:
        """Parameters of a layer that are not whole."""
        return self._of_layer[layer]

    def by_parameter(self) -> dict[str, str]:
        """For each parameter that lacks a tensor the name of one."""
        return {place.parameter: name for name, place in reversed(self._places.items())}

    def leave_out(self) -> list[Place]:
        """The places of optional tensors that have not come, which are wanted no more."""
        left = {name: place for name, place in self._places.items() if place.source.optional}
        for name in left:
            del self._places[name]
        return list(left.values())

    def drop(self, name: str) -> None:
        """Want a tensor no more that nothing needs."""
        del self._places[name]

    def refuse_rest(self, left_over: list[str], path: object) -> None:
        """Complain of what has not come, and of tensors that nothing wanted.

        Args:
            left_over: their names.
            path: of the checkpoint.

        Raises:
            ModelError: there are some of either.
        """
        if self._places:
            _refuse_quantised(left_over)
            names = sorted(name for name, place in self._places.items() if not place.way)
            raise ModelError(
                f"the checkpoint lacks {self._lacking_experts(names)}{_some(names)}, which "
                f"config.json implies; no safetensors file of {path} holds it"
            )
        if left_over:
            _refuse_quantised(left_over)
            raise ModelError(
                "the checkpoint holds tensors that config.json has no place for: "
                f"{_some(left_over)} (safetensors files of {path})"
            )

    def _lacking_experts(self, names: list[str]) -> str:
        """Which experts of the first layer that lacks any are missing, to begin a list."""
        found: dict[int, set[int]] = {}
        for name in names:
            place = self._places[name]
            layer = layer_of(place.parameter)
            if place.expert is not None and layer is not None:
                found.setdefault(layer, set()).add(place.expert)
        if not found:
            return ""
        layer = min(found)
        experts = sorted(found[layer])
        shown = _some([str(expert) for expert in experts])
        more = f" and experts of {len(found) - 1} more layers" if len(found) > 1 else ""
        return f"expert{'s' * (len(experts) > 1)} {shown} of layer {layer}{more}: "


def refuse_shape(stored: str, shape: tuple[int, ...], place: Place, file: object) -> ModelError:
    """The error for a tensor that does not fit its place."""
    expected, about = place.expected(), ""
    counts_experts = isinstance(place.owner, Router | StackedLinear) and place.expert is None
    if counts_experts and len(shape) == len(expected) and shape[1:] == expected[1:]:
        about = f": it is for {shape[0]} experts, where config.json says {expected[0]}"
    return ModelError(
        f"{stored} has shape {shape} where config.json implies {expected} (for "
        f"{place.parameter}){about}; it is in {file}"
    )


def layer_of(parameter: str) -> int | None:
    """The layer of a parameter, if it is in one."""
    return int(parameter.split(".")[1]) if parameter.startswith("layers.") else None


def _refuse_quantised(names: list[str]) -> None:
    for name in names:
        for ending, method in QUANTISED.items():
            if name.endswith(ending):
                what = "experts" if re.search(r"experts?\b", name) else "weights"
                raise ModelError(
                    f"{name} is a tensor of {what} quantised as {method}, and quantised "
                    "checkpoints are not supported; use a float32, bfloat16 or float16 one"
                )


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
