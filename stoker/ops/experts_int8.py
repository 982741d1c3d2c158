"""Layers of experts with weights and activations in 8-bit integers, as ops/int8.py has them.

A row is quantised once for all its experts, and what an expert makes of it again. Fast path on a
CPU: one C call (native/experts_int8.c); reference: a loop over experts.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace

import torch
from torch import Tensor

from stoker.ops.experts import ExpertWeights, gate
from stoker.ops.experts_native import Settings, pointers, stack, stack_biases
from stoker.ops.int8 import Int8Reference, grouped_inputs, quantize_rows
from stoker.ops.linear import panel_halves
from stoker.ops.native.build import load_kernels, signature
from stoker.ops.routing import Routes


class Int8ReferenceExperts:
    """The definition: `run_experts` with each product an `Int8Reference`."""

    def __init__(self, weights: ExpertWeights) -> None:
        self._weights = replace(weights, up=weights.up[:0], down=weights.down[:0])
        self._up = _references(weights.up, weights.up_bias)
        self._down = _references(weights.down, weights.down_bias)
        self.up_tensors, self.down_tensors = (
            tuple(tensor for one in products for tensor in one.tensors)
            for products in (self._up, self._down)
        )

    def __call__(self, x: Tensor, routes: Routes, add: Tensor | None = None) -> Tensor:
        out = torch.zeros_like(x) if add is None else add.clone()
        for expert, (up, down) in enumerate(zip(self._up, self._down, strict=True)):
            rows, places = (routes.experts == expert).nonzero(as_tuple=True)
            scale = routes.weights[rows, places, None]
            weighs = self._weights.weighs_input
            inner = x[rows] * scale if weighs else x[rows]
            y = down(gate(up(inner), self._weights))
            out.index_add_(0, rows, y if weighs else y * scale)
        idle = routes.weights.masked_fill(routes.experts < len(self._up), 0.0)
        return out + x * idle.sum(-1, keepdim=True)


class NativeInt8Experts:
    """`Int8ReferenceExperts` through the C kernel.

    Attributes:
        up, down: (E, panels, groups, width, group) uint8, the integers and the kernel's offset.
        up_scale, down_scale: (E, panels, 2, lanes) float32.
    """

    def __init__(self, weights: ExpertWeights) -> None:
        library = load_kernels("experts_int8")
        assert library is not None, "no C compiler"
        self._kernel = signature(library.experts_int8, "ppppppppppppppppp iiiiiiii ff")
        self._scratch_bytes = library.scratch_bytes
        self._settings = Settings(weights, library)
        self._input_bytes = max(library.input_bytes(weights.down.shape[n]) for n in (1, 2))
        lanes, gated = library.panel_width() // 2, weights.gated
        self.up, self.up_scale = _integer_panels(weights.up, library, gated)
        self.down, self.down_scale = _integer_panels(weights.down, library, False)
        self.up_tensors = (self.up, self.up_scale)
        self.down_tensors = (self.down, self.down_scale)
        self._up_bias = stack_biases(weights.up_bias, lanes, gated)
        self._down_bias = stack_biases(weights.down_bias, lanes, False)

    def __call__(self, x: Tensor, routes: Routes, add: Tensor | None = None) -> Tensor:
        rows, size = x.shape
        own, each = self._settings, routes.experts.shape[1]
        pairs, x = rows * each, x.contiguous()
        experts, weights = routes.experts.contiguous(), routes.weights.contiguous()
        add = add if add is None else add.contiguous()
        y = torch.empty(rows, size)
        out, middle = torch.empty(pairs * size), torch.empty(pairs * own.inner)
        integers = torch.empty(pairs * self._input_bytes, dtype=torch.uint8)
        worth = torch.empty(pairs, 2)
        memory = torch.empty(self._scratch_bytes(pairs, own.experts), dtype=torch.uint8)
        self._kernel(
            *pointers(x, experts, weights, self.up, self.up_scale, self._up_bias),
            *pointers(self.down, self.down_scale, self._down_bias),
            own.gate,
            *pointers(add, y, out, middle, integers, worth, memory),
            *(rows, each, own.experts, size, own.inner, own.gated),
            *(own.weighs_input, own.clamps, own.limit, own.shift),
        )
        return y


def _references(weight: Tensor, bias: Tensor | None) -> list[Int8Reference]:
    return [
        Int8Reference(*quantize_rows(one.detach().float()), None if bias is None else bias[expert])
        for expert, one in enumerate(weight)
    ]


def _integer_panels(weight: Tensor, library: ctypes.CDLL, gated: bool) -> tuple[Tensor, Tensor]:
    """weight (E, N, K) -> `NativeInt8Experts.up` and `up_scale`, or those of down."""
    lanes = library.panel_width() // 2
    scales = []

    def panels(one: Tensor) -> Tensor:
        integers, scale = quantize_rows(one.float())
        scales.append(panel_halves(scale, lanes, gated))
        return grouped_inputs(panel_halves(integers, lanes, gated).flatten(1, 2), library)

    return stack(map(panels, weight.detach()), len(weight)), torch.stack(scales)
