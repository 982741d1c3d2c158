"""Makes an engine from a model folder: loads, sizes the cache, joins the parts.

"Auto" settings are resolved here, once, into the `EngineConfig` the engine keeps.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from stoker.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.graphs import graph_buckets, make_graphs
from stoker.engine.execution.runner import ModelRunner
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.setup.budget import Budget
from stoker.engine.setup.cache_sizes import CacheSizes
from stoker.engine.setup.device import find_device
from stoker.engine.setup.device_memory import DeviceMemory
from stoker.engine.setup.fork import check_fork
from stoker.engine.setup.kv_scales import kv_scales
from stoker.engine.setup.outliers import OutlierReport, split_outliers
from stoker.engine.setup.sizing import cache_sizes, gpu_budget, host_blocks, weights_do_not_fit
from stoker.engine.setup.threads import default_threads
from stoker.engine.text.tokenizer import TextCodec, import_tokenizers
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.model.checkpoint import SafetensorsFolder, resolve_folder
from stoker.model.heads import Head
from stoker.model.loader import DTYPES, load_model, resolve_dtype, weight_bytes
from stoker.model.sentence import EmbeddingDefaults, embedding_defaults
from stoker.model.spec import ModelSpec
from stoker.model.transformer import Transformer
from stoker.ops.kv_pages import FP8
from stoker.ops.native.build import building, start_build
from stoker.ops.select import select_operations
from stoker.quant.choose import check_device, choose_formats

log = logging.getLogger(__name__)


@dataclass
class BuiltEngine:
    """An engine with what its faces need beside it.

    `budget` is of a GPU's memory, `outliers` of weights in llm_int8.
    """

    engine: Engine
    text: TextCodec
    spec: ModelSpec
    config: EngineConfig
    folder: Path
    head: Head
    embedding: EmbeddingDefaults
    budget: Budget | None = None
    outliers: OutlierReport | None = None


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
    device = find_device(config.device)
    memory = DeviceMemory(device) if device.type == "cuda" else None
    start_build(config.device, config.dtype, config.quantization)
    check_device(config.quantization, device)
    threads = config.threads or (default_threads() if device.type == "cpu" else None)
    check_fork(device.type, threads)
    if threads is not None:
        torch.set_num_threads(threads)
        config = dataclasses.replace(config, threads=threads)
    text = TextCodec(folder)
    if text.available and building():
        import_tokenizers()  # rather than wait for the compiler, and import them later
    source = SafetensorsFolder(folder)
    dtype = resolve_dtype(source.config(), config.dtype, device)
    formats = choose_formats(config.quantization, DTYPES[dtype], device)
    try:
        loaded = load_model(source, device, dtype, formats)
    except torch.OutOfMemoryError:
        assert memory is not None
        weights = weight_bytes(source, device, dtype, formats)
        raise ConfigError(weights_do_not_fit(memory, weights, config)) from None
    spec = loaded.model.spec
    cache_dtype = FP8 if config.kv_dtype == "fp8" else DTYPES[loaded.dtype]
    config = _resolve(config, spec, loaded.dtype)
    sizes = cache_sizes(spec, config, cache_dtype.itemsize)
    if config.num_blocks is None and (memory is None or config.cache_memory is not None):
        config = dataclasses.replace(config, num_blocks=host_blocks(config, sizes))
    config = dataclasses.replace(config, cache_memory=None)
    assert config.max_context is not None
    ops = select_operations(
        device,
        DTYPES[loaded.dtype],
        backend=config.attention_backend,
        cache_dtype=cache_dtype,
        soft_capped=spec.soft_capped,
    )
    loaded.model.prepare(config.max_context, formats, ops)
    outliers = None
    if config.quantization == "llm_int8":
        outliers = split_outliers(loaded.model, config.max_context, formats)
        log.info("%s", outliers)
    config, runner, budget = _with_runner(config, loaded.model, sizes, cache_dtype, memory)
    tokenizer = text if text.available else None
    engine = Engine(
        _scheduler(config, sizes, loaded.eos_ids),
        runner,
        tokenizer,
        spec.vocab,
        record,
        loaded.head.tasks,
        overlap=bool(config.overlap),
    )
    defaults = embedding_defaults(folder)
    return BuiltEngine(engine, text, spec, config, folder, loaded.head, defaults, budget, outliers)


def _scheduler(config: EngineConfig, sizes: CacheSizes, eos_ids: frozenset[int]) -> Scheduler:
    """The scheduler of settings with nothing left to be decided."""
    assert config.num_blocks is not None
    assert config.max_batch_tokens is not None
    assert config.max_context is not None
    return Scheduler(
        groups=sizes.groups(config.num_blocks),
        block_size=config.block_size,
        max_batch_tokens=config.max_batch_tokens,
        max_running=config.max_running,
        max_context=config.max_context,
        eos_ids=eos_ids,
        prefix_cache=config.prefix_cache,
        policy=config.policy,
        step_time=None if config.step_time is None else config.step_time / 1000,
    )


def _with_runner(
    config: EngineConfig,
    model: Transformer,
    sizes: CacheSizes,
    dtype: torch.dtype,
    memory: DeviceMemory | None,
) -> tuple[EngineConfig, ModelRunner, Budget | None]:
    """The prepared model's runner with cache and CUDA graphs, and the settings with the blocks.

    Blocks that are left open so far are those that a GPU's memory has room for beside the model;
    the budget says how that was found.
    """
    assert config.max_batch_tokens is not None
    assert model.ops is not None
    device, budget = model.embedding.device, None
    buckets = graph_buckets(
        config.cuda_graphs,
        device,
        model.ops.attention,
        config.max_running,
        config.max_batch_tokens,
    )
    if config.num_blocks is None:
        assert memory is not None
        budget = gpu_budget(memory, model, config, dtype, sizes, buckets)
        config = dataclasses.replace(config, num_blocks=budget.blocks, gpu_memory=None)
    assert config.num_blocks is not None
    assert config.max_context is not None
    # the last block of each group is that of the graphs' dummies
    blocks = [count + (buckets is not None) for count in sizes.blocks(config.num_blocks)]
    scales = kv_scales(model, config.max_context) if dtype == FP8 else None
    groups = len(model.spec.cache_groups)  # none if no layer caches anything
    cache = PagedCache(model.spec, blocks[:groups], config.block_size, dtype, device, scales)
    longest = max(config.max_context, buckets.largest.tokens if buckets else 0)
    idle = [count - 1 if buckets else 0 for count in blocks]
    slots = DeviceSlots(config.max_running, longest, config.block_size, device, idle)
    graphs = make_graphs(buckets, model, cache, slots)
    return config, ModelRunner(model, cache, slots, graphs=graphs), budget


def _resolve(config: EngineConfig, spec: ModelSpec, dtype: str) -> EngineConfig:
    """`config` with nothing left to be decided but how many blocks there are."""
    context = config.max_context or spec.context
    if context > spec.context:
        raise ConfigError(
            f"max_context={context} is more than the model's {spec.context} positions"
        )
    return dataclasses.replace(
        config,
        dtype=dtype,
        max_context=context,
        max_batch_tokens=config.max_batch_tokens or (512 if config.device == "cpu" else 2048),
        cuda_graphs=config.cuda_graphs if config.device != "cpu" else False,
        overlap=config.device != "cpu" if config.overlap == "auto" else config.overlap,
    )
