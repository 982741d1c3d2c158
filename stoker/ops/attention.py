"""Attention of ragged queries over paged keys and values, causal by absolute position.

The one attention primitive of the engine: a prefill chunk brings many queries, a decode one, a
verification a few, and all share a call. Here are the contract and the definition; faster ones
are in attention_cpu.py and attention_native.py. An implementation has two parts, as in FlashInfer
(Ye et al., 2025): `plan` once per step from the layout, `run` once per layer.

Shapes: T tokens of S sequences; H query heads, G key-value heads, D numbers in a key's head and E
in a value's; keys (blocks, block_size, G, D), values (blocks, block_size, G, E). With one key-value
head, values may be the first E numbers of each key, a view of the keys' pages (multi-head latent
attention, DeepSeek-V2, 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.ops.kv_pages import Pages, load_blocks


@dataclass(frozen=True)
class RaggedLayout:
    """Which queries belong to which sequence, and where its keys and values lie.

    Sequence s has queries query_starts[s] to query_starts[s + 1] - 1, which are its last
    tokens; it has context_lens[s] tokens with them, in the blocks block_tables[s]. Where layers
    have a window, the blocks behind it may be gone: entry e then names a block of no meaning if
    it ends before position held_from[s]. Nothing reads it.
    """

    query_starts: Seq[int]  # S + 1
    context_lens: Seq[int]  # S
    block_tables: Tensor  # (S, most blocks) int64, unused entries 0
    block_size: int
    host_tables: NDArray[np.int64] | None = None  # block_tables, if those are on another device
    held_from: NDArray[np.int64] | None = None  # (S,), whole blocks; None: all is held

    def queries(self, s: int) -> slice:
        return slice(self.query_starts[s], self.query_starts[s + 1])


ScoreFunction = Callable[[Any, Any, Any, Any], Any]  # score, query, key, head -> score


@dataclass(frozen=True)
class Scores:
    """How scores come from queries and keys.

    A query at position p sees keys at positions p - window + 1 to p (0 to p if no window). If
    `chunked`, positions are cut into chunks of `window`, and it sees those of its own chunk only
    (Llama 4, Meta, 2025): with chunks of 4, position 6 sees 4 to 6. With a soft cap, scores are
    cap * tanh(score / cap) before masking (Gemma 2 report, 2024). With `slopes`, a head's slope *
    (key - query) is added to each score (ALiBi, Press et al., 2022).

    A sink is one more score per head, as it stands, that takes part in the softmax and has no
    value (attention sinks, Xiao et al., 2023; learned per head in gpt-oss, 2025).

    `modify(score, query, key, head)` gives what takes the place of a score, scaled and capped, in
    float32, from the positions of query and key and the number of the query's head (FlashInfer's
    variants, Ye et al., 2025). It is made of operators that work on tensors of torch and of Triton
    alike, and its names are its arguments, so that Triton can compile its source:

        def alibi(score, query, key, head):
            return score - (query - key) * 0.125 / (head + 1)
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = field(default=None, compare=False)  # (H,)
    modify: ScoreFunction | None = None
    chunked: bool = False
    slopes: Tensor | None = field(default=None, compare=False)  # (H,) float32

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Mask (n, m) of the keys at positions (m,) that queries at positions (n,) see."""
        query, key = queries[:, None], keys[None]
        mask = key <= query
        if self.window is None:
            return mask
        last = query // self.window * self.window - 1 if self.chunked else query - self.window
        return mask & (key > last)


class Attention(Protocol):
    """An implementation, chosen once at load (select.py)."""

    def plan(self, layout: RaggedLayout) -> Any:
        """What `run` needs to know of a step, made once for all layers."""

    def run(self, plan: Any, q: Tensor, k: Pages, v: Pages, scores: Scores) -> Tensor:
        """q (T, H, D) over caches k and v -> (T, H, E)."""

    def run_with_lse(
        self, plan: Any, q: Tensor, k: Pages, v: Pages, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        """As `run`, with the log-sum-exp of the scores, a sink among them, (T, H) float32."""


def first_block(position: int, window: int | None, block_size: int) -> int:
    """The first block that queries from `position` on see.

    With a window of 6 and blocks of 4, position 13 sees 8 to 13: block 2.
    """
    return max(0, position - window + 1) // block_size if window else 0


class ReferenceAttention:
    """The definition, one sequence at a time, in float32. Any device."""

    def plan(self, layout: RaggedLayout) -> RaggedLayout:
        return layout

    def run(self, plan: RaggedLayout, q: Tensor, k: Pages, v: Pages, scores: Scores) -> Tensor:
        return self.run_with_lse(plan, q, k, v, scores)[0]

    def run_with_lse(
        self, plan: RaggedLayout, q: Tensor, k: Pages, v: Pages, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        out = q.new_empty(*q.shape[:2], v.shape[3])
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        group = q.shape[1] // k.shape[2]
        for s, context in enumerate(plan.context_lens):
            rows = plan.queries(s)
            first = first_block(context - (rows.stop - rows.start), scores.window, plan.block_size)
            table, seen = plan.block_tables[s, first:], context - first * plan.block_size
            keys, values = (load_blocks(cache, table)[:seen] for cache in (k, v))
            queries = q[rows].float().view(-1, k.shape[2], group, q.shape[2])
            x = torch.einsum("tgrd,sgd->tgrs", queries, keys) * scores.scale
            if scores.softcap:
                x = scores.softcap * torch.tanh(x / scores.softcap)
            places = torch.arange(context - seen, context, device=q.device)
            own = places[-len(queries) :]
            if scores.slopes is not None:
                slopes = scores.slopes.view(1, k.shape[2], group, 1)
                x = x + slopes * (places - own.view(-1, 1, 1, 1))
            if scores.modify is not None:
                head = torch.arange(q.shape[1], device=q.device).view(1, k.shape[2], group, 1)
                x = scores.modify(x, own.view(-1, 1, 1, 1), places, head)
            mask = scores.visible(own, places)
            x = x.masked_fill(~mask[:, None, None], -math.inf)
            if scores.sinks is not None:
                sink = scores.sinks.float().view(1, k.shape[2], group, 1)
                x = torch.cat((x, sink.expand(len(x), -1, -1, -1)), dim=-1)
            lse[rows] = x.logsumexp(-1).flatten(1)
            mixed = torch.einsum("tgrs,sgd->tgrd", x.softmax(-1)[..., :seen], values)
            out[rows] = mixed.flatten(1, 2).to(q.dtype)
        return out, lse


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """What attention without sinks, (T, H, E) and (T, H), becomes with them: (H,), or none."""
    if sinks is None:
        return out, lse
    share = (lse - sinks.float()).sigmoid().unsqueeze(-1)
    return (out.float() * share).to(out.dtype), torch.logaddexp(lse, sinks.float())


def merge_partials(parts: Seq[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Combine attention over disjoint sets of keys, exactly (Hydragen, Juravsky et al., 2024).

    Each part is (out (T, H, E), lse (T, H)); so is the result. A sink belongs to one part only.
    """
    lses = torch.stack([lse for _, lse in parts])
    total = lses.logsumexp(0)
    weights = (lses - total).exp().unsqueeze(-1)
    out = (torch.stack([out.float() for out, _ in parts]) * weights).sum(0)
    return out.to(parts[0][0].dtype), total
