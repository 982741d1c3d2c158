"""Linear with 8-bit weights and activations, for a CPU.

Weights are integers with a scale for each output (`quantize_rows`, symmetric). A row of
activations is quantised as it comes, with a scale for each row (dynamic quantisation; see
Dettmers et al., LLM.int8(), 2022, for vector-wise scales). Sums of products are exact integers,
so a row's result does not depend on the batch. Fast path: native/linear_int8.c; reference: plain
PyTorch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.huge_pages import in_huge_pages
from stoker.ops.linear import LinearFn
from stoker.ops.native.build import load_kernels, signature


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, K) float32 -> integers (M, K) int8 in [-127, 127] and scales (M,) float32.

    x is close to integers * scales[:, None]. Halves are rounded away from zero.
    """
    top = x.abs().amax(dim=1)
    inverse = torch.where(top > 0, 127.0 / top, torch.zeros_like(top))
    scaled = x * inverse[:, None]
    integers = (scaled + torch.where(scaled < 0, -0.5, 0.5)).trunc()
    return integers.to(torch.int8), top / 127.0


class Int8Reference:
    """The definition: x (M, K) -> (M, N) float32, plus `add`.

    `weight` (N, K) int8 and `scale` (N,) float32 are those of `quantize_rows`.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.weight, self.scale, self.bias = weight, scale, bias

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight, self.scale)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        integers, scales = quantize_rows(x)
        # float64 holds these integer sums exactly
        sums = integers.double() @ self.weight.double().T
        y = sums.float() * (self.scale * scales[:, None])
        y = y if self.bias is None else y + self.bias
        return y if add is None else y + add


class Int8Linear:
    """`Int8Reference` through the C kernel.

    Attributes:
        weight: (panels, groups, width, group) uint8, the integers and the kernel's offset.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        library = load_kernels("linear_int8")
        assert library is not None, "no C compiler"
        self._kernel = signature(library.linear_int8, "pppppppp iii")
        width, group = library.panel_width(), library.group_size()
        self.out_features, size = weight.shape
        self._input_bytes = library.input_bytes(size)
        panels, groups = -(-self.out_features // width), -(-size // group)
        padded = F.pad(weight, (0, groups * group - size, 0, panels * width - self.out_features))
        shifted = (padded.to(torch.int16) + library.weight_offset()).to(torch.uint8)
        shaped = shifted.view(panels, width, groups, group)
        self.weight = in_huge_pages(shaped.transpose(1, 2))
        self.scale, self.bias = scale, bias

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight, self.scale)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        rows, size = x.shape
        x = x.contiguous()
        add = add if add is None else add.contiguous()
        y = torch.empty(rows, self.out_features)
        scratch = torch.empty(rows * self._input_bytes, dtype=torch.uint8)
        worth = torch.empty(rows, 2)
        tensors = (x, self.weight, self.scale, self.bias, add, y, scratch, worth)
        self._kernel(
            *(None if tensor is None else tensor.data_ptr() for tensor in tensors),
            *(rows, size, self.out_features),
        )
        return y


def prepare_int8(weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> LinearFn:
    """A function of x and add that computes `Int8Reference(weight, scale, bias)`."""
    if load_kernels("linear_int8") is not None:
        return Int8Linear(weight, scale, bias)
    return Int8Reference(weight, scale, bias)
