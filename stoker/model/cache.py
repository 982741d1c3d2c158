"""The tensors behind the block pool: keys and values of every layer, in pages.

Knows layers and blocks, not sequences. Written and read by the mixers, copied by the runner.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stoker.model.spec import ModelSpec


class PagedCache:
    """Per layer a key and a value tensor (num_blocks, block_size, kv_heads, head_dim).

    Zeroed, not just allocated: masked positions of a page are multiplied by zero weight, and
    must not hold NaN.
    """

    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.block_size = block_size
        self.layers: list[tuple[Tensor, Tensor]] = []
        for layer in spec.layers:
            shape = (num_blocks, block_size, layer.mixer.kv_heads, layer.mixer.head_dim)
            self.layers.append((_zeros(shape, dtype, device), _zeros(shape, dtype, device)))

    def clear(self) -> None:
        """Zero every page."""
        for pair in self.layers:
            for cache in pair:
                cache.zero_()

    def copy_blocks(self, src: Tensor, dst: Tensor) -> None:
        """Copy the blocks src (C,) to dst (C,), int64, in every layer; all are read first."""
        for pair in self.layers:
            for cache in pair:
                cache[dst] = cache[src]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.zeros, but on a CPU the pages take no memory until they are touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size, page = math.prod(shape) * dtype.itemsize, 4096
    raw = np.zeros(size + page, np.uint8)  # calloc, which aligns to 16 bytes only
    start = -raw.ctypes.data % page
    return torch.from_numpy(raw[start : start + size]).view(dtype).view(shape)
