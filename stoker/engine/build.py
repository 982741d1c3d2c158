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
from stoker.model.transformer import Transformer
from stoker.model.work import kv_bytes_per_token
from stoker.ops.fp8 import fp8_gains, prepare_fp8, why_not_fp8
from stoker.ops.int8 import prepare_int8
from stoker.ops.linear import prepare_gated, prepare_linear
from stoker.ops.native.build import building, start
from stoker.ops.pages import FP8
from stoker.ops.select import Operations, select_operations

# the dtype of what lies between quantised projections
_BETWEEN = {"int8": "float32", "fp8": "bfloat16"}


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
    _check_quantised(config.dtype, device)
    threads = config.threads or (default_threads() if device.type == "cpu" else None)
    if threads is not None:
        torch.set_num_threads(threads)
        config = dataclasses.replace(config, threads=threads)
    loaded = load_model(folder, device, _BETWEEN.get(config.dtype, config.dtype))
    cache_dtype = FP8 if config.kv_dtype == "fp8" else DTYPES[loaded.dtype]
    spec = loaded.model.spec
    config = _resolve(config, spec, loaded.dtype, cache_dtype)
    assert config.max_context is not None
    assert config.num_blocks is not None
    assert config.max_batch_tokens is not None
    text = TextCodec(folder)
    if text.available and building():
        import_tokenizers()  # rather than wait for the compiler, and import them later
    ops = select_operations(
        device,
        DTYPES[loaded.dtype],
        backend=config.attention_backend,
        cache_dtype=cache_dtype,
        soft_capped=any(layer.mixer.softcap for layer in spec.layers),
    )
    _prepare(loaded.model, config.max_context, config.dtype, ops)
    cache = PagedCache(spec, config.num_blocks, config.block_size, cache_dtype, device)
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
    engine = Engine(scheduler, runner, tokenizer, spec.vocab, record, loaded.head.tasks)
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


def _check_quantised(dtype: str, device: torch.device) -> None:
    if dtype == "int8" and device.type != "cpu":
        raise ConfigError(f"dtype int8 serves a CPU, not {device}; use fp8, bfloat16 or float16")
    reason = why_not_fp8(device) if dtype == "fp8" else None
    if reason:
        raise ConfigError(f"dtype {reason}")


def _prepare(model: Transformer, context: int, dtype: str, ops: Operations) -> None:
    """Choose the model's linear maps for `dtype`.

    Raises:
        ConfigError: fp8 would change nothing.
    """
    if dtype == "int8":
        model.prepare(context, prepare_int8, ops=ops)
    elif dtype == "fp8":
        matrices = [one for one in model.layers.parameters() if one.dim() == 2]
        if not any(fp8_gains(*matrix.shape) for matrix in matrices):
            raise ConfigError(
                "dtype fp8 gains nothing here: no projection of this model has 4,096 inputs and "
                "outputs or more; use bfloat16"
            )
        # errors of the head go straight into the distribution
        model.prepare(context, prepare_fp8, make_head=prepare_linear, ops=ops)
    else:
        model.prepare(context, prepare_linear, prepare_gated, ops=ops)


def _resolve(
    config: EngineConfig, spec: ModelSpec, dtype: str, cache_dtype: torch.dtype
) -> EngineConfig:
    """`config` with nothing left to be decided."""
    context = config.max_context or spec.context
    if context > spec.context:
        raise ConfigError(
            f"max_context={context} is more than the model's {spec.context} positions"
        )
    block_bytes = kv_bytes_per_token(spec, cache_dtype.itemsize) * config.block_size
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
        dtype=config.dtype if config.dtype in _BETWEEN else dtype,
        max_context=context,
        max_batch_tokens=config.max_batch_tokens or (512 if config.device == "cpu" else 2048),
        num_blocks=blocks,
        cache_memory=None,
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
