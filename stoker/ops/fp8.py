"""Linear with 8-bit floating-point weights and activations (e4m3), for a GPU that multiplies them.

Weights have a scale for each output. A row of activations is quantised as it comes, with a scale
for each row (FP8 formats: Micikevicius et al., 2022). torch multiplies (`_scaled_mm`), with bf16
results; a Triton kernel quantises the rows. `Fp8Reference`, the definition, runs anywhere.
`fp8_gains` says which shapes are worth it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stoker.ops.kv_pages import FP8, FP8_MOST
from stoker.ops.linear import LinearFn
from stoker.ops.triton.available import triton_serves

_LEAST_SIZE = 4096
_MULTIPLE = 16  # what the product asks of both sizes

QuantizeRows = Callable[[Tensor], tuple[Tensor, Tensor]]


def fp8_gains(outputs: int, inputs: int) -> bool:
    """Whether an 8-bit product of this shape is expected to be faster than a bf16 one.

    Times published for an H200 (vLLM 0.24, in NVIDIA's aiconfigurator), bf16 over FP8: for 16 to
    8,192 rows 1.14 to 1.69, and once 0.97, at (6144, 4096), (12288, 4096) and (4096, 12288); at
    (1024, 3072) less than 1 throughout.
    """
    sizes = (outputs, inputs)
    return min(sizes) >= _LEAST_SIZE and all(size % _MULTIPLE == 0 for size in sizes)


def why_not_fp8(device: torch.device) -> str | None:
    """Why a device can't multiply 8-bit floating-point numbers, and what can be done, or None."""
    needs = "fp8 needs an NVIDIA GPU of compute capability 8.9 or more (Ada, Hopper or later)"
    if device.type != "cuda":
        return f"{needs}, not {device}; use int8 or float32"
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 9):
        name = torch.cuda.get_device_name(device)
        return f"{needs}; this GPU is {name} ({'.'.join(map(str, capability))}); use bfloat16"
    return None


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (M, K) -> numbers (M, K) float8_e4m3fn and scales (M, 1) float32.

    x is close to numbers * scales. The largest of a row becomes 448. A row that is not finite gets
    a scale that is not.
    """
    values = x.float()
    scales = values.abs().amax(dim=1, keepdim=True) / FP8_MOST
    by = torch.where(scales > 0, scales, 1.0)
    return (values / by).clamp(-FP8_MOST, FP8_MOST).to(FP8), scales


class Fp8Reference:
    """The definition: x (M, K) -> (M, N) in the dtype of x, plus `add`.

    `weight` (N, K) float8_e4m3fn and `scale` (N, 1) float32 are those of `quantize_rows`.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.weight, self.scale, self.bias = weight, scale, bias

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight, self.scale)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        numbers, scales = quantize_rows(x)
        exact = numbers.float() @ self.weight.float().t() * (scales * self.scale.t())
        y = exact if self.bias is None else exact + self.bias
        return y.to(x.dtype) if add is None else y.to(x.dtype).add_(add)


class Fp8Linear:
    """`Fp8Reference` for bf16 through torch's product.

    Attributes:
        weight: (N, K) float8_e4m3fn.
        scale: (N, 1) float32.
    """

    def __init__(
        self, weight: Tensor, scale: Tensor, bias: Tensor | None, quantize: QuantizeRows
    ) -> None:
        self.weight, self.scale, self.bias = weight, scale, bias
        self._quantize = quantize

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.weight, self.scale)

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        numbers, scales = self._quantize(x)
        y: Tensor = torch._scaled_mm(
            numbers,
            self.weight.t(),
            scale_a=scales,
            scale_b=self.scale.t(),
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return y if add is None else add.add_(y)


def prepare_fp8(weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> LinearFn:
    """A function of bf16 rows that computes `Fp8Reference(weight, scale, bias)`."""
    quantize: QuantizeRows = quantize_rows
    if triton_serves(weight.device.type):
        from stoker.ops.triton.quantize import quantize_rows as quantize
    return Fp8Linear(weight, scale, bias, quantize)
