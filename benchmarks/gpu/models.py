"""The models of the GPU benchmarks: shapes of published ones, with random weights.

Weights are made on the device, without files, or written to a folder for whoever must read them
(a peer, the measurement of loading). Knows shapes, no workloads.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stoker.engine.setup import build
from stoker.model import loader
from stoker.model.checkpoint import CheckpointSource
from stoker.model.families import spec_from_config
from stoker.model.heads import resolve
from stoker.model.spec.model import ModelSpec
from stoker.quant.choose import Formats

SPREAD = 0.02  # standard deviation of the weights
SHARD = 4 << 30  # bytes


def _qwen3(hidden: int, layers: int, heads: int, ffn: int, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": ffn,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
    }


def _llama(hidden: int, layers: int, head: int, ffn: int, factor: float, tied: bool) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": head,
        "intermediate_size": ffn,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
    }


CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3-0.6b": _qwen3(1024, 28, 16, 3072, True),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 6144, True),
    "qwen3-8b": _qwen3(4096, 36, 32, 12288, False),
    "qwen3-14b": _qwen3(5120, 40, 40, 17408, False),
    "llama-3.1-8b": _llama(4096, 32, 128, 14336, 8.0, False),
    "llama-3.2-1b": _llama(2048, 16, 64, 8192, 32.0, True),
}


def config_of(name: str, smoke: bool = False) -> dict[str, Any]:
    """The config of a model; for a smoke run of a tiny one of its family."""
    config = dict(CONFIGS[name])
    if smoke:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
        sizes = {"vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 2}
        config |= {**sizes, **heads, "intermediate_size": 256, "max_position_embeddings": 512}
    return config


def spec_of(config: dict[str, Any]) -> ModelSpec:
    return spec_from_config(config)[0]


def write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def randomise(weights: Tensor) -> None:
    """Norms become 1, the rest normal."""
    weights.fill_(1.0) if weights.dim() == 1 else weights.normal_(0.0, SPREAD)


def random_model(
    source: CheckpointSource,
    device: torch.device,
    dtype: str = "auto",
    formats: Formats | None = None,
    change: Callable[[ModelSpec], ModelSpec] | None = None,
) -> loader.LoadedModel:
    """Stands in for `loader.load_model`: reads config.json alone, and makes the weights there.

    All are made before any is packed.
    """
    config = source.config()
    spec, _, head = resolve(config)
    if change is not None:
        spec = change(spec)
    name = loader.resolve_dtype(config, dtype, device)
    model = loader.empty_model(spec, loader.DTYPES[name])
    torch.manual_seed(0)
    for parameter, _ in list(model.named_parameters()):
        randomise(loader.allocated(model, parameter, device).data)
    return loader.LoadedModel(model.eval(), frozenset(), name, head)


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Within it, engines are made of folders that hold no more than config.json."""
    genuine, build.load_model = build.load_model, random_model
    try:
        yield
    finally:
        build.load_model = genuine


def write_model(folder: Path, config: dict[str, Any], device: torch.device) -> int:
    """Write config.json and safetensors in bfloat16; returns the bytes.

    The names and shapes are those of transformers' own model. Weights are made on `device`, a
    shard at a time.
    """
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    write_config(folder, config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    places: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    total = held = number = 0
    torch.manual_seed(0)

    def flush() -> None:
        nonlocal shard, held, number
        if shard:
            number += 1
            file = f"model-{number:05}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            places.update(dict.fromkeys(shard, file))
        shard, held = {}, 0

    for name, empty in model.named_parameters():  # tied ones come once
        weights = torch.empty(empty.shape, dtype=torch.bfloat16, device=device)
        randomise(weights)
        shard[name] = weights.cpu()
        held += weights.nbytes
        total += weights.nbytes
        if held >= SHARD:
            flush()
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


@contextlib.contextmanager
def written(config: dict[str, Any], device: torch.device, size: int) -> Iterator[Path]:
    """A folder with such a model, of about `size` bytes, in memory if there is room for twice it.

    Raises:
        OSError: there is no room for it anywhere.
    """
    for place, share in (("/dev/shm", 2.0), (tempfile.gettempdir(), 1.1)):
        if Path(place).is_dir() and shutil.disk_usage(place).free > share * size:
            break
    else:
        raise OSError(f"no {size / 2**30:.1f} GiB are free in /dev/shm or {tempfile.gettempdir()}")
    with tempfile.TemporaryDirectory(dir=place) as name:
        write_model(Path(name), config, device)
        yield Path(name)
