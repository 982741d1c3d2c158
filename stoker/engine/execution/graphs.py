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

from stoker.engine.execution.batch import as_draws, layout_of, news
from stoker.engine.execution.buckets import Bucket, Buckets, pad
from stoker.engine.execution.mirror import Mirror
from stoker.engine.execution.step_arrays import StepArrays
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.model.transformer import ForwardInput, Transformer
from stoker.ops.attention import RaggedLayout
from stoker.ops.step_tensors import Inputs, MakeInputs
from stoker.ops.upload import upload

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
        mirror: the block tables on the device; its idle block is one that no sequence has.
        make_inputs: makes token ids, positions and slots.
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
        mirror: Mirror,
        make_inputs: MakeInputs,
        device: torch.device,
        capture: CudaCapture,
    ) -> None:
        self._forward, self._attend, self._capture = forward, attend, capture
        self._buckets, self._block_size = buckets, block_size
        self._mirror, self._make_inputs, self._device = mirror, make_inputs, device
        most = buckets.largest
        width = max(width, -(-most.tokens // block_size))
        empty = partial(torch.zeros, dtype=torch.int64, device=device)
        self._inputs = Inputs(*(empty(most.tokens) for _ in range(3)))
        self._rows = empty(most.sequences)
        self._tables = empty(most.sequences, width)
        self._states: Tensor | None = None
        self._graphs: dict[Bucket, tuple[ForwardInput, Callable[[], None]] | None] = {}
        self.memory: dict[Bucket, int] = {}

    def run(self, numbers: StepArrays, drawn: Tensor | Seq[int]) -> Tensor | None:
        """States (R, D) of the rows of a step, valid until the next; None if no graph serves.

        `drawn` are the draws of the last step.
        """
        bucket = self._buckets.find(numbers.counts)
        if bucket is None or self._graphs.get(bucket, ()) is None:
            return None
        padded = pad(numbers, bucket, self._block_size, self._mirror.rows.idle_block)
        layout, inputs, rows = self._fill(padded, drawn)
        graph = self._graphs.get(bucket)
        if graph is None:
            self._make(bucket, layout, inputs, rows)
        else:
            batch, replay = graph
            batch.attention.refill(layout)
            replay()
        assert self._states is not None
        return self._states[: len(numbers.rows)]

    def _fill(
        self, padded: StepArrays, drawn: Tensor | Seq[int]
    ) -> tuple[RaggedLayout, Inputs, Tensor]:
        """Bring a step into the static buffers.

        Returns its layout, its inputs and its rows, at addresses that depend on their shapes
        alone.
        """
        count, (sequences, width) = len(padded.tokens), padded.tables.shape
        self._mirror.rows.widen(width)
        tokens, owners, shifts, rows, table_rows, changes = upload(news(padded), self._device)
        tables = self._tables[:sequences]
        tables[:, :width].copy_(self._mirror.tables(changes, table_rows, width))
        late = as_draws(drawn, self._device) if padded.late else None
        idle, inputs = self._mirror.rows.idle_block, Inputs(*(x[:count] for x in self._inputs))
        self._make_inputs(tokens, owners, shifts, tables, self._block_size, idle, late, out=inputs)
        static = self._rows[: len(rows)]
        static.copy_(rows)
        return layout_of(padded, tables, self._block_size), inputs, static

    def _make(self, bucket: Bucket, layout: RaggedLayout, inputs: Inputs, rows: Tensor) -> None:
        """Run a step of a bucket's first, and capture it for the next."""
        plan = self._attend.reserve(layout, bucket.sequences, bucket.tokens)
        batch = ForwardInput(*inputs, rows, plan)

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
    buckets: Buckets | None, model: Transformer, cache: PagedCache, mirror: Mirror, context: int
) -> Graphs | None:
    """The graphs of a prepared model, whose sequences have up to `context` tokens.

    The idle block of `mirror` is one of `cache`. None without buckets.
    """
    if buckets is None:
        return None
    assert model.ops is not None
    size = cache.block_size
    return Graphs(
        partial(model.hidden, cache=cache),
        cast(Reserving, model.ops.attention),
        buckets,
        size,
        -(-context // size),
        mirror,
        model.ops.make_inputs,
        model.embedding.device,
        CudaCapture(),
    )
