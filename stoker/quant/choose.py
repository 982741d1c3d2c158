"""Which formats a model's weights take, by the settings and the device."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from stoker.errors import ConfigError
from stoker.ops.fp8 import why_not_fp8
from stoker.quant.floats import Bf16Format, FloatFormat
from stoker.quant.format import WeightFormat, nbytes
from stoker.quant.llm_int8 import ObservedFormat
from stoker.quant.rows8 import Fp8Rows, Int8Rows

_NO_EXPERTS = {
    "llm_int8": "quantization llm_int8 does not serve mixtures of experts; use int8 or auto",
    "fp8": "quantization fp8 does not serve mixtures of experts; use auto",
}


@dataclass(frozen=True)
class Formats:
    """The formats that a model's matrices may take; the first that a matrix fits is its own.

    Attributes:
        projections: of the layers' projections.
        head: of the head, and of an embedding that is the head.
        refusal: the message if the first format fits no projection of a model; "" if it need not.
        no_experts: the message for a model with experts; "" if they may take a format too.
    """

    projections: tuple[WeightFormat, ...]
    head: tuple[WeightFormat, ...]
    refusal: str = ""
    no_experts: str = ""

    def quantize_any(self, shapes: Iterable[tuple[int, int]]) -> bool:
        """Whether the first format applies to at least one of these matrices."""
        return any(self.projections[0].applies_to(*shape) for shape in shapes)

    def nbytes(self, outputs: int, inputs: int) -> int:
        """The most bytes that a projection (outputs, inputs) may take."""
        sizes = []
        for weight_format in self.projections:
            if weight_format.applies_to(outputs, inputs):
                sizes.append(nbytes(weight_format, outputs, inputs))
                if weight_format.holds_all:
                    break
        return max(sizes)


def choose_formats(quantization: str, dtype: torch.dtype, device: torch.device) -> Formats:
    """The formats for floating-point weights that are loaded in `dtype`.

    Args:
        quantization: as in `EngineOptions`.
        dtype: of the arithmetic.
        device: where the weights are.

    Raises:
        ConfigError: the device can't multiply what was asked for.
    """
    check_device(quantization, device)
    if quantization == "llm_int8" and device.type == "cpu" and dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"quantization llm_int8 computes in float32 on a CPU, not in dtype={name!r}; "
            "leave dtype out"
        )
    plain: tuple[WeightFormat, ...] = (FloatFormat(dtype),)
    if device.type == "cpu" and dtype == torch.float32:
        plain = (Bf16Format(), *plain)
    if quantization == "int8":
        return Formats((Int8Rows(),), (Int8Rows(),))
    if quantization == "llm_int8":
        refusal = (
            "quantization llm_int8 fits no projection of this model: both sizes must be multiples "
            "of 8; use int8 or float32"
        )
        return Formats((ObservedFormat(dtype), *plain), plain, refusal, _NO_EXPERTS["llm_int8"])
    if quantization == "fp8":  # but for the head, whose errors would go straight into the draws
        refusal = (
            "quantization fp8 gains nothing here: no projection of this model has 4,096 inputs "
            "and outputs or more; use bfloat16"
        )
        return Formats((Fp8Rows(), *plain), plain, refusal, _NO_EXPERTS["fp8"])
    return Formats(plain, plain)


def check_device(quantization: str, device: torch.device) -> None:
    """See that `device` can multiply weights of this quantization.

    Raises:
        ConfigError: it can't; says what would do.
    """
    if quantization == "int8" and device.type != "cpu":
        raise ConfigError(
            f"quantization int8 serves a CPU, not {device}; use fp8, or dtype bfloat16 or float16"
        )
    reason = why_not_fp8(device) if quantization == "fp8" else None
    if reason:
        raise ConfigError(f"quantization {reason}")
