"""CUDA graphs of forward passes: static buffers that a step is copied into, and the replay.

A graph is captured when a step first has its shapes (buckets.py); that step itself runs as ever.
All graphs share their inputs, their output and the memory between. Knows forward inputs, no
steps. Called by the runner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from stoker.engine.batch import fill_late, layout_of
from stoker.engine.buckets import Bucket, Buckets, pad
from stoker.engine.numbers import Numbers
from stoker.engine.upload import pack, unpack
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.model.transformer import ForwardInput, Transformer
from stoker.ops.attention import RaggedLayout

log = logging.getLogger(__name__)


class ReservedPlan(Protocol):
    """A plan of an attention that is filled again in place, as a graph needs it."""

    def refill(self, layout: RaggedLayout) -> None:
        """Become the plan of `layout`, whose tables are in those kept by then."""


class Reserving(Protocol):
    """An attention that makes such plans."""

    def reserve(self, layout: RaggedLayout, sequences: int, queries: int) -> ReservedPlan:
        """The plan of `layout`, with room for any step of so many; its block tables are kept."""


class CudaCapture:
    """Captures work on a GPU; all graphs take their memory from one pool."""

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does `work` again, which has been done once, so that nothing is compiled now."""
        graph = torch.cuda.CUDAGraph()
        # other threads may go on to allocate page-locked memory meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        replay: Callable[[], None] = graph.replay
        return replay

    def free(self) -> int:
        """Bytes of the GPU that are free, to tell what a graph has taken."""
        return torch.cuda.mem_get_info()[0]


class Graphs:
    """Runs forward passes by graphs where they fit one.

    Args:
        forward: states (R, D) of a forward input.
        attend: the attention that `forward` uses.
        buckets: the shapes there are.
        block_size: of the cache.
        width: blocks of the longest sequence.
        dummy_block: a block of the cache that no sequence has.
        capture: makes graphs; a stand-in in tests.

    Attributes:
        memory: bytes that each graph has taken, with the growth of the common pool.
    """

    def __init__(
        self,
        forward: Callable[[ForwardInput], Tensor],
        attend: Reserving,
        buckets: Buckets,
        block_size: int,
        width: int,
        dummy_block: int,
        device: torch.device,
        capture: CudaCapture,
    ) -> None:
        self._forward, self._attend, self._capture = forward, attend, capture
        self._buckets, self._block_size, self._dummy = buckets, block_size, dummy_block
        self._device = device
        most = buckets.largest
        width = max(width, -(-most.tokens // block_size))
        self._tables = torch.zeros(most.sequences, width, dtype=torch.int64, device=device)
        # tokens, positions, slots, rows; then tables, and places and draws of late tokens
        numbers = 3 * most.tokens + most.sequences + self._tables.numel() + 2 * most.tokens
        self._inputs = torch.zeros(8 * numbers, dtype=torch.uint8, device=device)
        self._states: Tensor | None = None
        self._graphs: dict[Bucket, tuple[ForwardInput, Callable[[], None]] | None] = {}
        self.memory: dict[Bucket, int] = {}

    def run(self, numbers: Numbers, drawn: Tensor | Seq[int]) -> Tensor | None:
        """States (R, D) of the rows of a step, valid until the next; None if no graph serves.

        `drawn` are the draws of the last step.
        """
        bucket = self._buckets.find(numbers.counts)
        if bucket is None or self._graphs.get(bucket, ()) is None:
            return None
        padded = pad(numbers, bucket, self._block_size, self._dummy)
        layout, inputs = self._fill(padded, drawn)
        graph = self._graphs.get(bucket)
        if graph is None:
            self._make(bucket, layout, inputs)
        else:
            batch, replay = graph
            batch.attention.refill(layout)
            replay()
        assert self._states is not None
        return self._states[: len(numbers.rows)]

    def _fill(self, padded: Numbers, drawn: Tensor | Seq[int]) -> tuple[RaggedLayout, list[Tensor]]:
        """Copy a step into the static buffers.

        Returns its layout, and tokens, positions, slots and rows, at addresses that depend on
        their shapes alone.
        """
        arrays = [padded.tokens, padded.positions, padded.slots, padded.rows, padded.tables]
        arrays.append(padded.late)
        packed = pack(arrays, pinned=self._device.type == "cuda")
        self._inputs[: len(packed)].copy_(packed, non_blocking=True)
        *inputs, tables, late = unpack(self._inputs, arrays)
        rows, width = padded.tables.shape
        self._tables[:rows, :width].copy_(tables)
        if padded.late.size:
            fill_late(inputs[0], late, drawn)
        return layout_of(padded, self._tables[:rows], self._block_size), inputs

    def _make(self, bucket: Bucket, layout: RaggedLayout, inputs: list[Tensor]) -> None:
        """Run a step of a bucket's first, and capture it for the next."""
        plan = self._attend.reserve(layout, bucket.sequences, bucket.tokens)
        tokens, positions, slots, rows = inputs
        batch = ForwardInput(tokens, positions, slots, rows, plan)

        def work() -> None:
            states = self._forward(batch)
            if self._states is None:
                most = self._buckets.largest.sequences
                self._states = states.new_empty(most, states.shape[1])
            self._states[: len(states)].copy_(states)

        work()
        free = self._capture.free()
        try:
            self._graphs[bucket] = batch, self._capture(work)
        except RuntimeError as problem:  # of which torch.OutOfMemoryError is one
            log.warning("no CUDA graph for steps of %d tokens: %s", bucket.tokens, problem)
            self._graphs[bucket] = None
        self.memory[bucket] = free - self._capture.free()
        log.info("CUDA graph of %d tokens: %.1f MiB", bucket.tokens, self.memory[bucket] / 2**20)


def graph_buckets(
    setting: bool | str, device: torch.device, attend: object, running: int, tokens: int
) -> Buckets | None:
    """The buckets of an engine with the `cuda_graphs` of its settings; None for no graphs.

    Args:
        attend: its attention.
        running, tokens: most sequences and most tokens of a step.

    Raises:
        ConfigError: graphs were asked for, and the attention does not serve them.
    """
    if device.type != "cuda" or not setting:
        return None
    if not hasattr(attend, "reserve"):
        reason = f"{type(attend).__name__} has no plans that can be filled again"
        if setting is True:
            raise ConfigError(f"cuda_graphs=True can't be had: {reason}; use another attention")
        log.warning("no CUDA graphs: %s", reason)
        return None
    return Buckets(running, tokens)


def make_graphs(
    buckets: Buckets | None, model: Transformer, cache: PagedCache, context: int
) -> Graphs | None:
    """The graphs of a prepared model, whose sequences have up to `context` tokens.

    The last block of `cache` is the dummy's. None without buckets.
    """
    if buckets is None:
        return None
    assert model.ops is not None
    size, blocks = cache.block_size, cache.layers[0][0].shape[0]
    return Graphs(
        partial(model.hidden, cache=cache),
        cast(Reserving, model.ops.attention),
        buckets,
        size,
        -(-context // size),
        blocks - 1,
        model.embedding.device,
        CudaCapture(),
    )
