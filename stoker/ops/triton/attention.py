"""Attention on paged keys and values by our Triton kernels: plans, launches, nothing else.

The kernels are in attention_kernels.py, what each program of them does is decided in tasks.py.
Serves bfloat16, float16 and float32 queries, head sizes up to 256, caches of the queries' dtype
or FP8 (pages.py), which are multiplied in the queries' dtype with float32 sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.ops.attention import RaggedLayout, Scores
from stoker.ops.pages import Fp8Pages, Pages
from stoker.ops.triton.available import mend_interpreter
from stoker.ops.triton.tasks import Cutting, TaskLists, make_tasks


class Shape(NamedTuple):
    """What task lists depend on besides the step: heads, and members of either kind of tile."""

    group: int  # query heads of a key-value head
    kv_heads: int
    narrow: int
    wide: int


@dataclass(frozen=True)
class Launch:
    """A kind of tile: rows of queries, keys per turn, and what Triton is told.

    The block table's entry comes before the key it points to, so of 5 stages two hold keys and
    values on their way; with 3, nothing is fetched ahead.
    """

    rows: int
    keys: int
    warps: int
    stages: int

    def rows_for(self, group: int) -> int:
        """Rows of a tile that holds a group of query heads at least once."""
        return max(self.rows, _power_of_2(group))


@dataclass(frozen=True)
class Tuning:
    """Sizes and limits; the place for what measurements on a GPU teach.

    Attributes:
        narrow: decodes. 16 rows is the least of a matrix product; the heads of one key-value
            head take their share of it.
        wide: chunks of prompts and shared prefixes.
        large: as wide, for heads above 128, whose tiles take twice the shared memory.
        exact_narrow, exact_wide: as narrow and wide, in float32, which is for comparisons: it has
            no matrix product of that precision, and larger tiles would not fit its registers.
        waves: programs per multiprocessor that a step is cut into, if it is long enough.
        piece: the least tokens of a piece; partial results cost about as much as 8 to 16 tokens.
        shared: the least tokens of a shared prefix that is attended to once for its sharers.
        merged: partial results that the merge takes at a time.
    """

    narrow: Launch = Launch(rows=16, keys=64, warps=4, stages=5)
    wide: Launch = Launch(rows=128, keys=64, warps=8, stages=5)
    large: Launch = Launch(rows=128, keys=32, warps=8, stages=5)
    exact_narrow: Launch = Launch(rows=16, keys=32, warps=4, stages=1)
    exact_wide: Launch = Launch(rows=32, keys=16, warps=4, stages=1)
    waves: int = 16
    piece: int = 256
    shared: int | None = 64
    merged: int = 16

    def launches(self, dtype: torch.dtype, head_dim: int) -> tuple[Launch, Launch]:
        """The narrow and the wide kind for queries of this dtype and head size."""
        if dtype == torch.float32:
            return self.exact_narrow, self.exact_wide
        return self.narrow, self.wide if head_dim <= 128 else self.large


@dataclass
class _DeviceTasks:
    """`TaskLists` on the device, for layers of one shape; `sizes` are padded ones if reserved."""

    sizes: tuple[int, ...]
    buffer: Tensor  # int32, all lists one after the other
    offsets: list[int]

    def lists(self) -> list[Tensor]:
        """narrow, wide, members, merge_rows, merge_starts, merge_items."""
        return [self.buffer[a:b] for a, b in pairwise(self.offsets)]


@dataclass
class TritonPlan:
    """A step as the kernels see it.

    `tables` is the layout's tensor itself. The task lists are made when a layer of their shape
    first runs, and copied to the device in one piece. A plan from `reserve` has lists of fixed
    sizes at fixed addresses: a CUDA graph that ran it once follows each `refill`.
    """

    layout: RaggedLayout
    tables: Tensor
    capacity: tuple[int, int] | None = None  # sequences and queries, if it is reserved
    tasks: dict[Shape, _DeviceTasks] = field(default_factory=dict)


class TritonAttention:
    """An `Attention`; needs Triton, and a GPU or its interpreter."""

    def __init__(self, device: torch.device, tuning: Tuning | None = None) -> None:
        from stoker.ops.triton import attention_kernels

        mend_interpreter()
        self._kernels: Any = attention_kernels
        self.tuning = tuning or Tuning()
        processors = (
            torch.cuda.get_device_properties(device).multi_processor_count
            if device.type == "cuda"
            else 1
        )
        self.programs = self.tuning.waves * processors

    def plan(self, layout: RaggedLayout) -> TritonPlan:
        return TritonPlan(layout, layout.block_tables)

    def reserve(self, layout: RaggedLayout, sequences: int, queries: int) -> TritonPlan:
        """A plan with room for any step of so many sequences and queries, holding `layout` now.

        `layout.block_tables` (sequences, width) is kept: later tables are to be copied into it.
        """
        return TritonPlan(layout, layout.block_tables, (sequences, queries))

    def refill(self, plan: TritonPlan, layout: RaggedLayout) -> None:
        """Make a reserved plan that of `layout`, in place, for all shapes it has served.

        Only the numbers in `layout`, and its tables on the host if prefixes are to be shared,
        are read; the tables on the device stay `plan.tables`.
        """
        plan.layout = layout
        for shape, tasks in plan.tasks.items():
            packed, _ = self._packed(plan, shape)
            tasks.buffer.copy_(_on(packed, tasks.buffer.device), non_blocking=True)

    def run(self, plan: TritonPlan, q: Tensor, k: Pages, v: Pages, scores: Scores) -> Tensor:
        return self._call(plan, q, k, v, scores, None)

    def run_with_lse(
        self, plan: TritonPlan, q: Tensor, k: Pages, v: Pages, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        return self._call(plan, q, k, v, scores, lse), lse

    def _cutting(self, shape: Shape) -> Cutting:
        programs = max(1, self.programs // shape.kv_heads)
        least, shared = self.tuning.piece, self.tuning.shared
        return Cutting(shape.narrow, shape.wide, programs, least, shared)

    def _lists(self, layout: RaggedLayout, cut: Cutting) -> TaskLists:
        tables = layout.host_tables
        if tables is None and layout.block_tables.device.type == "cpu":
            tables = layout.block_tables.numpy()
        starts, contexts = np.array(layout.query_starts), np.array(layout.context_lens)
        return make_tasks(starts, contexts, tables, layout.block_size, cut)

    def _packed(self, plan: TritonPlan, shape: Shape) -> tuple[NDArray[np.int32], tuple[int, ...]]:
        """The lists end to end, and their sizes: as they are, or those of the reserved plan."""
        cut = self._cutting(shape)
        lists = self._lists(plan.layout, cut)
        if plan.capacity is None:
            return _pack(lists, lists.sizes()), lists.sizes()
        room = capacity(cut, *plan.capacity)
        if not _fits(lists, room):  # too many branches of prefixes: do without
            cut = replace(cut, shared=None)
            lists = self._lists(plan.layout, cut)
        while not _fits(lists, room):
            cut = replace(cut, piece=2 * cut.piece)
            lists = self._lists(plan.layout, cut)
        return _pack(lists, room), room

    def _tasks(self, plan: TritonPlan, shape: Shape, device: torch.device) -> _DeviceTasks:
        if shape not in plan.tasks:
            packed, sizes = self._packed(plan, shape)
            offsets = [0, *accumulate(_lengths(sizes))]
            plan.tasks[shape] = _DeviceTasks(sizes, _on(packed, device), offsets)
        return plan.tasks[shape]

    def _call(
        self,
        plan: TritonPlan,
        q: Tensor,
        k: Pages,
        v: Pages,
        scores: Scores,
        lse: Tensor | None,
    ) -> Tensor:
        q, out = q.contiguous(), torch.empty(q.shape, dtype=q.dtype, device=q.device)
        heads, head_dim = q.shape[1:]
        kv_heads, page = k.shape[2], k.shape[1]
        group = heads // kv_heads
        kinds = self.tuning.launches(q.dtype, head_dim)
        shape = Shape(group, kv_heads, *(kind.rows_for(group) // group for kind in kinds))
        tasks = self._tasks(plan, shape, q.device)
        narrow, wide, members, merge_rows, merge_starts, merge_items = tasks.lists()
        partials = tasks.sizes[4]
        part = torch.empty(partials, heads, head_dim, dtype=torch.float32, device=q.device)
        part_lse = torch.empty(partials, heads, dtype=torch.float32, device=q.device)
        block_d = max(16, _power_of_2(head_dim))
        k_data, k_scale = (k.data, k.scale) if isinstance(k, Fp8Pages) else (k, None)
        v_data, v_scale = (v.data, v.scale) if isinstance(v, Fp8Pages) else (v, None)
        assert k_data.stride() == v_data.stride()
        assert k_data.stride(3) == 1
        shared = {"HEADS": heads, "HEAD_DIM": head_dim, "BLOCK_D": block_d}
        shared |= {"SINKS": scores.sinks is not None, "LSE": lse is not None}
        for list_, count, launch in zip((narrow, wide), tasks.sizes[:2], kinds, strict=True):
            if not count:
                continue
            self._kernels.attend_kernel[(kv_heads, count)](
                *(q, k_data, v_data, k_scale, v_scale, scores.sinks, out, lse, part, part_lse),
                *(plan.tables, list_, members),
                *(scores.scale, scores.softcap or 0.0, scores.window or 0),
                *(plan.tables.stride(0), *k_data.stride()[:3]),
                GROUP=group,
                BLOCK_M=launch.rows_for(group),
                BLOCK_N=launch.keys,
                PAGE=page,
                SOFTCAP=bool(scores.softcap),
                WINDOWED=scores.window is not None,
                QUANTISED=k_scale is not None,
                APART=list_ is wide,
                num_warps=launch.warps,
                num_stages=launch.stages,
                **shared,
            )
        if tasks.sizes[3]:
            self._kernels.merge_kernel[(heads, tasks.sizes[3])](
                *(part, part_lse, scores.sinks, out, lse, merge_rows, merge_starts, merge_items),
                BLOCK_P=self.tuning.merged,
                num_warps=4,
                **shared,
            )
        return out


def capacity(cut: Cutting, sequences: int, queries: int) -> tuple[int, ...]:
    """Sizes (`TaskLists.sizes`) that hold any step of so many, without shared prefixes.

    Cutting adds no more than `programs` pieces to either kind. Partial results have room for as
    many split tiles as there are pieces.
    """
    tiles = -(-queries // cut.wide) + (sequences if queries > sequences else 0)
    wide = tiles + cut.programs
    partials = 2 * (sequences + cut.programs) + 2 * cut.programs * cut.wide
    return sequences + cut.programs, wide, queries, queries, partials


def _fits(lists: TaskLists, room: Iterable[int]) -> bool:
    return all(size <= most for size, most in zip(lists.sizes(), room, strict=True))


def _lengths(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Elements of each list: narrow, wide, members, merge_rows, merge_starts, merge_items."""
    narrow, wide, members, rows, items = sizes
    return 6 * narrow, 6 * wide, 2 * members, rows, rows + 1, items


def _pack(lists: TaskLists, sizes: tuple[int, ...]) -> NDArray[np.int32]:
    """All lists, each padded to its size: zeros are no task, and equal starts are no merge."""
    lengths = _lengths(sizes)
    out = np.zeros(sum(lengths), np.int32)
    end = 0
    starts = lists.merge_starts
    starts = np.pad(starts, (0, lengths[4] - len(starts)), mode="edge")
    for part, length in zip(
        (lists.narrow, lists.wide, lists.members, lists.merge_rows, starts, lists.merge_items),
        lengths,
        strict=True,
    ):
        begin, end = end, end + length
        out[begin : begin + part.size] = part.ravel()
    return out


def _on(packed: NDArray[np.int32], device: torch.device) -> Tensor:
    host = torch.from_numpy(packed)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()
