"""Draws under way on a device, whose results are copied to the host while it goes on.

A row whose logits are not finite gives its token as ~token, so the check comes back with the
tokens and costs no wait of its own. Knows rows, not requests. Called by the runner.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stoker.engine.sampling.sampler import SamplingBatch, draw_rows
from stoker.ops.draw import Draw, DrawParams


class DeviceDraws:
    """The draws of a step whose logits are being computed.

    Args:
        logits: (R, V) of any floating dtype; may be overwritten.
        batch: what the rows ask for.
        params: its settings and positions, on the logits' device.
        draw: the implementation for the logits' device.
        drawn: is given the tokens (R,) int64 on the device, once their draws are enqueued.
        arrived: is given the tokens, those of rows that are not finite as ~token; may raise.
    """

    def __init__(
        self,
        logits: Tensor,
        batch: SamplingBatch,
        params: DrawParams,
        draw: Draw,
        drawn: Callable[[Tensor], None],
        arrived: Callable[[list[int]], None],
    ) -> None:
        self._logits: Tensor | None = logits
        self._batch, self._params, self._draw = batch, params, draw
        self._drawn, self._arrived = drawn, arrived
        self._copied: torch.cuda.Event | None = None

    @torch.inference_mode()
    def draw(self) -> None:
        """Enqueue the draws, and the copies of what they give to the host; once."""
        if self._logits is None:
            return
        logits, self._logits = self._logits, None
        least, most = logits.aminmax(dim=-1)  # both are NaN if any is
        finite = torch.isfinite(least) & torch.isfinite(most)
        self._draws = draw_rows(logits, self._batch, self._params, self._draw)
        tokens = self._draws.tokens
        self._drawn(tokens)
        flagged = torch.where(finite, tokens, ~tokens)
        self._host = [_begin_copy(one) for one in (flagged, *self._draws.results)]
        if tokens.device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(tokens.device))

    def wait(self) -> list[int]:
        assert self._logits is None, "draws are made before they are waited for"
        if self._copied is not None:
            self._copied.synchronize()
        flagged, *results = self._host
        tokens: list[int] = flagged.tolist()
        self._arrived(tokens)
        return self._draws.take(tokens, results)


def _begin_copy(values: Tensor) -> Tensor:
    """`values` on the host, there when what has been enqueued on the device is done."""
    if values.device.type != "cuda":
        return values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)
