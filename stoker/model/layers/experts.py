"""The network of an `ExpertsSpec`: a router, stacked experts, and what every token goes through."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoker.model import roles
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.layers.networks import gate_up_sizes
from stoker.model.module import Module
from stoker.model.roles import Role
from stoker.model.spec.experts import ExpertsSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec
from stoker.model.step import StepContext
from stoker.ops.experts import ExpertWeights, run_experts
from stoker.ops.routing import Routes, route


class Router(Module):
    """Logits of experts: a linear map in float32, with what is added for the choice.

    Its parameters stay in float32 whatever the model computes in: rounded corrections and logits
    would send tokens to other experts.
    """

    float32 = ("weight", "bias", "correction", "gains")

    def __init__(self, spec: ExpertsSpec, hidden: int) -> None:
        super().__init__()
        count = spec.routing.experts
        self.routing = spec.routing
        self.weight = _parameter(count, hidden)
        self.bias = _parameter(count) if spec.router_bias else None
        self.correction = _parameter(count) if spec.routing.correction else None
        self.gains = _parameter(count) if spec.routing.gains else None

    def forward(self, x: Tensor) -> Routes:
        logits = torch.nn.functional.linear(x.float(), self.weight, self.bias)
        return route(logits, self.routing, self.correction, self.gains)


class StackedLinear(Module):
    """The weights (E, outputs, inputs) and biases (E, outputs) of one projection of all experts.

    Attributes:
        role: what the outputs of each are.
    """

    def __init__(
        self, experts: int, inputs: int, outputs: int, bias: bool, role: Role = roles.PLAIN
    ) -> None:
        super().__init__()
        self.role = role
        self.weight = _parameter(experts, outputs, inputs)
        self.bias = _parameter(experts, outputs) if bias else None


class SharedExpert(Module):
    """What every token goes through beside its own experts, behind a gate or not."""

    def __init__(self, spec: DenseSpec, hidden: int, gated: bool) -> None:
        super().__init__()
        self.spec = spec
        outputs, role = gate_up_sizes(spec)
        self.up = Linear(hidden, outputs, spec.bias, role)
        self.down = Linear(spec.size, hidden, spec.bias)
        self.gate = Linear(hidden, 1) if gated else None

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        inner = step.ops.activate(self.up(x), self.spec.activation, self.spec.gated)
        y: Tensor = self.down(inner)
        return y if self.gate is None else y * torch.sigmoid(self.gate(x))


class Experts(LayerPart):
    """The sum of a token's experts, weighted by the router, and of the shared one."""

    def __init__(self, spec: ExpertsSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        expert, count, width = spec.expert, spec.stored, spec.latent or model.hidden
        outputs, role = gate_up_sizes(expert)
        self.router = Router(spec, model.hidden)
        self.expert_up = StackedLinear(count, width, outputs, expert.bias, role)
        self.expert_down = StackedLinear(count, expert.size, width, expert.bias)
        self.to_latent = Linear(model.hidden, width) if spec.latent else None
        self.from_latent = Linear(width, model.hidden) if spec.latent else None
        self.bias = _parameter(model.hidden) if spec.bias else None
        self.shared = None
        if spec.shared is not None:
            self.shared = SharedExpert(spec.shared, model.hidden, spec.shared_gate)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        expert = self.spec.expert
        weights = ExpertWeights(
            self.expert_up.weight,
            self.expert_down.weight,
            self.expert_up.bias,
            self.expert_down.bias,
            expert.activation,
            expert.gated,
            self.spec.weighs_input,
            expert.limit,
            expert.shift,
        )
        inner = x if self.to_latent is None else self.to_latent(x)
        y = run_experts(inner, self.router(x), weights)
        if self.from_latent is not None:
            y = self.from_latent(y)
        if self.shared is not None:
            y = y + self.shared(x, step)
        if self.bias is not None:
            y = y + self.bias
        if self.spec.scale != 1:
            y = y * self.spec.scale
        return self.added(y, residual, step.ops)


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape), requires_grad=False)
