"""The networks of a `ShortcutSpec` and a `ShortcutEndSpec`."""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.model.layers.experts import Experts
from stoker.model.layers.linear import LayerPart
from stoker.model.layers.networks import Dense
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.shortcut import ShortcutSpec
from stoker.model.step import StepContext
from stoker.quant.choose import Formats

_LATE = "what experts have made for the next layer"  # a key of `StepContext.memo`


class Shortcut(LayerPart):
    """A dense network; what the experts beside it make goes to the next layer."""

    def __init__(self, spec: ShortcutSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.dense = Dense(spec.dense, model, index)
        self.experts = Experts(spec.experts, model, index)

    def prepare(self, formats: Formats) -> None:
        """As of any part, by both of its own."""
        self.dense.prepare(formats)
        self.experts.prepare(formats)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        step.memo[_LATE] = self.experts.forward(x, step, torch.zeros_like(residual))
        return self.dense.forward(x, step, residual)


class ShortcutEnd(Dense):
    """A dense network that adds what the layer before has left."""

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        late: Tensor = step.memo.pop(_LATE)
        y = super().forward(x, step, residual)
        return y.add_(late[step.rows] if self.drops_rows else late)
