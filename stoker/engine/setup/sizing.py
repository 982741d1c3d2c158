"""How many blocks of keys and values an engine gets: from the host's memory, or a GPU's budget.

Called when an engine is made, once its other settings are known.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from stoker.config import EngineOptions
from stoker.engine.execution.buckets import Buckets
from stoker.engine.execution.device_slots import DeviceSlots, slot_bytes
from stoker.engine.execution.runner import ModelRunner
from stoker.engine.setup.budget import Budget, MemoryNeeds, blocks_that_fit, does_not_fit, gib
from stoker.engine.setup.cache_sizes import CacheSizes
from stoker.engine.setup.device_memory import DeviceMemory
from stoker.engine.setup.host_memory import free_memory
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.model.spec.model import ModelSpec
from stoker.model.transformer import Transformer
from stoker.model.work import state_bytes
from stoker.ops.rounding import ceil_div

log = logging.getLogger(__name__)

MAX_RUNNING = 256  # sequences at a time, where nothing else is asked for
GPU_MEMORY = 0.9  # the share of a GPU's memory that may be in use, where nothing else is asked for


def cache_sizes(
    spec: ModelSpec,
    options: EngineOptions,
    element_size: int,
    state_size: int,
    max_context: int,
    max_batch_tokens: int,
) -> CacheSizes:
    """The groups of a model's cache, whose elements take `element_size` bytes in pages.

    In states, what need not be float32 takes `state_size`.
    """
    pages = [group for group in spec.cache_groups if not group.keeps_state]
    sizes = [max(1, one.elements_per_token * element_size * options.block_size) for one in pages]
    windows = [group.window for group in pages]
    if not spec.cache_groups:  # layers that keep nothing have a group of no bytes
        sizes, windows = [1], [None]
    return CacheSizes(
        tuple(sizes),
        tuple(windows),
        options.block_size,
        max_context,
        options.max_running or MAX_RUNNING,
        max_batch_tokens,
        state_bytes(spec, state_size),
        sum(group.keeps_state for group in spec.cache_groups),
        bool(options.prefix_cache),
    )


def check_context(spec: ModelSpec, options: EngineOptions, context: int) -> None:
    """Refuse a context whose tables, of rotary embeddings and blocks, would fill the memory.

    Raises:
        ConfigError: they need more than a quarter of what is free on the host.
    """
    rotated = sum(rope.dim for rope in spec.ropes if rope is not None)
    groups = max(1, len(spec.cache_groups))
    slots = slot_bytes(options.max_running or MAX_RUNNING, context, options.block_size, groups)
    needed, free = 4 * context * rotated + slots, free_memory()
    if needed > free // 4:
        raise ConfigError(
            f"a context of {context:,} tokens, by max_position_embeddings in config.json or by "
            f"max_context, needs tables of {gib(needed)}, and {gib(free)} are free; set a smaller "
            "max_context"
        )


def fit_running(
    options: EngineOptions, sizes: CacheSizes, device: DeviceMemory | None
) -> CacheSizes:
    """`sizes` with fewer running sequences if their states would take over half of the memory.

    Not if `max_running` is asked for. With 16 GiB for the cache and states of 64 MiB, 256 sequences
    would take all of it; 127 take half, with the state that is nobody's.

    Args:
        device: counts what is left of a GPU's memory, its model loaded; None for a CPU.
    """
    if options.max_running is not None or not sizes.state_bytes:
        return sizes
    if options.cache_memory is not None:
        memory = options.cache_memory
    elif device is not None:
        usable = int(device.total * (options.gpu_memory or GPU_MEMORY))
        memory = usable - device.others() - device.held()
    else:
        memory = free_memory() // 4
    fit = max(1, memory // 2 // sizes.state_bytes - 1)
    if fit >= sizes.max_running:
        return sizes
    log.warning(
        "max_running is %d instead of %d: a sequence's states take %s bytes, and the cache has %s",
        fit,
        sizes.max_running,
        f"{sizes.state_bytes:,}",
        gib(memory),
    )
    return replace(sizes, max_running=fit)


def reuses_prefixes(options: EngineOptions, sizes: CacheSizes, num_blocks: int) -> bool:
    """Whether equal prefixes are computed once.

    Raises:
        ConfigError: that was asked for, and no snapshot of states has room beside the blocks.
    """
    if not options.prefix_cache:
        return False
    if not sizes.state_bytes or sizes.num_snapshots(num_blocks):
        return True
    lacks = (
        f"no snapshot of a sequence's states, {sizes.state_bytes:,} bytes, has room beside "
        f"{num_blocks} blocks; raise num_blocks or cache_memory"
    )
    if options.prefix_cache != "auto":
        raise ConfigError(f"prefix_cache=True: {lacks}, or leave prefix_cache out")
    log.warning("prefix_cache is off: %s", lacks)
    return False


def host_blocks(options: EngineOptions, sizes: CacheSizes) -> int:
    """Blocks that fit `cache_memory`, or a quarter of the host's memory that may be taken.

    Raises:
        ConfigError: not one fits.
    """
    memory = options.cache_memory or free_memory() // 4
    if sizes.running_states > memory:
        fit = memory // sizes.state_bytes - 1
        raise ConfigError(
            f"the states of max_running={sizes.max_running} sequences take "
            f"{gib(sizes.running_states)}, {sizes.state_bytes:,} bytes each, and the cache has "
            f"{gib(memory)}; "
            + (f"lower max_running to {fit} or less, or " if fit > 0 else "")
            + "raise cache_memory"
        )
    blocks = min(sizes.most_in(memory), sizes.useful)
    if blocks < 1 and sizes.block_bytes:
        raise ConfigError(
            f"{memory} bytes of cache memory do not hold one block of {sizes.nbytes(1)} bytes"
            + (f", states of {sizes.max_running} sequences included" if sizes.state_bytes else "")
            + "; raise cache_memory"
        )
    return blocks


def gpu_budget(
    memory: DeviceMemory,
    model: Transformer,
    options: EngineOptions,
    dtype: torch.dtype,
    sizes: CacheSizes,
    buckets: Buckets | None = None,
) -> Budget:
    """What the prepared `model` takes of the GPU, measured, and what is left for the cache.

    Args:
        memory: was made before the model was.
        options: say what share of the GPU may be in use.
        dtype: of the cache.
        sizes: of the cache's groups, and the limits of a step and of a sequence.
        buckets: of the CUDA graphs, if there are to be any.

    Raises:
        ConfigError: not even one sequence fits that is as long as a step, or as the context.
    """
    size, context, most = sizes.block_size, sizes.context, sizes.max_chunk
    shortest = min(most, context)
    pages = len(sizes.block_bytes) if model.spec.cache_groups else 0
    places = [ceil_div(shortest, size)] * pages + [sizes.max_running + 1] * sizes.num_states
    try:
        trial = PagedCache(
            model.spec, places, size, dtype, memory.device, state_dtype=model.embedding.dtype
        )
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"the states of max_running={sizes.max_running} sequences, "
            f"{gib(sizes.running_states)}, do not fit on the GPU beside weights of "
            f"{gib(memory.held())} and {gib(memory.others())} of others; lower max_running"
        ) from None
    slots = DeviceSlots(
        sizes.max_running,
        context,
        size,
        memory.device,
        (0,) * len(sizes.block_bytes),
        num_states=sizes.num_states,
    )
    runner = ModelRunner(model, trial, slots)
    weights = memory.held() - trial.nbytes
    try:
        activations = memory.activations(runner, most, sizes.max_running, context)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"the largest step, of max_batch_tokens={most}, does not fit on the "
            f"GPU beside weights of {gib(weights)} and {gib(memory.others())} of others; lower "
            "max_batch_tokens, or take a smaller model"
        ) from None
    del runner, trial, slots
    graphs = buckets.reserve(activations, most, sum(sizes.block_bytes)) if buckets else 0
    needs = MemoryNeeds(
        total=memory.total,
        share=options.gpu_memory or GPU_MEMORY,
        others=memory.others(),
        weights=weights,
        activations=activations
        + slot_bytes(sizes.max_running, context, size, len(sizes.block_bytes)),
        graphs=graphs,
        cache=sizes,
    )
    least = ceil_div(shortest, size) if sizes.block_bytes else 0
    return blocks_that_fit(needs, least, sizes.useful, advice(options))


def weights_do_not_fit(memory: DeviceMemory, weights: int, options: EngineOptions) -> str:
    """The message for a model whose `weights`, of so many bytes, ran out of memory."""
    needs = MemoryNeeds(
        total=memory.total,
        share=options.gpu_memory or GPU_MEMORY,
        others=memory.others(),
        weights=weights,
        activations=0,
        graphs=0,
        cache=CacheSizes((1,), (None,), 1, 1, 1, 1),
    )
    return does_not_fit(needs, 1, advice(options))


def advice(options: EngineOptions) -> str:
    """A narrower format that would help, if there is one."""
    return "quantization fp8" if options.quantization == "auto" else ""
