"""Launches the kernels of draws: `Draw` (ops/sampling.py) without a sort and without the host.

Rows without top-k and top-p are read once, and one chunk of them again. Of the others the tokens
that may be kept are gathered, mostly few, and searched. A row's token is that of the definition
unless the running sum lies within 2e-6 of the whole from its random number, or from top-p: powers
are taken in float32.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from stoker.ops.triton import sampling_kernels as kernels
from stoker.ops.triton.available import mend_interpreter

CHUNK = 4096  # logits that a program sums up
GROUP = 64  # neighbours of which the largest logit is noted
BLOCK = 2048  # candidates looked at together
SCRATCH = 1 << 28  # bytes for candidates; more rows than fit come in parts


def draw(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    """See `stoker.ops.sampling.Draw`."""
    mend_interpreter()
    rows, vocab = logits.shape
    part = rows if top_k is None and top_p is None else max(1, SCRATCH // (8 * vocab))
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    for start in range(0, rows, max(1, part)):
        at = slice(start, start + part)
        k, p = (None if values is None else values[at] for values in (top_k, top_p))
        _draw(logits[at], temperature[at], k, p, seeds[at], positions[at], out[at])
    return out


def _draw(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor | None,
    top_p: Tensor | None,
    seeds: Tensor,
    positions: Tensor,
    out: Tensor,
) -> None:
    rows, vocab = logits.shape
    assert logits.stride(1) == 1
    chunks = triton.cdiv(vocab, CHUNK)
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
        *(logits, temperature, *given, seeds, positions, tops, sums, bests, values, tokens),
        *(counts, out, logits.stride(0), chunks),
        **shape,
    )
