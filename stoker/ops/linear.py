"""y = x W^T + b, with the weight laid out once for the device it runs on.

`prepare_linear` chooses the implementation at load; model code only calls the result.
Reference: torch.nn.functional.linear. Fast path on a CPU in float32: oneDNN with packed weights,
which on few rows is two to four times as fast and whose rows do not depend on the batch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)

LinearFn = Callable[[Tensor], Tensor]

# oneDNN picks a layout for about this many rows; the layout then serves any number.
_PACK_FOR_ROWS = 64


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K), weight (N, K), bias (N,) -> (..., N), all of one floating dtype."""
    return F.linear(x, weight, bias)


def prepare_linear(weight: Tensor, bias: Tensor | None = None) -> LinearFn:
    """A function of x (M, K) that computes `linear_reference(x, weight, bias)`.

    With packed weights the function keeps its own copy, and the caller may drop `weight`.
    """
    if packs(weight):
        return PackedLinear(weight, bias)
    return lambda x: linear_reference(x, weight, bias)


def packs(weight: Tensor) -> bool:
    """Whether the packed path serves this weight."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and _packing_available()


@functools.cache
def _packing_available() -> bool:
    available = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not available:
        log.warning("this torch has no oneDNN: matrix products take the slower default path")
    return available


class PackedLinear:
    """Linear with a weight packed by oneDNN; float32 on a CPU.

    A row's result is the same bit for bit in a batch of any size, except that oneDNN treats a
    lone row differently; so a lone row is computed twice, which takes no longer.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(
            weight.detach().contiguous(), _PACK_FOR_ROWS
        )
        self.bias = bias
        self.out_features = weight.shape[0]

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows == 0:
            return x.new_empty(0, self.out_features)
        if rows == 1:
            x = x.expand(2, -1).contiguous()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y[:rows]
