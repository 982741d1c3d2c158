"""The mixer of an `RgLruSpec`: the recurrent block of Griffin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stoker.model.layers.convolution import Taps
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.module import Module
from stoker.model.roles import Role
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.rg_lru import RgLruSpec
from stoker.model.step import StepContext
from stoker.ops.linear import LinearFn, prepare_linear
from stoker.quant.choose import Formats


class BlockGates(Module):
    """A linear map (N, B, B) of each of N blocks of channels, for both gates, as x W + b.

    Small, and in the exponents of decays: they stay as they were loaded.
    """

    def __init__(self, blocks: int, size: int) -> None:
        super().__init__()
        self.input_weight, self.keep_weight = (_parameter(blocks, size, size) for _ in range(2))
        self.input_bias, self.keep_bias = (_parameter(blocks, size) for _ in range(2))
        self.products: list[LinearFn] = []

    def prepare(self) -> None:
        """Make a product for each block, which gives both its gates."""
        weights = torch.cat((self.input_weight.mT, self.keep_weight.mT), dim=1)
        biases = torch.cat((self.input_bias, self.keep_bias), dim=1)
        pairs = zip(weights, biases, strict=True)
        self.products = [prepare_linear(one.contiguous(), bias) for one, bias in pairs]

    def forward(self, x: Tensor) -> Tensor:
        """(T, N * B) -> (T, 2 * N * B): the input gates, then the recurrence gates."""
        parts = x.chunk(len(self.products), dim=1)
        found = [give(part.contiguous()) for give, part in zip(self.products, parts, strict=True)]
        gates = torch.stack(found, dim=1).view(len(x), len(found), 2, -1)
        return gates.transpose(1, 2).reshape(len(x), -1)


class Rate(Module):
    """What a channel's decay is made of, (W,)."""

    float32 = ("weight",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = _parameter(channels)


class RecurrentBlock(LayerPart):
    """Projects, convolves, lets the states decay and read, and projects back."""

    def __init__(self, spec: RgLruSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        self.group = model.state_group_of(index)
        channels = spec.channels
        self.in_proj = Linear(model.hidden, 2 * channels, True, Role((channels, channels)))
        self.conv = Taps(spec.taps, channels, bias=True)
        self.gates = BlockGates(spec.blocks, channels // spec.blocks)
        self.rate = Rate(channels)
        self.out_proj = Linear(channels, model.hidden, True)

    def prepare(self, formats: Formats) -> None:
        super().prepare(formats)
        self.gates.prepare()
        self.fade = -8.0 * F.softplus(self.rate.weight)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        ops, plan = step.ops, step.attention[self.group]
        inputs, states = self.states(step)
        gate, x = torch.split(self.in_proj(x), self.spec.channels, dim=1)
        x = ops.causal_conv(x, self.conv.weight, self.conv.bias, inputs, plan)
        y = ops.rg_lru(x, self.gates(x), self.fade, states, plan)
        y = ops.activate(torch.cat((gate, y), dim=1), self.spec.activation, True)
        return self.joined(self.out_proj, *self.going_on(y, residual, step), ops)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape), requires_grad=False)
