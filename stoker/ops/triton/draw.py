"""Launches the kernels of draws: `Draw` (ops/draw.py) without the host, and mostly without a sort.

Rows without top-k and top-p are read once, and one chunk of them again. Of the others the tokens
that may be kept are gathered, mostly few, and searched. Min-p and typical-p cut the logits before,
in PyTorch; the latter sorts. A row's token is that of the definition
unless the running sum lies within 2e-6 of the whole from its random number, or from top-p: powers
are taken in float32.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from stoker.ops.draw import Drawn, DrawParams, cut_tails
from stoker.ops.triton import draw_kernels as kernels

CHUNK = 4096  # logits that a program sums up
GROUP = 64  # neighbours of which the largest logit is noted
BLOCK = 2048  # candidates looked at together
SCRATCH = 1 << 28  # bytes for candidates; more rows than fit come in parts


def draw(logits: Tensor, params: DrawParams) -> Drawn:
    """See `stoker.ops.draw.Draw`."""
    if params.min_p is not None or params.typical_p is not None:
        logits, params = cut_tails(logits, params)
    rows, vocab = logits.shape
    part = rows if params.top_k is None and params.top_p is None else SCRATCH // (8 * vocab)
    part = max(1, part)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    tops = torch.empty(rows, dtype=torch.float32, device=logits.device)
    for start in range(0, rows, part):
        at = slice(start, start + part)
        _draw(logits[at], params.select(at), tokens[at], tops[at])
    return Drawn(tokens, tops)


def _draw(logits: Tensor, params: DrawParams, out: Tensor, out_tops: Tensor) -> None:
    rows, vocab = logits.shape
    assert logits.stride(1) == 1
    chunks = triton.cdiv(vocab, CHUNK)
    temperature, top_k, top_p = params.temperature, params.top_k, params.top_p
    filtered = top_k is not None or top_p is not None

    def buffer(dtype: torch.dtype, width: int) -> Tensor:
        return torch.empty(rows, width, dtype=dtype, device=logits.device)

    tops, bests = buffer(torch.float32, chunks), buffer(torch.int32, chunks)
    sums = buffer(torch.float64, chunks)
    groups = buffer(torch.float32, chunks * CHUNK // GROUP if filtered else 0)
    kernels.sum_chunks[(rows, chunks)](
        *(logits, temperature, tops, sums, bests, groups, logits.stride(0), chunks),
        VOCAB=vocab,
        GROUPED=filtered,
        CHUNK=CHUNK,
        GROUP=GROUP,
        num_warps=8,
    )
    values, tokens = (
        buffer(dtype, vocab if filtered else 0) for dtype in (torch.float32, torch.int32)
    )
    counts = buffer(torch.int32, 1)
    given = (temperature if top_k is None else top_k, temperature if top_p is None else top_p)
    shape = {
        "VOCAB": vocab,
        "HAS_K": top_k is not None,
        "HAS_P": top_p is not None,
        "CHUNK": CHUNK,
        "BLOCK_C": triton.next_power_of_2(chunks),
        "BLOCK": BLOCK,
        "num_warps": 8,
    }
    if filtered:
        kernels.gather_candidates[(rows,)](
            *(logits, temperature, *given, tops, sums, groups, values, tokens, counts),
            *(logits.stride(0), chunks),
            GROUP=GROUP,
            **shape,
        )
    kernels.find_tokens[(rows,)](
        *(logits, temperature, *given, params.seeds, params.positions, tops, sums, bests),
        *(values, tokens, counts, out, out_tops, logits.stride(0), chunks),
        **shape,
    )
