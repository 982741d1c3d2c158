"""Linear with weights and activations in 8-bit integers.

Weights are integers with a scale for each output (`quantize_rows`, symmetric). A row of
activations is quantised as it comes, with a scale for each row (dynamic quantisation; see
Dettmers et al., LLM.int8(), 2022, for vector-wise scales). Sums of products are exact integers,
so a row's result does not depend on the batch. Fast paths: native/linear_int8.c on a CPU, torch's
integer product on a GPU; reference: plain PyTorch.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.huge_pages import in_huge_pages
from stoker.ops.linear import LinearFn
from stoker.ops.native.build import load_kernels, signature
from stoker.ops.rounding import ceil_div

MULTIPLE = 8  # what a GPU's product of integers asks of both sizes
_LEAST_ROWS = 17  # what it asks of the rows


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
        width = library.panel_width()
        self.out_features, size = weight.shape
        self._input_bytes = library.input_bytes(size)
        panels = ceil_div(self.out_features, width)
        padded = F.pad(weight, (0, 0, 0, panels * width - self.out_features))
        self.weight = in_huge_pages(grouped_inputs(padded.view(panels, width, size), library))
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


def grouped_inputs(panels: Tensor, library: ctypes.CDLL) -> Tensor:
    """Panels (P, width, K) int8 as the kernel reads them, (P, groups, width, group) uint8: a view.

    The kernel's offset has been added; the last group is filled up with zeros.
    """
    count, width, size = panels.shape
    group = library.group_size()
    groups = ceil_div(size, group)
    padded = F.pad(panels, (0, groups * group - size))
    shifted = (padded.to(torch.int16) + library.weight_offset()).to(torch.uint8)
    shaped: Tensor = shifted.view(count, width, groups, group)
    return shaped.transpose(1, 2)


class Int8Matmul:
    """`Int8Reference` through torch's product of integers; what lies between is in x's dtype.

    On a GPU both sizes must be multiples of 8 (`MULTIPLE`).
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.weight, self.scale, self.bias = weight, scale, bias

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight, self.scale)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        integers, scales = quantize_rows(x.float())
        missing = max(0, _LEAST_ROWS - len(x))
        sums = torch._int_mm(F.pad(integers, (0, 0, 0, missing)), self.weight.t())[: len(x)]
        y = sums.float() * (scales[:, None] * self.scale)
        y = (y if self.bias is None else y + self.bias).to(x.dtype)
        return y if add is None else add.add_(y)


class SplitLinear:
    """The sum of two products: one of some columns of x, one of x with zeros in these columns.

    As LLM.int8() has it (Dettmers et al., 2022): the columns are those of outliers, which would
    make the scale of an 8-bit row too coarse for its other numbers.

        x                0.3  -41  1.2  0.8        columns [1]
        to `chosen`           -41
        to `others`      0.3    0  1.2  0.8

    Args:
        chosen: the product of the columns, without a bias.
        others: the product of the rest, with the bias if there is one.
        columns: (C,) int64.
    """

    def __init__(self, chosen: LinearFn, others: LinearFn, columns: Tensor) -> None:
        self._chosen, self._others, self._columns = chosen, others, columns

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (*self._others.tensors, *self._chosen.tensors, self._columns)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        y = self._chosen(x.index_select(1, self._columns), add)
        return self._others(x.index_fill(1, self._columns, 0.0), y)


def prepare_int8(weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> LinearFn:
    """A function of x and add that computes `Int8Reference(weight, scale, bias)`."""
    if weight.device.type != "cpu":
        return Int8Matmul(weight, scale, bias)
    if load_kernels("linear_int8") is not None:
        return Int8Linear(weight, scale, bias)
    return Int8Reference(weight, scale, bias)
