"""y = x W^T + b, with the weight laid out once for the device it runs on.

`prepare_linear` chooses the implementation at load; model code only calls the result.
Reference: torch.nn.functional.linear. On a CPU in float32 a C kernel over packed panels
(native/linear.c) serves, or oneDNN with packed weights where there is no C compiler; the rows
of either do not depend on the batch. The kernel also takes weights in bfloat16, in 2 bytes a
value; the arithmetic is the same.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stoker.ops.huge_pages import in_huge_pages
from stoker.ops.native.build import load_kernels, signature
from stoker.ops.rounding import ceil_div

log = logging.getLogger(__name__)

# oneDNN picks a layout for about this many rows; the layout then serves any number.
_PACK_FOR_ROWS = 64


class LinearFn(Protocol):
    """A linear map ready to be applied.

    Attributes:
        tensors: all that it keeps of its weight, in whatever layout.
    """

    @property
    def tensors(self) -> tuple[Tensor, ...]: ...

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """x (M, K) -> (M, N), plus `add` (M, N), the residual, if there is one.

        The memory of `add` may be taken for the result.
        """


def linear_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, add: Tensor | None = None
) -> Tensor:
    """x (M, K), weight (N, K), bias (N,), add (M, N) -> (M, N), all of one floating dtype."""
    y = F.linear(x, weight, bias)
    return y if add is None else y.add_(add)


def prepare_linear(weight: Tensor, bias: Tensor | None = None) -> LinearFn:
    """A function of x and add that computes `linear_reference(x, weight, bias, add)`.

    Where `packs(weight)`, the function keeps its own copy and not `weight`.
    """
    if packs(weight):
        return NativeLinear(weight, bias) if load_kernels("linear") else OneDnnLinear(weight, bias)
    return PlainLinear(weight, bias)


class PlainLinear:
    """`linear_reference`; without a bias the product is added to `add` where that lies.

    So nothing but the product's own pass reads and writes the residual, and it is rounded once.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        if add is None or self.bias is not None:
            return linear_reference(x, self.weight, self.bias, add)
        return add.addmm_(x, self.weight.t())


def prepare_gated(weight: Tensor, bias: Tensor | None, kind: str) -> LinearFn | None:
    """A function of x that computes `activate(linear_reference(x, weight, bias), kind, True)`.

    It does so in one pass and keeps its own copy of `weight`; None where no kernel does.
    """
    if packs(weight) and load_kernels("linear"):
        return NativeLinear(weight, bias, kind)
    return None


def packs(weight: Tensor) -> bool:
    """Whether a packed path serves this weight."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return False
    return load_kernels("linear") is not None or _onednn_available()


@functools.cache
def _onednn_available() -> bool:
    available = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if not available:
        log.warning("this torch has no oneDNN: matrix products take the slower default path")
    return available


class NativeLinear:
    """Linear through the C kernel, in float32 on a CPU, with a weight in float32 or bfloat16.

    With `gate`, a key of `ACTIVATIONS`, the weight (2F, K) holds gate and up, and the result is
    act(gate) * up, (M, F), the same bits as `NativeActivate` gives.

    Attributes:
        weight: (panels, K, width), the outputs of a panel side by side, zeros beyond the last;
            in the dtype of the weight that was given.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gate: str | None = None) -> None:
        library = load_kernels("linear")
        assert library is not None, "no C compiler"
        self._kernel = signature(library.linear, "ppppppp iiii")
        self._gate = gate and ctypes.cast(getattr(library, f"gate_{gate}"), ctypes.c_void_p)
        self.out_features = weight.shape[0] // (2 if gate else 1)
        lanes = library.panel_width() // 2
        halves = panel_halves(weight.detach(), lanes, gated=gate is not None)
        self.weight = in_huge_pages(interleaved(halves)).flatten(2).view(weight.dtype)
        self.bias = bias
        if gate and bias is not None:
            self.bias = panel_halves(bias.detach(), lanes, gated=True).contiguous()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight,)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        assert not (self._gate and add is not None), "nothing is added to gated values"
        rows, size = x.shape
        x = x.contiguous()
        add = add if add is None else add.contiguous()
        y = torch.empty(rows, self.out_features)
        scratch = torch.empty_like(x) if rows > 1 else None
        self._kernel(
            x.data_ptr(),
            None if scratch is None else scratch.data_ptr(),
            self.weight.data_ptr(),
            None if self.bias is None else self.bias.data_ptr(),
            None if add is None else add.data_ptr(),
            self._gate,
            y.data_ptr(),
            rows,
            size,
            self.out_features,
            self.weight.dtype == torch.bfloat16,
        )
        return y


def panel_halves(x: Tensor, lanes: int, gated: bool) -> Tensor:
    """x (N, ...) -> (panels, 2, lanes, ...), with zeros beyond the last.

    The halves of a panel are outputs that follow one another, or if gated gates and what they
    gate.
    """
    groups, width = (2, lanes) if gated else (1, 2 * lanes)
    parts = x.view(groups, -1, *x.shape[1:])
    panels = ceil_div(parts.shape[1], width)
    missing = panels * width - parts.shape[1]
    if missing:  # else no copy is made here
        parts = F.pad(parts, (*[0, 0] * (x.dim() - 1), 0, missing))
    shaped = parts.reshape(groups, panels, width // lanes, lanes, *x.shape[1:])
    return shaped.transpose(0, 1).flatten(1, 2)


def interleaved(halves: Tensor) -> Tensor:
    """Panels in the order of the kernel: a view of halves (panels, 2, lanes, K).

    Of float32 it is (panels, K, 2, lanes); of bfloat16 (panels, K, lanes, 2), as int16.
    """
    if halves.dtype == torch.bfloat16:
        return halves.view(torch.int16).permute(0, 3, 2, 1)
    return halves.permute(0, 3, 1, 2)


class OneDnnLinear:
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

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight.to_dense(),)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        rows = x.shape[0]
        if rows == 0:
            return x.new_empty(0, self.out_features)
        if rows == 1:
            x = x.expand(2, -1).contiguous()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return y[:rows] if add is None else y[:rows].add_(add)
