"""Attention on a CPU with PyTorch's fused kernel, over gathered blocks.

Serves dtypes and machines that the C kernel does not (attention_native.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.attention import RaggedLayout, ReferenceAttention, Scores, first_block
from stoker.ops.kv_pages import Pages
from stoker.ops.rounding import ceil_div


@dataclass
class _DecodeGroup:
    """Decodes of similar context, attended to together: padded only inside the last blocks."""

    rows: Tensor  # (n,) rows of q
    tables: Tensor  # (n, width) block ids
    lens: Tensor  # (n,)
    views: dict[tuple[int | None, bool], tuple[Tensor, Tensor, Tensor]] = field(
        default_factory=dict
    )

    def view(self, scores: Scores, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The blocks to gather, (n * w,), an additive mask (n, 1, 1, w * block_size), and how far
        each key lies from the query, <= 0 where the mask shows it, of the mask's shape.

        With a window these are the last w blocks of each: those before it may be gone.
        """
        window, key_of_view = scores.window, (scores.window, scores.chunked)
        if key_of_view not in self.views:
            width = self.tables.shape[1]
            first = torch.zeros_like(self.lens)
            if window is not None:
                width = min(width, (window + block_size - 2) // block_size + 1)
                first = (self.lens - window).clamp_(min=0) // block_size
            entries = first[:, None] + torch.arange(width)
            # past a sequence's end its last block stands in, which the mask hides
            entries = entries.minimum((self.lens - 1)[:, None] // block_size)
            key = first[:, None] * block_size + torch.arange(width * block_size)
            query = self.lens[:, None] - 1
            seen = key <= query
            if window is not None:
                seen &= key > (query // window * window - 1 if scores.chunked else query - window)
            bias = torch.zeros(seen.shape).masked_fill_(~seen, -math.inf)
            blocks = self.tables.gather(1, entries).flatten()
            self.views[key_of_view] = blocks, bias[:, None, None], (key - query)[:, None, None]
        return self.views[key_of_view]


def _decode_group(layout: RaggedLayout, group: list[int]) -> _DecodeGroup:
    """The sequences `group`, the longest first."""
    width = ceil_div(layout.context_lens[group[0]], layout.block_size)
    return _DecodeGroup(
        rows=torch.tensor([layout.query_starts[s] for s in group]),
        tables=layout.block_tables[torch.tensor(group), :width],
        lens=torch.tensor([layout.context_lens[s] for s in group]),
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

    def run(self, plan: _CpuPlan, q: Tensor, k: Pages, v: Pages, scores: Scores) -> Tensor:
        assert isinstance(k, Tensor)
        assert isinstance(v, Tensor)
        if scores.modify is not None:  # the fused call has no place for it
            return self.run_with_lse(plan, q, k, v, scores)[0]
        out = torch.empty(*q.shape[:2], v.shape[3], dtype=q.dtype, device=q.device)
        for group in plan.decodes:
            self._decode(group, q, k, v, out, scores)
        for s in plan.prefills:
            rows = plan.layout.queries(s)
            out[rows] = self._prefill(plan.layout, s, q, k, v, scores)
        return out

    def run_with_lse(
        self, plan: _CpuPlan, q: Tensor, k: Pages, v: Pages, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        # PyTorch's public call does not give the log-sum-exp; the definition does.
        return ReferenceAttention().run_with_lse(plan.layout, q, k, v, scores)

    def _decode(
        self,
        group: _DecodeGroup,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        scores: Scores,
    ) -> None:
        """Fill the group's rows of the output."""
        count, kv_heads = len(group.rows), k.shape[2]
        blocks, bias, distance = group.view(scores, k.shape[1])
        keys, values = (
            cache.index_select(0, blocks).view(count, -1, *cache.shape[2:]).transpose(1, 2)
            for cache in (k, v)
        )
        queries = q.index_select(0, group.rows).view(count, kv_heads, -1, k.shape[3])
        if scores.slopes is not None:
            bias = bias + scores.slopes.view(kv_heads, -1, 1) * distance
        mask = bias.to(q.dtype)
        if scores.softcap or scores.sinks is not None:
            sinks = None if scores.sinks is None else scores.sinks.view(kv_heads, -1, 1)
            mixed = _explicit(queries, keys, values, bias, scores, sinks)
        else:
            mixed = _fused(queries, keys, values, attn_mask=mask, scale=scores.scale)
        out.index_copy_(0, group.rows, mixed.reshape(count, *out.shape[1:]))

    @staticmethod
    def _prefill(
        layout: RaggedLayout,
        s: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scores: Scores,
    ) -> Tensor:
        """Sequence s's rows of the output, (n, H, E)."""
        rows, context = layout.queries(s), layout.context_lens[s]
        count = rows.stop - rows.start
        first = first_block(context - count, scores.window, layout.block_size)
        blocks = layout.block_tables[s, first : ceil_div(context, layout.block_size)]
        context -= first * layout.block_size
        keys, values = (
            cache.index_select(0, blocks).flatten(0, 1)[:context].transpose(0, 1)[None]
            for cache in (k, v)
        )
        queries = q[rows].transpose(0, 1)[None]
        if _plain(scores) and count == context <= (scores.window or context):
            mixed = F.scaled_dot_product_attention(
                queries, keys, values, is_causal=True, scale=scores.scale, enable_gqa=True
            )
            return mixed[0].transpose(0, 1)
        key = torch.arange(context) + first * layout.block_size
        bias = torch.zeros(count, context)
        bias.masked_fill_(~scores.visible(key[-count:], key), -math.inf)
        if scores.slopes is not None:
            bias = bias + scores.slopes.view(-1, 1, 1) * (key - key[-count:, None])
        if scores.softcap or scores.sinks is not None:
            keys, values = (
                x.repeat_interleave(q.shape[1] // k.shape[2], 1) for x in (keys, values)
            )
            sinks = None if scores.sinks is None else scores.sinks.view(-1, 1, 1)
            return _explicit(queries, keys, values, bias, scores, sinks)[0].transpose(0, 1)
        mixed = _fused(
            queries, keys, values, attn_mask=bias.to(q.dtype), scale=scores.scale, enable_gqa=True
        )
        return mixed[0].transpose(0, 1)


def _fused(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """PyTorch's call; the narrower of keys and values is filled up with zeros.

    It has a fused kernel for equal widths only, and else makes all scores at once.
    """
    width, most = v.shape[-1], max(k.shape[-1], v.shape[-1])
    q, k, v = (x if x.shape[-1] == most else F.pad(x, (0, most - x.shape[-1])) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, **options)[..., :width]


def _plain(scores: Scores) -> bool:
    """Whether scores are products and no more."""
    return not scores.softcap and scores.sinks is None and scores.slopes is None


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scores: Scores, sinks: Tensor | None
) -> Tensor:
    """Attention with a soft cap or sinks, which the fused call does not offer; dtype of q.

    q (..., n, D), k (..., m, D), v (..., m, E), bias (..., n, m) added to scores,
    sinks (..., n or 1, 1).
    """
    x = q.float() @ k.float().transpose(-1, -2)
    if scores.softcap:
        x = scores.softcap * torch.tanh(x * (scores.scale / scores.softcap)) + bias
    else:
        x = x * scores.scale + bias
    if sinks is None:
        return (x.softmax(-1) @ v.float()).to(q.dtype)
    x = torch.cat((x, sinks.float().expand(*x.shape[:-1], 1)), dim=-1)
    return (x.softmax(-1)[..., :-1] @ v.float()).to(q.dtype)
