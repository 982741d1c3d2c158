"""The mixer of a `LightningSpec`, by the scan of Mamba 2, of which it is the case with equal steps.

That scan makes the state exp(dt a) state + dt b x^T and gives c^T state: with dt = 1, a = -slope,
and x, b and c the values, keys and queries of a head that is a group by itself (Dao and Gu, 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from stoker.model.layers.linear import LayerPart, Linear
from stoker.model.norms import make_norm
from stoker.model.roles import Role
from stoker.model.spec.lightning import LightningSpec
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.part import NormSpec
from stoker.model.step import StepContext
from stoker.ops.selective_scan import ScanWeights


class LightningAttention(LayerPart):
    """Values, keys, queries and gates come from one projection."""

    def __init__(self, spec: LightningSpec, model: ModelSpec, index: int) -> None:
        super().__init__(model, index)
        self.spec = spec
        self.group = model.state_group_of(index)
        size = spec.heads * spec.head_dim
        self.sizes = [3 * size, size]
        self.in_proj = Linear(model.hidden, 4 * size, role=Role((size,) * 4, groups=spec.heads))
        self.norm = make_norm((size,), NormSpec("rms", spec.eps))
        self.out_proj = Linear(size, model.hidden)

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        slopes = torch.tensor(self.spec.slopes, dtype=torch.float32, device=device)
        zeros = torch.zeros_like(slopes)
        self.weights = ScanWeights(zeros, -slopes, zeros)

    def forward(self, x: Tensor, step: StepContext, residual: Tensor) -> Tensor:
        spec, ops, plan = self.spec, step.ops, step.attention[self.group]
        (states,) = self.states(step)
        vkq, gate = torch.split(self.in_proj(x), self.sizes, dim=1)
        del x
        vkq = ops.activate(vkq.contiguous(), spec.activation, False)
        steps = vkq.new_zeros(len(vkq), spec.heads)
        y = ops.ssd_scan(vkq, steps, self.weights, spec.heads, (1.0, 1.0), states, plan)
        y = ops.sigmoid_gate(self.norm(y, ops), gate)
        return self.joined(self.out_proj, *self.going_on(y, residual, step), ops)
