"""Attention of ragged queries over paged keys and values, causal by absolute position.

The one attention primitive of the engine: a prefill chunk brings many queries, a decode one, a
verification a few, and all share a call. An implementation has two parts, as in FlashInfer
(Ye et al., 2025): `plan` once per step from the layout, `run` once per layer.

Shapes: T tokens of S sequences; H query heads, G key-value heads, D head size;
cache (blocks, block_size, G, D).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stoker.ops.native.build import signature


@dataclass(frozen=True)
class RaggedLayout:
    """Which queries belong to which sequence, and where its keys and values lie.

    Sequence s has queries query_starts[s] to query_starts[s + 1] - 1, which are its last
    tokens; it has context_lens[s] tokens with them, in the blocks block_tables[s].
    """

    query_starts: Seq[int]  # S + 1
    context_lens: Seq[int]  # S
    block_tables: Tensor  # (S, most blocks) int64, unused entries 0
    block_size: int

    def queries(self, s: int) -> slice:
        return slice(self.query_starts[s], self.query_starts[s + 1])


class Attention(Protocol):
    """An implementation, chosen once at load (select.py)."""

    def plan(self, layout: RaggedLayout) -> Any:
        """What `run` needs to know of a step, made once for all layers."""

    def run(
        self, plan: Any, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None
    ) -> Tensor:
        """q (T, H, D) over caches k and v -> (T, H, D).

        A query at position p sees keys at positions p - window + 1 to p (0 to p if no window).
        """

    def run_with_lse(
        self, plan: Any, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        """As `run`, with the log-sum-exp of the scores, (T, H) float32."""


def visible(queries: int, context: int, window: int | None, device: torch.device) -> Tensor:
    """Mask (queries, context) of the keys each of the last `queries` positions sees."""
    position = torch.arange(context - queries, context, device=device)[:, None]
    key = torch.arange(context, device=device)[None]
    mask = key <= position
    return mask if window is None else mask & (key > position - window)


class ReferenceAttention:
    """The definition, one sequence at a time, in float32. Any device."""

    def plan(self, layout: RaggedLayout) -> RaggedLayout:
        return layout

    def run(
        self,
        plan: RaggedLayout,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        return self.run_with_lse(plan, q, k, v, scale=scale, window=window)[0]

    def run_with_lse(
        self,
        plan: RaggedLayout,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(q)
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        group = q.shape[1] // k.shape[2]
        for s, context in enumerate(plan.context_lens):
            rows = plan.queries(s)
            keys, values = (
                cache[plan.block_tables[s]].flatten(0, 1)[:context].float() for cache in (k, v)
            )
            queries = q[rows].float().view(-1, k.shape[2], group, q.shape[2])
            scores = torch.einsum("tgrd,sgd->tgrs", queries, keys) * scale
            mask = visible(len(queries), context, window, q.device)
            scores = scores.masked_fill(~mask[:, None, None], -math.inf)
            lse[rows] = scores.logsumexp(-1).flatten(1)
            mixed = torch.einsum("tgrs,sgd->tgrd", scores.softmax(-1), values)
            out[rows] = mixed.flatten(1, 2).to(q.dtype)
        return out, lse


def merge_partials(parts: Seq[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Combine attention over disjoint sets of keys, exactly (Hydragen, Juravsky et al., 2024).

    Each part is (out (T, H, D), lse (T, H)); so is the result.
    """
    lses = torch.stack([lse for _, lse in parts])
    total = lses.logsumexp(0)
    weights = (lses - total).exp().unsqueeze(-1)
    out = (torch.stack([out.float() for out, _ in parts]) * weights).sum(0)
    return out.to(parts[0][0].dtype), total


@dataclass
class _DecodeGroup:
    """Decodes of similar context, attended to together: padded only inside the last blocks."""

    rows: Tensor  # (n,) rows of q
    blocks: Tensor  # (n * width,) block ids
    lens: Tensor  # (n,)
    width: int
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, block_size: int) -> Tensor:
        """Additive mask (n, 1, 1, width * block_size)."""
        if window not in self.masks:
            key = torch.arange(self.width * block_size)
            seen = key < self.lens[:, None]
            if window is not None:
                seen &= key >= self.lens[:, None] - window
            bias = torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)
            self.masks[window] = bias[:, None, None]
        return self.masks[window]


def _decode_group(layout: RaggedLayout, group: list[int]) -> _DecodeGroup:
    """The sequences `group`, the longest first."""
    width = -(-layout.context_lens[group[0]] // layout.block_size)
    return _DecodeGroup(
        rows=torch.tensor([layout.query_starts[s] for s in group]),
        blocks=layout.block_tables[torch.tensor(group), :width].flatten(),
        lens=torch.tensor([layout.context_lens[s] for s in group]),
        width=width,
    )


@dataclass
class _CpuPlan:
    layout: RaggedLayout
    decodes: list[_DecodeGroup]
    prefills: list[int]


class CpuAttention:
    """PyTorch's fused CPU attention, over gathered blocks. Any dtype.

    Decodes are grouped by context length, so that a group is one call and padding stays below
    an eighth; a decode's query heads stand in for query positions, which needs no expansion of
    grouped heads. A prefill chunk is a call of its own.
    """

    most_in_group = 16

    def plan(self, layout: RaggedLayout) -> _CpuPlan:
        lens = [end - start for start, end in pairwise(layout.query_starts)]
        decodes = [s for s, n in enumerate(lens) if n == 1]
        decodes.sort(key=lambda s: layout.context_lens[s], reverse=True)
        groups = [_decode_group(layout, group) for group in self._groups(layout, decodes)]
        return _CpuPlan(layout, groups, [s for s, n in enumerate(lens) if n > 1])

    def _groups(self, layout: RaggedLayout, decodes: list[int]) -> list[list[int]]:
        """Runs of the decodes, which come longest first, that are served by one call."""
        lens, groups = layout.context_lens, list[list[int]]()
        for s in decodes:
            if (
                groups
                and len(groups[-1]) < self.most_in_group
                and lens[groups[-1][0]] <= lens[s] * 1.125 + layout.block_size
            ):
                groups[-1].append(s)
            else:
                groups.append([s])
        return groups

    def run(
        self, plan: _CpuPlan, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None
    ) -> Tensor:
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        for group in plan.decodes:
            self._decode(group, q, k, v, out, scale=scale, window=window)
        for s in plan.prefills:
            out[plan.layout.queries(s)] = self._prefill(plan.layout, s, q, k, v, scale, window)
        return out

    def run_with_lse(
        self, plan: _CpuPlan, q: Tensor, k: Tensor, v: Tensor, *, scale: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        # PyTorch's public call does not give the log-sum-exp; the definition does.
        reference = ReferenceAttention()
        return reference.run_with_lse(plan.layout, q, k, v, scale=scale, window=window)

    def _decode(
        self,
        group: _DecodeGroup,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> None:
        """Fill the group's rows of the output."""
        count, kv_heads, head_dim = len(group.rows), k.shape[2], k.shape[3]
        keys, values = (
            cache.index_select(0, group.blocks).view(count, -1, kv_heads, head_dim).transpose(1, 2)
            for cache in (k, v)
        )
        mixed = F.scaled_dot_product_attention(
            q.index_select(0, group.rows).view(count, kv_heads, -1, head_dim),
            keys,
            values,
            attn_mask=group.mask(window, k.shape[1]).to(q.dtype),
            scale=scale,
        )
        out.index_copy_(0, group.rows, mixed.reshape(count, -1, head_dim))

    @staticmethod
    def _prefill(
        layout: RaggedLayout,
        s: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Sequence s's rows of the output, (n, H, D)."""
        rows, context = layout.queries(s), layout.context_lens[s]
        count = rows.stop - rows.start
        blocks = layout.block_tables[s, : -(-context // layout.block_size)]
        keys, values = (
            cache.index_select(0, blocks).flatten(0, 1)[:context].transpose(0, 1)[None]
            for cache in (k, v)
        )
        whole = count == context and (window is None or context <= window)
        mixed = F.scaled_dot_product_attention(
            q[rows].transpose(0, 1)[None],
            keys,
            values,
            attn_mask=None if whole else visible(count, context, window, q.device),
            is_causal=whole,
            scale=scale,
            enable_gqa=True,
        )
        return mixed[0].transpose(0, 1)


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
        self._kernel = signature(native.paged_attention, "pppppppp iiiiiiii f")

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
    ) -> Tensor:
        return self._call(plan, q, k, v, None, scale, window)

    def run_with_lse(
        self,
        plan: _NativePlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> tuple[Tensor, Tensor]:
        lse = torch.empty(q.shape[:2])
        return self._call(plan, q, k, v, lse, scale, window), lse

    def _call(
        self,
        plan: _NativePlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        lse: Tensor | None,
        scale: float,
        window: int | None,
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
        )
        return out
