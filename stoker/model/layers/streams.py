"""Layers over several residual streams; see `StreamsSpec`. N streams, T tokens, D hidden.

What joins streams is made of operations on single numbers, so that a token's bits don't depend on
the batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stoker.model.layers.block import Block
from stoker.model.layers.linear import Linear
from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.streams import StreamsSpec
from stoker.model.step import StepContext
from stoker.ops.select import Operations
from stoker.quant.choose import Formats, choose_formats

LEAST = 1e-5  # mean square of a stream that is scaled


class MakeStreams(Module):
    """From embeddings (T, D) to streams (N, T, D) as large as they are."""

    def __init__(self, spec: StreamsSpec, hidden: int) -> None:
        super().__init__()
        self.maps = _maps(spec, hidden)

    def forward(self, x: Tensor) -> Tensor:
        size = _size(x)
        return torch.stack([x, *(_scaled(linear(x), size) for linear in self.maps)])


class JoinStreams(Module):
    """From streams (N, T, D) to the mean (T, D) of the first and of maps of the others."""

    def __init__(self, spec: StreamsSpec, hidden: int) -> None:
        super().__init__()
        self.maps = _maps(spec, hidden)

    def forward(self, streams: Tensor) -> Tensor:
        total, size = streams[0], _size(streams[0])
        for linear, stream in zip(self.maps, streams[1:], strict=True):
            total = total + _scaled(linear(stream), size)
        return total / len(streams)


class StreamsBlock(Block):
    """A layer over streams (N, T, D)."""

    def __init__(self, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        spec = model.layers[index].streams
        assert spec is not None
        assert self.mixer is not None
        assert self.ffn is not None
        assert self.token_input is not None
        self.spec, hidden, count = spec, model.hidden, spec.count
        self.router_norm = make_norm((hidden,), model.norm)
        self.router = Linear(hidden, count)
        self.router_scale = 1 / hidden
        self.predict = Linear(count, count * count)
        self.correct = Linear(count, count)
        self.active_scale = nn.Parameter(torch.empty(hidden), requires_grad=False)
        self.left, self.right = Linear(hidden, spec.rank), Linear(spec.rank, hidden)
        self.beside_norm = make_norm((hidden,), model.norm)

    def prepare(self, formats: Formats) -> None:
        plain = choose_formats("auto", self.active_scale.dtype, self.active_scale.device)
        for small in (self.router, self.predict, self.correct):
            small.prepare(plain.projections)
        self.left.prepare(formats.projections)
        self.right.prepare(formats.projections)
        super().prepare(formats)

    def _routes(self, x: Tensor, ops: Operations) -> Tensor:
        """(T, N), from -1 to 1."""
        return ops.soft_cap(self.router(self.router_norm(x, ops) * self.router_scale), 1.0)

    def _predicted(self, streams: Tensor, ops: Operations) -> Tensor:
        """Stream j plus the sum of factor (j, i) * stream i, the factors being the token's."""
        count = self.spec.count
        factors = self.predict(self._routes(streams[self.spec.active], ops)).view(-1, count, count)
        out = streams
        for i in range(count):
            out = out + streams[i] * factors[:, :, i].t()[:, :, None]
        return out

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        assert self.mixer is not None
        assert self.ffn is not None
        assert self.token_input is not None
        ops, active = step.ops, self.spec.active
        streams = self._predicted(x, ops)
        normed = self.mixer_norm(streams[active], ops)
        beside = normed + self.beside_norm(self.right(self.left(normed)), ops)
        y = self.mixer.forward(normed, step, streams[active])
        if self.drops_rows:
            beside, streams = beside[step.rows], streams[:, step.rows]
        y = (y + beside) / math.sqrt(2)
        y = self.ffn.forward(self.ffn_norm(y, ops), step, y)
        factors = self.correct(self._routes(y, ops)) + 1.0
        streams = streams + (y - streams[active]) * factors.t()[:, :, None]
        read = streams[active] * self.active_scale if self.spec.scaled else streams[active]
        others = self.token_input.forward(read, step, streams[1:])
        return torch.cat((streams[:1], others))


def _maps(spec: StreamsSpec, hidden: int) -> nn.ModuleList:
    return nn.ModuleList(Linear(hidden, hidden) for _ in range(spec.count - 1))


def _size(x: Tensor) -> Tensor:
    """The root mean square of each row of x (T, D), (T, 1)."""
    return (x * x).mean(-1, keepdim=True).sqrt()


def _scaled(x: Tensor, size: Tensor) -> Tensor:
    """x (T, D) with rows of the root mean square `size` (T, 1)."""
    return x * size / (x * x).mean(-1, keepdim=True).clamp(min=LEAST).sqrt()
