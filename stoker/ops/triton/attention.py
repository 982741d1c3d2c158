"""Attention on paged keys and values by our Triton kernels: chooses their sizes, launches them.

The kernels are in attention_kernels.py; what each of their programs does is decided in tasks.py.
Serves bfloat16, float16 and float32 queries, head sizes up to 256, caches of the queries' dtype
or FP8 (pages.py). Products have float32 sums; FP8 meets bfloat16 queries in float16.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor

from stoker.ops.attention import RaggedLayout, ScoreFunction, Scores
from stoker.ops.kv_pages import Fp8Pages, Pages
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
        q, out = q.contiguous(), torch.empty(q.shape, dtype=q.dtype, device=q.device)
        (_, heads, head_dim), (_, page, kv_heads, _) = q.shape, k.shape
        group = heads // kv_heads
        kinds = self.tuning.launches(q.dtype, head_dim)
        tasks = plan.tasks_of(Shape(kv_heads, *(kind.rows_for(group) // group for kind in kinds)))
        narrow, wide, members, merge_rows, merge_starts, merge_items = tasks.lists()
        narrow_count, wide_count, _, merges, partials = tasks.sizes
        part = torch.empty(partials, heads, head_dim, dtype=torch.float32, device=q.device)
        part_lse = torch.empty(partials, heads, dtype=torch.float32, device=q.device)
        k_data, k_scale = (k.data, k.scale) if isinstance(k, Fp8Pages) else (k, None)
        v_data, v_scale = (v.data, v.scale) if isinstance(v, Fp8Pages) else (v, None)
        assert k_data.stride() == v_data.stride()
        assert k_data.stride(3) == 1
        shared = {"HEADS": heads, "HEAD_DIM": head_dim, "BLOCK_D": max(16, power_of_2(head_dim))}
        shared |= {"SINKS": scores.sinks is not None, "LSE": lse is not None}
        for list_, count, launch in zip(
            (narrow, wide), (narrow_count, wide_count), kinds, strict=True
        ):
            if not count:
                continue
            self._kernels.attend_kernel[(kv_heads, count)](
                *(q, k_data, v_data, k_scale, v_scale, scores.sinks, scores.slopes),
                *(out, lse, part, part_lse),
                *(plan.tables, list_, members),
                *(scores.scale, scores.softcap or 0.0, scores.window or 0),
                *(plan.tables.stride(0), *k_data.stride()[:3]),
                GROUP=group,
                BLOCK_M=launch.rows_for(group),
                BLOCK_N=launch.keys,
                PAGE=page,
                SOFTCAP=bool(scores.softcap),
                SLOPES=scores.slopes is not None,
                WINDOWED=scores.window is not None,
                CHUNKED=scores.chunked,
                QUANTISED=k_scale is not None,
                APART=list_ is wide,
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
