"""The part of a `LinearMapSpec`: one matrix in the place of a mixer or a network."""

from __future__ import annotations

from torch import Tensor

from stoker.model.layers.linear import Linear
from stoker.model.layers.part import LayerPart
from stoker.model.spec import LinearMapSpec, ModelSpec
from stoker.model.step import StepContext


class LinearMap(LayerPart):
    """x + W x."""

    def __init__(self, spec: LinearMapSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model.layers[index], model)
        self.linear = Linear(model.hidden, model.hidden, spec.bias)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        if x is residual:  # without a norm before: the product may not overwrite what it reads
            residual = residual.clone()
        return self.joined(self.linear, x, residual, step.ops)
