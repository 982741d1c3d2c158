"""Kernels alone, at the sizes that decide: decode attention in TB/s, products in TFLOP/s.

attention.py has all shapes of attention, profiles.py what lies between.
"""

from __future__ import annotations

import argparse
from typing import Any

import attention
import torch

from stoker.ops.fp8 import why_not_fp8
from stoker.ops.linear import prepare_linear
from stoker.ops.triton.attention import TritonAttention
from stoker.quant.choose import choose_formats
from stoker.quant.format import make_product

DECODE = (256, 1024)  # sequences, tokens of each
PRODUCTS = ((6144, 4096), (12288, 4096), (4096, 12288), (3072, 1024))  # outputs, inputs
ROWS = (256, 4096)
LAYERS = 8  # products in a row, so that weights come from memory


def run_kernels(device: torch.device, smoke: bool, limit: float) -> dict[str, Any]:
    """Rates by kind; a product's are (outputs, inputs, rows, TFLOP/s)."""
    decode, products, rows, layers = DECODE, PRODUCTS, ROWS, LAYERS
    repeats, cold, copied = 20, attention.COLD, 1 << 30
    if smoke:
        decode, products, rows, layers = (2, 40), ((32, 16),), (4,), 1
        repeats, cold, copied = 1, 1, 1 << 16
    found: dict[str, Any] = {"copy_TB_s": attention.copy_rate(device, copied, repeats)}
    rates: list[dict[str, Any]] = []
    args = argparse.Namespace(device=device, cold=cold, repeats=repeats)
    attention.decodes(args, {"triton": TritonAttention(device)}, (decode,), rates)
    found["decode_TB_s"] = {row["cache"]: row["TB/s"] for row in rates}
    found["decode_error"] = {row["cache"]: row["error"] for row in rates}
    kinds: dict[str, Any] = {"bf16": prepare_linear}
    if why_not_fp8(device) is None:
        formats = choose_formats("fp8", torch.bfloat16, device)
        kinds["fp8"] = lambda weight: make_product(weight, formats.projections)
    found["products_TFLOP_s"] = {
        kind: [
            (n, k, m, product_rate(make, device, m, k, n, layers, repeats))
            for n, k in products
            for m in rows
        ]
        for kind, make in kinds.items()
    }
    return found


def product_rate(
    make: Any, device: torch.device, m: int, k: int, n: int, layers: int, repeats: int
) -> float:
    """TFLOP/s of x (m, k) by weights (n, k), which `make` has prepared."""
    x = torch.randn(m, k, device=device, dtype=torch.bfloat16)
    linears = [make(torch.randn(n, k, device=device, dtype=torch.bfloat16)) for _ in range(layers)]

    def work() -> None:
        for linear in linears:
            linear(x)

    with torch.inference_mode():
        return layers * 2 * m * k * n / attention.seconds(work, repeats) / 1e12
