"""The weights of norms; what computes with them is chosen once, with the other operations.

Called by the transformer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stoker.model.module import Module
from stoker.model.roles import PLAIN, Role
from stoker.model.spec.part import NormSpec
from stoker.ops.select import Operations


class RmsNorm(Module):
    """The weight of an RMS norm over the last dimension."""

    def __init__(self, shape: tuple[int, ...], spec: NormSpec, role: Role) -> None:
        super().__init__()
        self.role = role
        self.eps = spec.eps
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)

    def forward(self, x: Tensor, ops: Operations) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)


class LayerNorm(Module):
    """Weight and, in some models, bias of a layer norm over the last dimension."""

    def __init__(self, shape: tuple[int, ...], spec: NormSpec, role: Role) -> None:
        super().__init__()
        self.role = role
        self.eps = spec.eps
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        bias = spec.bias
        self.bias = nn.Parameter(torch.empty(shape), requires_grad=False) if bias else None

    def forward(self, x: Tensor, ops: Operations) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class PlainNorm(Module):
    """A norm over the last dimension without weights; `place` makes ones for it."""

    weight: Tensor

    def __init__(self, size: int, spec: NormSpec) -> None:
        super().__init__()
        self.size, self.kind, self.eps = size, spec.kind, spec.eps

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        self.weight = torch.ones(self.size, dtype=dtype, device=device)

    def forward(self, x: Tensor, ops: Operations) -> Tensor:
        if self.kind == "rms":
            return ops.rms_norm(x, self.weight, self.eps)
        return ops.layer_norm(x, self.weight, None, self.eps)


class NoNorm(Module):
    """Stands where a model has no norm."""

    def forward(self, x: Tensor, ops: Operations) -> Tensor:
        return x


def make_norm(
    shape: tuple[int, ...], spec: NormSpec, present: bool = True, role: Role = PLAIN
) -> nn.Module:
    """The norm of a spec; `role` says which heads its elements belong to, if to any."""
    if not present:
        return NoNorm()
    if not spec.weight:
        return PlainNorm(shape[-1], spec)
    return (RmsNorm if spec.kind == "rms" else LayerNorm)(shape, spec, role)
