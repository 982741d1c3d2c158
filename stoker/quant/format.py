"""What a format of weights answers for: its parts, their dense matrix, and the product.

A matrix W (outputs, inputs) lies in memory as named tensors, its *parts*. Plain floats have one,
8-bit rows two:

    FloatFormat     weight (N, K) float32
    Int8Rows        weight (N, K) int8, weight_scale (N, 1) float32

The name of a part is the end of its name in a checkpoint (`q_proj.weight`,
`q_proj.weight_scale`), so a quantised checkpoint is read part by part without a table of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stoker.ops.experts import ExpertsFn, ExpertWeights
from stoker.ops.linear import LinearFn

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class PartSpec:
    """Shape and dtype of a part."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class WeightFormat(Protocol):
    """One way to store a matrix; see the head of this file.

    Attributes:
        holds_all: whether `from_dense` takes any values, and never returns None.
    """

    @property
    def holds_all(self) -> bool: ...

    def parts(self, outputs: int, inputs: int) -> dict[str, PartSpec]:
        """The parts of a matrix (outputs, inputs), by name."""

    def slice_outputs(self, parts: Parts, start: int, stop: int) -> Parts:
        """Views of the parts of outputs `start` to `stop`.

        A fused projection is filled through them, tensor by tensor as a checkpoint has them, so
        that nothing is held twice. With 4 query heads and 2 key and value heads of 16 numbers:

            parts                  outputs   0 .. 64 | 64 .. 96 | 96 .. 128
            filled from                      q_proj  | k_proj   | v_proj
            a scale for each output          rows 64 .. 96 for k_proj
            packed in words of 8 outputs     words 8 .. 12 for k_proj

        Raises:
            ModelError: the format can't be divided there.
        """

    def applies_to(self, outputs: int, inputs: int) -> bool:
        """Whether a matrix (outputs, inputs) may be stored so, and is worth it."""

    def from_dense(self, weight: Tensor) -> Parts | None:
        """The parts of `weight`; None if the format is exact and can't hold the values.

        They may share the memory of `weight`.
        """

    def to_dense(self, parts: Parts) -> Tensor:
        """The matrix (outputs, inputs) that the parts stand for, in the dtype of the arithmetic.

        It is the reference: `prepare(parts)` computes `linear_reference(x, to_dense(parts))`, as
        exactly as the format's arithmetic allows.
        """

    def prepare(self, parts: Parts, bias: Tensor | None) -> LinearFn:
        """The product for the device that the parts are on; it keeps what it needs of them."""

    def prepare_gated(self, parts: Parts, bias: Tensor | None, activation: str) -> LinearFn | None:
        """The product with a gated activation; None if no kernel does (`ops.linear`)."""

    def prepare_experts(self, weights: ExpertWeights) -> ExpertsFn | None:
        """A layer of experts with these floats in this format.

        None if the format is exact and holds none of their matrices, or if it serves no experts.
        It may share the memory of `weights`.
        """


def nbytes(weight_format: WeightFormat, outputs: int, inputs: int) -> int:
    """The bytes that a matrix (outputs, inputs) takes in this format."""
    return sum(part.nbytes for part in weight_format.parts(outputs, inputs).values())


def convert(weight: Tensor, formats: Sequence[WeightFormat]) -> tuple[WeightFormat, Parts]:
    """The first of `formats` that applies to `weight` (N, K) and can hold it, and its parts."""
    for weight_format in formats:
        if weight_format.applies_to(*weight.shape):
            parts = weight_format.from_dense(weight)
            if parts is not None:
                return weight_format, parts
    raise AssertionError(f"no format takes a matrix {tuple(weight.shape)}")


def make_product(
    weight: Tensor, formats: Sequence[WeightFormat], bias: Tensor | None = None
) -> LinearFn:
    """The product by a dense `weight` (N, K) in the first of `formats` that fits it."""
    weight_format, parts = convert(weight, formats)
    return weight_format.prepare(parts, bias)


def make_experts(weights: ExpertWeights, formats: Sequence[WeightFormat]) -> ExpertsFn:
    """A layer of experts in the first of `formats` that serves it."""
    made = (one.prepare_experts(weights) for one in formats)
    return next(one for one in made if one is not None)


def slice_rows(parts: Parts, start: int, stop: int) -> Parts:
    """`slice_outputs` of formats all of whose parts have a row for each output."""
    return {name: part[start:stop] for name, part in parts.items()}
