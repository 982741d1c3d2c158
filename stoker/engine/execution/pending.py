"""Draws under way on a device, whose results are copied to the host while it goes on.

A row whose logits are not finite gives its token as ~token, so the check comes back with the
tokens and costs no wait of its own. Knows rows, not requests. Called by the runner.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stoker.engine.sampling.sampler import RowDraws, SamplingBatch, draw_rows
from stoker.ops.draw import Draw


class DeviceDraws:
    """The draws of a step, enqueued when this is made.

    Args:
        logits: (R, V) of any floating dtype; may be overwritten.
        batch: what the rows ask for.
        draw: the implementation for the logits' device.
        arrived: is given the tokens, those of rows that are not finite as ~token; may raise.

    Attributes:
        tokens: (R,) int64, on the device.
    """

    def __init__(
        self,
        logits: Tensor,
        batch: SamplingBatch,
        draw: Draw,
        arrived: Callable[[list[int]], None],
    ) -> None:
        self._arrived = arrived
        least, most = logits.aminmax(dim=-1)  # both are NaN if any is
        finite = torch.isfinite(least) & torch.isfinite(most)
        params = batch.params(logits.shape[1], logits.device)
        self._draws: RowDraws = draw_rows(logits, batch, params, draw)
        self.tokens = self._draws.tokens
        flagged = torch.where(finite, self.tokens, ~self.tokens)
        self._host = [_begin_copy(one) for one in (flagged, *self._draws.results)]
        self._copied: torch.cuda.Event | None = None
        if logits.device.type == "cuda":
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record(torch.cuda.current_stream(logits.device))

    def wait(self) -> list[int]:
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
