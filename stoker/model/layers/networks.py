"""Networks: that of a `DenseSpec`, and the single matrix of a `LinearMapSpec`.

A linear map may stand in the place of a mixer too.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stoker.model import roles
from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.norms import make_norm
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.networks import DenseSpec, LinearMapSpec
from stoker.model.step import StepContext
from stoker.ops.activation import BEND
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
        self.inner_norm = make_norm((spec.size,), model.norm, spec.inner_norm)
        self.cut = NormalDist().inv_cdf(spec.sparsity) if spec.sparsity else None
        self.slopes: tuple[float, float] | None = None  # of xIELU
        if spec.activation == "xielu":
            self.above, self.below = (
                nn.Parameter(torch.empty(1), requires_grad=False) for _ in range(2)
            )
        self.fused = False

    def prepare(self, formats: Formats) -> None:
        """As of any part; the up projection applies the activation itself if its format can."""
        alone = self.spec.gated and self.spec.gate_scale == 1 and self.cut is None
        gate = self.spec.activation if alone else None
        self.fused = self.up.prepare(formats.projections, gate)
        super().prepare(formats)

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        if self.spec.activation == "xielu":
            above, below = (F.softplus(one.float()).item() for one in (self.above, self.below))
            self.slopes = (above, BEND + below)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        ops, inner = step.ops, self.up(x)
        del x
        if self.spec.gate_scale != 1:
            inner[:, : self.spec.size] *= self.spec.gate_scale
        if self.cut is not None:
            inner = _sparse(inner, self.spec.size, self.cut)
        if self.slopes is not None:
            inner = ops.xielu(inner, *self.slopes)
        elif not self.fused:
            inner = ops.activate(inner, self.spec.activation, self.spec.gated)
        return self.joined(self.down, self.inner_norm(inner, ops), residual, ops)


def _sparse(inner: Tensor, size: int, cut: float) -> Tensor:
    """The gate, the first `size` numbers of each row, less mean + cut * deviation, 0 at least."""
    gate = inner[:, :size].contiguous()
    far = gate - gate.mean(-1, keepdim=True)
    deviation = (far * far).mean(-1, keepdim=True).sqrt()
    return torch.cat(((far - deviation * cut).relu(), inner[:, size:]), dim=-1)


class LinearMap(LayerPart):
    """x + W x."""

    def __init__(self, spec: LinearMapSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.linear = Linear(model.hidden, model.hidden, spec.bias)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        if x is residual:  # without a norm before: the product may not overwrite what it reads
            residual = residual.clone()
        return self.joined(self.linear, x, residual, step.ops)
