"""From a model folder to a `Transformer` ready to run: strict, streamed, one copy.

Every parameter must be filled exactly once and every tensor of the checkpoint must have a
place. Fused projections are filled part by part. A layer is packed as soon as it is whole, so a
model that is quantised needs room for little more than what stays. Called by the engine's makers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stoker.errors import ConfigError, ModelError
from stoker.model.checkpoint import read_json, stream_tensors
from stoker.model.families import Family
from stoker.model.heads import Head, resolve
from stoker.model.layers.linear import Packing
from stoker.model.transformer import Block, Transformer
from stoker.model.weights import places
from stoker.ops.huge_pages import zeros
from stoker.ops.kv_pages import FP8

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model and what its folder says besides weights.

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
    folder: Path, device: torch.device, dtype: str = "auto", packing: Packing | None = None
) -> LoadedModel:
    """Load the model in `folder`.

    Args:
        folder: config.json and safetensors, as Hugging Face models are stored.
        device: where the weights go.
        dtype: "float32", "bfloat16", "float16", or "auto": float32 on a CPU (whose bf16
            arithmetic is slow and inexact), else the checkpoint's own.
        packing: how each layer is packed when its weights are there; None leaves them.

    Raises:
        ModelError: the folder is incomplete or damaged, or holds a model of an unknown kind.
        ConfigError: fp8, as which it shall be packed, would change nothing.
    """
    _refuse_adapter(folder)
    config = read_json(folder, "config.json", required=True)
    spec, family, head = resolve(config)
    name = _resolve_dtype(dtype, config.get("dtype") or config.get("torch_dtype"), device)
    with torch.device("meta"):
        model = Transformer(spec)
    if packing and not packing.suits(model.layers):
        raise ConfigError(
            "dtype fp8 gains nothing here: no projection of this model has 4,096 inputs and "
            "outputs or more; use bfloat16"
        )
    _fill(model, family, folder, DTYPES[name], device, packing)
    eos = read_json(folder, "generation_config.json").get("eos_token_id")
    for part in (config, config.get("text_config") or {}):
        eos = part.get("eos_token_id") if eos is None else eos
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return LoadedModel(model.eval(), frozenset(ids), name, head)


def weight_bytes(folder: Path, device: torch.device, dtype: str, packing: Packing) -> int:
    """What the weights take as `load_model` leaves them, told from config.json alone."""
    config = read_json(folder, "config.json", required=True)
    name = _resolve_dtype(dtype, config.get("dtype") or config.get("torch_dtype"), device)
    with torch.device("meta"):
        model = Transformer(resolve(config)[0])
    narrow = [one for one in model.layers.parameters() if packing.narrows(one)]
    numbers = sum(one.numel() for one in model.parameters())
    spared = sum(one.numel() * (DTYPES[name].itemsize - 1) - 4 * len(one) for one in narrow)
    return numbers * DTYPES[name].itemsize - spared


def allocated(model: Transformer, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The parameter called `name`, given its memory when first asked for.

    Does what `Module.to_empty` does, which imports sympy for it, half a second of a start.
    """
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    parameter: Tensor = getattr(module, leaf)
    if parameter.is_meta:
        if device.type == "cpu":
            tensor = zeros(parameter.shape, dtype)  # which goes back to the system when dropped
        else:
            tensor = torch.empty(parameter.shape, dtype=dtype, device=device)
        parameter = nn.Parameter(tensor, requires_grad=False)
        setattr(module, leaf, parameter)
    return parameter


def _refuse_adapter(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    adapter = read_json(folder, "adapter_config.json")
    if adapter:
        base = adapter.get("base_model_name_or_path")
        raise ModelError(
            f"{folder} holds an adapter and not a model (adapter_config.json, "
            f"base_model_name_or_path: {base!r}); merge it into its base model with peft's "
            "merge_and_unload, save that, and pass the folder"
        )


def _resolve_dtype(dtype: str, stored: str | None, device: torch.device) -> str:
    if dtype != "auto":
        return dtype
    if device.type == "cpu":
        return "float32"
    return stored if stored in DTYPES else "bfloat16"


def _fill(
    model: Transformer,
    family: Family,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    packing: Packing | None,
) -> None:
    wanted = dict(places(family.names, dict(model.named_parameters()), model.spec))
    lacking = Counter(_layer(place.parameter) for place in wanted.values())
    ignored = family.ignored
    if model.spec.tied_head:  # the checkpoint may carry its copy of the embedding
        ignored += family.names["head.weight"].tensors
    left_over: list[str] = []
    for stored, tensor in stream_tensors(folder, device):
        name = next((one for one in family.spellings(stored) if one in wanted), None)
        if name is None:
            if not stored.endswith(ignored) and not stored.startswith(family.beside):
                left_over.append(stored)
            continue
        place = wanted.pop(name)
        if place.expected() != tensor.shape:
            raise ModelError(
                f"{stored} has shape {tuple(tensor.shape)} where config.json implies "
                f"{place.expected()} (for {place.parameter})"
            )
        if tensor.dtype not in DTYPES.values():
            raise ModelError(
                f"{stored} holds {str(tensor.dtype).removeprefix('torch.')}, as quantised "
                f"checkpoints do; supported are {', '.join(DTYPES)}"
            )
        place.fill(allocated(model, place.parameter, dtype, device), tensor)
        del tensor  # its memory is free before the next is read
        layer = _layer(place.parameter)
        lacking[layer] -= 1
        if packing and layer is not None and not lacking[layer]:
            block = model.layers[layer]
            assert isinstance(block, Block)
            block.pack(packing)
    if wanted:
        raise ModelError(f"the checkpoint lacks {_some(sorted(wanted))}")
    if left_over:
        raise ModelError(
            f"the checkpoint holds tensors that config.json has no place for: {_some(left_over)}"
        )


def _layer(parameter: str) -> int | None:
    """The layer of a parameter, if it is in one."""
    return int(parameter.split(".")[1]) if parameter.startswith("layers.") else None


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def first_bad_weight(model: Transformer) -> str | None:
    """The name of the first parameter that holds NaN or infinity, in the order of execution."""
    for name, tensor in weights(model):
        if not torch.isfinite(tensor).all():
            return name
    return None


def weights(model: Transformer) -> list[tuple[str, Tensor]]:
    """All weights by name, packed ones unpacked on the way, in the order of execution.

    Of those quantised to 8-bit floats the scales stand for the whole.
    """
    found: list[tuple[str, Tensor]] = []
    for name, module in model.named_modules():
        found += [
            (f"{name}.{key}" if name else key, value)
            for key, value in module.named_parameters(recurse=False)
        ]
        function = getattr(module, "_apply_fn", None)
        for part in ("weight", "scale"):  # a quantised weight's NaN is in its scale
            packed = getattr(function, part, None)
            if packed is not None and packed.dtype != FP8:
                found.append((f"{name}.weight", packed.to_dense()))
    return found
