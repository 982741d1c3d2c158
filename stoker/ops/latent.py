"""What latent attention stores of a token, and the part of its queries that is rotated.

A token's row is its latent vector, normed, and a few numbers that all heads share as the rest of
their keys, rotated (DeepSeek-V2, 2024). Reference: plain PyTorch. Fast path on a CPU in float32:
one pass in C (native/elementwise.c).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.attention import Attention, RaggedLayout
from stoker.ops.kv_pages import Fp8Pages, Pages, store
from stoker.ops.native.build import signature
from stoker.ops.norm import rms_norm
from stoker.ops.rope import apply_rope
from stoker.ops.rounding import ceil_div


class LatentNorm(NamedTuple):
    """An RMS norm over latent vectors, and what multiplies them then."""

    weight: Tensor  # (rank,)
    eps: float
    gain: float = 1.0


class StoreLatent(Protocol):
    """See `store_latent`."""

    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        norm: LatentNorm,
        rope: Tensor,
        cells: Tensor,
        pages: Pages,
        query: Tensor,
    ) -> None: ...


def store_latent(
    q: Tensor,
    kv: Tensor,
    norm: LatentNorm,
    rope: Tensor,
    cells: Tensor,
    pages: Pages,
    query: Tensor,
) -> None:
    """Store the tokens' latent rows, and write the rotated ends of their queries.

    With a rank of 4 and 2 shared numbers, and heads whose own part has 3:

        kv      l l l l s s    ->  a row of pages: norm(l l l l), rotate(s s)
        q       p p p s s      ->  query: . . . . rotate(s s)

    Args:
        q: (T, H, plain + shared), contiguous.
        kv: (T, rank + shared), contiguous.
        norm: of the first `rank` numbers.
        rope: the tokens' rows of the table, (T, 2, R/2) float32, R <= shared.
        cells: (T,) int64, block * block_size + offset; nothing is stored where they are negative.
        pages: (blocks, block_size, 1, rank + shared), written in place.
        query: (T, H, rank + shared), contiguous, written in place behind its first `rank` numbers.
    """
    rank = len(norm.weight)
    shared = kv.shape[1] - rank
    latent = rms_norm(kv[:, :rank], norm.weight, norm.eps)
    if norm.gain != 1:
        latent = latent * norm.gain
    row = torch.cat((latent[:, None], apply_rope(kv[:, None, rank:], rope)), dim=-1)
    kept = (cells >= 0).nonzero()[:, 0]
    store(pages, cells[kept], row[kept])
    query[..., rank:] = apply_rope(q[..., -shared:], rope)


class NativeStoreLatent:
    """`store_latent` in C, for float32 pages on a CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.store_latent, "ppppppp iiiiii ff")

    def __call__(
        self,
        q: Tensor,
        kv: Tensor,
        norm: LatentNorm,
        rope: Tensor,
        cells: Tensor,
        pages: Pages,
        query: Tensor,
    ) -> None:
        if isinstance(pages, Fp8Pages):
            store_latent(q, kv, norm, rope, cells, pages, query)
            return
        (rows, heads, size), rank = q.shape, len(norm.weight)
        shared = kv.shape[1] - rank
        assert q.is_contiguous()
        assert kv.is_contiguous()
        assert query.is_contiguous()
        self._call(
            *(q.data_ptr(), kv.data_ptr(), norm.weight.data_ptr(), rope.data_ptr()),
            *(cells.data_ptr(), query.data_ptr(), pages.data_ptr()),
            *(rows, heads, size - shared, rank, shared, 2 * rope.shape[-1]),
            norm.eps,
            norm.gain,
        )


@dataclass(frozen=True)
class Expansion:
    """How a step's sequences are attended to: some expanded, the others absorbed.

    Attributes:
        expanded: of each such sequence its queries, its context and its blocks.
        rows: (N,) int64, the queries of the others.
        plan: of these, for the attention implementation; None if there are none.
    """

    expanded: tuple[tuple[slice, int, Tensor], ...]
    rows: Tensor
    plan: Any


def plan_expansion(
    plan: Any, attention: Attention, worth: Callable[[int, int], bool]
) -> Expansion | None:
    """Divide a step's sequences, or None if all are absorbed.

    Args:
        plan: the step's, of the attention implementation.
        attention: the implementation.
        worth: whether so many queries are worth expanding a context of so many tokens.
    """
    if getattr(plan, "bucket", None):  # a CUDA graph: later steps have other lengths
        return None
    layout: RaggedLayout = plan if isinstance(plan, RaggedLayout) else plan.layout
    counts = [end - start for start, end in pairwise(layout.query_starts)]
    chosen = [worth(*pair) for pair in zip(counts, layout.context_lens, strict=True)]
    if not any(chosen):
        return None
    device, size = layout.block_tables.device, layout.block_size
    expanded = tuple(
        (layout.queries(s), context, layout.block_tables[s, : ceil_div(context, size)])
        for s, context in enumerate(layout.context_lens)
        if chosen[s]
    )
    others = [s for s, one in enumerate(chosen) if not one]
    rows = [torch.arange(layout.query_starts[s], layout.query_starts[s + 1]) for s in others]
    if not others:
        return Expansion(expanded, torch.empty(0, dtype=torch.int64, device=device), None)
    rest = RaggedLayout(
        [0, *accumulate(counts[s] for s in others)],
        [layout.context_lens[s] for s in others],
        layout.block_tables[torch.tensor(others, device=device)],
        size,
        None if layout.host_tables is None else layout.host_tables[others],
        None if layout.held_from is None else layout.held_from[others],
    )
    return Expansion(expanded, torch.cat(rows).to(device), attention.plan(rest))


def attend_expanded(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal attention of a sequence's last n tokens over all m: (n, H, D), (m, H, D), (m, H, E)
    -> (n, H, E), by PyTorch's own."""
    count, context = len(q), len(k)
    mask = None
    if count < context:
        places = torch.arange(context, device=q.device)
        mask = places <= places[context - count :, None]
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
    )
    return mixed[0].transpose(0, 1)


def values_of(pages: Pages, rank: int) -> Pages:
    """The values, which are the first `rank` numbers of each row."""
    if isinstance(pages, Fp8Pages):
        return Fp8Pages(pages.data[..., :rank], pages.scale)
    return pages[..., :rank]
