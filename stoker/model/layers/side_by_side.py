"""The mixer of a `SideBySideSpec`: attention, then a state space of the same input."""

from __future__ import annotations

from torch import Tensor

from stoker.model.layers.attention import Attention
from stoker.model.layers.linear import LayerPart
from stoker.model.layers.state_space import Mamba2
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.side_by_side import SideBySideSpec
from stoker.model.step import StepContext


class SideBySide(LayerPart):
    """The sum of both; each adds what it makes to the residual itself."""

    def __init__(self, spec: SideBySideSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.attention = Attention(spec.attention, model, index)
        self.state = Mamba2(spec.state, model, index)
        self.in_scales = spec.attention_scales[0], spec.state_scales[0]
        scales = spec.attention_scales[1], spec.state_scales[1]
        for part, scale in zip((self.attention, self.state), scales, strict=True):
            part.residual_scale = scale  # in place of the layer's, which its network has
            part.adds_in_product = scale == 1
        self.attention.drops_rows = False  # the state space drops them, from the sum of both

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        first, second = (x if scale == 1 else x * scale for scale in self.in_scales)
        summed = self.attention.forward(first, step, residual)
        return self.state.forward(second, step, summed)
