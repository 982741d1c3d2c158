"""The mixers of `ValueWidthSpec` and of what is built on it; keys and values are stored apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stoker.model import roles
from stoker.model.layers.attention import Attention
from stoker.model.layers.linear import Linear
from stoker.model.module import Module
from stoker.model.norms import PlainNorm, RmsNorm
from stoker.model.spec.model import ModelSpec
from stoker.model.spec.value_widths import BiasedKeysSpec, DifferentialSpec, ValueWidthSpec
from stoker.model.step import StepContext
from stoker.ops.kv_pages import Pages
from stoker.ops.select import Operations


class ValueWidth(Attention):
    """As attention; keys and values are stored each by themselves."""

    def __init__(self, spec: ValueWidthSpec, model: ModelSpec, index: int) -> None:
        super().__init__(spec, model, index)
        self.heads, self.value_scale = spec.heads, spec.value_scale
        self.sizes = list(spec.sizes)
        rotary_dim = spec.rope.dim if spec.rope else 0
        rotated = (spec.heads, spec.kv_heads, 0)
        role = roles.Role(spec.sizes, rotated, spec.head_dim, rotary_dim)
        self.qkv = Linear(model.hidden, sum(self.sizes), spec.qkv_bias, role)
        self.out = Linear(spec.out_size, model.hidden, spec.out_bias)

    def _values(self, v: Tensor) -> Tensor:
        """What is stored (T, G * E) of the projected values."""
        return v if self.value_scale == 1 else v * self.value_scale

    def _stored(
        self, qkv: Tensor, rope: Tensor, step: StepContext, keys: Pages, values: Pages
    ) -> Tensor:
        ops, turned = step.ops, sum(self.sizes[:2])
        heads = qkv[:, :turned].contiguous().view(len(qkv), -1, self.spec.head_dim)
        heads = ops.rotate(heads, None, 0.0, rope)
        v = self._values(qkv[:, turned:])
        self._store(heads[:, self.heads :].flatten(1), keys, rope, step)
        self._store(v, values, rope, step)
        return heads[:, : self.heads].contiguous()

    def _store(self, x: Tensor, pages: Pages, rope: Tensor, step: StepContext) -> None:
        """Write keys, already turned, or values (T, G * width) to their pages.

        The operation stores both, of one width: it is given the same numbers and pages twice, and
        no queries.
        """
        twice, cells = torch.cat((x, x), dim=1), step.cells[self.group]
        step.ops.rotate_and_store(twice, None, rope[:, :, :0], cells, pages, pages)


class BiasedKeys(ValueWidth):
    """As attention, with keys of one number more."""

    def __init__(self, spec: BiasedKeysSpec, model: ModelSpec, index: int) -> None:
        super().__init__(spec, model, index)
        self.scale = spec.scale
        first, second = (RmsNorm((spec.head_dim,), model.norm, roles.PLAIN) for _ in range(2))
        self.q_norm, self.k_norm = first, second
        self.parts = ((spec.heads, first), (spec.kv_heads, second))
        self.worth = Linear(spec.sizes[2], spec.kv_heads, spec.qkv_bias)
        self.rates = nn.Parameter(torch.empty(spec.kv_heads), requires_grad=False)

    def _stored(
        self, qkv: Tensor, rope: Tensor, step: StepContext, keys: Pages, values: Pages
    ) -> Tensor:
        ops, rows = step.ops, len(qkv)
        q, k, v = (one.contiguous() for one in torch.split(qkv, self.sizes, dim=1))
        q, k = (
            ops.rotate(one.view(rows, heads, self.spec.head_dim), norm.weight, norm.eps, rope)
            for one, (heads, norm) in zip((q, k), self.parts, strict=True)
        )
        # in float64, whose last bits may depend on a number's place among others
        worth = (self.rates.double() * F.softplus(self.worth(v).double())).exp().to(k.dtype)
        k = torch.cat((k, worth[..., None]), dim=2)
        self._store(k.flatten(1), keys, rope, step)
        self._store(v, values, rope, step)
        return torch.cat((q, q.new_full((*q.shape[:2], 1), 1 / self.scale)), dim=2)


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


class Differential(ValueWidth):
    """As attention, with the values of two heads side by side."""

    def __init__(self, spec: DifferentialSpec, model: ModelSpec, index: int) -> None:
        super().__init__(spec, model, index)
        self.out_norm = Difference(spec, model)
        self.pair = (2, spec.kv_heads // 2, spec.head_dim)

    def _values(self, v: Tensor) -> Tensor:
        pairs = v.reshape(len(v), *self.pair).transpose(1, 2).flatten(1)
        return torch.cat((pairs, pairs), dim=1)
