"""Weights as floating-point numbers, in the dtype of the arithmetic or in one half as wide."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from stoker.ops.experts import ExpertsFn, ExpertWeights
from stoker.ops.experts_native import NativeExperts
from stoker.ops.experts_select import prepare_experts
from stoker.ops.linear import LinearFn, NativeLinear, prepare_gated, prepare_linear
from stoker.ops.native.build import load_kernels
from stoker.quant.format import Parts, PartSpec, slice_rows


@dataclass(frozen=True)
class FloatFormat:
    """Numbers in the dtype that they are multiplied in: float32, bfloat16 or float16."""

    dtype: torch.dtype
    holds_all: ClassVar[bool] = True

    def parts(self, outputs: int, inputs: int) -> dict[str, PartSpec]:
        return {"weight": PartSpec((outputs, inputs), self.dtype)}

    def slice_outputs(self, parts: Parts, start: int, stop: int) -> Parts:
        return slice_rows(parts, start, stop)

    def applies_to(self, outputs: int, inputs: int) -> bool:
        return True

    def from_dense(self, weight: Tensor) -> Parts | None:
        return {"weight": weight}

    def to_dense(self, parts: Parts) -> Tensor:
        return parts["weight"]

    def prepare(self, parts: Parts, bias: Tensor | None) -> LinearFn:
        return prepare_linear(parts["weight"], bias)

    def prepare_gated(self, parts: Parts, bias: Tensor | None, activation: str) -> LinearFn | None:
        return prepare_gated(parts["weight"], bias, activation)

    def prepare_experts(self, weights: ExpertWeights) -> ExpertsFn | None:
        return prepare_experts(weights)


@dataclass(frozen=True)
class Bf16Format:
    """bfloat16 numbers, multiplied in float32 by a CPU.

    Most published weights are bf16 numbers, whatever dtype they were loaded in. They take half
    the memory this way, and a product's bits are those of `FloatFormat(torch.float32)`.
    """

    holds_all: ClassVar[bool] = False

    def parts(self, outputs: int, inputs: int) -> dict[str, PartSpec]:
        return {"weight": PartSpec((outputs, inputs), torch.bfloat16)}

    def slice_outputs(self, parts: Parts, start: int, stop: int) -> Parts:
        return slice_rows(parts, start, stop)

    def applies_to(self, outputs: int, inputs: int) -> bool:
        return sys.byteorder == "little" and load_kernels("linear") is not None

    def from_dense(self, weight: Tensor) -> Parts | None:
        """The upper halves of float32 numbers whose lower halves are all zero."""
        halves = weight.detach().contiguous().view(torch.int16)
        if halves[..., ::2].any():
            return None
        return {"weight": halves[..., 1::2].view(torch.bfloat16)}

    def to_dense(self, parts: Parts) -> Tensor:
        return parts["weight"].float()

    def prepare(self, parts: Parts, bias: Tensor | None) -> LinearFn:
        return NativeLinear(parts["weight"], bias)

    def prepare_gated(self, parts: Parts, bias: Tensor | None, activation: str) -> LinearFn | None:
        return NativeLinear(parts["weight"], bias, activation)

    def prepare_experts(self, weights: ExpertWeights) -> ExpertsFn | None:
        if sys.byteorder != "little" or load_kernels("experts") is None:
            return None
        up, down = self.from_dense(weights.up), self.from_dense(weights.down)
        if up is None and down is None:
            return None
        narrow = {name: one["weight"] for name, one in (("up", up), ("down", down)) if one}
        return NativeExperts(replace(weights, **narrow))  # type: ignore[arg-type]
