"""Weights of 8 bits with a scale for each output, in integers or in floating-point numbers.

Activations are quantised as they come, a scale for each row (`ops/int8.py`, `ops/fp8.py`). As
compressed-tensors stores W8A8 and FP8_DYNAMIC: `weight` (N, K), `weight_scale` (N, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stoker.ops import fp8, int8
from stoker.ops.experts import ExpertsFn, ExpertWeights
from stoker.ops.experts_select import prepare_int8_experts
from stoker.ops.fp8 import fp8_gains, prepare_fp8
from stoker.ops.int8 import prepare_int8
from stoker.ops.kv_pages import FP8
from stoker.ops.linear import LinearFn
from stoker.quant.format import Parts, PartSpec, slice_rows


@dataclass(frozen=True)
class Int8Rows:
    """Integers from -127 to 127, multiplied exactly by a CPU; what lies between is float32."""

    holds_all: ClassVar[bool] = True

    def parts(self, outputs: int, inputs: int) -> dict[str, PartSpec]:
        return {
            "weight": PartSpec((outputs, inputs), torch.int8),
            "weight_scale": PartSpec((outputs, 1), torch.float32),
        }

    def slice_outputs(self, parts: Parts, start: int, stop: int) -> Parts:
        return slice_rows(parts, start, stop)

    def applies_to(self, outputs: int, inputs: int) -> bool:
        return True

    def from_dense(self, weight: Tensor) -> Parts | None:
        integers, scales = int8.quantize_rows(weight.detach().float())
        return {"weight": integers, "weight_scale": scales[:, None]}

    def to_dense(self, parts: Parts) -> Tensor:
        return parts["weight"].float() * parts["weight_scale"]

    def prepare(self, parts: Parts, bias: Tensor | None) -> LinearFn:
        return prepare_int8(parts["weight"], parts["weight_scale"].squeeze(1), bias)

    def prepare_gated(self, parts: Parts, bias: Tensor | None, activation: str) -> LinearFn | None:
        return None

    def prepare_experts(self, weights: ExpertWeights) -> ExpertsFn | None:
        return prepare_int8_experts(weights)


@dataclass(frozen=True)
class Fp8Rows:
    """e4m3 numbers, multiplied by a GPU; what lies between is bfloat16.

    For shapes that gain by it (`fp8_gains`).
    """

    holds_all: ClassVar[bool] = True

    def parts(self, outputs: int, inputs: int) -> dict[str, PartSpec]:
        return {
            "weight": PartSpec((outputs, inputs), FP8),
            "weight_scale": PartSpec((outputs, 1), torch.float32),
        }

    def slice_outputs(self, parts: Parts, start: int, stop: int) -> Parts:
        return slice_rows(parts, start, stop)

    def applies_to(self, outputs: int, inputs: int) -> bool:
        return fp8_gains(outputs, inputs)

    def from_dense(self, weight: Tensor) -> Parts | None:
        numbers, scales = fp8.quantize_rows(weight.detach())
        return {"weight": numbers, "weight_scale": scales}

    def to_dense(self, parts: Parts) -> Tensor:
        return (parts["weight"].float() * parts["weight_scale"]).to(torch.bfloat16)

    def prepare(self, parts: Parts, bias: Tensor | None) -> LinearFn:
        return prepare_fp8(parts["weight"], parts["weight_scale"], bias)

    def prepare_gated(self, parts: Parts, bias: Tensor | None, activation: str) -> LinearFn | None:
        return None

    def prepare_experts(self, weights: ExpertWeights) -> ExpertsFn | None:
        return None
