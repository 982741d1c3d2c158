"""Makes an engine from a model folder: loads, sizes the cache, joins the parts.

"Auto" settings are resolved here, once, into the `EngineConfig` the engine keeps.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from stoker.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.runner import ModelRunner
from stoker.engine.scheduler import Scheduler
from stoker.engine.text import TextCodec, import_tokenizers
from stoker.engine.threads import default_threads
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.model.checkpoint import resolve_folder
from stoker.model.heads import Head
from stoker.model.loader import DTYPES, load_model
from stoker.model.sentence import EmbeddingDefaults, embedding_defaults
from stoker.model.spec import ModelSpec
from stoker.model.work import kv_bytes_per_token
from stoker.ops.int8 import prepare_int8
from stoker.ops.linear import prepare_gated, prepare_linear
from stoker.ops.native.build import building, start


@dataclass
class BuiltEngine:
    """An engine with what its faces need beside it."""

    engine: Engine
    text: TextCodec
    spec: ModelSpec
    config: EngineConfig
    folder: Path
    head: Head
    embedding: EmbeddingDefaults


def build_engine(
    model: str,
    config: EngineConfig,
    *,
    revision: str | None = None,
    token: str | None = None,
    record: bool = False,
) -> BuiltEngine:
    """Load `model` (folder, shipped name or Hugging Face id) and make its engine.

    Raises:
        ModelError: the model can't be had or is damaged.
        ConfigError: the settings don't fit the model or the machine.
    """
    folder = resolve_folder(model, revision, token)
    device = _device(config.device)
    start(config.device, config.dtype)
    quantised = config.dtype == "int8"
    if quantised and device.type != "cpu":
        raise ConfigError(f"dtype int8 serves a CPU, not {device}; use bfloat16 or float16")
    threads = config.threads or (default_threads() if device.type == "cpu" else None)
    if threads is not None:
        torch.set_num_threads(threads)
        config = dataclasses.replace(config, threads=threads)
    loaded = load_model(folder, device, "float32" if quantised else config.dtype)
    spec = loaded.model.spec
    config = _resolve(config, spec, loaded.dtype)
    assert config.max_context is not None
    assert config.num_blocks is not None
    assert config.max_batch_tokens is not None
    text = TextCodec(folder)
    if text.available and building():
        import_tokenizers()  # rather than wait for the compiler, and import them later
    if quantised:
        loaded.model.prepare(config.max_context, prepare_int8)
    else:
        loaded.model.prepare(config.max_context, prepare_linear, prepare_gated)
    cache = PagedCache(spec, config.num_blocks, config.block_size, DTYPES[loaded.dtype], device)
    scheduler = Scheduler(
        num_blocks=config.num_blocks,
        block_size=config.block_size,
        max_batch_tokens=config.max_batch_tokens,
        max_running=config.max_running,
        max_context=config.max_context,
        eos_ids=loaded.eos_ids,
        prefix_cache=config.prefix_cache,
        policy=config.policy,
    )
    runner = ModelRunner(loaded.model, cache, device)
    tokenizer = text if text.available else None
    engine = Engine(
        scheduler,
        runner,
        tokenizer,
        spec.vocab,
        record,
        loaded.head.tasks,
        overlap=bool(config.overlap),
    )
    defaults = embedding_defaults(folder)
    return BuiltEngine(engine, text, spec, config, folder, loaded.head, defaults)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is not known; use cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but torch sees no NVIDIA GPU; use cpu")
    return device


def _resolve(config: EngineConfig, spec: ModelSpec, dtype: str) -> EngineConfig:
    """`config` with nothing left to be decided."""
    context = config.max_context or spec.context
    if context > spec.context:
        raise ConfigError(
            f"max_context={context} is more than the model's {spec.context} positions"
        )
    block_bytes = kv_bytes_per_token(spec, DTYPES[dtype].itemsize) * config.block_size
    blocks = config.num_blocks
    if blocks is None:
        memory = config.cache_memory or _free_memory(config.device) // 4
        useful = config.max_running * -(-context // config.block_size)
        blocks = min(memory // block_bytes, useful)
        if blocks < 1:
            raise ConfigError(
                f"{memory} bytes of cache memory do not hold one block of {block_bytes} bytes; "
                "raise cache_memory"
            )
    return dataclasses.replace(
        config,
        dtype=config.dtype if config.dtype == "int8" else dtype,
        max_context=context,
        max_batch_tokens=config.max_batch_tokens or (512 if config.device == "cpu" else 2048),
        num_blocks=blocks,
        cache_memory=None,
        overlap=config.device != "cpu" if config.overlap == "auto" else config.overlap,
    )


def _free_memory(device: str) -> int:
    """Bytes that are free on the device, or on the host for a CPU."""
    if device != "cpu":
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
