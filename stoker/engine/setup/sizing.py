"""How many blocks of keys and values an engine gets: from the host's memory, or a GPU's budget.

Called when an engine is made, once its other settings are known.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from stoker.config import EngineConfig
from stoker.engine.execution.buckets import Buckets
from stoker.engine.execution.device_slots import DeviceSlots, slot_bytes
from stoker.engine.execution.runner import ModelRunner
from stoker.engine.setup.budget import Budget, MemoryNeeds, blocks_that_fit, does_not_fit, gib
from stoker.engine.setup.device_memory import DeviceMemory
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.model.transformer import Transformer

GPU_MEMORY = 0.9  # the share of a GPU's memory that may be in use, where nothing else is asked for


def host_blocks(config: EngineConfig, context: int, block_bytes: int) -> int:
    """Blocks that fit `cache_memory`, or a quarter of the memory that is free on the host.

    Raises:
        ConfigError: not one fits.
    """
    memory = config.cache_memory or _free_memory() // 4
    blocks = min(memory // block_bytes, useful_blocks(config, context))
    if blocks < 1:
        raise ConfigError(
            f"{memory} bytes of cache memory do not hold one block of {block_bytes} bytes; "
            "raise cache_memory"
        )
    return blocks


def useful_blocks(config: EngineConfig, context: int) -> int:
    """The most that can be in use at a time."""
    return config.max_running * -(-context // config.block_size)


def gpu_budget(
    memory: DeviceMemory,
    model: Transformer,
    config: EngineConfig,
    dtype: torch.dtype,
    block_bytes: int,
    buckets: Buckets | None = None,
) -> Budget:
    """What the prepared `model` takes of the GPU, measured, and what is left for the cache.

    Args:
        memory: was made before the model was.
        config: settled, but for `num_blocks`.
        dtype: of the cache.
        block_bytes: of a block, over all layers.
        buckets: of the CUDA graphs, if there are to be any.

    Raises:
        ConfigError: not even one sequence fits that is as long as a step, or as the context.
    """
    assert config.max_context is not None
    assert config.max_batch_tokens is not None
    size, context = config.block_size, config.max_context
    shortest = min(config.max_batch_tokens, context)
    trial = PagedCache(model.spec, -(-shortest // size), size, dtype, memory.device)
    slots = DeviceSlots(config.max_running, context, size, memory.device)
    runner = ModelRunner(model, trial, slots)
    weights = memory.held() - trial.nbytes
    try:
        activations = memory.activations(
            runner, config.max_batch_tokens, config.max_running, context
        )
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"the largest step, of max_batch_tokens={config.max_batch_tokens}, does not fit on the "
            f"GPU beside weights of {gib(weights)} and {gib(memory.others())} of others; lower "
            "max_batch_tokens, or take a smaller model"
        ) from None
    del runner, trial, slots
    most = config.max_batch_tokens
    graphs = buckets.reserve(activations, most, block_bytes) if buckets else 0
    needs = MemoryNeeds(
        total=memory.total,
        share=config.gpu_memory or GPU_MEMORY,
        others=memory.others(),
        weights=weights,
        activations=activations + slot_bytes(config.max_running, context, size),
        graphs=graphs,
        block=block_bytes,
        block_size=size,
    )
    return blocks_that_fit(
        needs, -(-shortest // size), useful_blocks(config, context), advice(config)
    )


def weights_do_not_fit(memory: DeviceMemory, weights: int, config: EngineConfig) -> str:
    """The message for a model whose `weights`, of so many bytes, ran out of memory."""
    needs = MemoryNeeds(
        total=memory.total,
        share=config.gpu_memory or GPU_MEMORY,
        others=memory.others(),
        weights=weights,
        activations=0,
        graphs=0,
        block=1,
        block_size=1,
    )
    return does_not_fit(needs, 1, advice(config))


def advice(config: EngineConfig) -> str:
    """A narrower format that would help, if there is one."""
    return "quantization fp8" if config.quantization == "auto" else ""


def _free_memory() -> int:
    """Bytes that are free on the host."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
