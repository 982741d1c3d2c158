"""The tensors behind the block pool: keys and values of every layer, in pages.

Knows layers and blocks, not sequences. Written and read by the mixers, copied by the runner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.model.spec import ModelSpec
from stoker.ops import memory
from stoker.ops.pages import FP8, Fp8Pages, Pages, storage


class PagedCache:
    """Per layer keys and values in pages (num_blocks, block_size, kv_heads, head_dim).

    Zeroed, not just allocated: masked positions of a page are multiplied by zero weight, and
    must not hold NaN. With the dtype float8_e4m3fn they are quantised, with scales of 1.
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
        self.layers: list[tuple[Pages, Pages]] = []
        for layer in spec.layers:
            shape = (num_blocks, block_size, layer.mixer.kv_heads, layer.mixer.head_dim)
            self.layers.append((_pages(shape, dtype, device), _pages(shape, dtype, device)))

    def clear(self) -> None:
        """Zero every page."""
        for pair in self.layers:
            for pages in pair:
                storage(pages).zero_()

    def copy_blocks(self, src: Tensor, dst: Tensor) -> None:
        """Copy the blocks src (C,) to dst (C,), int64, in every layer; all are read first."""
        for pair in self.layers:
            for pages in pair:
                cache = storage(pages)
                cache[dst] = cache[src]


def _pages(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Pages:
    if dtype != FP8:
        return _zeros(shape, dtype, device)
    data = _zeros(shape, torch.uint8, device).view(FP8)
    return Fp8Pages(data, torch.ones(shape[2], device=device))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.zeros, but on a CPU the pages take no memory until they are touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return memory.zeros(shape, dtype)
