# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""Layers of experts: grouped products over rows sorted by expert, and the weighted sum.

Contract and definition are in ops/experts.py. The pairs of a row and one of its experts are sorted
by expert and cut into tiles, on the device: a launch has a program for as many tiles as there could
be, and those beyond the last end at once. So nothing waits for the device, and a CUDA graph that
was captured for some number of rows serves whatever they choose. With 2 experts a row and tiles
of 2, of at most 6 // 2 + 4 tiles 4 have rows:

    chosen    row 0: 3 1    row 1: 1 2    row 2: 1 3        of 4 experts
    order     pairs 1 2 4 of expert 1, pair 3 of expert 2, pairs 0 5 of expert 3
    tiles     1 2 | 4 | 3 | 0 5

Tiles of one expert are neighbours in the grid, so its weights come from memory once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.ops.experts import ExpertWeights
from stoker.ops.rounding import ceil_div
from stoker.ops.routing import Routes
from stoker.ops.triton.activation import _act


@dataclass(frozen=True)
class Tile:
    """Sizes of a program's part of a product, and what Triton is told."""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int


# by the rows that an expert gets on average; 16 is the least of a matrix product
_NARROW = Tile(rows=16, outputs=64, inputs=128, warps=4, stages=4)
_MIDDLE = Tile(rows=64, outputs=64, inputs=64, warps=4, stages=4)
_WIDE = Tile(rows=128, outputs=128, inputs=64, warps=8, stages=3)
_EXACT = Tile(rows=16, outputs=32, inputs=32, warps=4, stages=1)  # float32, for comparisons
_BLOCK = 1024  # numbers of a row that a program sums


def tile_for(dtype: torch.dtype, pairs: int, experts: int) -> Tile:
    """The tile for so many pairs of rows and experts: a number of the shapes alone."""
    if dtype == torch.float32:
        return _EXACT
    average = pairs / experts
    return _NARROW if average <= 24 else _MIDDLE if average <= 96 else _WIDE


class TileMap(NamedTuple):
    """The pairs sorted by expert, and the tiles they are cut into."""

    order: Tensor  # (P,) the pair at each place
    expert: Tensor  # (tiles,)
    first: Tensor  # (tiles,) first place; not below `last` if the tile has no rows
    last: Tensor  # (tiles,) end of the expert's places


def tile_map(chosen: Tensor, experts: int, rows: int) -> TileMap:
    """Sort pairs by the expert `chosen` (P,), and cut them into tiles of `rows`.

    An expert beyond `experts` has no weights: its pairs lie in no tile.
    """
    pairs = len(chosen)
    chosen = chosen.clamp(max=experts)
    order = chosen.argsort(stable=True)
    counts = torch.zeros(experts + 1, dtype=torch.int64, device=chosen.device)
    counts = counts.scatter_add_(0, chosen, torch.ones_like(chosen))[:experts]
    ends, tiles = counts.cumsum(0), (counts + rows - 1) // rows
    tile_ends = tiles.cumsum(0)
    number = torch.arange(min(pairs, pairs // rows + experts), device=chosen.device)
    expert = torch.searchsorted(tile_ends, number, right=True).clamp_(max=experts - 1)
    within = number - (tile_ends - tiles)[expert]
    return TileMap(order, expert, (ends - counts)[expert] + within * rows, ends[expert])


@triton.jit
def _up(
    x, order, weights, expert, first, last, up, bias, out, limit, shift,
    SIZE: tl.constexpr, INNER: tl.constexpr, EACH: tl.constexpr, KIND: tl.constexpr,
    GATED: tl.constexpr, BIAS: tl.constexpr, WEIGHS: tl.constexpr, LIMIT: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """act(gate) * up of a tile's rows: out (places, INNER)."""
    begin = tl.load(first + tl.program_id(0))
    end = tl.load(last + tl.program_id(0))
    if begin >= end:
        return
    m = begin + tl.arange(0, M)
    here = m < end
    pair = tl.load(order + m, mask=here, other=0)
    row = pair // EACH
    n = tl.program_id(1) * N + tl.arange(0, N)
    inside = n < INNER
    e = tl.load(expert + tl.program_id(0)) * (2 * INNER if GATED else INNER)
    gates = tl.zeros((M, N), tl.float32)
    values = tl.zeros((M, N), tl.float32)
    for start in range(0, SIZE, K):
        k = start + tl.arange(0, K)
        a = tl.load(x + row[:, None] * SIZE + k, mask=here[:, None] & (k < SIZE), other=0.0)
        seen = inside[None, :] & (k[:, None] < SIZE)
        w = tl.load(up + (e + n)[None, :] * SIZE + k[:, None], mask=seen, other=0.0)
        gates = tl.dot(a, w, gates, input_precision=PRECISION)
        if GATED:
            w = tl.load(up + (e + INNER + n)[None, :] * SIZE + k[:, None], mask=seen, other=0.0)
            values = tl.dot(a, w, values, input_precision=PRECISION)
    if WEIGHS:
        weight = tl.load(weights + pair, mask=here, other=0.0)
        gates *= weight[:, None]
        values *= weight[:, None]
    if BIAS:
        gates += tl.load(bias + e + n, mask=inside, other=0.0).to(tl.float32)
        if GATED:
            values += tl.load(bias + e + INNER + n, mask=inside, other=0.0).to(tl.float32)
    if LIMIT:
        gates = tl.where(gates > limit, limit, gates)
        values = tl.where(values > limit, limit, tl.where(values < -limit, -limit, values))
        values += shift
    y = _act(gates, KIND)
    if GATED:
        y *= values
    y = y.to(out.dtype.element_ty)
    tl.store(out + m[:, None] * INNER + n, y, mask=here[:, None] & inside[None, :])


@triton.jit
def _down(
    x, order, expert, first, last, down, bias, out,
    SIZE: tl.constexpr, INNER: tl.constexpr, BIAS: tl.constexpr, PRECISION: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """The products of x (places, INNER): out (pairs, SIZE)."""
    begin = tl.load(first + tl.program_id(0))
    end = tl.load(last + tl.program_id(0))
    if begin >= end:
        return
    m = begin + tl.arange(0, M)
    here = m < end
    pair = tl.load(order + m, mask=here, other=0)
    n = tl.program_id(1) * N + tl.arange(0, N)
    inside = n < SIZE
    e = tl.load(expert + tl.program_id(0)) * SIZE
    sums = tl.zeros((M, N), tl.float32)
    for start in range(0, INNER, K):
        k = start + tl.arange(0, K)
        a = tl.load(x + m[:, None] * INNER + k, mask=here[:, None] & (k < INNER), other=0.0)
        seen = inside[None, :] & (k[:, None] < INNER)
        w = tl.load(down + (e + n)[None, :] * INNER + k[:, None], mask=seen, other=0.0)
        sums = tl.dot(a, w, sums, input_precision=PRECISION)
    if BIAS:
        sums += tl.load(bias + e + n, mask=inside, other=0.0).to(tl.float32)
    y = sums.to(out.dtype.element_ty)
    tl.store(out + pair[:, None] * SIZE + n, y, mask=here[:, None] & inside[None, :])


@triton.jit
def _combine(
    out, x, chosen, weights, add, y, experts,
    SIZE: tl.constexpr, EACH: tl.constexpr, ADD: tl.constexpr, APPLIED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A row's sum over its pairs, in their order, rounded once: y (rows, SIZE).

    What experts with weights gave is out (pairs, SIZE), multiplied already if APPLIED; others,
    beyond `experts`, give what they read.
    """
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < SIZE
    total = tl.zeros((BLOCK,), tl.float32)
    if ADD:
        total += tl.load(add + row * SIZE + d, mask=inside, other=0.0).to(tl.float32)
    for i in range(EACH):
        pair = row * EACH + i
        weight = tl.load(weights + pair)
        if tl.load(chosen + pair) < experts:
            value = tl.load(out + pair * SIZE + d, mask=inside, other=0.0).to(tl.float32)
            total += value if APPLIED else value * weight
        else:
            total += weight * tl.load(x + row * SIZE + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * SIZE + d, total.to(y.dtype.element_ty), mask=inside)


class TritonExperts:
    """`run_experts` through these kernels; keeps the weights as they are."""

    def __init__(self, weights: ExpertWeights) -> None:
        self._weights = weights
        self._up, self._down = weights.up.contiguous(), weights.down.contiguous()
        self.up_tensors, self.down_tensors = (self._up,), (self._down,)

    def __call__(self, x: Tensor, routes: Routes, add: Tensor | None = None) -> Tensor:
        own, x = self._weights, x.contiguous()
        count, size, inner = self._down.shape
        rows, each = routes.experts.shape
        chosen, weights = routes.experts.contiguous(), routes.weights.contiguous()
        y = torch.empty_like(x)
        if not rows:
            return y
        pairs = rows * each
        tile = tile_for(x.dtype, pairs, count)
        tiles = tile_map(chosen.view(-1), count, tile.rows)
        middle = torch.empty(pairs, inner, dtype=x.dtype, device=x.device)
        out = torch.empty(pairs, size, dtype=x.dtype, device=x.device)
        sizes = {"SIZE": size, "PRECISION": "ieee" if x.dtype == torch.float32 else "tf32"}
        sizes |= {"M": tile.rows, "N": tile.outputs, "K": tile.inputs}
        launch = {"num_warps": tile.warps, "num_stages": tile.stages}
        _up[len(tiles.expert), ceil_div(inner, tile.outputs)](
            *(x, tiles.order, weights, tiles.expert, tiles.first, tiles.last),
            *(self._up, own.up_bias, middle, own.limit or 0.0, own.shift),
            **(sizes | launch),
            INNER=inner,
            EACH=each,
            KIND=own.activation,
            GATED=own.gated,
            BIAS=own.up_bias is not None,
            WEIGHS=own.weighs_input,
            LIMIT=own.limit is not None,
        )
        _down[len(tiles.expert), ceil_div(size, tile.outputs)](
            *(middle, tiles.order, tiles.expert, tiles.first, tiles.last),
            *(self._down, own.down_bias, out),
            **(sizes | launch),
            INNER=inner,
            BIAS=own.down_bias is not None,
        )
        _combine[rows, ceil_div(size, _BLOCK)](
            *(out, x, chosen, weights, add, y, count),
            SIZE=size,
            EACH=each,
            ADD=add is not None,
            APPLIED=own.weighs_input,
            BLOCK=_BLOCK,
        )
        return y
