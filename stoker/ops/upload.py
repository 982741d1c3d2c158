"""Brings arrays to the device: many of them, one copy, and nobody waits for it.

On a CPU the tensors are the arrays themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from itertools import accumulate
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.ops.rounding import ceil_div

ALIGNMENT = 8  # bytes; the widest element there is

Arrays = Seq[NDArray[Any]]


def upload(arrays: Arrays, device: torch.device) -> list[Tensor]:
    """`arrays` as tensors on `device`.

    To a GPU they go end to end through page-locked memory, which PyTorch's allocator hands out
    again no earlier than the copy has been made.
    """
    if device.type == "cpu":
        return [torch.from_numpy(array) for array in arrays]
    return unpack(pack(arrays, pinned=True).to(device, non_blocking=True), arrays)


def pack(arrays: Arrays, pinned: bool) -> Tensor:
    """All bytes of `arrays`, (B,) uint8, each array at a multiple of `ALIGNMENT`."""
    offsets = _offsets(arrays)
    packed = torch.empty(offsets[-1], dtype=torch.uint8, pin_memory=pinned)
    room = packed.numpy()
    for array, at in zip(arrays, offsets, strict=False):
        room[at : at + array.nbytes].view(array.dtype)[:] = array.reshape(-1)
    return packed


def unpack(packed: Tensor, like: Arrays) -> list[Tensor]:
    """Views into `packed` with the sizes and element types of `like`, wherever it lies."""
    found = []
    for array, at in zip(like, _offsets(like), strict=False):
        dtype = torch.from_numpy(array[:0]).dtype
        flat = packed[at : at + math.prod(array.shape) * array.itemsize]
        found.append(flat.view(dtype).view(array.shape))
    return found


def _offsets(arrays: Arrays) -> list[int]:
    """Where each array begins, and the end."""
    sizes = (ceil_div(array.nbytes, ALIGNMENT) * ALIGNMENT for array in arrays)
    return [0, *accumulate(sizes)]
