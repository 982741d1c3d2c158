"""Memory of large tensors on a CPU, in huge pages where the system gives them.

A page of 4 KiB ends a processor's prefetching and takes an entry of its address cache; weights,
keys and values, which are read through once a step, meet that all the time. Linux gives pages of
2 MiB on request (madvise(2), MADV_HUGEPAGE). Elsewhere the pages are ordinary ones.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

HUGE = 2 << 20  # bytes


def zeros(shape: Seq[int], dtype: torch.dtype) -> Tensor:
    """As torch.zeros, but memory is taken a page at a time, when it is touched."""
    size = math.prod(shape) * dtype.itemsize
    raw = _raw(size + HUGE) if size >= HUGE else torch.zeros(size, dtype=torch.uint8)
    start = -raw.data_ptr() % HUGE if size >= HUGE else 0
    return raw[start : start + size].view(dtype).view(*shape)


def in_huge_pages(x: Tensor) -> Tensor:
    """A contiguous copy of x on a CPU where it stays; x itself if it is small and contiguous."""
    if x.nbytes < HUGE:
        return x.contiguous()
    return zeros(x.shape, x.dtype).copy_(x)


def _raw(size: int) -> Tensor:
    """`size` zeroed bytes, untouched."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.from_numpy(np.zeros(size, np.uint8))  # calloc
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    raw = torch.frombuffer(memory, dtype=torch.uint8)
    start = -raw.data_ptr() % HUGE
    with contextlib.suppress(OSError):  # the system has none
        memory.madvise(mmap.MADV_HUGEPAGE, start, (size - HUGE) // HUGE * HUGE)
    return raw
