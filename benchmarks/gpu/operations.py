"""Operations alone, between and beside attention: their time next to what their bytes ask for.

A figure is the best of several replays of a CUDA graph of one call. Inputs of these sizes may lie
in the second-level cache, which draws and norms are also given by the model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from attention import seconds
from torch import Tensor

from stoker.ops.draw import DrawParams
from stoker.ops.fp8 import quantize_rows, why_not_fp8
from stoker.ops.rope import HeadNorms, rope_table
from stoker.ops.select import select_operations

ROWS, VOCAB = 256, 151936
HIDDEN, HEADS, KV_HEADS, DIM, FFN = 4096, 32, 8, 128, 12288
REPEATS = 20


def _time(work: Callable[[], object], smoke: bool) -> float:
    """Milliseconds."""
    with torch.inference_mode():
        return seconds(work, 1 if smoke else REPEATS) * 1e3


def draws(device: torch.device, smoke: bool) -> dict[str, float]:
    """Milliseconds of a step's draws, from logits as a model gives them and from flat ones."""
    count, vocab = (3, 500) if smoke else (ROWS, VOCAB)
    draw = select_operations(device, torch.bfloat16).draw
    torch.manual_seed(0)
    usual, flat = (
        (torch.randn(count, vocab, device=device) * scale).bfloat16() for scale in (3.0, 0.01)
    )
    heat = torch.full((count,), 0.8, device=device)
    top_k = torch.full((count,), 20, device=device)
    top_p = torch.full((count,), 0.95, device=device, dtype=torch.float64)
    seeds = torch.arange(count, device=device)

    def ms(logits: Tensor, k: Tensor | None, p: Tensor | None, temperature: Tensor) -> float:
        params = DrawParams(temperature, seeds, seeds, k, p)
        return _time(lambda: draw(logits, params), smoke)

    return {
        "greedy_ms": ms(usual, None, None, torch.zeros_like(heat)),
        "plain_ms": ms(usual, None, None, heat),
        "top_k20_top_p0.95_ms": ms(usual, top_k, top_p, heat),
        "top_p0.95_ms": ms(usual, None, top_p, heat),
        "top_p0.95_flat_ms": ms(flat, None, top_p, heat),
        "finite_ms": _time(lambda: usual.aminmax(dim=-1), smoke),
        "read_once_at_4.3_TB_s_ms": usual.nbytes / 4.3e12 * 1e3,
    }


def rows(device: torch.device, smoke: bool) -> dict[str, dict[str, float]]:
    """Microseconds and TB/s of what goes row by row, for a step of decodes and a full one."""
    found = {}
    for count in (3,) if smoke else (ROWS, 2048):
        for name, (call, size) in _row_calls(device, count).items():
            ms = _time(call, smoke)
            found[f"{name} of {count}"] = {"us": ms * 1e3, "TB_s": size / ms / 1e9}
    return found


def _row_calls(device: torch.device, count: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Operations on `count` rows, each with the bytes that it must read and write."""
    ops = select_operations(device, torch.bfloat16)

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    x, weight, wide = made(count, HIDDEN), made(HIDDEN), made(count, 2 * FFN)
    qkv, norms = made(count, (HEADS + 2 * KV_HEADS) * DIM), HeadNorms(made(DIM), made(DIM), 1e-6)
    table = rope_table(torch.rand(DIM // 2), 16)[torch.arange(count) % 16].to(device)
    cells = torch.arange(count, device=device)
    k, v = (made(-(-count // 16), 16, KV_HEADS, DIM) for _ in range(2))
    return {
        "rms_norm": (lambda: ops.rms_norm(x, weight, 1e-6), 2 * x.nbytes),
        "activate": (lambda: ops.activate(wide, "silu", True), wide.nbytes * 3 // 2),
        "rotate_and_store": (
            lambda: ops.rotate_and_store(qkv, norms, table, cells, k, v),
            2 * qkv.nbytes + table.nbytes,
        ),
    }


def products(device: torch.device, smoke: bool) -> dict[str, float]:
    """Milliseconds of the residual's sum and of FP8 products, in their variants."""
    m, k, n = (4, 32, 16) if smoke else (ROWS, HIDDEN, FFN)
    x = torch.randn(m, n, device=device, dtype=torch.bfloat16)
    down = torch.randn(k, n, device=device, dtype=torch.bfloat16)
    residual = torch.zeros(m, k, device=device, dtype=torch.bfloat16)
    found = {
        "addmm_ms": _time(lambda: residual.addmm_(x, down.t()), smoke),
        "linear_then_add_ms": _time(lambda: F.linear(x, down).add_(residual), smoke),
        "linear_ms": _time(lambda: F.linear(x, down), smoke),
    }
    if why_not_fp8(device) is None:
        weight, scale = quantize_rows(torch.randn(n, k, device=device, dtype=torch.bfloat16))
        numbers, scales = quantize_rows(torch.randn(m, k, device=device, dtype=torch.bfloat16))
        for fast in (True, False):

            def product(fast: bool = fast) -> Tensor:
                return torch._scaled_mm(
                    numbers,
                    weight.t(),
                    scale_a=scales,
                    scale_b=scale.t(),
                    out_dtype=torch.bfloat16,
                    use_fast_accum=fast,
                )

            found[f"scaled_mm_{'fast' if fast else 'exact'}_ms"] = _time(product, smoke)
        exact = (numbers.float() * scales) @ (weight.float() * scale).t()
        for fast in (True, False):
            error = (product(fast).float() - exact).norm() / exact.norm()
            found[f"scaled_mm_{'fast' if fast else 'exact'}_error"] = float(error)
    return found
