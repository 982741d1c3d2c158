"""What happens between the QKV projection and attention: head norms, rotation, cache write.

Rotary position embedding (Su et al., 2021) in the half-split form of Hugging Face models;
angles are tabulated once per model in float32. Reference: plain PyTorch. Fast path on a CPU in
float32: one pass in C (native/elementwise.c).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from stoker.ops.native.build import signature
from stoker.ops.norm import rms_norm


@dataclass(frozen=True)
class HeadNorms:
    """Weights (head_dim,) of RMS norms over each query and each key head."""

    q: Tensor
    k: Tensor
    eps: float


def rope_table(inv_freq: Tensor, positions: int, factor: float = 1.0) -> Tensor:
    """cos and sin of position * frequency, times factor.

    inv_freq (D/2,) -> (positions, 2, D/2) float32.
    """
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), inv_freq.float())
    return torch.stack((angles.cos(), angles.sin()), dim=1) * factor


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the first R of each head of x (T, H, D) by the tokens' rows of the table.

    table (T, 2, R/2), R <= D; dtype of x.
    """
    cos, sin = table.unsqueeze(2).unbind(1)  # (T, 1, R/2) each
    rotary = 2 * table.shape[-1]
    low, high = x[..., :rotary].float().chunk(2, dim=-1)
    rotated = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)
    return torch.cat((rotated, x[..., rotary:]), dim=-1)


def rotate_and_store(
    qkv: Tensor,
    norms: HeadNorms | None,
    rope: Tensor,
    slots: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> Tensor:
    """Norm and rotate queries and keys, store keys and values; returns the queries.

    Args:
        qkv: (T, (H + 2G) * D), for H query heads and G key-value heads.
        norms: of the heads, if the model has them.
        rope: the tokens' rows of the table, (T, 2, R/2) float32; R = 0 rotates nothing.
        slots: (T,) int64, block * block_size + offset. Negative ones are those of padding, of
            which nothing is stored.
        k_cache, v_cache: (blocks, block_size, G, D), written in place.
        k_scale, v_scale: (G,) float32, of caches that hold float8_e4m3fn: what is stored is
            value / scale, at most the largest number of the type.

    Returns: queries (T, H, D).
    """
    kv_heads, head_dim = k_cache.shape[2:]
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    q, k, v = heads[:, : -2 * kv_heads], heads[:, -2 * kv_heads : -kv_heads], heads[:, -kv_heads:]
    if norms is not None:
        q, k = rms_norm(q, norms.q, norms.eps), rms_norm(k, norms.k, norms.eps)
    kept = (slots >= 0).nonzero()[:, 0]
    _store(apply_rope(k, rope)[kept], slots[kept], k_cache, k_scale)
    _store(v[kept], slots[kept], v_cache, v_scale)
    return apply_rope(q, rope)


def _store(x: Tensor, slots: Tensor, cache: Tensor, scale: Tensor | None) -> None:
    """Write x (T, G, D) to the slots."""
    if scale is not None:
        x = x.float() / scale[:, None]
    pages, top = cache.flatten(0, 1), largest(cache.dtype)
    if top:
        # bytes, since not everything is implemented for the type itself
        x, pages = (
            x.float().clamp(-top, top).to(cache.dtype).view(torch.uint8),
            pages.view(torch.uint8),
        )
    pages.index_copy_(0, slots, x)


def largest(dtype: torch.dtype) -> float:
    """The largest number of an 8-bit type, where values stop; 0 for wider types."""
    return torch.finfo(dtype).max if dtype.itemsize == 1 else 0.0


class NativeRotateAndStore:
    """`rotate_and_store` for float32 on a CPU, for heads of up to 512."""

    most_head_dim = 512

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.rotate_and_store, "pppppppp iiiii f")

    def __call__(
        self,
        qkv: Tensor,
        norms: HeadNorms | None,
        rope: Tensor,
        slots: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
    ) -> Tensor:
        kv_heads, head_dim = k_cache.shape[2:]
        if head_dim > self.most_head_dim:
            return rotate_and_store(qkv, norms, rope, slots, k_cache, v_cache)
        rows, heads = qkv.shape[0], qkv.shape[1] // head_dim - 2 * kv_heads
        q = torch.empty(rows, heads, head_dim)
        self._call(
            qkv.contiguous().data_ptr(),
            norms.q.data_ptr() if norms else None,
            norms.k.data_ptr() if norms else None,
            *(tensor.data_ptr() for tensor in (rope, slots, q, k_cache, v_cache)),
            *(rows, heads, kv_heads, head_dim, 2 * rope.shape[-1]),
            norms.eps if norms else 0.0,
        )
        return q
