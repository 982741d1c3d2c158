"""Networks: that of a `DenseSpec`, and the single matrix of a `LinearMapSpec`.

A linear map may stand in the place of a mixer too.
"""

from __future__ import annotations

from torch import Tensor

from stoker.model import roles
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec, LinearMapSpec
from stoker.model.step import StepContext
from stoker.quant.choose import Formats


def gate_up_sizes(spec: DenseSpec) -> tuple[int, roles.Role]:
    """The outputs of the projection up, with the gate's if there is one, and what they are."""
    if spec.gated:
        return 2 * spec.size, roles.gate_up(spec.size)
    return spec.size, roles.PLAIN


class Dense(LayerPart):
    """down(act(gate(x)) * up(x)) with gate and up in one projection, or down(act(up(x)))."""

    def __init__(self, spec: DenseSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        outputs, role = gate_up_sizes(spec)
        self.up = Linear(model.hidden, outputs, spec.bias, role)
        self.down = Linear(spec.size, model.hidden, spec.bias)
        self.fused = False

    def prepare(self, formats: Formats) -> None:
        """As of any part; the up projection applies the activation itself if its format can."""
        alone = self.spec.gated and self.spec.gate_scale == 1
        gate = self.spec.activation if alone else None
        self.fused = self.up.prepare(formats.projections, gate)
        super().prepare(formats)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        inner = self.up(x)
        del x
        if self.spec.gate_scale != 1:
            inner[:, : self.spec.size] *= self.spec.gate_scale
        if not self.fused:
            inner = step.ops.activate(inner, self.spec.activation, self.spec.gated)
        return self.joined(self.down, inner, residual, step.ops)


class LinearMap(LayerPart):
    """x + W x."""

    def __init__(self, spec: LinearMapSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.linear = Linear(model.hidden, model.hidden, spec.bias)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        if x is residual:  # without a norm before: the product may not overwrite what it reads
            residual = residual.clone()
        return self.joined(self.linear, x, residual, step.ops)
