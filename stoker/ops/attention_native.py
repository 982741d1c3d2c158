"""Attention in C, float32 on a CPU: plans the tasks of native/attention.c and calls it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.ops.attention import RaggedLayout
from stoker.ops.native.build import signature


@dataclass
class _NativePlan:
    """What the C kernel is told; arrays are int64 and contiguous."""

    tasks: NDArray[np.int64]  # (n, 3): a sequence, its first query, the number of queries
    ends: NDArray[np.int64]  # (n,) the context that the last query of a task sees
    tables: Tensor  # (S, width)


class NativeAttention:
    """A C kernel that reads the pages in place, float32 on a CPU (native/attention.c).

    Every query is computed alike, whether it came in a prefill, a chunk of one or a decode.
    """

    most_queries = 16  # of a task, as in the kernel

    def __init__(self, native: ctypes.CDLL) -> None:
        self._kernel = signature(native.paged_attention, "pppppppp iiiiiiii ff")

    def plan(self, layout: RaggedLayout) -> _NativePlan:
        starts = np.array(layout.query_starts)
        pieces = -(-np.diff(starts) // self.most_queries)
        sequence = np.repeat(np.arange(len(pieces)), pieces)
        piece = np.arange(len(sequence)) - (pieces.cumsum() - pieces)[sequence]
        first = starts[sequence] + piece * self.most_queries
        count = np.minimum(self.most_queries, starts[sequence + 1] - first)
        ends = np.array(layout.context_lens)[sequence] - (starts[sequence + 1] - first - count)
        order = np.argsort(-ends * count, kind="stable")  # the longest first, for balance
        tasks = np.stack((sequence, first, count), axis=1)[order]
        return _NativePlan(tasks, ends[order], layout.block_tables.contiguous())

    def run(
        self,
        plan: _NativePlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None = None,
    ) -> Tensor:
        return self._call(plan, q, k, v, None, scale, window, softcap)

    def run_with_lse(
        self,
        plan: _NativePlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        lse = torch.empty(q.shape[:2])
        return self._call(plan, q, k, v, lse, scale, window, softcap), lse

    def _call(
        self,
        plan: _NativePlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        lse: Tensor | None,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        q = q.contiguous()
        out = torch.empty_like(q)
        heads, (_, block_size, kv_heads, head_dim) = q.shape[1], k.shape
        count, width = len(plan.tasks), plan.tables.shape[1]
        # Few tasks are split further, by key-value heads.
        split = kv_heads if count < 4 * torch.get_num_threads() else 1
        self._kernel(
            *(tensor.data_ptr() for tensor in (q, k, v, out)),
            lse.data_ptr() if lse is not None else None,
            *(plan.tasks.ctypes.data, plan.ends.ctypes.data, plan.tables.data_ptr()),
            *(count, width, heads, kv_heads, head_dim, block_size, window or 0, split),
            scale,
            softcap or 0.0,
        )
        return out
