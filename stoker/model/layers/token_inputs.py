"""Inputs of layers that depend on a token alone: making them, and taking them in."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.module import Module
from stoker.model.norms import make_norm
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.token_inputs import TokenInputSpec, TokenInputsSpec
from stoker.model.step import StepContext
from stoker.ops.select import Operations


class TokenInputs(Module):
    """The inputs of all layers for a step's tokens; see `TokenInputsSpec`."""

    def __init__(self, spec: TokenInputsSpec, model: ModelSpec) -> None:
        super().__init__()
        self.spec, self.count, self.hidden = spec, len(model.layers), model.hidden
        width = self.count * spec.width
        self.table = nn.Parameter(torch.empty(spec.rows, width), requires_grad=False)
        self.project = Linear(model.hidden, width)
        self.norm = make_norm((spec.width,), model.norm)

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        self.scale = torch.tensor(self.spec.width**0.5, dtype=dtype, device=device)

    def forward(self, ids: Tensor, embedded: Tensor, ops: Operations) -> Tensor:
        """(T, L, width) for L layers, from token ids (T,) and their embeddings (T, D)."""
        rows = self.table[torch.where(ids < self.spec.rows, ids, 0)] * self.scale
        made = self.project(embedded) * self.hidden**-0.5
        made = self.norm(made.view(len(ids), self.count, self.spec.width), ops)
        return cast(Tensor, (made + rows.view_as(made)) * 0.5**0.5)


class TokenInput(LayerPart):
    """x + norm(project(act(gate(x)) * input)), with the layer's input of each token."""

    def __init__(self, spec: TokenInputSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        self.sampled = index >= model.last_mixing_layer  # only the rows that go on are left
        self.gate = Linear(model.hidden, spec.width)
        self.project = Linear(spec.width, model.hidden)

    def gated(self, x: Tensor, step: StepContext) -> Tensor:
        """act(gate(x)) * input, (T, width), or (R, width) of the rows that are left."""
        assert step.token_inputs is not None
        own = step.token_inputs[:, self.index]
        inner = torch.cat((self.gate(x), own[step.rows] if self.sampled else own), dim=-1)
        return step.ops.activate(inner, self.spec.activation, True)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        return self.joined(self.project, self.gated(x, step), residual, step.ops)
