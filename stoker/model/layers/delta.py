"""The mixer of a `DeltaSpec`: the gated delta rule over a state of each sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.module import Module
from stoker.model.roles import Role
from stoker.model.spec.delta import DeltaSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext
from stoker.ops.delta_rule import DeltaInputs, DeltaWeights
from stoker.quant.choose import Formats


class QkvTaps(Module):
    """The weights (C, K) of the convolution of queries, keys and values, as they are stored."""

    def __init__(self, sizes: tuple[int, ...], taps: int) -> None:
        super().__init__()
        self.role = Role(sizes)
        self.weight = _parameter(sum(sizes), taps)


class Decay(Module):
    """What decays have beside their inputs: logarithms of rates (H,), and what is added."""

    float32 = ("log_rate", "bias")

    def __init__(self, heads: int, decays: int) -> None:
        super().__init__()
        self.log_rate = _parameter(heads)
        self.bias = _parameter(decays)


class HeadNorm(Module):
    """The weight (V,) of the norm over what a head gives."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.weight = _parameter(values)


class GatedDeltaNet(LayerPart):
    """Projects, convolves, corrects and reads the state, and projects back.

    The second maps of decays and gates, which are small, stay as they were loaded.
    """

    def __init__(self, spec: DeltaSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec, rule = spec, spec.rule
        self.group = model.state_group_of(index)
        role = Role(spec.sizes, groups=rule.key_heads)
        self.sizes = [sum(spec.sizes[:3]), *spec.sizes[3:]]
        self.in_proj = Linear(model.hidden, sum(spec.sizes), role=role)
        self.conv = QkvTaps(spec.sizes[:3], spec.taps)
        self.decay = Decay(rule.heads, spec.decays)
        values = rule.heads * rule.values
        self.decay_proj = self.gate_proj = None
        if spec.decay_rank:
            self.decay_proj = Linear(spec.decay_rank, spec.decays, as_loaded=True)
        if spec.gate_rank:
            self.gate_proj = Linear(spec.gate_rank, values, as_loaded=True)
        self.norm = HeadNorm(rule.values)
        self.out_proj = Linear(values, model.hidden)

    def prepare(self, formats: Formats) -> None:
        super().prepare(formats)
        self.taps = self.conv.weight.t().contiguous()
        rate = torch.exp(self.decay.log_rate)
        self.weights = DeltaWeights(rate, self.decay.bias, self.norm.weight.float())

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        ops, plan = step.ops, step.attention[self.group]
        inputs, states = self.states(step)
        qkv, gate, b, a = torch.split(self.in_proj(x), self.sizes, dim=1)
        del x
        if self.decay_proj is not None:
            a = self.decay_proj(a.contiguous())
        if self.gate_proj is not None:
            gate = self.gate_proj(gate.contiguous())
        qkv = ops.causal_conv(qkv, self.taps, None, inputs, plan, silu=True)
        tokens = DeltaInputs(qkv, a, b, gate)
        y = ops.gated_delta(tokens, self.weights, self.spec.rule, states, plan)
        return self.joined(self.out_proj, *self.going_on(y, residual, step), ops)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape), requires_grad=False)
