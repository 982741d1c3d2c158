"""The tensors behind the block pool: keys and values of every layer, in pages.

Knows layers and blocks, not sequences. Written and read by the mixers, copied by the runner.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from stoker.model.spec import ModelSpec
from stoker.ops import huge_pages
from stoker.ops.kv_pages import FP8, Fp8Pages, Pages, storage

Scales = tuple[Tensor, Tensor]  # of keys and of values, (kv_heads,) float32


class PagedCache:
    """Per layer keys and values in pages (blocks, block_size, kv_heads, head_dim), or None.

    A layer has the sizes of its own `CacheSpec`, and None if it keeps nothing. `num_blocks` has the
    blocks of each of the model's cache groups, whose numbers mean the same place in all its layers.

    Zeroed, not just allocated: masked positions of a page are multiplied by zero weight, and
    must not hold NaN. With the dtype float8_e4m3fn they are quantised, with the `scales` of each
    layer, or scales of 1.
    """

    def __init__(
        self,
        spec: ModelSpec,
        num_blocks: Seq[int],
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        scales: Seq[Scales | None] | None = None,
    ) -> None:
        self.block_size = block_size
        self.layers: list[tuple[Pages, Pages] | None]
        self.layers = [None] * len(spec.layers)
        self._groups = [group.layers for group in spec.cache_groups]
        for count, group in zip(num_blocks, spec.cache_groups, strict=True):
            shape = (count, block_size, group.spec.kv_heads, group.spec.head_dim)
            for index in group.layers:
                keys, values = (scales[index] if scales else None) or (None, None)
                self.layers[index] = (
                    _pages(shape, dtype, device, keys),
                    _pages(shape, dtype, device, values),
                )

    @property
    def pages(self) -> list[Pages]:
        """The keys and the values of every layer that has a cache, in order."""
        return [pages for pair in self.layers if pair is not None for pages in pair]

    @property
    def nbytes(self) -> int:
        return sum(storage(pages).nbytes for pages in self.pages)

    def clear(self) -> None:
        """Zero every page."""
        for pages in self.pages:
            storage(pages).zero_()

    def copy_blocks(self, group: int, src: Tensor, dst: Tensor) -> None:
        """Copy blocks src (C,) to dst (C,), int64, in each layer of a group; all are read first."""
        for index in self._groups[group]:
            for pages in self.layers[index] or ():
                cache = storage(pages)
                cache[dst] = cache[src]


def _pages(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, scale: Tensor | None
) -> Pages:
    if dtype != FP8:
        return _zeros(shape, dtype, device)
    data = _zeros(shape, torch.uint8, device).view(FP8)
    return Fp8Pages(data, torch.ones(shape[2], device=device) if scale is None else scale)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.zeros, but on a CPU the pages take no memory until they are touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return huge_pages.zeros(shape, dtype)
