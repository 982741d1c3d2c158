"""Attention on paged keys and values by our Triton kernels: chooses their sizes, launches them.

The kernels are in attention_kernels.py; what each of their programs does is decided in tasks.py.
Serves bfloat16, float16 and float32 queries, heads of up to 256 numbers, or keys of up to 576 with
values in them, and caches of the queries' dtype or FP8 (kv_pages.py). Products have float32 sums;
FP8 meets bfloat16 queries in float16.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor

from stoker.ops.attention import RaggedLayout, ScoreFunction, Scores
from stoker.ops.kv_pages import Fp8Pages, Pages
from stoker.ops.rounding import ceil_div
from stoker.ops.triton.available import interpreted
from stoker.ops.triton.plan import Shape, TritonPlan
from stoker.ops.triton.tasks import Cutting
from stoker.ops.triton.tuning import Tuning, power_of_2


@cache
def compilable(function: ScoreFunction) -> Any:
    """A score function as Triton compiles it into the kernel, when that is first launched with it.

    Raises:
        ValueError: its source can't be had, as that of a lambda, or of what was typed in a shell.
    """
    import triton

    try:
        inspect.getsource(function)
    except (OSError, TypeError) as problem:
        raise ValueError(
            f"the source of the score function {function!r} cannot be read ({problem}); define it "
            "with def, in a file"
        ) from None
    # interpreted, a kernel calls it as it is: its operators are those of the interpreter's tensors
    return function if interpreted() else triton.jit(function)


class TritonAttention:
    """An `Attention`; needs Triton, and a GPU or its interpreter."""

    def __init__(self, device: torch.device, tuning: Tuning | None = None) -> None:
        from stoker.ops.triton import attention_kernels

        self._kernels: Any = attention_kernels
        self.tuning = tuning or Tuning()
        processors = 1
        if device.type == "cuda":
            processors = torch.cuda.get_device_properties(device).multi_processor_count
        self.programs = self.tuning.waves * processors

    def plan(self, layout: RaggedLayout) -> TritonPlan:
        return TritonPlan(layout, layout.block_tables, self._cutting())

    def reserve(self, layout: RaggedLayout, sequences: int, queries: int) -> TritonPlan:
        """The plan of `layout`, with room for any step of so many sequences and queries.

        Run it once, then capture a CUDA graph of it; the graph follows each `refill`.
        `layout.block_tables` is kept: the tables of later steps are to be copied into it. Rows
        of the output that no sequence of a step owns are not written.
        """
        return TritonPlan(layout, layout.block_tables, self._cutting(), (sequences, queries))

    def _cutting(self) -> Cutting:
        return Cutting(1, 1, self.programs, self.tuning.piece, self.tuning.shared)

    def run(self, plan: TritonPlan, q: Tensor, k: Pages, v: Pages, scores: Scores) -> Tensor:
        return self._call(plan, q, k, v, scores, None)

    def run_with_lse(
        self, plan: TritonPlan, q: Tensor, k: Pages, v: Pages, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        return self._call(plan, q, k, v, scores, lse), lse

    def _call(
        self,
        plan: TritonPlan,
        q: Tensor,
        k: Pages,
        v: Pages,
        scores: Scores,
        lse: Tensor | None,
    ) -> Tensor:
        q = q.contiguous()
        (_, heads, dim), (_, page, kv_heads, value_dim) = q.shape, v.shape
        out = torch.empty(*q.shape[:2], value_dim, dtype=q.dtype, device=q.device)
        kinds = self.tuning.launches(q.dtype, max(dim, value_dim))
        sharers = heads // kv_heads
        tiles = ceil_div(sharers, kinds[1].rows)
        group = ceil_div(sharers, tiles)
        sizes = [kind.rows_for(group) // group for kind in kinds]
        tasks = plan.tasks_of(Shape(kv_heads * tiles, *sizes))
        narrow, wide, members, merge_rows, merge_starts, merge_items = tasks.lists()
        narrow_count, wide_count, _, merges, partials = tasks.sizes
        part = torch.empty(partials, heads, value_dim, dtype=torch.float32, device=q.device)
        part_lse = torch.empty(partials, heads, dtype=torch.float32, device=q.device)
        k_data, k_scale = (k.data, k.scale) if isinstance(k, Fp8Pages) else (k, None)
        v_data, v_scale = (v.data, v.scale) if isinstance(v, Fp8Pages) else (v, None)
        assert k_data.stride(3) == v_data.stride(3) == 1
        shared = {"HEADS": heads, "VALUE_DIM": value_dim, "BLOCK_V": block_of(value_dim)}
        shared |= {"SINKS": scores.sinks is not None, "LSE": lse is not None}
        block, rest = blocks_of_key(dim, value_dim)
        inside = k_data.data_ptr() == v_data.data_ptr() and block == value_dim
        for list_, count, launch in zip(
            (narrow, wide), (narrow_count, wide_count), kinds, strict=True
        ):
            if not count:
                continue
            self._kernels.attend_kernel[(kv_heads * tiles, count)](
                *(q, k_data, v_data, k_scale, v_scale, scores.sinks, scores.slopes),
                *(out, lse, part, part_lse),
                *(plan.tables, list_, members),
                *(scores.scale, scores.softcap or 0.0, scores.window or 0),
                *(plan.tables.stride(0), *k_data.stride()[:3], *v_data.stride()[:3]),
                SHARERS=sharers,
                GROUP=group,
                HEAD_DIM=dim,
                BLOCK_D=block,
                BLOCK_R=rest,
                BLOCK_M=launch.rows_for(group),
                BLOCK_N=launch.keys,
                PAGE=page,
                SOFTCAP=bool(scores.softcap),
                SLOPES=scores.slopes is not None,
                WINDOWED=scores.window is not None,
                CHUNKED=scores.chunked,
                QUANTISED=k_scale is not None,
                APART=list_ is wide,
                INSIDE=inside,
                MODIFY=None if scores.modify is None else compilable(scores.modify),
                num_warps=launch.warps,
                num_stages=launch.stages,
                **shared,
            )
        if merges:
            self._kernels.merge_kernel[(heads, merges)](
                *(part, part_lse, scores.sinks, out, lse, merge_rows, merge_starts, merge_items),
                BLOCK_P=self.tuning.merged,
                num_warps=4,
                **shared,
            )
        return out


def block_of(numbers: int) -> int:
    """The block of a kernel that holds so many numbers: a power of 2, for products at least 16."""
    return max(16, power_of_2(numbers))


def blocks_of_key(dim: int, value_dim: int) -> tuple[int, int]:
    """The block of a key, and that of what lies beyond it, or 0.

    Keys that are wider than values are as a rule a power of 2 and a little more: 576 are 512 + 64,
    192 are 128 + 64. One block of 1024 or 256 would be as slow as it is wide.
    """
    block = block_of(dim)
    if dim <= value_dim or block == dim or block // 2 < 16 or dim > block * 3 // 4:
        return block, 0
    return block // 2, block_of(dim - block // 2)
