"""From a model folder to a `Transformer` ready to run: strict, streamed, one copy.

Every parameter must be filled exactly once and every tensor of the checkpoint must have a
place. Fused projections are filled part by part. Called by the engine's makers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stoker.errors import ModelError
from stoker.model.checkpoint import read_json, stream_tensors
from stoker.model.families import Family
from stoker.model.heads import Head, base_prefix, resolve
from stoker.model.transformer import Transformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model and what its folder says besides weights.

    Attributes:
        model: loaded; `prepare` has not been called.
        eos_ids: end-of-sequence ids of generation_config.json, or else of config.json.
        dtype: name of the dtype in use.
        head: what the model can be asked for.
    """

    model: Transformer
    eos_ids: frozenset[int]
    dtype: str
    head: Head


def load_model(folder: Path, device: torch.device, dtype: str = "auto") -> LoadedModel:
    """Load the model in `folder`.

    Args:
        folder: config.json and safetensors, as Hugging Face models are stored.
        device: where the weights go.
        dtype: "float32", "bfloat16", "float16", or "auto": float32 on a CPU (whose bf16
            arithmetic is slow and inexact), else the checkpoint's own.

    Raises:
        ModelError: the folder is incomplete or damaged, or holds a model of an unknown kind.
    """
    config = read_json(folder, "config.json", required=True)
    spec, family, head = resolve(config)
    name = _resolve_dtype(dtype, config.get("dtype") or config.get("torch_dtype"), device)
    with torch.device("meta"):
        model = Transformer(spec)
    model = model.to(DTYPES[name]).to_empty(device=device)
    _fill(model, family, folder)
    eos = read_json(folder, "generation_config.json").get("eos_token_id")
    eos = config.get("eos_token_id") if eos is None else eos
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return LoadedModel(model.eval(), frozenset(ids), name, head)


def _resolve_dtype(dtype: str, stored: str | None, device: torch.device) -> str:
    if dtype != "auto":
        return dtype
    if device.type == "cpu":
        return "float32"
    return stored if stored in DTYPES else "bfloat16"


def _places(model: Transformer, family: Family) -> dict[str, tuple[str, Tensor]]:
    """Checkpoint name -> (our name, the part of our parameter that it fills)."""
    parameters = dict(model.named_parameters())
    places: dict[str, tuple[str, Tensor]] = {}
    for pattern, theirs in family.names.items():
        for i in range(len(model.spec.layers)) if "{i}" in pattern else [0]:
            ours = pattern.format(i=i)
            if ours not in parameters:
                continue  # this spec has no such parameter (a bias, a norm, a tied head)
            parts = _split(parameters.pop(ours), ours, model)
            for name, part in zip(theirs, parts, strict=True):
                places[name.format(i=i)] = ours, part
    assert not parameters, f"the family's table lacks {sorted(parameters)}"
    return places


def _split(parameter: Tensor, name: str, model: Transformer) -> tuple[Tensor, ...]:
    """The parts of a fused parameter along its first axis."""
    if ".qkv." in name:
        mixer = model.spec.layers[int(name.split(".")[1])].mixer
        heads = (mixer.heads, mixer.kv_heads, mixer.kv_heads)
        sizes = [n * mixer.head_dim for n in heads]
        return tuple(torch.split(parameter, sizes))
    if ".gate_up." in name:
        return parameter.chunk(2)
    return (parameter,)


def _fill(model: Transformer, family: Family, folder: Path) -> None:
    places = _places(model, family)
    left_over: list[str] = []
    prefix = base_prefix(family)
    for stored, tensor in stream_tensors(folder):
        # a backbone saved on its own leaves the prefix out
        name = stored if stored in places else prefix + stored
        if name not in places:
            if not stored.endswith(family.ignored or ("\0",)):
                left_over.append(stored)
            continue
        ours, part = places.pop(name)
        if part.shape != tensor.shape:
            raise ModelError(
                f"{stored} has shape {tuple(tensor.shape)} where config.json implies "
                f"{tuple(part.shape)} (for {ours})"
            )
        part.copy_(tensor)
    if places:
        raise ModelError(f"the checkpoint lacks {_some(sorted(places))}")
    if left_over:
        raise ModelError(
            f"the checkpoint holds tensors that config.json has no place for: {_some(left_over)}"
        )


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
    """All weights by name, packed ones unpacked on the way, in the order of execution."""
    found: list[tuple[str, Tensor]] = []
    for name, module in model.named_modules():
        found += [
            (f"{name}.{key}" if name else key, value)
            for key, value in module.named_parameters(recurse=False)
        ]
        packed = getattr(getattr(module, "_apply_fn", None), "weight", None)
        if packed is not None:
            found.append((f"{name}.weight", packed.to_dense()))
    return found
