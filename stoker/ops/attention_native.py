"""Attention in C, float32 on a CPU: plans the tasks of native/attention.c and calls it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.ops.attention import RaggedLayout, ReferenceAttention, Scores
from stoker.ops.kv_pages import Pages
from stoker.ops.native.build import signature
from stoker.ops.rounding import ceil_div
from stoker.ops.shared_prefix import prefix_groups


@dataclass
class _NativePlan:
    """What the C kernel is told; arrays are int64 and contiguous."""

    tasks: NDArray[np.int64]  # (n, 3): its first member, their number, the keys they share
    members: NDArray[np.int64]  # (T, 3): a row of q, its sequence, the context it sees
    tables: Tensor  # (S, width)
    layout: RaggedLayout

    @cached_property
    def addresses(self) -> tuple[int, int, int]:
        """Of tasks, members and tables."""
        return self.tasks.ctypes.data, self.members.ctypes.data, self.tables.data_ptr()


class NativeAttention:
    """A C kernel that reads the pages in place, float32 on a CPU (native/attention.c).

    Every query is computed alike, whether it came in a prefill, a chunk of one or a decode, and
    whether it met its keys alone or with others of the same prefix.
    """

    most_queries = 32  # of a task
    tile = 16  # keys, as in the kernel
    least_heads = 8  # of a key-value head that a thread takes, where they are shared out

    def __init__(self, native: ctypes.CDLL) -> None:
        self._kernel = signature(native.paged_attention, "pppppppppp iiiiiiiiiii ff")

    def plan(self, layout: RaggedLayout) -> _NativePlan:
        starts, contexts = np.array(layout.query_starts), np.array(layout.context_lens)
        counts = starts[1:] - starts[:-1]
        single = np.flatnonzero(counts == 1)
        tables = layout.block_tables.contiguous()
        if len(single):
            most = min(self.most_queries, ceil_div(len(single), torch.get_num_threads()))
            own = tables.numpy() if len(single) == len(counts) else tables.numpy()[single]
            held = layout.held_from[single] if layout.held_from is not None else None
            groups = prefix_groups(own, contexts[single], layout.block_size, most, held)
            ranked = single[groups.order]
            members = np.stack((starts[ranked], ranked, contexts[ranked]), axis=1)
            shared = groups.tokens // self.tile * self.tile
            tasks = np.stack((groups.sizes.cumsum() - groups.sizes, groups.sizes, shared), axis=1)
        else:
            members, tasks = np.empty((0, 3), np.int64), np.empty((0, 3), np.int64)
        if len(single) < len(counts):
            chunked, chunks = self._chunks(starts, contexts, np.flatnonzero(counts > 1))
            chunks[:, 0] += len(members)
            members, tasks = np.concatenate((members, chunked)), np.concatenate((tasks, chunks))
        work = np.add.reduceat(members[:, 2], tasks[:, 0])
        tasks = tasks[np.argsort(-work, kind="stable")]  # the longest first, for balance
        return _NativePlan(tasks, members, tables, layout)

    def _chunks(
        self, starts: NDArray[np.int64], contexts: NDArray[np.int64], several: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Members and tasks of sequences with several queries: neighbours, by `most_queries`."""
        counts = (starts[1:] - starts[:-1])[several]
        ends = counts.cumsum()
        sequence = np.repeat(several, counts)
        row = np.arange(len(sequence)) + (starts[several] - ends + counts).repeat(counts)
        seen = contexts[sequence] - (starts[sequence + 1] - 1 - row)
        pieces = -(-counts // self.most_queries)
        owner = np.repeat(np.arange(len(counts)), pieces)
        piece = np.arange(len(owner)) - (pieces.cumsum() - pieces)[owner]
        first = (ends - counts)[owner] + piece * self.most_queries
        number = np.minimum(self.most_queries, ends[owner] - first)
        tasks = np.stack((first, number, seen[first + number - 1]), axis=1)
        return np.stack((row, sequence, seen), axis=1), tasks

    def run(self, plan: _NativePlan, q: Tensor, k: Pages, v: Pages, scores: Scores) -> Tensor:
        if scores.modify is not None:
            return self.run_with_lse(plan, q, k, v, scores)[0]
        return self._call(plan, q, k, v, None, scores)

    def run_with_lse(
        self, plan: _NativePlan, q: Tensor, k: Pages, v: Pages, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        if scores.modify is not None:  # the kernel is compiled, and can't call Python
            return ReferenceAttention().run_with_lse(plan.layout, q, k, v, scores)
        lse = torch.empty(q.shape[:2])
        return self._call(plan, q, k, v, lse, scores), lse

    def _call(
        self, plan: _NativePlan, q: Tensor, k: Pages, v: Pages, lse: Tensor | None, scores: Scores
    ) -> Tensor:
        assert isinstance(k, Tensor)
        assert isinstance(v, Tensor)
        q = q.contiguous()
        rows, heads, dim = q.shape
        _, block_size, kv_heads, value_dim = v.shape
        out = torch.empty(rows, heads, value_dim)
        apart = kv_heads * value_dim  # values of a token and of the next, as floats
        if not v.is_contiguous():
            block, apart, _, one = v.stride()
            assert (block, kv_heads, one) == (block_size * apart, 1, 1)
        count, width = len(plan.tasks), plan.tables.shape[1]
        # A decode takes all its heads at once, unless there are too few tasks to share out. Then
        # those of a key-value head are shared out too, if they are many.
        threads, parts = torch.get_num_threads(), 0
        if count < 4 * threads:
            parts = max(1, min(threads, heads // kv_heads // self.least_heads))
        self._kernel(
            *(q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr()),
            *(x.data_ptr() if x is not None else None for x in (lse, scores.sinks, scores.slopes)),
            *plan.addresses,
            *(count, width, heads, kv_heads, dim, value_dim, apart),
            *(block_size, scores.window or 0, scores.chunked, parts),
            *(scores.scale, scores.softcap or 0.0),
        )
        return out
