# mypy: allow-untyped-decorators, disable-error-code="no-untyped-def"
"""Head norms, rotation and the write to the cache in one pass over the QKV projection.

A program takes some heads of one token. It reads each number twice, once as itself and once as the
partner that the rotation mixes it with, so heads of any size and partly rotated ones are one case.
The reference and the contract are in ops/rope.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stoker.ops.kv_pages import FP8_MOST, Fp8Pages, Pages
from stoker.ops.rope import HeadNorms

_TILE = 1024  # numbers that a program works on


@triton.jit
def _kernel(
    qkv,
    q_out,
    k_cache,
    v_cache,
    rope,
    cells,
    q_weight,
    k_weight,
    v_weight,
    eps,
    k_scale,
    v_scale,
    stride_qkv,
    stride_cell,
    stride_head,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROTARY: tl.constexpr,
    NORMS: tl.constexpr,
    NORMED_VALUES: tl.constexpr,
    SCALED: tl.constexpr,
    TOP: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    inside = (head < HEADS + 2 * KV_HEADS) & (d < HEAD_DIM)
    is_q = head < HEADS
    is_v = head >= HEADS + KV_HEADS

    row = qkv + token * stride_qkv + head * HEAD_DIM
    raw = tl.load(row + d, mask=inside, other=0.0)
    x = raw.to(tl.float32)
    if NORMS:
        inverse = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / HEAD_DIM + eps)
        weight = tl.load(q_weight + d, mask=inside & is_q, other=0.0).to(tl.float32)
        weight += tl.load(k_weight + d, mask=inside & ~is_q & ~is_v, other=0.0).to(tl.float32)
        if NORMED_VALUES:
            weight += tl.load(v_weight + d, mask=inside & is_v, other=0.0).to(tl.float32)
        # rounded as the norm alone would round it
        normed = (x * inverse * weight).to(raw.dtype).to(tl.float32)
        x = normed if NORMED_VALUES else tl.where(is_v, x, normed)
    if ROTARY > 0:
        half: tl.constexpr = ROTARY // 2
        turned = inside & (d < ROTARY) & ~is_v
        partner = tl.where(d < half, d + half, d - half)
        y = tl.load(row + partner, mask=turned, other=0.0).to(tl.float32)
        if NORMS:
            weight = tl.load(q_weight + partner, mask=turned & is_q, other=0.0).to(tl.float32)
            weight += tl.load(k_weight + partner, mask=turned & ~is_q, other=0.0).to(tl.float32)
            y = (y * inverse * weight).to(raw.dtype).to(tl.float32)
        angle = rope + token * ROTARY + d % half
        cos = tl.load(angle, mask=turned, other=1.0)
        sin = tl.load(angle + half, mask=turned, other=0.0)
        x = tl.where(turned, x * cos + tl.where(d < half, -y, y) * sin, x)

    x = x.to(raw.dtype)
    tl.store(q_out + (token * HEADS + head) * HEAD_DIM + d, x, mask=inside & is_q)
    if KV_HEADS == 0:
        return
    cell = tl.load(cells + token)
    kept = inside & ~is_q & (cell >= 0)
    group = tl.where(is_v, head - HEADS - KV_HEADS, head - HEADS)
    if SCALED:
        scale = tl.load(k_scale + group, mask=~is_q & ~is_v, other=1.0)
        beyond = head >= HEADS + 2 * KV_HEADS
        scale *= tl.load(v_scale + group, mask=is_v & ~beyond, other=1.0)
        x = tl.div_rn(x.to(tl.float32), scale)
        x = tl.where(x > TOP, TOP, tl.where(x < -TOP, -TOP, x))  # NaN stays NaN
    x = x.to(k_cache.dtype.element_ty)
    at = cell * stride_cell + group * stride_head + d
    tl.store(k_cache + at, x, mask=kept & ~is_v)
    tl.store(v_cache + at, x, mask=kept & is_v)


def rotate_and_store(
    qkv: Tensor,
    norms: HeadNorms | None,
    rope: Tensor,
    cells: Tensor,
    k_cache: Pages,
    v_cache: Pages,
) -> Tensor:
    """As `stoker.ops.rope.rotate_and_store`; the rows of `qkv` may lie apart."""
    block_size, kv_heads, head_dim = k_cache.shape[1:]
    keys, values, scales = k_cache, v_cache, None
    if isinstance(k_cache, Fp8Pages):
        assert isinstance(v_cache, Fp8Pages)
        keys, values, scales = k_cache.data, v_cache.data, (k_cache.scale, v_cache.scale)
    assert isinstance(keys, Tensor)
    assert isinstance(values, Tensor)
    assert keys.stride() == values.stride()
    assert keys.stride(3) == 1
    assert keys.stride(0) == block_size * keys.stride(1), "cells must lie evenly apart"
    assert qkv.stride(1) == 1
    tokens, heads = len(qkv), qkv.shape[1] // head_dim - 2 * kv_heads
    q = torch.empty(tokens, heads, head_dim, dtype=qkv.dtype, device=qkv.device)
    if tokens:
        tensors = (qkv, q, keys, values, rope.contiguous(), cells)
        strides = (qkv.stride(0), keys.stride(1), keys.stride(2))
        _launch(tensors, strides, (heads, kv_heads, head_dim), norms, scales)
    return q


def rotate(q: Tensor, weight: Tensor | None, eps: float, rope: Tensor) -> Tensor:
    """As `stoker.ops.rope.rotate`."""
    tokens, heads, head_dim = q.shape
    out = torch.empty_like(q)
    if tokens:
        norms = None if weight is None else HeadNorms(weight, weight, eps)
        tensors = (q, out, q, q, rope.contiguous(), q)
        _launch(tensors, (heads * head_dim, 0, 0), (heads, 0, head_dim), norms, None)
    return out


def _launch(
    tensors: tuple[Tensor, ...],
    strides: tuple[int, int, int],
    sizes: tuple[int, int, int],
    norms: HeadNorms | None,
    scales: tuple[Tensor, Tensor] | None,
) -> None:
    """Launch the kernel for `sizes`, (query heads, key-value heads, numbers of a head)."""
    (qkv, *_, rope, _), (heads, kv_heads, head_dim) = tensors, sizes
    width = triton.next_power_of_2(head_dim)
    tile = triton.next_power_of_2(heads + 2 * kv_heads)
    tile = max(1, min(tile, _TILE // width))
    normed_values = norms is not None and norms.v is not None
    _kernel[(len(qkv), triton.cdiv(heads + 2 * kv_heads, tile))](
        *tensors,
        *((norms.q, norms.k, norms.v if normed_values else qkv) if norms else (qkv, qkv, qkv)),
        norms.eps if norms else 0.0,
        *(scales or (qkv, qkv)),
        *strides,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        ROTARY=2 * rope.shape[-1],
        NORMS=norms is not None,
        NORMED_VALUES=normed_values,
        SCALED=scales is not None,
        TOP=FP8_MOST,
        BLOCK_H=tile,
        BLOCK_D=width,
    )
