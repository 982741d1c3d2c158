"""From a checkpoint to a `Transformer` ready to run: strict, streamed, one copy.

Every parameter must be filled exactly once and every tensor of the checkpoint must have a
place. Fused projections are filled tensor by tensor. A layer is packed as soon as it is whole,
so a model that is quantised needs room for little more than what stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stoker.errors import ConfigError, ModelError
from stoker.model.checkpoint import CheckpointSource
from stoker.model.families import Family
from stoker.model.heads import Head, resolve
from stoker.model.layers.block import Block
from stoker.model.layers.experts import Router, StackedLinear
from stoker.model.layers.latent import KeyValueMaps
from stoker.model.layers.linear import Linear
from stoker.model.layers.state_space import GroupedLinear
from stoker.model.module import Module
from stoker.model.spec.model import ModelSpec
from stoker.model.transformer import Transformer
from stoker.model.wanted import WantedTensors, layer_of, refuse_shape
from stoker.model.weights import places
from stoker.ops.huge_pages import zeros
from stoker.quant.choose import Formats
from stoker.quant.floats import FloatFormat

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# modules that keep their weight in another layout
PACKING = Linear | Router | StackedLinear | KeyValueMaps | GroupedLinear
STORED = {**DTYPES, "float64": torch.float64}  # float64 is rounded when it is loaded


@dataclass(frozen=True)
class LoadedModel:
    """A model and what its checkpoint says besides weights.

    Attributes:
        model: loaded, and its layers packed if so asked; `prepare` has not been called.
        eos_ids: end-of-sequence ids of generation_config.json, or else of config.json.
        dtype: name of the dtype in use.
        head: what the model can be asked for.
    """

    model: Transformer
    eos_ids: frozenset[int]
    dtype: str
    head: Head


def load_model(
    source: CheckpointSource,
    device: torch.device,
    dtype: str = "auto",
    formats: Formats | None = None,
    change: Callable[[ModelSpec], ModelSpec] | None = None,
) -> LoadedModel:
    """Load a checkpoint.

    Args:
        source: where it is stored.
        device: where the weights go.
        dtype: "float32", "bfloat16", "float16" or "auto"; see `resolve_dtype`.
        formats: what each layer's projections are converted to when its weights are there; None
            leaves them.
        change: from the config's spec to what is made of it, such as a model of fewer experts.

    Raises:
        ModelError: the checkpoint is incomplete or damaged, or holds a model of an unknown kind.
        ConfigError: the format that was asked for fits no projection, or no experts.
    """
    config = source.config()
    spec, family, head = resolve(config)
    spec = change(spec) if change else spec
    name = resolve_dtype(config, dtype, device)
    # with a head of its own, which is dropped again unless the checkpoint turns out to need it
    model = empty_model(replace(spec, tied_head=False), DTYPES[name])
    if formats and formats.no_experts and _stacked(model.layers):
        raise ConfigError(formats.no_experts)
    if formats and formats.refusal and not formats.quantize_any(_projections(model.layers)):
        raise ConfigError(formats.refusal)
    _fill(model, family, source, device, formats, spec.tied_head)
    return LoadedModel(model.eval(), _eos_ids(source, config), name, head)


def _eos_ids(source: CheckpointSource, config: dict[str, Any]) -> frozenset[int]:
    """The first end-of-sequence ids that are given; a negative one means none.

    Raises:
        ModelError: they are no whole numbers.
    """
    for file, fields in (
        ("generation_config.json", source.generation_config()),
        ("config.json", config),
        ("text_config of config.json", _text_config(config)),
    ):
        value = fields.get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(token) is int for token in ids):
            raise ModelError(
                f"eos_token_id in {file} must be a token id or a list of them, not {value!r}"
            )
        return frozenset(token for token in ids if token >= 0)
    return frozenset()


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the config of a model of texts and images says of its text model."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else {}


def weight_bytes(
    source: CheckpointSource,
    device: torch.device,
    dtype: str,
    formats: Formats,
    change: Callable[[ModelSpec], ModelSpec] | None = None,
) -> int:
    """The most that the weights take as `load_model` leaves them, from config.json alone."""
    config = source.config()
    arithmetic = DTYPES[resolve_dtype(config, dtype, device)]
    spec = resolve(config)[0]
    model = empty_model(change(spec) if change else spec, arithmetic)
    size = sum(parameter.nbytes for parameter in model.parameters())
    stacked = _stacked(model.layers)
    for outputs, inputs in [*_projections(model.layers), *stacked]:
        size += formats.nbytes(outputs, inputs) - outputs * inputs * arithmetic.itemsize
    return size


def empty_model(spec: ModelSpec, dtype: torch.dtype) -> Transformer:
    """A model without memory, on the meta device, with projections as `dtype` floats."""
    with torch.device("meta"):
        model = Transformer(spec).to(dtype)
    for module in model.modules():
        if isinstance(module, Linear):
            module.store_as(FloatFormat(dtype))
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, Module) and name in module.float32:
                setattr(module, name, nn.Parameter(parameter.float(), requires_grad=False))
    return model


def allocated(model: Transformer, name: str, device: torch.device) -> Tensor:
    """The parameter called `name`, given its memory when first asked for.

    Does what `Module.to_empty` does, which imports sympy for it, half a second of a start.
    """
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    parameter: Tensor = getattr(module, leaf)
    if parameter.is_meta:
        if device.type == "cpu":
            # memory that goes back to the system when dropped
            tensor = zeros(parameter.shape, parameter.dtype)
        else:
            tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        parameter = nn.Parameter(tensor, requires_grad=False)
        setattr(module, leaf, parameter)
    return parameter


def resolve_dtype(config: dict[str, Any], dtype: str, device: torch.device) -> str:
    """The dtype of the arithmetic for a model with this config.json.

    "auto" is float32 on a CPU (whose bf16 arithmetic is slow and inexact), else the checkpoint's
    own; of float64 it is float32.
    """
    if dtype != "auto":
        return dtype
    if device.type == "cpu":
        return "float32"
    for fields in (config, _text_config(config)):
        stored = str(fields.get("dtype") or fields.get("torch_dtype")).removeprefix("torch.")
        if stored in STORED:
            return stored if stored in DTYPES else "float32"
    return "bfloat16"


def _projections(layers: nn.ModuleList) -> list[tuple[int, int]]:
    """(outputs, inputs) of the projections in the layers that other formats may take."""
    return [
        (one.outputs, one.inputs)
        for one in layers.modules()
        if isinstance(one, Linear) and not one.as_loaded
    ]


def _stacked(layers: nn.ModuleList) -> list[tuple[int, int]]:
    """(outputs, inputs) of the projections of all experts in the layers."""
    found = (one for one in layers.modules() if isinstance(one, StackedLinear))
    return [(one.outputs, one.inputs) for one in found for _ in range(one.experts)]


def _fill(
    model: Transformer,
    family: Family,
    source: CheckpointSource,
    device: torch.device,
    formats: Formats | None,
    tied: bool,
) -> None:
    layers = len(model.spec.layers)
    wanted = WantedTensors(places(family.names, model, layers))
    left_over: list[str] = []
    for stored, tensor in source.tensors(device):
        name = next((one for one in family.spellings(stored) if one in wanted), None)
        if name is None:
            if not family.passes_over(stored, layers):
                left_over.append(stored)
            continue
        place = wanted.take(name)
        if not place.accepts(tuple(tensor.shape)):
            raise refuse_shape(stored, tuple(tensor.shape), place, source.file_of(stored))
        if tensor.dtype not in STORED.values():
            raise ModelError(
                f"{stored} holds {str(tensor.dtype).removeprefix('torch.')}, as quantised "
                f"checkpoints do; supported are {', '.join(STORED)}; "
                f"it is in {source.file_of(stored)}"
            )
        allocated(model, place.parameter, device)
        place.fill(tensor)
        del tensor  # its memory is free before the next is read
        layer = layer_of(place.parameter)
        if formats and layer is not None and not wanted.lacks_of(layer):
            block = model.layers[layer]
            assert isinstance(block, Block)
            block.prepare(formats)
    if tied:
        _tie_head(model, wanted)
    for place in wanted.leave_out():
        if not place.dropped:
            allocated(model, place.parameter, device).zero_()
    wanted.refuse_rest(left_over, source.path)


def _tie_head(model: Transformer, wanted: WantedTensors) -> None:
    """Make the embedding the head, as the config asks, unless another head was stored.

    As in transformers 5, two equal ones become one, and where one of them is stored alone it
    stands for both.

    Args:
        model: filled.
        wanted: what the checkpoint lacks; loses the tensor that is not needed.
    """
    assert model.head is not None
    head = model.head.parts["weight"]
    missing = wanted.by_parameter()
    if "head.weight" in missing:
        wanted.drop(missing["head.weight"])
    elif "embedding" in missing:
        wanted.drop(missing["embedding"])
        model.embedding = nn.Parameter(head, requires_grad=False)
    elif not torch.equal(head, model.embedding):
        log.warning(
            "the checkpoint's head differs from its embedding, though tie_word_embeddings in "
            "config.json makes them one; the stored head is used"
        )
        return
    model.tie_head()


def first_bad_weight(model: Transformer) -> str | None:
    """The name of the first parameter that holds NaN or infinity, in the order of execution.

    A weight in 8 bits shows it in its scales.
    """
    for name, tensor in weights(model):
        if tensor.dtype in DTYPES.values() and not torch.isfinite(tensor).all():
            return name
    return None


def weights(model: Transformer) -> list[tuple[str, Tensor]]:
    """All tensors that hold weights, in the order of execution, by the names of parameters.

    Those that a product keeps of its weight, packed as they are, go by the name of the weight.
    """
    found: list[tuple[str, Tensor]] = []
    for name, module in model.named_modules():
        found += [
            (f"{name}.{key}" if name else key, value)
            for key, value in module.named_parameters(recurse=False)
        ]
        if isinstance(module, PACKING):
            found += [(f"{name}.weight", tensor) for tensor in module.packed]
    return found
