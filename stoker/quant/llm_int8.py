"""LLM.int8(): 8-bit rows, but for the input columns where activations are outliers.

Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", 2022. A few
features of a large model's activations are many times larger than the rest. In a row quantised
with one scale they leave the others few of the 8 bits, so their columns of the weight are kept
apart, in the dtype they came in, and multiplied apart.

The paper looks for outliers in each batch. Here a matrix's columns are fixed when the model is
loaded, from a sample of tokens that is always the same, so a row's result depends on no other.
Loading takes two steps: layers are packed as `ObservedFormat`, the sample is run, and each matrix
is converted to `LlmInt8` with the columns that were observed (`engine/setup/outliers.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from stoker.ops.experts import ExpertsFn, ExpertWeights
from stoker.ops.int8 import MULTIPLE, SplitLinear, prepare_int8, quantize_rows
from stoker.ops.linear import LinearFn, PlainLinear, linear_reference
from stoker.ops.rounding import ceil_div
from stoker.quant.floats import FloatFormat
from stoker.quant.format import Parts, PartSpec, WeightFormat, convert

FACTOR = 2.0  # an outlier column's largest value, over the median column's
MOST = 64  # one column of so many, at most, is kept apart


@dataclass(frozen=True)
class LlmInt8:
    """Integers with a scale for each output; the weights of some input columns as floats.

    Attributes:
        columns: those kept apart, ascending.
        dtype: of their weights.
        arithmetic: of what lies between the products.
        plain: the formats that the columns kept apart may take for their product.
    """

    columns: tuple[int, ...]
    dtype: torch.dtype
    arithmetic: torch.dtype
    plain: tuple[WeightFormat, ...]
    holds_all: ClassVar[bool] = True

    def parts(self, outputs: int, inputs: int) -> dict[str, PartSpec]:
        count = len(self.columns)
        return {
            "weight": PartSpec((outputs, inputs), torch.int8),
            "weight_scale": PartSpec((outputs, 1), torch.float32),
            "outlier_columns": PartSpec((count,), torch.int64),
            "outlier_weight": PartSpec((outputs, count), self.dtype),
        }

    def slice_outputs(self, parts: Parts, start: int, stop: int) -> Parts:
        shared = {"outlier_columns": parts["outlier_columns"]}
        return {name: part[start:stop] for name, part in parts.items()} | shared

    def applies_to(self, outputs: int, inputs: int) -> bool:
        return True

    def from_dense(self, weight: Tensor) -> Parts | None:
        columns = torch.tensor(self.columns, dtype=torch.int64, device=weight.device)
        integers, scales = quantize_rows(weight.float().index_fill(1, columns, 0.0))
        return {
            "weight": integers,
            "weight_scale": scales[:, None],
            "outlier_columns": columns,
            "outlier_weight": weight[:, columns].to(self.dtype),
        }

    def to_dense(self, parts: Parts) -> Tensor:
        dense = parts["weight"].float() * parts["weight_scale"]
        dense[:, parts["outlier_columns"]] = parts["outlier_weight"].float()
        return dense.to(self.arithmetic)

    def prepare(self, parts: Parts, bias: Tensor | None) -> LinearFn:
        others = prepare_int8(parts["weight"], parts["weight_scale"].squeeze(1), bias)
        if not self.columns:
            return others
        chosen_format, chosen = convert(parts["outlier_weight"].to(self.arithmetic), self.plain)
        return SplitLinear(chosen_format.prepare(chosen, None), others, parts["outlier_columns"])

    def prepare_gated(self, parts: Parts, bias: Tensor | None, activation: str) -> LinearFn | None:
        return None

    def prepare_experts(self, weights: ExpertWeights) -> ExpertsFn | None:
        return None


class ObservedLinear(PlainLinear):
    """A plain product that keeps the largest magnitude of each input column it has met."""

    largest: Tensor | None = None

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        largest = x.abs().amax(0)
        self.largest = largest if self.largest is None else torch.maximum(self.largest, largest)
        return linear_reference(x, self.weight, self.bias, add)


class ObservedFormat(FloatFormat):
    """Floats whose products are observed; a model is loaded in it before it becomes `LlmInt8`."""

    def applies_to(self, outputs: int, inputs: int) -> bool:
        return outputs % MULTIPLE == 0 and inputs % MULTIPLE == 0

    def prepare(self, parts: Parts, bias: Tensor | None) -> LinearFn:
        return ObservedLinear(parts["weight"], bias)

    def prepare_gated(self, parts: Parts, bias: Tensor | None, activation: str) -> LinearFn | None:
        return None

    def prepare_experts(self, weights: ExpertWeights) -> ExpertsFn | None:
        return None


def outlier_columns(largest: Tensor) -> tuple[int, ...]:
    """The columns to keep apart, ascending, by each column's largest magnitude (K,).

    An outlier is more than twice as large as the median column: the paper's bounds are 6 for
    outliers and 3.5 for what other features reach. At most one column of 64 is kept apart.

        largest    3.1  2.8  40.0  3.3  2.9  7.5     twice the median: 6.2
        columns              2              5
    """
    bound = FACTOR * largest.median()
    count = min(int((largest > bound).sum()), ceil_div(len(largest), MOST))
    return tuple(sorted(largest.topk(count).indices.tolist()))
