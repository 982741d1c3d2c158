"""Bars tokens by masks of bits, as libraries for constrained decoding fill them.

Reference: the bits unpacked and a masked fill, which also serves on other devices. For float32 on
a CPU a pass in C over the bits (native/elementwise.c). Called by the sampler's masks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.ops.native.build import load_kernels, signature
from stoker.ops.upload import upload

Bits = NDArray[np.uint8]


def bar_unset(logits: Tensor, rows: Seq[int], bits: Bits) -> None:
    """Set to -inf in `rows` of logits (R, V), in place, the tokens whose bit is 0.

    bits (R', W) hold V bits or more for each of the rows, the lowest of a byte first.
    """
    plain = logits.device.type == "cpu" and logits.dtype == torch.float32
    kernel = _kernel() if plain and logits.is_contiguous() else None
    if kernel is None:
        bar_unset_reference(logits, rows, bits)
        return
    # a step of a small model is short, and what lies in no processor cache by now takes long: so
    # no more calls than it needs
    every = len(rows) == len(logits)
    places = None if every and [*rows] == [*range(len(rows))] else torch.tensor(rows)
    given = torch.from_numpy(np.ascontiguousarray(bits))
    at = 0 if places is None else places.data_ptr()
    kernel(logits.data_ptr(), at, given.data_ptr(), len(rows), logits.shape[1], given.shape[1])


def bar_unset_reference(logits: Tensor, rows: Seq[int], bits: Bits) -> None:
    """`bar_unset` in torch, on any device."""
    which, given = upload([np.array(rows, np.int64), bits], logits.device)
    barred = unpack(given, logits.shape[1]).logical_not_()
    logits[which] = logits[which].masked_fill_(barred, -torch.inf)


def unpack(bits: Tensor, count: int) -> Tensor:
    """The first `count` bits of each row of (R, W) uint8 as truth values (R, count)."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, :, None] >> places) & 1).bool().flatten(1)[:, :count]


@functools.cache
def _kernel() -> Callable[..., None] | None:
    library = load_kernels("elementwise")
    return signature(library.bar_unset, "ppp iii") if library else None
