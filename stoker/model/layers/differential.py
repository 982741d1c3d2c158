"""The mixer of a `DifferentialSpec`: heads that are the difference of two."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoker.model.layers.narrow_values import NarrowValues
from stoker.model.module import Module
from stoker.model.norms import PlainNorm
from stoker.model.spec.differential import DifferentialSpec
from stoker.model.spec.model import ModelSpec
from stoker.ops.select import Operations


class Difference(Module):
    """What half of the heads give, less a share of what the others give; then a norm."""

    def __init__(self, spec: DifferentialSpec, model: ModelSpec) -> None:
        super().__init__()
        self.shape, self.start = (2, spec.heads // 2, spec.value_dim), spec.start
        self.q1, self.k1, self.q2, self.k2 = (
            nn.Parameter(torch.empty(spec.head_dim), requires_grad=False) for _ in range(4)
        )
        self.norm = PlainNorm(spec.value_dim, model.norm)

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        ours, theirs = (
            torch.exp((q * k).float().sum()).to(dtype)
            for q, k in ((self.q1, self.k1), (self.q2, self.k2))
        )
        self.share = ours - theirs + self.start

    def forward(self, mixed: Tensor, ops: Operations) -> Tensor:
        """(T, H * 2D) -> (T, H * D)."""
        first, second = mixed.view(len(mixed), *self.shape).unbind(1)
        normed: Tensor = self.norm((first - self.share * second).contiguous(), ops)
        return normed.flatten(1) * (1 - self.start)


class Differential(NarrowValues):
    """As attention, with the values of two heads side by side."""

    def __init__(self, spec: DifferentialSpec, model: ModelSpec, index: int) -> None:
        super().__init__(spec, model, index)
        self.out_norm = Difference(spec, model)
        self.pair = (2, spec.kv_heads // 2, spec.head_dim)

    def _values(self, v: Tensor) -> Tensor:
        pairs = v.reshape(len(v), *self.pair).transpose(1, 2).flatten(1)
        return torch.cat((pairs, pairs), dim=1)
