"""Draws on the device: parameters go there, tokens come back, and nothing waits in between.

A row whose logits are not finite gives its token as ~token, so the check comes back with the
tokens and costs no wait of its own. Knows rows, not requests. Called by the runner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stoker.engine.execution.upload import upload
from stoker.engine.sampling.sampler import SamplingBatch
from stoker.ops.sampling import Draw


def draw_tokens(logits: Tensor, batch: SamplingBatch, draw: Draw) -> tuple[Tensor, Tensor]:
    """Tokens (R,) int64 for logits (R, V), and which of these rows are finite (R,) bool.

    `batch` has no controls. A token of a row that is not finite is some id of the vocabulary.
    """
    vocab = logits.shape[1]
    arrays: list[NDArray[Any]] = [
        np.array(batch.temperature, np.float32),
        np.array(batch.seeds, np.uint64).view(np.int64),
        np.array(batch.positions, np.int64),
    ]
    top_k, top_p = np.array(batch.top_k, np.int64), np.array(batch.top_p, np.float64)
    has_k, has_p = bool(((top_k > 0) & (top_k < vocab)).any()), bool((top_p < 1).any())
    arrays += [top_k] if has_k else []
    arrays += [top_p] if has_p else []
    temperature, seeds, positions, *rest = upload(arrays, logits.device)
    tokens = draw(
        logits,
        temperature,
        rest[0] if has_k else None,
        rest[-1] if has_p else None,
        seeds,
        positions,
    )
    least, most = logits.aminmax(dim=-1)  # both are NaN if any is
    # of NaN some draws make no id, and the next step is to look it up before anyone is told
    return tokens.clamp(0, vocab - 1), torch.isfinite(least) & torch.isfinite(most)


class Pending:
    """A step under way whose tokens are on their way to the host.

    Args:
        tokens, finite: of `draw_tokens`.
        arrived: is given the tokens, those of rows that are not finite as ~token.
    """

    def __init__(
        self, tokens: Tensor, finite: Tensor, arrived: Callable[[list[int]], None]
    ) -> None:
        self._arrived = arrived
        self._copied: torch.cuda.Event | None = None
        self._host = flagged = torch.where(finite, tokens, ~tokens)
        if tokens.device.type == "cuda":
            self._host = torch.empty(flagged.shape, dtype=flagged.dtype, pin_memory=True)
            self._host.copy_(flagged, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(tokens.device))

    def wait(self) -> list[int]:
        if self._copied is not None:
            self._copied.synchronize()
        tokens: list[int] = self._host.tolist()
        self._arrived(tokens)
        return tokens
