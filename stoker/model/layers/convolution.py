"""The mixer of a `ConvSpec`, and the convolution that the mixers of state spaces have too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.module import Module
from stoker.model.spec.convolution import ConvSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext


class Taps(Module):
    """The weights (K, C) of a causal convolution, the last row for the token itself."""

    def __init__(self, taps: int, channels: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(taps, channels), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(channels), requires_grad=False) if bias else None


class GatedConv(LayerPart):
    """out(c * conv(b * x))."""

    def __init__(self, spec: ConvSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.group = model.state_group_of(index)
        self.channels = spec.channels
        self.in_proj = Linear(model.hidden, 3 * spec.channels, spec.bias)
        self.conv = Taps(spec.taps, spec.channels, spec.bias)
        self.out_proj = Linear(spec.channels, model.hidden, spec.bias)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        before, after, x = torch.split(self.in_proj(x), self.channels, dim=1)
        (inputs,) = self.states(step)
        y = step.ops.causal_conv(
            x,
            self.conv.weight,
            self.conv.bias,
            inputs,
            step.attention[self.group],
            before=before,
            after=after,
        )
        return self.joined(self.out_proj, *self.going_on(y, residual, step), step.ops)
