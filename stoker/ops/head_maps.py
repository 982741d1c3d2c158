"""A linear map for each head: y[t, h] = W[h] x[t, h], as latent attention folds them into queries.

Reference: PyTorch's batched product. On a CPU in float32 a C kernel (native/linear.c), of which
each row has the same bits in any batch.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.huge_pages import in_huge_pages
from stoker.ops.linear import interleaved, panel_halves
from stoker.ops.native.build import load_kernels, signature


class HeadMaps(Protocol):
    """Maps ready to be applied.

    Attributes:
        weight: (H, N, K), in whatever layout.
        keeps_bits: whether a row's result is the same in any batch.
    """

    weight: Tensor
    keeps_bits: bool

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """Write W[h] x[t, h] for x (T, H, K) to out (T, H, N), which is returned.

        Heads and rows of both may lie apart, the numbers of a head may not.
        """


def prepare_head_maps(weight: Tensor) -> HeadMaps:
    """The maps of a weight (H, N, K) on its device; they keep a copy of it, or the weight."""
    native = weight.device.type == "cpu" and weight.dtype == torch.float32
    if native and load_kernels("linear") is not None:
        return NativeHeadMaps(weight)
    return PlainHeadMaps(weight)


class PlainHeadMaps:
    """The definition, by a batched product."""

    keeps_bits = False

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        return out.copy_(torch.bmm(x.transpose(0, 1), self.weight.mT).transpose(0, 1))


class NativeHeadMaps:
    """In C, float32 on a CPU.

    Attributes:
        weight: (H, panels, K, width), the outputs of a panel side by side, zeros beyond the last.
    """

    keeps_bits = True

    def __init__(self, weight: Tensor) -> None:
        library = load_kernels("linear")
        assert library is not None, "no C compiler"
        self._kernel = signature(library.linear_heads, "pppp iiii iiii")
        heads, self.outputs, size = weight.shape
        width = library.panel_width()
        whole = F.pad(weight.detach(), (0, 0, 0, -self.outputs % width)).reshape(-1, size)
        panels = in_huge_pages(interleaved(panel_halves(whole, width // 2, gated=False)))
        self.weight = panels.view(heads, -1, size, width)

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        rows, heads, size = x.shape
        x_row, x_head, one = x.stride()
        y_row, y_head, last = out.stride()
        assert one == last == 1
        scratch = torch.empty(heads, rows, size) if rows > 1 else None
        self._kernel(
            x.data_ptr(),
            None if scratch is None else scratch.data_ptr(),
            *(self.weight.data_ptr(), out.data_ptr()),
            *(rows, heads, size, self.outputs),
            *(x_row, x_head, y_row, y_head),
        )
        return out
