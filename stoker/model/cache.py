"""The tensors behind the block pool: keys and values of every layer, in pages.

Knows layers and blocks, not sequences. Written and read by the mixers, copied by the runner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.model.spec import ModelSpec
from stoker.ops import memory


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

    def copy_blocks(self, copies: tuple[tuple[int, int], ...]) -> None:
        """Copy whole blocks, (source, destination) each, in every layer."""
        if not copies:
            return
        src, dst = torch.tensor(copies, device=self.layers[0][0].device).T
        for pair in self.layers:
            for cache in pair:
                cache[dst] = cache[src]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.zeros, but on a CPU the pages take no memory until they are touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return memory.zeros(shape, dtype)
