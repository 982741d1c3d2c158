"""Attention by PyTorch's own `varlen_attn` over a block table: a thin adapter.

torch 2.12 gave it a block table, which only FlashAttention-3 (Shah et al., 2024) reads: another
package (flash_attn_interface), on GPUs of capability 9. It has no soft cap, slopes or chunks, no
sinks (they are applied after, from the log-sum-exp) and shares no prefixes. `varlen_serves` says
whether all of it is there; nothing else here is called if not.
"""

from __future__ import annotations

import importlib.util
import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from stoker.ops.attention import RaggedLayout, Scores, with_sinks
from stoker.ops.kv_pages import Pages


def varlen_serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's call reads pages here; activates FlashAttention-3 if it is installed."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    if torch.cuda.get_device_capability(device)[0] != 9:
        return False
    try:
        from torch.nn import attention
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    wanted = {"block_table", "seqused_k", "enable_gqa"}
    if not wanted <= inspect.signature(varlen_attn).parameters.keys():
        return False
    if attention.current_flash_attention_impl() == "FA3":
        return True
    if importlib.util.find_spec("flash_attn_interface") is None:
        return False
    try:
        attention.activate_flash_attention_impl("FA3")
    except (ImportError, RuntimeError, ValueError):
        return False
    return True


@dataclass
class _VarlenPlan:
    starts: Tensor  # (S + 1,) int32
    contexts: Tensor  # (S,) int32
    tables: Tensor  # (S, width) int32
    most_queries: int
    most_keys: int


class VarlenAttention:
    """An `Attention` where `varlen_serves`, for scores without soft cap, slopes and chunks."""

    def plan(self, layout: RaggedLayout) -> _VarlenPlan:
        device = layout.block_tables.device
        return _VarlenPlan(
            torch.tensor(layout.query_starts, dtype=torch.int32).to(device, non_blocking=True),
            torch.tensor(layout.context_lens, dtype=torch.int32).to(device, non_blocking=True),
            layout.block_tables.to(torch.int32),
            max(end - start for start, end in pairwise(layout.query_starts)),
            max(layout.context_lens),
        )

    def run(self, plan: _VarlenPlan, q: Tensor, k: Pages, v: Pages, scores: Scores) -> Tensor:
        return self.run_with_lse(plan, q, k, v, scores)[0]

    def run_with_lse(
        self, plan: _VarlenPlan, q: Tensor, k: Pages, v: Pages, scores: Scores
    ) -> tuple[Tensor, Tensor]:
        from torch.nn.attention import varlen

        assert scores.softcap is None
        assert not scores.chunked
        assert scores.slopes is None
        if scores.modify is not None:
            raise ValueError(
                f"attention_backend='varlen' has no place for a score function "
                f"({scores.modify.__qualname__}); take 'triton' or 'reference'"
            )
        call: Any = varlen.varlen_attn
        out, lse = call(
            *(q, k, v, plan.starts, None, plan.most_queries, plan.most_keys),
            return_aux=varlen.AuxRequest(lse=True),
            scale=scores.scale,
            window_size=(-1 if scores.window is None else scores.window - 1, 0),
            enable_gqa=True,
            seqused_k=plan.contexts,
            block_table=plan.tables,
        )
        return with_sinks(out, lse.T, scores.sinks)  # of the shape (H, T)
