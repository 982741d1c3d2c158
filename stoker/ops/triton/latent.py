# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""What latent attention stores of tokens, and the rotated ends of its queries, in one pass.

The first program of a token norms and stores its row; the others rotate some heads of its query
each. The reference and the contract are in ops/latent.py.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from stoker.ops.kv_pages import FP8_MOST, Fp8Pages, Pages
from stoker.ops.latent import LatentNorm

_TILE = 1024  # numbers that a program rotates


@triton.jit
def _kernel(
    q,
    kv,
    weight,
    rope,
    cells,
    pages,
    scale,
    query,
    eps,
    gain,
    HEADS: tl.constexpr,
    PLAIN: tl.constexpr,
    RANK: tl.constexpr,
    SHARED: tl.constexpr,
    ROTARY: tl.constexpr,
    SCALED: tl.constexpr,
    TOP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK_S)[None, :]
    half: tl.constexpr = ROTARY // 2
    period: tl.constexpr = half if half > 0 else 1
    turned = d < ROTARY
    partner = tl.where(turned, tl.where(d < half, d + half, d - half), d)
    cos = tl.load(rope + token * ROTARY + d % period, mask=turned, other=1.0)
    sin = tl.load(rope + token * ROTARY + half + d % period, mask=turned, other=0.0)
    sin = tl.where(d < half, -sin, sin)
    if tl.program_id(1) > 0:
        head = (tl.program_id(1) - 1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
        inside = (head < HEADS) & (d < SHARED)
        row = q + (token * HEADS + head) * (PLAIN + SHARED) + PLAIN
        x = tl.load(row + d, mask=inside, other=0.0).to(tl.float32)
        y = tl.load(row + partner, mask=inside, other=0.0).to(tl.float32)
        to = query + (token * HEADS + head) * (RANK + SHARED) + RANK + d
        tl.store(to, (x * cos + y * sin).to(query.dtype.element_ty), mask=inside)
        return
    cell = tl.load(cells + token)
    if cell < 0:
        return
    r = tl.arange(0, BLOCK_R)
    row = kv + token * (RANK + SHARED)
    raw = tl.load(row + r, mask=r < RANK, other=0.0)
    latent = raw.to(tl.float32)
    inverse = tl.rsqrt(tl.sum(latent * latent, 0) / RANK + eps)
    factor = tl.load(weight + r, mask=r < RANK, other=0.0).to(tl.float32)
    # rounded as the norm alone would round it
    latent = (latent * inverse * factor).to(raw.dtype).to(tl.float32) * gain
    x = tl.load(row + RANK + d, mask=d < SHARED, other=0.0).to(tl.float32)
    y = tl.load(row + RANK + partner, mask=d < SHARED, other=0.0).to(tl.float32)
    rotated = (x * cos + y * sin).to(raw.dtype).to(tl.float32)
    latent = latent.to(raw.dtype).to(tl.float32)
    if SCALED:
        by = tl.load(scale)
        latent, rotated = tl.div_rn(latent, by), tl.div_rn(rotated, by)
        latent = tl.where(latent > TOP, TOP, tl.where(latent < -TOP, -TOP, latent))
        rotated = tl.where(rotated > TOP, TOP, tl.where(rotated < -TOP, -TOP, rotated))
    to = pages + cell * (RANK + SHARED)
    tl.store(to + r, latent.to(pages.dtype.element_ty), mask=r < RANK)
    tl.store(to + RANK + d, rotated.to(pages.dtype.element_ty), mask=d < SHARED)


def store_latent(
    q: Tensor,
    kv: Tensor,
    norm: LatentNorm,
    rope: Tensor,
    cells: Tensor,
    pages: Pages,
    query: Tensor,
) -> None:
    """As `stoker.ops.latent.store_latent`."""
    data, scale = (pages.data, pages.scale) if isinstance(pages, Fp8Pages) else (pages, None)
    assert all(x.is_contiguous() for x in (q, kv, data, query))
    (tokens, heads, size), rank = q.shape, len(norm.weight)
    shared = kv.shape[1] - rank
    if not tokens:
        return
    width = triton.next_power_of_2(shared)
    tile = max(1, min(triton.next_power_of_2(heads), _TILE // width))
    _kernel[(tokens, 1 + triton.cdiv(heads, tile))](
        *(q, kv, norm.weight, rope.contiguous(), cells, data),
        *(kv if scale is None else scale, query, norm.eps, norm.gain),
        HEADS=heads,
        PLAIN=size - shared,
        RANK=rank,
        SHARED=shared,
        ROTARY=2 * rope.shape[-1],
        SCALED=scale is not None,
        TOP=FP8_MOST,
        BLOCK_H=tile,
        BLOCK_S=width,
        BLOCK_R=triton.next_power_of_2(rank),
    )
