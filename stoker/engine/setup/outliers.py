"""LLM.int8() at load: run a sample, see which activations are outliers, and quantise the rest.

The sample is the one that scales of an FP8 cache come from (`kv_scales.py`). So the columns follow
from the model alone, and a token's result is the same in any company.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stoker.engine.setup.kv_scales import run_sample
from stoker.model.layers.linear import Linear
from stoker.model.transformer import Transformer
from stoker.quant.choose import Formats
from stoker.quant.floats import Bf16Format
from stoker.quant.llm_int8 import LlmInt8, ObservedLinear, outlier_columns


@dataclass(frozen=True)
class OutlierReport:
    """What `split_outliers` has kept apart, over all quantised projections.

    Attributes:
        columns: input columns kept as floats.
        inputs: input columns in all.
        weight_bytes: of all quantised projections, the next included.
        outlier_bytes: of the columns kept apart.
    """

    columns: int
    inputs: int
    weight_bytes: int
    outlier_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.columns:,} of {self.inputs:,} input columns hold outliers and stay as they "
            f"are; projections take {self.weight_bytes:,} bytes, {self.outlier_bytes:,} of them "
            "for these columns"
        )


def split_outliers(model: Transformer, context: int, formats: Formats) -> OutlierReport:
    """Convert the projections of a prepared model, which are observed so far, to `LlmInt8`.

    Args:
        model: loaded and prepared with `ObservedFormat`; needs a cache for the sample beside it.
        context: tokens of the sample, 512 at most.
        formats: those it was loaded with.
    """
    run_sample(model, context)
    columns = inputs = weight_bytes = outlier_bytes = 0
    for linear in model.modules():
        if not isinstance(linear, Linear) or not isinstance(linear.product, ObservedLinear):
            continue
        weight, largest = linear.product.weight, linear.product.largest
        assert largest is not None, "the sample passes every projection"
        split = outlier_columns(largest)
        apart = weight[:, list(split)]
        exact = apart.dtype == torch.float32 and Bf16Format().from_dense(apart) is not None
        chosen = LlmInt8(
            split, torch.bfloat16 if exact else apart.dtype, weight.dtype, formats.head
        )
        parts = chosen.from_dense(weight)
        assert parts is not None
        linear.replace(chosen, chosen.prepare(parts, linear.bias))
        columns += len(split)
        inputs += linear.inputs
        weight_bytes += sum(part.nbytes for part in parts.values())
        outlier_bytes += parts["outlier_weight"].nbytes
    return OutlierReport(columns, inputs, weight_bytes, outlier_bytes)
