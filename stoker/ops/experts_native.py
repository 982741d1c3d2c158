"""Layers of experts through a C kernel (native/experts.c), in float32 on a CPU.

One call sorts the rows by expert, runs the products and sums. An expert that no row takes is not
read, and a row's result has the same bits in any batch. Contract and definition: ops/experts.py.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from stoker.ops.experts import ExpertWeights
from stoker.ops.huge_pages import zeros
from stoker.ops.linear import interleaved, panel_halves
from stoker.ops.native.build import load_kernels, signature
from stoker.ops.routing import Routes


class NativeExperts:
    """`run_experts` with weights in float32 or bfloat16, each of up and down in its own.

    Attributes:
        up: (E, panels, D, width), the outputs of a panel side by side (native/panels.h), gates
            beside what they gate; in the dtype of the weights that were given.
        down: (E, panels, F, width).
    """

    def __init__(self, weights: ExpertWeights) -> None:
        library = load_kernels("experts")
        assert library is not None, "no C compiler"
        self._kernel = signature(library.experts, "ppppppppppppp iiiiiiiiii ff")
        self._scratch_bytes = library.scratch_bytes
        self._settings = Settings(weights, library)
        lanes, gated = library.panel_width() // 2, weights.gated
        self.up = _float_panels(weights.up, lanes, gated)
        self.down = _float_panels(weights.down, lanes, False)
        self.up_tensors, self.down_tensors = (self.up,), (self.down,)
        self._up_bias = stack_biases(weights.up_bias, lanes, gated)
        self._down_bias = stack_biases(weights.down_bias, lanes, False)

    def __call__(self, x: Tensor, routes: Routes, add: Tensor | None = None) -> Tensor:
        rows, size = x.shape
        own, each = self._settings, routes.experts.shape[1]
        pairs, x = rows * each, x.contiguous()
        experts, weights = routes.experts.contiguous(), routes.weights.contiguous()
        add = add if add is None else add.contiguous()
        y = torch.empty(rows, size)
        packed, middle = torch.empty(pairs * size), torch.empty(pairs * own.inner)
        memory = torch.empty(self._scratch_bytes(pairs, own.experts), dtype=torch.uint8)
        self._kernel(
            *pointers(x, experts, weights, self.up, self._up_bias, self.down, self._down_bias),
            own.gate,
            *pointers(add, y, packed, middle, memory),
            *(rows, each, own.experts, size, own.inner, own.gated),
            self.up.dtype == torch.bfloat16,
            self.down.dtype == torch.bfloat16,
            *(own.weighs_input, own.clamps, own.limit, own.shift),
        )
        return y


class Settings:
    """What the kernels are told beside weights and rows."""

    def __init__(self, weights: ExpertWeights, library: ctypes.CDLL) -> None:
        self.experts, _, self.inner = weights.down.shape
        self.gated, self.weighs_input = weights.gated, weights.weighs_input
        self.clamps = weights.limit is not None
        self.limit = math.inf if weights.limit is None else weights.limit
        self.shift = weights.shift
        function = getattr(library, f"gate_{weights.activation}")
        self.gate = ctypes.cast(function, ctypes.c_void_p)


def pointers(*tensors: Tensor | None) -> Iterable[int | None]:
    return (None if tensor is None else tensor.data_ptr() for tensor in tensors)


def stack(experts: Iterable[Tensor], count: int) -> Tensor:
    """The tensors of `count` experts, one after another in memory that is taken once."""
    stacked: Tensor | None = None
    for index, one in enumerate(experts):
        if stacked is None:
            stacked = zeros((count, *one.shape), one.dtype)
        stacked[index].copy_(one)
    assert stacked is not None
    return stacked


def stack_biases(bias: Tensor | None, lanes: int, gated: bool) -> Tensor | None:
    """bias (E, N) -> (E, panels, 2, lanes)."""
    if bias is None:
        return None
    return torch.stack([panel_halves(one, lanes, gated) for one in bias.detach().contiguous()])


def _float_panels(weight: Tensor, lanes: int, gated: bool) -> Tensor:
    """weight (E, N, K) -> (E, panels, K, width)."""
    halves = (panel_halves(one.contiguous(), lanes, gated) for one in weight.detach())
    return stack(map(interleaved, halves), len(weight)).flatten(3).view(weight.dtype)
