"""CUDA graphs of forward passes: static buffers that a step is copied into, and the replay.

A graph is captured when a step first has its shapes (buckets.py); that step itself runs as ever.
All graphs share their inputs, their output and the memory between. Knows forward inputs, no
steps. Called by the runner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from stoker.engine.execution.buckets import Bucket, Buckets, pad
from stoker.engine.execution.device_slots import DeviceSlots
from stoker.engine.execution.state_arrays import no_tables
from stoker.engine.execution.step_tensors import SentArrays, StepArrays, layout_of
from stoker.errors import ConfigError
from stoker.model.cache import PagedCache
from stoker.model.step import StatePlan, StepTensors
from stoker.model.transformer import Transformer
from stoker.ops.attention import RaggedLayout
from stoker.ops.step_tensors import FlatStep, MakeInputs, PageTables, TokenInputs

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
        slots: what the device keeps, wide enough for the dummy of the largest bucket; its idle
            block is one that no sequence has.
        make_inputs: makes token ids, positions and cells.
        capture: makes graphs; a stand-in in tests.

    Attributes:
        memory: bytes that each graph has taken, with the growth of the common pool.
    """

    def __init__(
        self,
        forward: Callable[[StepTensors], Tensor],
        attend: Reserving,
        buckets: Buckets,
        slots: DeviceSlots,
        make_inputs: MakeInputs,
        capture: CudaCapture,
    ) -> None:
        self._forward, self._attend, self._capture = forward, attend, capture
        self._buckets, self._slots, self._make_inputs = buckets, slots, make_inputs
        most = buckets.largest
        empty = partial(torch.zeros, dtype=torch.int64, device=slots.device)
        tokens, positions = empty(most.tokens), empty(most.tokens)
        # of each cache group of pages, or for no tables
        self._inputs = [
            TokenInputs(tokens, positions, empty(most.tokens)) for _ in slots.groups or (None,)
        ]
        self._tables = [empty(most.sequences, slots.width) for _ in slots.groups]
        self._rows = empty(most.sequences)
        self._state_slots, self._starts = empty(most.sequences), empty(most.sequences + 1)
        self._fresh = torch.zeros(most.sequences, dtype=torch.bool, device=slots.device)
        self._states: Tensor | None = None
        self._graphs: dict[Bucket, tuple[StepTensors, Callable[[], None]] | None] = {}
        self.memory: dict[Bucket, int] = {}

    def run(self, arrays: StepArrays) -> Tensor | None:
        """States (R, D) of the rows of a step, valid until the next; None if no graph serves."""
        bucket = self._buckets.find(arrays.counts)
        # drafts want more rows than a bucket has
        if bucket is None or len(arrays.rows) > bucket.sequences:
            return None
        if self._graphs.get(bucket, ()) is None:
            return None
        layouts, inputs, rows, states = self._fill(pad(arrays, bucket, self._slots))
        graph = self._graphs.get(bucket)
        if graph is None:
            self._make(bucket, layouts, inputs, rows, states)
        else:
            batch, replay = graph
            pages = batch.attention[: len(layouts)]  # plans of states are buffers, filled by now
            for plan, layout in zip(pages, layouts, strict=True):
                plan.refill(layout)
            replay()
        assert self._states is not None
        return self._states[: len(arrays.rows)]

    def _fill(
        self, padded: StepArrays
    ) -> tuple[list[RaggedLayout], list[TokenInputs], Tensor, list[StatePlan]]:
        """Bring a step into the static buffers.

        Returns its layouts and its inputs, of each cache group of pages, its rows, and its plans,
        of each group of states, at addresses that depend on their shapes alone.
        """
        slots = self._slots
        sent = padded.send(slots)
        layouts, inputs = [], []
        for number, (group, host) in enumerate(zip(slots.groups, padded.tables, strict=True)):
            sequences, width = host.shape
            tables = self._tables[number][:sequences]
            tables[:, :width].copy_(group.gather(sent.flat.slots, host))
            pages = PageTables(tables, slots.block_size, group.idle_block)
            inputs.append(self._make_tokens(number, sent.flat, pages, padded.has_last))
            layouts.append(layout_of(padded, number, tables, slots.block_size))
        if not slots.groups:
            inputs.append(self._make_tokens(0, sent.flat, no_tables(sent.flat), padded.has_last))
        rows = self._rows[: len(sent.rows)]
        rows.copy_(sent.rows)
        return layouts, inputs, rows, self._state_plans(padded, sent)

    def _make_tokens(
        self, group: int, step: FlatStep, tables: PageTables, has_last: bool
    ) -> TokenInputs:
        """The inputs of a step, in the buffers of a group."""
        made = TokenInputs(*(buffer[: len(step.tokens)] for buffer in self._inputs[group]))
        last_tokens = self._slots.last_tokens if has_last else None
        return self._make_inputs(step, tables, last_tokens, out=made)

    def _state_plans(self, padded: StepArrays, sent: SentArrays) -> list[StatePlan]:
        """The plans of the groups that keep states, in the buffers."""
        if padded.states is None or sent.states is None:
            return []
        count = len(sent.flat.slots)
        plan = StatePlan(
            self._state_slots[:count],
            self._starts[: count + 1],
            self._fresh[:count],
            padded.states.most,
        )
        for there, here in zip(plan[:3], (sent.flat.slots, *sent.states), strict=True):
            there.copy_(here)
        return [plan] * self._slots.num_states

    def _make(
        self,
        bucket: Bucket,
        layouts: list[RaggedLayout],
        inputs: list[TokenInputs],
        rows: Tensor,
        states: list[StatePlan],
    ) -> None:
        """Run a step of a bucket's first, and capture it for the next."""
        plans = [
            self._attend.reserve(layout, bucket.sequences, bucket.tokens) for layout in layouts
        ]
        batch = StepTensors(
            token_ids=inputs[0].tokens,
            positions=inputs[0].positions,
            cells=(*[of_group.cells for of_group in inputs], *[inputs[0].cells] * len(states)),
            sample_rows=rows,
            attention=(*plans, *states),
        )

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
    buckets: Buckets | None, model: Transformer, cache: PagedCache, slots: DeviceSlots
) -> Graphs | None:
    """The graphs of a prepared model. The idle block of `slots` is one of `cache`.

    None without buckets.
    """
    if buckets is None:
        return None
    assert model.ops is not None
    return Graphs(
        partial(model.hidden, cache=cache),
        cast(Reserving, model.ops.attention),
        buckets,
        slots,
        model.ops.make_inputs,
        CudaCapture(),
    )
