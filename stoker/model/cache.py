"""The tensors behind the block pool: what every layer keeps, in pages or as states.

Knows layers and blocks, not sequences. Written and read by the mixers, copied by the runner.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from stoker.model.cache_spec import CacheSpec, StateSpec
from stoker.model.spec.model import ModelSpec
from stoker.ops import huge_pages
from stoker.ops.kv_pages import FP8, Fp8Pages, Pages, storage

# bytes that a copy holds at a time: what a processor's cache holds, or few launches on a GPU
MOST_STAGED = {"cpu": 1 << 20, "gpu": 1 << 26}
Scales = tuple[Tensor, Tensor]  # of keys and of values, (kv_heads,) float32


class PagedCache:
    """Per layer what it keeps: keys and values in pages, the parts of its state, or None.

    Attributes:
        layers: of each layer its pages, or the parts of its states if it has no pages.
        states: of each layer the parts of its states, or None.

    Pages are (blocks, block_size, kv_heads, head_dim), the keys alone if the values are a part of
    them; a part of a state is (places, *shape), a view of one tensor for all layers of its group:
    states are copied while sequences decode, which is then one launch. A layer has the sizes of
    its own spec, and None if it keeps nothing. `num_blocks` has the blocks, or the places, of each
    of the model's cache groups, whose numbers mean the same place in all its layers.

    Of the places of states, the first are the slots of running sequences, the next is nobody's,
    for what pads a step, and the others are snapshots. What need not be float32 in a state has
    `state_dtype`, or `dtype` if that is None.

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
        state_dtype: torch.dtype | None = None,
    ) -> None:
        self.block_size = block_size
        self.layers: list[tuple[Pages, ...] | None]
        self.layers = [None] * len(spec.layers)
        self.states: list[tuple[Tensor, ...] | None] = [None] * len(spec.layers)
        # of each what its layers keep, states of all of them in one
        self._groups: list[list[tuple[Pages, ...]]] = []
        self._keeps_state = [group.keeps_state for group in spec.cache_groups]
        self._most_staged = MOST_STAGED["cpu" if device.type == "cpu" else "gpu"]
        for count, group in zip(num_blocks, spec.cache_groups, strict=True):
            if isinstance(group.spec, StateSpec):  # such groups come last
                parts = _states(group.spec, len(group.layers), count, state_dtype or dtype, device)
                self._groups.append([parts])
                for at, index in enumerate(group.layers):
                    self.states[index] = tuple(part[at] for part in parts)
                    self.layers[index] = self.layers[index] or self.states[index]
                continue
            self._groups.append([])
            for index in group.layers:
                of_layer = (scales[index] if scales else None) or (None, None)
                found = tuple(
                    _pages((count, block_size, *shape), dtype, device, scale)
                    for shape, scale in zip(_shapes(group.spec), of_layer, strict=False)
                )
                self._groups[-1].append(found)
                self.layers[index] = found

    @property
    def pages(self) -> list[Pages]:
        """The keys and the values of each layer, and the states, group by group."""
        return [pages for group in self._groups for kept in group for pages in kept]

    @property
    def nbytes(self) -> int:
        return sum(storage(pages).nbytes for pages in self.pages)

    def clear(self) -> None:
        """Zero every page and state."""
        for pages in self.pages:
            storage(pages).zero_()

    def copy_blocks(self, group: int, src: Tensor, dst: Tensor) -> None:
        """Copy blocks or states src (C,) to dst (C,), int64, in each layer of a group.

        All are read before any is written.
        """
        keeps_state = self._keeps_state[group]
        for kept in self._groups[group]:
            for pages in kept:
                cache = storage(pages)
                whole = cache if keeps_state else cache[None]  # (layers, blocks, ...)
                staged = whole[0, 0].nbytes * len(src)
                for some in torch.split(whole, max(1, self._most_staged // max(1, staged))):
                    some.index_copy_(1, dst, some.index_select(1, src))


def _shapes(spec: CacheSpec) -> list[tuple[int, int]]:
    """Of a token's key and value, or of the key alone."""
    keys, values = (spec.kv_heads, spec.head_dim), (spec.kv_heads, spec.value_width)
    return [keys] if spec.latent else [keys, values]


def _states(
    spec: StateSpec, layers: int, places: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """The parts (layers, places, *shape) of states; those that need not be float32 are `dtype`."""
    return tuple(
        _zeros((layers, places, *part.shape), torch.float32 if part.float32 else dtype, device)
        for part in spec.parts
    )


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
