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

from stoker.ops.kv_pages import Fp8Pages, Pages, store
from stoker.ops.native.build import signature
from stoker.ops.norm import rms_norm


@dataclass(frozen=True)
class HeadNorms:
    """Weights (head_dim,) of RMS norms over each query and each key head, and value head if any."""

    q: Tensor
    k: Tensor
    eps: float
    v: Tensor | None = None


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
    cells: Tensor,
    k_cache: Pages,
    v_cache: Pages,
) -> Tensor:
    """Norm and rotate queries and keys, store keys and values; returns the queries.

    Args:
        qkv: (T, (H + 2G) * D), for H query heads and G key-value heads.
        norms: of the heads, if the model has them.
        rope: the tokens' rows of the table, (T, 2, R/2) float32; R = 0 rotates nothing.
        cells: (T,) int64, block * block_size + offset. Negative ones are those of padding, of
            which nothing is stored.
        k_cache, v_cache: (blocks, block_size, G, D), written in place, quantised if they are;
            one and the same where keys and values are given that are the same.

    Returns: queries (T, H, D).
    """
    kv_heads, head_dim = k_cache.shape[2:]
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    q, k, v = heads[:, : -2 * kv_heads], heads[:, -2 * kv_heads : -kv_heads], heads[:, -kv_heads:]
    if norms is not None:
        q, k = rms_norm(q, norms.q, norms.eps), rms_norm(k, norms.k, norms.eps)
        v = v if norms.v is None else rms_norm(v, norms.v, norms.eps)
    kept = (cells >= 0).nonzero()[:, 0]
    store(k_cache, cells[kept], apply_rope(k, rope)[kept])
    store(v_cache, cells[kept], v[kept])
    return apply_rope(q, rope)


def rotate(q: Tensor, weight: Tensor | None, eps: float, rope: Tensor) -> Tensor:
    """Norm and rotate queries alone, of a layer that reads the cache of another.

    Args:
        q: (T, H, D), contiguous.
        weight: (D,) of an RMS norm over each head, or none; with `eps`.
        rope: the tokens' rows of the table, (T, 2, R/2) float32.

    Returns: (T, H, D).
    """
    return apply_rope(q if weight is None else rms_norm(q, weight, eps), rope)


class NativeRotateAndStore:
    """`rotate_and_store` and `rotate` in C, for float32 pages on a CPU and heads of up to 512."""

    most_head_dim = 512

    def __init__(self, library: ctypes.CDLL) -> None:
        self._call = signature(library.rotate_and_store, "ppppppppp iiiii f")

    def rotate(self, q: Tensor, weight: Tensor | None, eps: float, rope: Tensor) -> Tensor:
        rows, heads, head_dim = q.shape
        if head_dim > self.most_head_dim:
            return rotate(q, weight, eps, rope)
        out = torch.empty_like(q)
        norm = weight.data_ptr() if weight is not None else None
        self._call(
            *(q.data_ptr(), norm, None, None, rope.data_ptr(), None, out.data_ptr(), None, None),
            *(rows, heads, 0, head_dim, 2 * rope.shape[-1]),
            eps,
        )
        return out

    def __call__(
        self,
        qkv: Tensor,
        norms: HeadNorms | None,
        rope: Tensor,
        cells: Tensor,
        k_cache: Pages,
        v_cache: Pages,
    ) -> Tensor:
        kv_heads, head_dim = k_cache.shape[2:]
        if head_dim > self.most_head_dim or isinstance(k_cache, Fp8Pages):
            return rotate_and_store(qkv, norms, rope, cells, k_cache, v_cache)
        assert isinstance(v_cache, Tensor)
        rows, heads = qkv.shape[0], qkv.shape[1] // head_dim - 2 * kv_heads
        q = torch.empty(rows, heads, head_dim)
        self._call(
            qkv.contiguous().data_ptr(),
            norms.q.data_ptr() if norms else None,
            norms.k.data_ptr() if norms else None,
            norms.v.data_ptr() if norms and norms.v is not None else None,
            *(tensor.data_ptr() for tensor in (rope, cells, q, k_cache, v_cache)),
            *(rows, heads, kv_heads, head_dim, 2 * rope.shape[-1]),
            norms.eps if norms else 0.0,
        )
        return q
