"""A layer in which learned numbers multiply the residual (`LayerSpec.weighted_residual`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoker.model.layers.block import Block
from stoker.model.spec.model import ModelSpec
from stoker.model.step import StepContext


class WeightedBlock(Block):
    """As a plain layer, of a mixer and a network that each have a norm before them."""

    def __init__(self, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.mixer_residual, self.ffn_residual = (
            nn.Parameter(torch.empty(model.hidden), requires_grad=False) for _ in range(2)
        )

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        assert self.mixer is not None
        assert self.ffn is not None
        ops = step.ops
        x = self.mixer.forward(self.mixer_norm(x, ops), step, x * self.mixer_residual)
        return self.ffn.forward(self.ffn_norm(x, ops), step, x * self.ffn_residual)
