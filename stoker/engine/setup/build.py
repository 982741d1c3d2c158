"""Make an engine from a model folder and options.

    options --> find_place --> load --> size_memory --> resolve --> assemble
                 Place         Loaded     Room        EnginePlan    Engine

What the options leave open is decided here, once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from stoker.config import EngineOptions, EnginePlan
from stoker.engine.engine import Engine
from stoker.engine.execution.buckets import Buckets
from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.graphs import graph_buckets, make_graphs
from stoker.engine.execution.runner import ModelRunner
from stoker.engine.scheduling.scheduler import Scheduler
from stoker.engine.setup.budget import Budget, gib
from stoker.engine.setup.cache_sizes import CacheSizes
from stoker.engine.setup.device import find_device
from stoker.engine.setup.device_memory import DeviceMemory
from stoker.engine.setup.experts import active_experts, limit_active, masked
from stoker.engine.setup.fork import check_fork
from stoker.engine.setup.kv_scales import kv_scales
from stoker.engine.setup.outliers import OutlierReport, split_outliers
from stoker.engine.setup.sizing import (
    cache_sizes,
    check_context,
    fit_running,
    gpu_budget,
    host_blocks,
    reuses_prefixes,
    weights_do_not_fit,
)
from stoker.engine.setup.threads import default_threads
from stoker.engine.text.tokenizer import TextCodec, import_tokenizers
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.model.checkpoint import SafetensorsFolder, resolve_folder
from stoker.model.heads import Head
from stoker.model.loader import DTYPES, load_model, resolve_dtype, weight_bytes
from stoker.model.sentence import EmbeddingDefaults, embedding_defaults
from stoker.model.spec.model import ModelSpec
from stoker.model.transformer import Transformer
from stoker.ops.kv_pages import FP8
from stoker.ops.native.build import building, start_build
from stoker.ops.select import BACKENDS, Operations, select_operations
from stoker.quant.choose import check_device, choose_formats

log = logging.getLogger(__name__)


@dataclass
class BuiltEngine:
    """An engine with what its faces need beside it; `budget` is of a GPU's memory."""

    engine: Engine
    text: TextCodec
    spec: ModelSpec
    plan: EnginePlan
    folder: Path
    head: Head
    embedding: EmbeddingDefaults
    budget: Budget | None = None
    outliers: OutlierReport | None = None


@dataclass(frozen=True)
class Place:
    """Where an engine computes.

    Attributes:
        device: a CPU or a GPU.
        memory: counts what is taken of a GPU's memory from here on; None on a CPU.
        threads: of PyTorch.
    """

    device: torch.device
    memory: DeviceMemory | None
    threads: int


@dataclass(frozen=True)
class Loaded:
    """A prepared model with what belongs to it.

    Attributes:
        text: its tokenizer.
        model: loaded, its weights prepared and its operations chosen.
        operations: these.
        eos_ids: of the model's configs, and the tokenizer's own.
        dtype, head: as in `LoadedModel`.
        kv_dtype: of cached keys and values.
        sizes: of the cache's groups, and the limits of a step and of a sequence: those asked for,
            or the model's and the device's own.
        outliers: what llm_int8 has kept apart; None for other weights.
    """

    text: TextCodec
    model: Transformer
    operations: Operations
    eos_ids: frozenset[int]
    dtype: str
    head: Head
    kv_dtype: torch.dtype
    sizes: CacheSizes
    outliers: OutlierReport | None


@dataclass(frozen=True)
class Room:
    """What memory has room for.

    Attributes:
        num_blocks: blocks of the cache's group that keeps the most; see `CacheSizes`.
        buckets: shapes of the CUDA graphs; None for no graphs.
        budget: how the blocks of a GPU were found; None elsewhere.
    """

    num_blocks: int
    buckets: Buckets | None
    budget: Budget | None


def build_engine(
    model: str,
    options: EngineOptions,
    *,
    revision: str | None = None,
    token: str | None = None,
    record: bool = False,
) -> BuiltEngine:
    """Load `model` (folder, shipped name or Hugging Face id) and make its engine.

    Raises:
        ModelError: there is no such model, or it is damaged.
        ConfigError: the options don't fit the model or the machine.
        StokerError: this is a forked process, where the engine would hang.
    """
    folder = resolve_folder(model, revision, token)
    place = find_place(options)
    loaded = load(folder, options, place)
    room = size_memory(options, place, loaded)
    plan = resolve(options, place, loaded, room)
    engine = assemble(plan, loaded, room, record)
    defaults = embedding_defaults(folder)
    spec = loaded.model.spec
    return BuiltEngine(
        engine,
        loaded.text,
        spec,
        plan,
        folder,
        loaded.head,
        defaults,
        room.budget,
        loaded.outliers,
    )


def find_place(options: EngineOptions) -> Place:
    """Find the device and the number of threads; begin to compile what it needs."""
    device = find_device(options.device)
    memory = DeviceMemory(device) if device.type == "cuda" else None
    start_build(options.device, options.dtype, options.quantization)
    check_device(options.quantization, device)
    threads = options.threads or (default_threads() if device.type == "cpu" else None)
    check_fork(device.type, threads)
    if threads is not None:
        torch.set_num_threads(threads)
    return Place(device, memory, torch.get_num_threads())


def load(folder: Path, options: EngineOptions, place: Place) -> Loaded:
    """Load the model in `folder` and prepare it."""
    text = TextCodec(folder)
    if text.available and building():
        import_tokenizers()  # rather than wait for the compiler, and import them later
    source = SafetensorsFolder(folder)
    dtype = resolve_dtype(source.config(), options.dtype, place.device)
    formats = choose_formats(options.quantization, DTYPES[dtype], place.device)
    change = partial(masked, path=options.expert_mask) if options.expert_mask else None
    try:
        loaded = load_model(source, place.device, dtype, formats, change)
    except torch.OutOfMemoryError:
        if place.memory is None:
            raise
        weights = weight_bytes(source, place.device, dtype, formats, change)
        raise ConfigError(weights_do_not_fit(place.memory, weights, options)) from None
    spec = loaded.model.spec
    context = options.max_context or spec.context
    if context > spec.context:
        raise ConfigError(
            f"max_context={context} is more than the model's {spec.context} positions"
        )
    check_context(spec, options, context)
    chunk = options.max_batch_tokens or (512 if place.device.type == "cpu" else 2048)
    kv_dtype = FP8 if options.kv_dtype == "fp8" else DTYPES[loaded.dtype]
    operations = select_operations(
        place.device,
        DTYPES[loaded.dtype],
        backend=options.attention_backend,
        cache_dtype=kv_dtype,
        special_scores=spec.special_scores,
        keeps_state=spec.keeps_state,
    )
    loaded.model.prepare(context, formats, operations)
    if options.active_experts is not None:
        limit_active(loaded.model, options.active_experts)
    outliers = None
    if options.quantization == "llm_int8":
        outliers = split_outliers(loaded.model, context, formats)
        log.info("%s", outliers)
    eos_ids = loaded.eos_ids
    if text.available and "generate" in loaded.head.tasks:
        eos_ids |= text.eos_ids  # which a fine-tuned model may have changed nowhere else
    sizes = cache_sizes(
        spec, options, kv_dtype.itemsize, DTYPES[loaded.dtype].itemsize, context, chunk
    )
    return Loaded(
        text,
        loaded.model,
        operations,
        eos_ids,
        loaded.dtype,
        loaded.head,
        kv_dtype,
        fit_running(options, sizes, place.memory),
        outliers,
    )


def size_memory(options: EngineOptions, place: Place, loaded: Loaded) -> Room:
    """Find how many blocks there is room for: as asked for, or measured."""
    sizes = loaded.sizes
    buckets = graph_buckets(
        options.cuda_graphs,
        place.device,
        loaded.operations.attention,
        sizes.max_running,
        sizes.max_chunk,
    )
    if options.num_blocks is not None:
        return Room(options.num_blocks, buckets, None)
    if place.memory is None or options.cache_memory is not None:
        return Room(host_blocks(options, sizes), buckets, None)
    budget = gpu_budget(place.memory, loaded.model, options, loaded.kv_dtype, sizes, buckets)
    return Room(budget.blocks, buckets, budget)


def resolve(options: EngineOptions, place: Place, loaded: Loaded, room: Room) -> EnginePlan:
    """Decide all that the options leave open."""
    on_gpu = place.device.type != "cpu"
    return EnginePlan(
        dtype=loaded.dtype,
        quantization="none" if options.quantization == "auto" else options.quantization,
        expert_mask=options.expert_mask or "none",
        active_experts=active_experts(loaded.model.spec),
        device=str(place.device),
        threads=place.threads,
        attention_backend=BACKENDS[type(loaded.operations.attention)],
        overlap=on_gpu if options.overlap == "auto" else bool(options.overlap),
        cuda_graphs=room.buckets is not None,
        kv_dtype=options.kv_dtype if options.kv_dtype != "auto" else loaded.dtype,
        block_size=options.block_size,
        num_blocks=room.num_blocks,
        cache_memory=loaded.sizes.nbytes(room.num_blocks),
        prefix_cache=reuses_prefixes(options, loaded.sizes, room.num_blocks),
        max_batch_tokens=loaded.sizes.max_chunk,
        step_time=options.step_time or 0.0,
        max_running=loaded.sizes.max_running,
        max_context=loaded.sizes.context,
        policy=options.policy,
        seed=options.seed,
        state_bytes=loaded.sizes.state_bytes,
        num_snapshots=loaded.sizes.num_snapshots(room.num_blocks),
    )


def assemble(plan: EnginePlan, loaded: Loaded, room: Room, record: bool) -> Engine:
    """Join scheduler, runner and tokenizer."""
    model, sizes, buckets = loaded.model, loaded.sizes, room.buckets
    device = model.embedding.device
    # the last block of each group is that of the graphs' dummies
    blocks = [count + (buckets is not None) for count in sizes.blocks(plan.num_blocks)]
    places = [*blocks, *sizes.state_places(plan.num_blocks)]
    scales = kv_scales(model, plan.max_context) if loaded.kv_dtype == FP8 else None
    groups = len(model.spec.cache_groups)  # none if no layer caches anything
    try:
        cache = PagedCache(
            model.spec,
            places[:groups],
            plan.block_size,
            loaded.kv_dtype,
            device,
            scales,
            DTYPES[loaded.dtype],
        )
    except (OSError, OverflowError, MemoryError) as problem:  # of a CPU; a GPU has its budget
        raise ConfigError(
            f"the cache of {plan.num_blocks} blocks takes {gib(plan.cache_memory)}, which this "
            f"system does not give ({problem}); lower num_blocks or cache_memory"
            + (", or max_running" if sizes.state_bytes else "")
        ) from problem
    longest = max(plan.max_context, buckets.largest.tokens if buckets else 0)
    idle = [count - 1 if buckets else 0 for count in blocks]
    slots = DeviceSlots(
        plan.max_running, longest, plan.block_size, device, idle, num_states=sizes.num_states
    )
    runner = ModelRunner(model, cache, slots, graphs=make_graphs(buckets, model, cache, slots))
    scheduler = Scheduler(
        groups=sizes.groups(plan.num_blocks),
        block_size=plan.block_size,
        max_batch_tokens=plan.max_batch_tokens,
        max_running=plan.max_running,
        max_context=plan.max_context,
        eos_ids=loaded.eos_ids,
        prefix_cache=plan.prefix_cache,
        policy=plan.policy,
        step_time=plan.step_time / 1000 or None,
        snapshot_every=sizes.snapshot_every(plan.num_blocks),
    )
    loaded.text.max_tokens = plan.max_context
    tokenizer = loaded.text if loaded.text.available else None
    return Engine(
        scheduler,
        runner,
        tokenizer,
        model.spec.vocab,
        record,
        loaded.head.tasks,
        plan.overlap,
        model.spec.vector_width,
    )
