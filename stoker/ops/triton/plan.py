"""A step's attention as the kernels see it: task lists (tasks.py) in one tensor on the device.

For CUDA graphs a plan is reserved: lists of fixed sizes at fixed addresses, which later steps
refill. Knows no kernel and launches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.ops.attention import RaggedLayout
from stoker.ops.rounding import ceil_div
from stoker.ops.triton.tasks import Cutting, TaskLists, make_tasks


class Shape(NamedTuple):
    """What task lists depend on besides the step.

    `columns` programs take a task: the key-value heads, or more if the query heads of one fill
    several tiles. `narrow` and `wide` are members of either kind of tile.
    """

    columns: int
    narrow: int
    wide: int


@dataclass(frozen=True)
class DeviceTasks:
    """`TaskLists` on the device, for layers of one shape.

    Attributes:
        sizes: as `TaskLists.sizes`; those of the whole bucket if the plan is reserved.
        buffer: int32, the lists one after the other.
    """

    sizes: tuple[int, ...]
    buffer: Tensor

    def lists(self) -> list[Tensor]:
        """narrow, wide, members, merge_rows, merge_starts, merge_items."""
        ends = accumulate(_lengths(self.sizes), initial=0)
        return [self.buffer[a:b] for a, b in pairwise(ends)]


@dataclass
class TritonPlan:
    """A step. Task lists are made when a layer of their shape first runs.

    Attributes:
        layout: the step's.
        tables: the block tables that the kernels read, on the device.
        cutting: how tasks are cut, before the shape of a layer is known.
        bucket: most sequences and queries, if the plan is reserved.
    """

    layout: RaggedLayout
    tables: Tensor
    cutting: Cutting
    bucket: tuple[int, int] | None = None
    tasks: dict[Shape, DeviceTasks] = field(default_factory=dict)

    def tasks_of(self, shape: Shape) -> DeviceTasks:
        """Made at the first call, with one copy to the device; none comes after."""
        if shape not in self.tasks:
            packed, sizes = self._packed(shape)
            buffer = packed.to(self.tables.device, non_blocking=True)
            self.tasks[shape] = DeviceTasks(sizes, buffer)
        return self.tasks[shape]

    def refill(self, layout: RaggedLayout) -> None:
        """Become the plan of `layout`, in place, for the shapes that have been seen.

        For reserved plans. Of `layout` the numbers are read, and the tables on the host if
        prefixes are to be shared; the tables on the device stay `tables`, and copying the new
        ones into it is up to the caller.
        """
        assert self.bucket is not None
        self.layout = layout
        for shape, tasks in self.tasks.items():
            tasks.buffer.copy_(self._packed(shape)[0], non_blocking=True)

    def _packed(self, shape: Shape) -> tuple[Tensor, tuple[int, ...]]:
        """The lists end to end, on the host, and their sizes."""
        layout, programs = self.layout, max(1, self.cutting.programs // shape.columns)
        cut = replace(self.cutting, narrow=shape.narrow, wide=shape.wide, programs=programs)
        starts, contexts = np.array(layout.query_starts), np.array(layout.context_lens)
        tables = layout.host_tables
        if tables is None and layout.block_tables.device.type == "cpu":
            tables = layout.block_tables.numpy()
        size = len(contexts), int(starts[-1])
        bucket = self.bucket or size
        assert size[0] <= bucket[0]
        assert size[1] <= bucket[1]
        room = capacity(cut, *bucket)
        lists = make_tasks(starts, contexts, tables, layout.block_size, cut, layout.held_from)
        if not _fits(lists, room):  # too many branches of prefixes: do without
            cut = replace(cut, shared=None)
            lists = make_tasks(starts, contexts, tables, layout.block_size, cut, layout.held_from)
        while not _fits(lists, room):
            cut = replace(cut, piece=2 * cut.piece)
            lists = make_tasks(starts, contexts, tables, layout.block_size, cut, layout.held_from)
        sizes = room if self.bucket else lists.sizes()
        packed = torch.from_numpy(_pack(lists, sizes))
        return packed.pin_memory() if self.tables.device.type == "cuda" else packed, sizes


def capacity(cut: Cutting, sequences: int, queries: int) -> tuple[int, ...]:
    """Sizes (`TaskLists.sizes`) within which every step of so many can be cut.

    Cutting adds no more than `programs` pieces to either kind. There are as many narrow tiles as
    sequences, and for prefixes as many again; a wide tile that is not full has more than `narrow`
    members. Partial results, the largest, are bounded for their memory, each is (H, D) float32;
    a merged row has two or more.
    """
    narrow, wide = 2 * sequences + cut.programs, cut.programs
    if cut.wide > cut.narrow:
        wide += ceil_div(queries, cut.wide) + min(sequences, queries // (cut.narrow + 1))
    else:  # the heads alone fill a tile: all are narrow
        narrow += ceil_div(queries, cut.wide)
    partials = 1024 + 4 * sequences
    return narrow, wide, queries, min(queries, partials // 2), partials


def _fits(lists: TaskLists, room: Seq[int]) -> bool:
    return all(size <= most for size, most in zip(lists.sizes(), room, strict=True))


def _lengths(sizes: Seq[int]) -> tuple[int, ...]:
    """Elements of each list: narrow, wide, members, merge_rows, merge_starts, merge_items."""
    narrow, wide, members, rows, items = sizes
    return 6 * narrow, 6 * wide, 2 * members, rows, rows + 1, items


def _pack(lists: TaskLists, sizes: Seq[int]) -> NDArray[np.int32]:
    """All lists, each padded to its size: zeros are no task, and equal starts are no merge."""
    starts = np.pad(lists.merge_starts, (0, sizes[3] + 1 - len(lists.merge_starts)), mode="edge")
    parts = (lists.narrow, lists.wide, lists.members, lists.merge_rows, starts, lists.merge_items)
    ends = list(accumulate(_lengths(sizes), initial=0))
    out = np.zeros(ends[-1], np.int32)
    for part, begin in zip(parts, ends[:-1], strict=True):
        out[begin : begin + part.size] = part.ravel()
    return out
